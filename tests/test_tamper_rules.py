"""Records that nothing but a rule of the ledger refuses: services that lie past their own gate, one lie at a time.

Whoever holds the services' keys appends what the gate would never make. Each record is right in everything but one
point, is refused for that point, and goes in (the control) once the point is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fakes import BLOCKED, MODEL, REVIEWABLE, Site, halt, policy, resume

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log.envelope import format_time, open_envelope, parse_statement, seal
from guardrails.decision_log.roots import root_keys
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import (
    DeniedError,
    HaltedError,
    InterlockError,
    LogVerificationError,
    RecordError,
    StaleError,
    UnknownNameError,
)
from guardrails.ledger import judging, project
from guardrails.ledger.champions import after_rollback
from guardrails.ledger.standing import standing_of
from guardrails.ledger.subjects import subjects_of
from guardrails.records import (
    Action,
    Decision,
    Evidence,
    Failure,
    ModelKind,
    Promotion,
    Proposal,
    Removal,
    Role,
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


# --- what people sign ------------------------------------------------------------------------------


def said(
    site: Site, who: str, action: Action, target: str, change: Callable[[Decision], Decision] = lambda d: d,
    *signers: Any, role: Role | None = None, **wish: Any,
) -> bytes:  # fmt: skip
    """A decision as the gate would prepare it, changed, its subjects made to fit, and signed."""
    statement = parse_statement(site.draft(who, action, target, role, **wish).payload)
    changed = change(decode_record(Decision, dict(statement.body)))
    with site.log.read() as snapshot:
        about = subjects_of(snapshot.tables, changed) or dict(statement.subjects)
    statement = replace(statement, body=encode_record(changed), subjects=about)
    return seal(statement.encode(), *(signers or (site.people[who].key,)))


def unsaid(site: Site, envelope: bytes, reason: str, error: type[InterlockError] = DeniedError) -> None:
    with pytest.raises(error, match=reason):
        site.inject(envelope)


def with_(**fields: Any) -> Callable[[Decision], Decision]:
    return lambda decision: replace(decision, **fields)


def test_a_base_that_is_adopted_has_a_digest_and_a_kind(site):
    adopt = {"role": Role.ROOT, "digest": OTHER, "kind": ModelKind.LLM}
    for change in (with_(digest=None), with_(kind=None)):
        envelope = said(site, "ada", Action.ADOPT, "other", change, **adopt)
        unsaid(site, envelope, "digest and kind are needed", RecordError)
    site.inject(said(site, "ada", Action.ADOPT, "other", **adopt))  # the control


def test_a_decision_has_one_signature(site):
    proposal = site.judged(REVIEWABLE)
    keys = site.people["ada"].key, site.people["bo"].key
    twice = said(site, "ada", Action.APPROVE, proposal, lambda d: d, *keys)
    unsaid(site, twice, "is not signed by a key of p-ada")
    site.inject(said(site, "ada", Action.APPROVE, proposal))  # the control


def test_a_signature_is_taken_back_under_the_request_that_it_names(make):
    site = make(rollback="{quorum: 2, roles: [operator, safety], distinctRoles: true}")
    base = site.model().champion
    site.promoted("one")
    request = site.rollback("ada", base).request
    withdraw = said(site, "ada", Action.WITHDRAW, request)
    for change in (with_(target="R-0099", request="R-0099"), with_(request="P-0001")):
        envelope = said(site, "ada", Action.WITHDRAW, request, change)
        unsaid(site, envelope, "there is no request", UnknownNameError)
    site.inject(withdraw)  # the control
    again = site.rollback("ada", base).request
    late = said(site, "ada", Action.WITHDRAW, again)
    site.rollback("bo", base)
    unsaid(site, late, "has been carried out already")


def test_what_a_request_must_say(site):
    base = site.model().champion
    site.promoted("one")
    back = said(site, "ada", Action.ROLLBACK, MODEL, with_(digest=None), digest=base)
    unsaid(site, back, "the digest to return to is missing", RecordError)
    clock = said(site, "ada", Action.SET_CLOCK, "workspace", with_(target="x"), role=Role.ROOT)
    unsaid(site, clock, "the target is the workspace", RecordError)
    active = policy(coolDown="5m")
    other = said(site, "ada", Action.ACTIVATE, "main", with_(target="other"), policy=active)
    unsaid(site, other, "the policy is called main, not other", RecordError)
    site.inject(said(site, "ada", Action.ACTIVATE, "main", policy=active))  # the control
    gone = said(site, "ada", Action.DEACTIVATE, "main", with_(target="other"), digest=active.digest)
    unsaid(site, gone, "no policy called other is in force", UnknownNameError)


def test_a_waiver_is_for_the_proposal_that_it_names_and_for_a_time_to_come(site):
    blocked, other = site.judged(BLOCKED), site.judged(BLOCKED)
    waiver = Waiver("pii", site.row(blocked).proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z")
    late = replace(waiver, expires_at="2020-01-01T00:00:00.000000Z")
    elsewhere = said(site, "ada", Action.WAIVE, blocked, with_(target=other), waiver=waiver)
    unsaid(site, elsewhere, "is no proposal with the bundle", RecordError)
    past = said(site, "ada", Action.WAIVE, blocked, with_(waiver=late), waiver=waiver)
    unsaid(site, past, "before it begins")
    site.decide("ada", Action.WAIVE, blocked, waiver=waiver)
    granted = site.decide("bo", Action.WAIVE, blocked, waiver=waiver).request
    nothing = said(site, "ada", Action.REVOKE, granted, with_(target="R-0099"))
    unsaid(site, nothing, "there is no waiver R-0099", UnknownNameError)
    site.inject(said(site, "ada", Action.REVOKE, granted))  # the control


def test_a_comment_is_signed_and_about_something(site):
    proposal = site.judged()
    forged = said(site, "ada", Action.COMMENT, proposal, lambda d: d, site.services["gate"])
    unsaid(site, forged, "is not signed by a key of p-ada")
    two = said(site, "ada", Action.COMMENT, proposal, with_(request="P-0099"))
    unsaid(site, two, "it names two things", RecordError)
    for name in ("P-0099", "R-0099"):
        nothing = said(site, "ada", Action.COMMENT, proposal, with_(request=name, target=name))
        unsaid(site, nothing, "there is no proposal or request", UnknownNameError)
    site.inject(said(site, "ada", Action.COMMENT, proposal))  # the control


# --- the frame -------------------------------------------------------------------------------------


def test_a_log_begins_with_its_roster_and_holds_its_own_records_of_known_kinds(site, folder):
    proposal = site.judged()
    note = Transition(proposal, State.MEASURING, "x", site.model().attempts + 1)
    empty = Site(folder / "empty", set_up=False)
    refused(
        empty, Failure("P-0001", MODEL, "propose", "x", "x", ""), "the first record of a log is its roster"
    )
    empty.close()
    gate = site.services["gate"]
    own = parse_statement(open_envelope(site.sealed(note, gate)).payload)
    with pytest.raises(InterlockError, match=r"unknown kind of record|is not one of Interlock's"):
        site.inject(site.sealed(note, gate, kind="rumour"))
    site.inject(seal(own.encode(), gate))  # the control


def test_records_follow_each_other_without_a_gap(site):
    with site.log.read() as snapshot:
        entries = list(snapshot.entries())
    tables = MemoryTables()
    project(tables, entries[0])
    with pytest.raises(DeniedError, match="record 2 does not follow record 0"):
        project(tables, replace(entries[1], seq=2))
    elsewhere = replace(entries[1].statement, log="interlock/other")
    with pytest.raises(DeniedError, match="belongs to another log"):
        project(tables, replace(entries[1], statement=elsewhere))
    project(tables, entries[1])  # the control


def test_nothing_is_judged_removed_or_promoted_before_it_was_made(site):
    proposal = site.propose()
    failed = site.gate.record_failure(MODEL, "propose", "x", StaleError("nothing came of it"))
    site.clock.pass_(days=31)
    refused(site, Removal(failed, OTHER, 30), "has no bundle")
    measured = site.row(site.judged())
    with site.log.read() as snapshot:
        row, now = site.row(proposal), site.clock.text
        numbers = judging.read_measurements(site.store, measured)
        with pytest.raises(StaleError, match="there is no verdict to decide on"):
            standing_of(snapshot.tables, row, now)
        with pytest.raises(DeniedError, match="nothing has been measured yet"):
            judging.read_measurements(site.store, row)
        with pytest.raises(DeniedError, match="nothing has been measured yet"):
            judging.case_of(snapshot.tables, row, numbers, now, intact=True)
        with pytest.raises(LogVerificationError, match="the first record is no roster"):
            root_keys(snapshot.entry(1))
        assert standing_of(snapshot.tables, measured, now).verdict == "eligible"  # the controls
        assert judging.case_of(snapshot.tables, measured, numbers, now, intact=True).attempt == 1
        assert root_keys(snapshot.entry(0))
