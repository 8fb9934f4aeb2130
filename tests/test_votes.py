"""What people say on a proposal beside yes and no: changes asked for, comments, approvals with an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import BLOCKED, MODEL, PASSING, REVIEWABLE, Site, memory_folder, policy

from guardrails.decision_log.envelope import format_time
from guardrails.errors import DeniedError, RecordError, StaleError, UnknownNameError
from guardrails.records import Action, Evidence, Promotion, State
from guardrails.registry import ArtifactError


@pytest.fixture
def site():
    made = Site(memory_folder())
    yield made
    made.close()


def ask(site: Site, who: str, proposal: str):
    return site.decide(who, Action.REQUEST_CHANGES, proposal)


def take_back(site: Site, who: str, proposal: str):
    return site.decide(who, Action.WITHDRAW, proposal)


# --- requests for change -------------------------------------------------------------------


def test_a_request_for_change_blocks_until_its_author_withdraws_it(site):
    proposal = site.judged()
    assert ask(site, "di", proposal).effect == "1 person asks for a change first; needs 1 person: operator"
    approved = site.approve("ada", proposal)
    assert (approved.state, approved.effect) == ("awaiting_approval", "1 person asks for a change first")
    with pytest.raises(DeniedError, match="ask for a change already"):
        ask(site, "di", proposal)
    assert site.gate.tick() == []
    assert take_back(site, "di", proposal).state == "promoted", "the quorum was complete but for that"
    assert [vote.action for vote in site.row(proposal).remarks] == [Action.REQUEST_CHANGES]
    assert site.verify().ok


def test_a_request_for_change_is_settled_by_its_authors_approval(site):
    proposal = site.judged()
    ask(site, "ada", proposal)
    assert site.approve("ada", proposal).state == "promoted"


def test_an_approval_is_given_up_by_asking_for_a_change(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal)
    ask(site, "ada", proposal)
    assert site.row(proposal).votes == ()
    site.approve("bo", proposal)
    assert site.state(proposal) == "awaiting_approval"
    assert site.approve("ada", proposal).state == "promoted"


def test_it_stops_a_cool_down():
    site = Site(memory_folder(), source=policy(coolDown="30m"))
    try:
        proposal = site.judged()
        assert site.approve("ada", proposal).state == "approved"
        assert ask(site, "di", proposal).state == "awaiting_approval"
        site.clock.pass_(minutes=31)
        assert site.gate.tick() == []
        assert take_back(site, "di", proposal).state == "approved", "the cool-down begins anew"
        assert site.gate.tick() == []
        site.clock.pass_(minutes=31)
        assert site.gate.tick() == [f"{proposal}: promoted"]
    finally:
        site.close()


def test_new_evidence_does_not_settle_it_and_it_can_be_withdrawn_at_any_time(site):
    proposal = site.judged()
    ask(site, "bo", proposal)
    site.measure(proposal, PASSING)
    site.gate.judge(proposal)
    assert site.approve("ada", proposal).state == "awaiting_approval"
    site.measure(proposal, BLOCKED)
    site.gate.judge(proposal)
    assert take_back(site, "bo", proposal).state == "blocked"
    assert site.row(proposal).changes == ()
    with pytest.raises(DeniedError, match="nothing to withdraw"):
        take_back(site, "bo", proposal)
    assert site.verify().ok


# --- comments ------------------------------------------------------------------------------


def test_anybody_comments_on_anything_and_it_changes_nothing(site):
    proposal = site.judged(BLOCKED)
    before = site.row(proposal)
    said = site.decide("di", Action.COMMENT, proposal, reason="look at item 7")
    assert said.state == "kept"
    after = site.row(proposal)
    assert replace(after, remarks=()) == replace(before, remarks=())
    request = site.decide(
        "ada", Action.ACTIVATE, "main", policy=policy(resume="{quorum: 1, roles: [operator, safety]}")
    )
    assert request.state == "open"
    site.decide("di", Action.COMMENT, request.request, reason="why?")
    assert [vote.person for vote in site.request(request.request).remarks] == ["p-di"]
    for nothing in ("P-0099", "R-0099"):
        with pytest.raises(UnknownNameError):
            site.decide("di", Action.COMMENT, nothing)
    assert site.verify().ok


# --- approvals with an end -----------------------------------------------------------------


def test_an_approval_counts_until_its_own_end(site):
    proposal = site.judged(REVIEWABLE)
    site.approve("ada", proposal, expires_at=format_time(site.clock.time.replace(hour=11)))
    site.clock.pass_(hours=3)
    second = site.approve("bo", proposal)
    assert (second.state, second.effect) == ("awaiting_approval", "needs 1 more person: operator")
    assert site.approve("ada", proposal).state == "promoted", "who let theirs end may sign again"


def test_an_end_during_the_cool_down_stops_the_promotion():
    site = Site(memory_folder(), source=policy(coolDown="30m"))
    try:
        proposal = site.judged()
        end = format_time(site.clock.time.replace(minute=10))
        assert site.approve("ada", proposal, expires_at=end).state == "approved"
        site.clock.pass_(minutes=31)
        assert site.gate.tick() == []
        assert site.model().promotions == ()
        assert site.approve("cy", proposal).state == "approved"
    finally:
        site.close()


def test_only_an_approval_has_an_end_and_it_lies_ahead(site):
    proposal = site.judged()
    end = format_time(site.clock.time.replace(year=2027))
    with pytest.raises(RecordError, match="only an approval"):
        site.decide("ada", Action.REJECT, proposal, expires_at=end)
    with pytest.raises(DeniedError, match="before it begins"):
        site.approve("ada", proposal, expires_at="2026-03-02T09:00:00.000000Z")


# --- measuring -----------------------------------------------------------------------------


def test_an_attempt_is_spent_when_a_measurement_starts(site):
    proposal = site.propose()
    site.gate.begin_measurement(proposal)
    assert site.model().attempts == 1, "looking and stopping is not free"
    site.measure(proposal)
    site.gate.judge(proposal)
    assert (site.model().attempts, site.row(proposal).verdict.attempt) == (2, 2)
    assert site.verify().ok


def test_evidence_comes_from_the_measurement_that_is_under_way(site):
    proposal = site.propose()
    former = site.gate.begin_measurement(proposal)
    newest = site.gate.begin_measurement(proposal)
    with pytest.raises(StaleError, match="not of the measurement that is under way"):
        site.hand_in(former)
    with pytest.raises(DeniedError, match="the nonce is not the one"):
        site.hand_in(replace(newest, nonce="0" * 64))
    site.hand_in(newest)
    body = site.row(proposal).evidence
    assert (body.measurement, body.nonce) == (newest.record, newest.nonce)


def test_evidence_of_the_former_form_is_refused_once_the_log_has_learned_more(site):
    proposal = site.propose()
    order = site.gate.begin_measurement(proposal)
    bare = Evidence(
        proposal, order.bundle, order.champion, site.store.put_bytes(b"{}"), {}, "e", order.nonce, order.seed,
        "strict", site.row(proposal).proposal.compute,
    )  # fmt: skip
    with pytest.raises(StaleError):
        site.inject(site.sealed(bare, site.services["evaluator"]))


# --- the way back --------------------------------------------------------------------------


def test_a_promotion_says_that_the_way_back_was_tried(site):
    base = site.model().champion
    site.promoted("one")
    with site.log.read() as snapshot:
        promotion = next(e for e in snapshot.entries() if e.statement.record == "promotion").statement.body
    assert promotion["rehearsed"] == promotion["previous"] == str(base)
    assert not list(site.store.root.glob("rehearsal-*")), "nothing is left of it"


def test_a_promotion_that_tried_nothing_or_came_to_something_else_is_refused(site):
    proposal = site.judged()
    site.decide("ada", Action.HALT, "workspace")
    site.approve("ada", proposal)
    site.decide("ada", Action.RESUME, "workspace")
    row, model = site.row(proposal), site.model()
    honest = Promotion(
        proposal, MODEL, row.proposal.bundle, model.champion, (row.votes[0].record,), False, model.champion
    )
    for forged, why in (
        (replace(honest, rehearsed=row.proposal.bundle), "the way back leads elsewhere"),
        (replace(honest, rehearsed=None), "former form"),
    ):
        with pytest.raises((DeniedError, StaleError), match=why):
            site.inject(site.sealed(forged, site.services["gate"]))
    site.inject(site.sealed(honest, site.services["gate"]))  # the control
    assert site.state(proposal) == "promoted"


# --- data that a model wrote ---------------------------------------------------------------


def with_data(site: Site, content: str, *lines: str):
    """A bundle with training data beside the model."""
    folder = site.folder / "given" / content
    (folder / "model").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(content.encode() * 20)
    (folder / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return site.store.put_tree(folder)


WRITTEN = '{"text": "by a model", "origin": "generated"}'
FOUND = '{"text": "the word generated, said by a person"}'


def test_data_that_came_with_what_was_rolled_back_is_quarantined_with_it(site):
    base = site.model().champion
    site.promoted(bundle=with_data(site, "first", WRITTEN, FOUND))
    assert len(site.row("P-0001").proposal.generated) == 1
    site.rollback("ada", base)
    with pytest.raises(DeniedError, match="written by a model that was rolled back"):
        site.propose(bundle=with_data(site, "again", WRITTEN, FOUND))
    assert site.propose(bundle=with_data(site, "other", FOUND)) == "P-0002", "the control: data of people"
    assert site.row("P-0002").proposal.generated == ()
    assert site.verify().ok


def test_a_proposal_that_shares_such_data_is_quarantined_by_the_rollback(site):
    base = site.model().champion
    other = site.judged(bundle=with_data(site, "other", WRITTEN))
    clean = site.judged(bundle=with_data(site, "clean", FOUND))
    site.promoted(bundle=with_data(site, "first", WRITTEN, ""), data=site.store.put_bytes(WRITTEN.encode()))
    site.rollback("ada", base)
    assert site.row(other).state is State.QUARANTINED
    assert site.row(clean).state is State.STALE
    assert site.verify().ok


def test_data_that_cannot_be_examined_makes_no_proposal(site):
    bundle = with_data(site, "gone", WRITTEN)
    name = next(entry.sha256 for entry in site.store.tree(bundle) if entry.path.startswith("data/"))
    (site.store.root / "blobs" / name[:2] / name).unlink()
    with pytest.raises(ArtifactError, match="cannot be examined"):
        site.propose(bundle=bundle)
