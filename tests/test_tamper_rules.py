"""Records that nothing but a rule of the ledger refuses: services that lie past their own gate, one lie at a time.

Whoever holds the services' keys appends what the gate would never make. Each record is right in everything but one
point, is refused for that point, and goes in (the control) once the point is right.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fakes import BLOCKED, MODEL, REVIEWABLE, Site, halt, policy, resume

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log.envelope import format_time, seal
from guardrails.errors import DeniedError, HaltedError, InterlockError, StaleError, UnknownNameError
from guardrails.ledger.champions import after_rollback
from guardrails.records import (
    Action,
    Evidence,
    Failure,
    Promotion,
    Proposal,
    Removal,
    Rollback,
    State,
    Transition,
    Waiver,
)

OTHER = Digest("ab" * 32)
TWO = policy(rollback="{quorum: 2, roles: [operator, safety], distinctRoles: true}")


@pytest.fixture
def slow(make):
    """A site whose promotions and rollbacks wait for somebody to carry them out."""
    return make(coolDown="30m", rollback="{quorum: 1, roles: [operator, safety]}")


def put(site: Site, record: Any, service: str = "") -> None:
    """Append a record with the key of its service (the gate's, for most)."""
    by = service or {Proposal: "learner", Evidence: "evaluator"}.get(type(record), "gate")
    site.inject(site.sealed(record, site.services[by]))


def refused(site: Site, record: Any, reason: str, error: type[InterlockError] = DeniedError) -> None:
    with pytest.raises(error, match=reason):
        put(site, record)


# --- the line --------------------------------------------------------------------------------------


def test_a_proposal_of_data_that_a_rolled_back_model_wrote(site):
    base = site.model().champion
    first = site.propose()
    made = site.row(first).proposal
    written = canonical.digest(b"written")
    site.gate.record_failure(MODEL, "measure", made.technique, StaleError("x"), first)
    second = replace(made, id="P-0002", bundle=site.bundle("second"), generated=(written,))
    put(site, second)
    site.measure("P-0002")
    site.gate.judge("P-0002")
    assert site.approve("ada", "P-0002").state == "promoted"
    site.rollback("ada", base)
    later = replace(made, id="P-0003", bundle=site.bundle("third"), champion=base)
    refused(site, replace(later, generated=(written,)), "was written by a model that was rolled back")
    refused(site, replace(later, data=written), "was written by a model that was rolled back")
    refused(site, replace(later, bundle=second.bundle), "is quarantined")
    put(site, later)  # the control


def test_what_was_removed_comes_back_by_no_record(site):
    proposal = site.judged(BLOCKED)
    row = site.row(proposal)
    site.clock.pass_(days=31)
    measure, judge = Transition(proposal, State.MEASURING, "x", site.model().attempts + 1), row.verdict
    put(site, Removal(proposal, row.proposal.bundle, 30))
    refused(site, measure, "its bundle was removed on")
    refused(site, judge, "its bundle was removed on")
    kept = site.judged(BLOCKED)
    put(site, site.row(kept).verdict)  # the controls
    put(site, replace(measure, proposal=kept, attempt=site.model().attempts + 1))


def test_evidence_in_everything_about_the_measurement_that_is_under_way(site):
    proposal = site.judged()
    row = site.row(proposal)
    order = site.gate.begin_measurement(proposal)
    honest = replace(
        row.evidence, nonce=order.nonce, seed=order.seed, measurement=site.row(proposal).measuring
    )
    refused(site, replace(honest, bundle=OTHER), "is about another bundle")
    refused(site, replace(honest, champion=OTHER), "the champion changed while it was measured", StaleError)
    refused(site, replace(honest, measurement=OTHER), "not of the measurement that is under way", StaleError)
    refused(site, replace(honest, proposal="P-0099"), "there is no proposal", UnknownNameError)
    put(site, honest)  # the control


def test_a_verdict_in_everything_about_the_newest_evidence(site):
    proposal = site.propose()
    site.measure(proposal)
    early = site.propose()
    other = site.judged()
    honest = replace(
        site.row(other).verdict, proposal=proposal, evidence=site.row(proposal).evidence_record,
        attempt=site.row(proposal).attempt,
    )  # fmt: skip
    refused(site, replace(honest, proposal=early), "there is no evidence to judge")
    refused(site, replace(honest, evidence=OTHER), "is about other evidence", StaleError)
    refused(site, replace(honest, attempt=99), "but this evidence is attempt", DeniedError)
    refused(site, replace(honest, policies={}), "are not the ones judged by", StaleError)
    put(site, honest)  # the control
    site.decide("ada", Action.REJECT, proposal)
    refused(site, honest, "there is no evidence to judge")


def test_a_failure_under_a_number_that_is_taken(site):
    site.propose()
    refused(site, Failure("P-0001", MODEL, "propose", "x", "x", ""), "is not the next one", StaleError)
    put(site, Failure("P-0002", MODEL, "propose", "x", "x", ""))  # the control
    refused(site, Transition("P-0002", State.MEASURING, "x", 1), "cannot be measured")


def test_a_state_is_noted_only_when_it_is_so(slow):
    proposal = slow.judged(REVIEWABLE)
    approved, expired = Transition(proposal, State.APPROVED, "x"), Transition(proposal, State.EXPIRED, "x")
    refused(slow, approved, "its quorum is not newly complete")
    refused(slow, expired, "has not expired yet")
    blocked = slow.judged(BLOCKED)
    refused(slow, replace(expired, proposal=blocked), "cannot expire")
    slow.clock.pass_(days=30)
    refused(slow, replace(expired, proposal=blocked), "cannot expire")
    put(slow, expired)  # the control


# --- the champion ----------------------------------------------------------------------------------


def waiting(site: Site) -> Promotion:
    """What the gate would write for a proposal whose cool-down is over."""
    proposal = site.judged()
    site.approve("ada", proposal)
    site.clock.pass_(minutes=31)
    row, champion = site.row(proposal), site.model().champion
    votes = tuple(vote.record for vote in row.votes)
    return Promotion(proposal, MODEL, row.proposal.bundle, champion, votes, False, champion)


def test_a_promotion_in_everything_as_the_votes_say(slow):
    honest = waiting(slow)
    refused(slow, replace(honest, bundle=OTHER), "names another bundle than the proposal")
    refused(slow, replace(honest, previous=OTHER, rehearsed=OTHER), "the champion is not", StaleError)
    refused(slow, replace(honest, rehearsed=OTHER), "the way back leads elsewhere")
    refused(slow, replace(honest, decisions=()), "does not name the decisions")
    refused(slow, replace(honest, decisions=(OTHER,)), "does not name the decisions")
    refused(slow, replace(honest, sole_person=True), "does not name the decisions")
    refused(slow, replace(honest, rehearsed=None), "of a former form", StaleError)
    refused(slow, replace(honest, model="nothing"), "there is no model", UnknownNameError)
    halt(slow)
    refused(slow, honest, "halted by", HaltedError)
    resume(slow)
    put(slow, honest)  # the control
    assert slow.state(honest.proposal) == "promoted"
    refused(slow, honest, "is promoted, not approved")


def test_a_promotion_before_its_cool_down_is_over(slow):
    proposal = slow.judged()
    slow.approve("ada", proposal)
    row, champion = slow.row(proposal), slow.model().champion
    votes = tuple(vote.record for vote in row.votes)
    honest = Promotion(proposal, MODEL, row.proposal.bundle, champion, votes, False, champion)
    refused(slow, honest, "the cool-down lasts until")
    slow.clock.pass_(minutes=31)
    put(slow, honest)  # the control


def signed(site: Site, who: str, proposal: str, **wish: Any) -> None:
    """An approval appended past the gate, which would note a complete quorum at once."""
    draft = site.draft(who, Action.APPROVE, proposal, **wish)
    site.inject(seal(draft.payload, site.people[who].key))


def test_a_quorum_that_fell_apart_is_not_noted(slow):
    proposal = slow.judged()
    signed(slow, "ada", proposal, expires_at=format_time(slow.clock.time + timedelta(hours=1)))
    noted = Transition(proposal, State.APPROVED, "x")
    slow.clock.pass_(hours=2)
    refused(slow, noted, "the quorum is not complete")
    signed(slow, "ada", proposal)
    put(slow, noted)  # the control


def test_a_promotion_after_the_approval_ended(slow):
    proposal = slow.judged()
    slow.approve("ada", proposal, expires_at=format_time(slow.clock.time + timedelta(hours=1)))
    row, champion = slow.row(proposal), slow.model().champion
    votes = tuple(vote.record for vote in row.votes)
    honest = Promotion(proposal, MODEL, row.proposal.bundle, champion, votes, False, champion)
    slow.clock.pass_(hours=2)
    refused(slow, honest, "the quorum is not complete")
    slow.clock.pass_(hours=-1, minutes=-20)
    put(slow, honest)  # the control: the very record, forty minutes after the quorum was complete


def test_a_promotion_whose_cool_down_never_began(slow):
    proposal = slow.judged()
    signed(slow, "ada", proposal)
    slow.clock.pass_(hours=1)
    row, champion = slow.row(proposal), slow.model().champion
    votes = tuple(vote.record for vote in row.votes)
    honest = Promotion(proposal, MODEL, row.proposal.bundle, champion, votes, False, champion)
    refused(slow, honest, "the cool-down lasts until the quorum is recorded")
    put(slow, Transition(proposal, State.APPROVED, "x"))
    slow.clock.pass_(hours=1)
    put(slow, honest)  # the control


@pytest.mark.parametrize("changed", [True, False])
def test_a_promotion_under_policies_that_changed(slow, changed):
    honest = waiting(slow)
    if changed:
        slow.activate(policy(coolDown="20m"))
        refused(slow, honest, "the policies changed since it was judged", StaleError)
    else:
        put(slow, honest)  # the control


@pytest.mark.parametrize("revoked", [True, False])
def test_a_promotion_by_a_waiver_that_was_revoked(slow, revoked):
    proposal = slow.judged(BLOCKED)
    waiver = Waiver("pii", slow.row(proposal).proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z")
    slow.decide("ada", Action.WAIVE, proposal, waiver=waiver)
    granted = slow.decide("bo", Action.WAIVE, proposal, waiver=waiver).request
    slow.gate.tick()
    for who in ("ada", "bo"):
        slow.approve(who, proposal)
    slow.clock.pass_(minutes=31)
    row, champion = slow.row(proposal), slow.model().champion
    votes = tuple(vote.record for vote in row.votes)
    honest = Promotion(proposal, MODEL, row.proposal.bundle, champion, votes, False, champion)
    if revoked:
        slow.decide("bo", Action.REVOKE, granted)
        refused(slow, honest, "waivers changed since it was judged", StaleError)
    else:
        put(slow, honest)  # the control


def test_a_promotion_more_than_the_policy_allows_in_a_day(make):
    site = make(coolDown="30m", budgets="{errorBudget: {alpha: 0.05}, promotions: {perDay: 1}}")
    put(site, waiting(site))
    honest = waiting(site)
    refused(site, honest, "promotions per day are used up")
    site.clock.pass_(days=1)
    put(site, honest)  # the control


def leaving(site: Site) -> tuple[str, Rollback]:
    """A request to roll back with one of two signatures, and what the gate would write once it is complete."""
    base = site.model().champion
    first = site.promoted("one")
    site.promoted("two")
    request = site.rollback("ada", base).request
    row, model = site.request(request), site.model()
    with site.log.read() as snapshot:
        _, quarantined = after_rollback(snapshot.tables, model, base)
    votes = tuple(vote.record for vote in row.votes)
    return first, Rollback(request, MODEL, base, model.champion, votes, quarantined, False)


def completed(site: Site, rollback: Rollback) -> Rollback:
    """The second signature, appended past the gate, which would carry the rollback out at once."""
    draft = site.draft("bo", Action.ROLLBACK, MODEL, digest=rollback.bundle)
    site.inject(seal(draft.payload, site.people["bo"].key))
    votes = tuple(vote.record for vote in site.request(rollback.request).votes)
    return replace(rollback, decisions=votes)


def test_a_rollback_in_everything_as_it_was_signed(make):
    site = make(rollback="{quorum: 2, roles: [operator, safety], distinctRoles: true}")
    site.adopt("other", "another base")
    first, early = leaving(site)
    refused(site, early, "the quorum is not complete")
    honest = completed(site, early)
    refused(site, replace(honest, request="R-0099"), "no rollback of .* was asked for")
    refused(site, replace(honest, model="other"), "no rollback of other was asked for")
    refused(
        site,
        replace(honest, bundle=site.row(first).proposal.bundle),
        "champion or target changed",
        StaleError,
    )
    refused(site, replace(honest, previous=OTHER), "champion or target changed", StaleError)
    refused(site, replace(honest, decisions=honest.decisions[:1]), "does not name the decisions")
    refused(site, replace(honest, sole_person=True), "misstates whether one person acted alone")
    refused(site, replace(honest, quarantined=()), "not what follows from the log")
    put(site, honest)  # the control
    assert site.model().champion == honest.bundle
    refused(site, honest, "has been carried out already")
