"""guardrails.gate: who must say yes, who may say no, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import (
    ADA,
    BLOCKED,
    BO,
    MODEL,
    REVIEWABLE,
    Human,
    halt,
    resume,
)

from guardrails.decision_log.envelope import parse_statement
from guardrails.errors import (
    DeniedError,
    JobFailedError,
    RecordError,
    StaleError,
)
from guardrails.records import Action, Role, Surface

# --- quorum --------------------------------------------------------------------------------


def test_a_review_needs_two_people_in_different_roles(site):
    proposal = site.judged(REVIEWABLE)
    first = site.approve("ada", proposal)
    assert first.state == "awaiting_approval"
    assert "needs 1 more person" in first.effect
    with pytest.raises(DeniedError, match="would not count"):
        site.approve("cy", proposal)  # a second operator fills no second role
    with pytest.raises(DeniedError, match="not asked for"):
        site.approve("di", proposal)
    assert site.model().promotions == ()
    assert site.approve("bo", proposal).state == "promoted"
    with site.log.read() as snapshot:
        promotion = list(snapshot.entries())[-1].statement.body
    assert len(promotion["decisions"]) == 2
    assert promotion["sole_person"] is False


def test_the_same_person_cannot_approve_twice(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    before = site.kinds()
    with pytest.raises(DeniedError, match="approved already"):
        site.approve("ada", proposal, reason="once more")
    assert site.kinds() == before, "a refused decision leaves no record"


def test_a_person_with_two_roles_still_counts_once(make):
    site = make(people=(("ada", Role.OPERATOR, Role.SAFETY, Role.ROOT), BO))
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal, role=Role.OPERATOR)
    with pytest.raises(DeniedError, match="approved already"):
        site.approve("ada", proposal, role=Role.SAFETY)
    assert site.approve("bo", proposal).state == "promoted"


def test_the_proposer_does_not_count(site):
    mine = site.judged(proposer="p-cy")
    with pytest.raises(DeniedError, match="excluded"):
        site.approve("cy", mine)
    assert site.approve("ada", mine).state == "promoted"


def test_who_answered_what_it_was_trained_on_does_not_count(site):
    taught = site.judged(authors=("p-cy",))
    with pytest.raises(DeniedError, match="excluded"):
        site.approve("cy", taught)
    assert site.approve("ada", taught).state == "promoted"
    assert site.verify().ok


def test_only_an_exclusion_of_data_authors_keeps_them_from_approving(make):
    taught = (site := make(exclude="[proposer]")).judged(authors=("p-cy",))
    assert site.approve("cy", taught).state == "promoted"


def test_a_sole_person_acts_alone_and_the_record_says_so(make):
    site = make(people=(ADA,))
    proposal = site.judged(proposer="p-ada")
    assert site.approve("ada", proposal).state == "promoted"
    with site.log.read() as snapshot:
        assert list(snapshot.entries())[-1].statement.body["sole_person"] is True
    review = site.judged(REVIEWABLE)
    site.approve("ada", review)
    assert site.state(review) == "awaiting_approval", "a quorum of two never shrinks"
    assert site.verify().ok


def test_a_role_that_is_not_held_cannot_be_used(site):
    proposal = site.judged(REVIEWABLE)
    with pytest.raises(DeniedError, match="does not hold the role safety"):
        site.approve("ada", proposal, role=Role.SAFETY)


def test_a_foreign_key_signs_nothing(site):
    proposal = site.judged()
    draft = site.draft("ada", Action.APPROVE, proposal)
    for key in (site.people["bo"].key, Human("eve").key, site.services["gate"]):
        with pytest.raises(DeniedError, match="not signed by a key of p-ada"):
            site.gate.commit(draft, key)
    assert site.gate.commit(draft, site.people["ada"].key).state == "promoted"


def test_a_decision_is_committed_once(site):
    proposal = site.judged(REVIEWABLE)
    draft = site.draft("ada", Action.APPROVE, proposal)
    site.gate.commit(draft, site.people["ada"].key)
    with pytest.raises(RecordError, match="already in the log"):
        site.gate.commit(draft, site.people["ada"].key)


def test_a_decision_counts_for_its_own_proposal_only(site):
    one, two = site.judged(), site.judged()
    draft = site.draft("ada", Action.APPROVE, one)
    # The draft says P-0002 beside the bytes that say P-0001: the bytes count.
    disguised = replace(draft, decision=replace(draft.decision, target=two))
    receipt = site.gate.commit(disguised, site.people["ada"].key)
    assert (receipt.target, site.state(one)) == (one, "promoted")
    # The same approval with another target does not bind to that proposal's verdict.
    statement = parse_statement(draft.payload)
    moved = replace(statement, body={**statement.body, "target": two, "request": two})
    with pytest.raises(DeniedError):
        site.gate.commit(replace(draft, payload=moved.encode()), site.people["ada"].key)
    assert site.state(two) == "stale"


def test_an_approval_of_one_proposal_does_not_fit_another(site):
    one, two = site.judged(), site.judged()
    statement = parse_statement(site.draft("ada", Action.APPROVE, one).payload)
    moved = replace(statement, body={**statement.body, "target": two, "request": two})
    draft = replace(site.draft("ada", Action.APPROVE, one), payload=moved.encode())
    with pytest.raises(StaleError, match="changed since this was prepared"):
        site.gate.commit(draft, site.people["ada"].key)
    assert site.approve("ada", two).state == "promoted"


def test_only_a_decision_can_be_signed_by_a_person(site):
    proposal = site.judged()
    row = site.row(proposal)
    draft = site.draft("ada", Action.APPROVE, proposal)
    statement = parse_statement(draft.payload)
    body = {
        "proposal": proposal, "model": MODEL, "bundle": str(row.proposal.bundle), "sole_person": False,
        "previous": str(site.model().champion), "decisions": [],
    }  # fmt: skip
    forged = replace(draft, payload=replace(statement, record="promotion", body=body).encode())
    with pytest.raises(RecordError, match="a decision is needed"):
        site.gate.commit(forged, site.people["ada"].key)


def test_surfaces_and_what_was_viewed_are_demanded(make):
    site = make(expiresAfter="72h\n  surfaces: [console]\n  requireViewed: [findings, samples]")
    proposal = site.judged()
    with pytest.raises(DeniedError, match="surface cli do not count"):
        site.approve("ada", proposal)
    with pytest.raises(DeniedError, match="not viewed yet: samples"):
        site.approve("ada", proposal, surface=Surface.CONSOLE, viewed=("findings",))
    assert site.approve("ada", proposal, surface=Surface.CONSOLE).state == "promoted"


def test_a_blocked_proposal_cannot_be_decided_on(site):
    proposal = site.judged(BLOCKED)
    for action in (Action.APPROVE, Action.REJECT, Action.WITHDRAW):
        with pytest.raises(DeniedError, match="blocked"):
            site.decide("ada", action, proposal)


# --- saying no -----------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["ada", "bo", "cy", "di"])
def test_anybody_can_reject_and_that_is_final(site, who):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    waiting = site.draft("bo", Action.APPROVE, proposal)
    assert site.decide(who, Action.REJECT, proposal).state == "rejected"
    with pytest.raises(DeniedError, match="rejected"):
        site.gate.commit(waiting, site.people["bo"].key)
    with pytest.raises(DeniedError, match="rejected and cannot be measured"):
        site.gate.begin_measurement(proposal)
    with pytest.raises(DeniedError, match="rejected"):
        site.gate.judge(proposal)
    assert site.gate.tick() == []
    assert site.verify().ok


def test_a_failed_job_opens_nothing_again_that_is_closed(site):
    rejected, promoted, quarantined = site.judged(REVIEWABLE), site.promoted(), site.propose()
    site.promoted()
    base = site.model().original
    closed = {rejected: "stale", promoted: "promoted", quarantined: "stale"}
    assert {name: site.state(name) for name in closed} == closed
    site.rollback("ada", base)
    assert site.state(promoted) == "rolled_back"
    veto = site.judged(REVIEWABLE)
    site.decide("bo", Action.REJECT, veto)
    for name in (veto, promoted):
        with pytest.raises(DeniedError, match="nothing of it can fail now"):
            site.gate.record_failure(MODEL, "measure", "x", JobFailedError("broken"), proposal_id=name)
    running = site.propose()
    site.gate.begin_measurement(running)
    site.gate.record_failure(MODEL, "measure", "x", JobFailedError("broken"), proposal_id=running)
    assert site.state(running) == "failed"
    site.measure(running)
    assert site.gate.judge(running) == "awaiting_approval", "a failed measurement can be made again"


def test_an_approval_can_be_taken_back_before_promotion(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    assert site.decide("ada", Action.WITHDRAW, proposal).state == "awaiting_approval"
    assert site.approve("bo", proposal).state == "awaiting_approval"
    assert site.approve("cy", proposal).state == "promoted"
    with pytest.raises(DeniedError, match="promoted"):
        site.decide("cy", Action.WITHDRAW, proposal)


def test_an_approval_that_was_taken_back_cannot_be_handed_in_again(site):
    proposal = site.judged(REVIEWABLE)
    draft = site.draft("ada", Action.APPROVE, proposal)
    key = site.people["ada"].key
    site.gate.commit(draft, key)
    site.decide("ada", Action.WITHDRAW, proposal)
    with pytest.raises(RecordError, match="already in the log"):
        site.gate.commit(draft, key)

    class Renamed:
        """The same signature under another key id: another envelope."""

        keyid, scheme, sign = "SHA256:somebody", key.scheme, key.sign

    with pytest.raises(DeniedError, match="not signed by a key of p-ada"):
        site.gate.commit(draft, Renamed())
    assert site.approve("bo", proposal).state == "awaiting_approval"


def test_withdrawing_without_having_approved_ends_the_proposal(site):
    proposal = site.judged()
    assert site.decide("cy", Action.WITHDRAW, proposal).state == "withdrawn"
    with pytest.raises(DeniedError, match="withdrawn"):
        site.approve("ada", proposal)
    with pytest.raises(DeniedError, match="withdrawn"):
        site.gate.begin_measurement(proposal)


# --- time ----------------------------------------------------------------------------------


def test_an_approval_that_comes_too_late_does_not_count(site):
    proposal = site.judged()
    site.clock.pass_(hours=72, seconds=-1)
    in_time = site.draft("ada", Action.APPROVE, proposal)
    site.clock.pass_(seconds=2)
    with pytest.raises(DeniedError, match="expired"):
        site.approve("ada", proposal)
    # Signed in time, handed in too late: the gate's clock decides, not the date on the paper.
    with pytest.raises(DeniedError, match="expired"):
        site.gate.commit(in_time, site.people["ada"].key)
    assert site.gate.tick() == [f"{proposal}: expired"]
    assert site.state(proposal) == "expired"
    site.measure(proposal)
    site.gate.judge(proposal)
    assert site.approve("ada", proposal).state == "promoted", "measured again, it can be decided on again"


def test_an_approval_just_in_time_counts(site):
    proposal = site.judged()
    site.clock.pass_(hours=72, seconds=-1)
    assert site.approve("ada", proposal).state == "promoted"


def test_a_decision_from_the_future_is_refused(site):
    proposal = site.judged(REVIEWABLE)
    draft = site.draft("ada", Action.APPROVE, proposal)
    site.clock.pass_(seconds=-30)
    with pytest.raises(DeniedError, match="still to come"):
        site.gate.commit(draft, site.people["ada"].key)
    site.clock.pass_(seconds=31)
    assert site.gate.commit(draft, site.people["ada"].key).state == "awaiting_approval"


def test_a_decision_from_before_the_verdict_does_not_count(site):
    proposal = site.judged(REVIEWABLE)
    draft = site.draft("ada", Action.APPROVE, proposal)
    statement = replace(parse_statement(draft.payload), time="2020-01-01T00:00:00.000000Z")
    with pytest.raises(DeniedError, match="would not count"):
        site.gate.commit(replace(draft, payload=statement.encode()), site.people["ada"].key)


def test_signatures_may_arrive_in_another_order_than_they_were_made(site):
    proposal = site.judged(REVIEWABLE)
    first = site.draft("bo", Action.APPROVE, proposal)
    site.clock.pass_(minutes=5)
    site.approve("ada", proposal)
    assert site.gate.commit(first, site.people["bo"].key).state == "promoted"


def test_the_clock_of_the_log_never_runs_backwards(site):
    proposal = site.propose()
    site.clock.pass_(hours=-1)
    with pytest.raises(DeniedError, match="clock went backwards"):
        site.gate.begin_measurement(proposal)
    site.clock.pass_(hours=1)
    site.measure(proposal)


def test_a_cool_down_ends_at_the_gates_tick(make):
    site = make(coolDown="30m")
    proposal = site.judged()
    base = site.model().champion
    assert site.approve("ada", proposal).state == "approved"
    assert (site.gate.tick(), site.model().champion) == ([], base)
    site.clock.pass_(minutes=29)
    assert (site.gate.tick(), site.state(proposal)) == ([], "approved")
    site.clock.pass_(minutes=2)
    assert site.gate.tick() == [f"{proposal}: promoted"]
    assert site.model().champion == site.row(proposal).proposal.bundle
    assert site.gate.tick() == []
    assert site.verify().ok


def test_during_a_cool_down_it_can_be_stopped(make):
    site = make(coolDown="30m")
    taken_back, vetoed, halted = site.judged(), site.judged(), site.judged()
    for proposal in (taken_back, vetoed, halted):
        site.approve("ada", proposal)
    with pytest.raises(DeniedError, match="complete already"):
        site.approve("cy", halted)
    assert site.decide("ada", Action.WITHDRAW, taken_back).state == "awaiting_approval"
    assert site.decide("di", Action.REJECT, vetoed).state == "rejected"
    halt(site)
    site.clock.pass_(minutes=31)
    assert site.gate.tick() == []
    assert site.model().promotions == ()
    resume(site)
    assert site.gate.tick() == [f"{halted}: promoted"]


def test_a_new_quorum_cools_down_anew(make):
    site = make(coolDown="30m")
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    site.approve("bo", proposal)
    site.clock.pass_(minutes=25)
    site.people["bo2"] = Human("bo2", Role.SAFETY)
    site.enrol()
    site.clock.pass_(minutes=10)
    assert site.gate.tick() == [], "signatures under a former roster do not count"
    assert site.approve("bo2", proposal).state == "awaiting_approval"
    assert site.approve("ada", proposal).state == "approved"
    site.clock.pass_(minutes=29)
    assert site.gate.tick() == []
    site.clock.pass_(minutes=2)
    assert site.gate.tick() == [f"{proposal}: promoted"]
    with site.log.read() as snapshot:
        entries = list(snapshot.entries())
    named = set(entries[-1].statement.body["decisions"])
    assert named == {f"sha256:{entry.leaf}" for entry in entries[-4:-2]}, "only what counts is named"
    assert site.verify().ok
