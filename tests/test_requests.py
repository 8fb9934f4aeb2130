"""Requests: they end, can be taken back and rejected, and a rollback is about the champion that it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import BLOCKED, MODEL, Site, memory_folder, policy

from guardrails.canonical import digest
from guardrails.decision_log.envelope import format_time, parse_statement
from guardrails.errors import DeniedError, StaleError, UnknownNameError
from guardrails.ledger import asked
from guardrails.ledger.requests import WORKSPACE
from guardrails.records import Action, Role, Waiver

TWO = policy(rollback="{quorum: 2, roles: [operator, safety], distinctRoles: true}")


@pytest.fixture
def site():
    made = Site(memory_folder(), source=TWO)
    yield made
    made.close()


def roll_back(site: Site, who: str = "ada"):
    return site.rollback(who, site.model().history[0].digest)


def state(site: Site, request: str) -> str:
    with site.log.read() as snapshot:
        return asked.state_of(snapshot.tables, site.request(request), site.clock.text).value


def test_what_is_missing_is_said_in_words(site):
    site.promoted("one")
    assert roll_back(site).effect == "needs 1 more person: safety"
    assert roll_back(site, "bo").state == "rolled_back"


def test_a_request_expires_and_is_asked_for_anew(site):
    site.promoted("one")
    first = roll_back(site)
    draft = site.draft("bo", Action.ROLLBACK, MODEL, digest=site.model().history[0].digest)
    site.clock.pass_(hours=72)
    assert state(site, first.request) == "expired"
    with pytest.raises(DeniedError, match="expired before enough people had signed"):
        site.gate.commit(draft, site.people["bo"].key)
    again = roll_back(site, "bo")
    assert (again.request != first.request, again.state) == (True, "open")
    assert site.verify().ok


def test_just_before_its_end_it_can_still_be_signed(site):
    site.promoted("one")
    roll_back(site)
    site.clock.pass_(hours=71, minutes=59)
    assert roll_back(site, "bo").state == "rolled_back"


def test_the_end_of_a_request_is_what_the_policies_say(site):
    site.promoted("one")
    draft = site.draft("ada", Action.ROLLBACK, MODEL, digest=site.model().history[0].digest)
    statement = parse_statement(draft.payload)
    for terms in ({"expires_at": format_time(site.clock.time.replace(year=2030))}, None):
        body = {**statement.body, "terms": {**statement.body["terms"], **terms} if terms else None}
        if terms is None:
            del body["terms"]
        longer = replace(draft, payload=replace(statement, body=body).encode())
        with pytest.raises(StaleError, match=r"terms are not those|former form"):
            site.gate.commit(longer, site.people["ada"].key)
    assert site.gate.commit(draft, site.people["ada"].key).state == "open", "the control"


def test_a_rollback_is_void_once_another_champion_is_in_force(site):
    site.promoted("one")
    request = roll_back(site).request
    draft = site.draft("bo", Action.ROLLBACK, MODEL, digest=site.model().history[0].digest)
    site.promoted("two")
    assert state(site, request) == "void"
    with pytest.raises(DeniedError, match="another champion is in force"):
        site.gate.commit(draft, site.people["bo"].key)
    assert site.model().history[-1].proposal == "P-0002"
    assert roll_back(site, "bo").request != request


def test_a_signature_can_be_taken_back(site):
    site.promoted("one")
    request = roll_back(site).request
    with pytest.raises(DeniedError, match="you have not signed it"):
        site.decide("bo", Action.WITHDRAW, request)
    assert site.decide("ada", Action.WITHDRAW, request).state == "withdrawn"
    with pytest.raises(DeniedError, match="was withdrawn"):
        site.decide("bo", Action.REJECT, request)
    assert roll_back(site, "bo").request != request
    assert site.verify().ok


def test_one_of_two_signatures_taken_back_leaves_it_open():
    site = Site(memory_folder(), source=policy(rollback="{quorum: 3, roles: [operator, safety]}"))
    try:
        site.promoted("one")
        request = roll_back(site).request
        roll_back(site, "bo")
        assert site.decide("ada", Action.WITHDRAW, request).state == "open"
        assert [vote.person for vote in site.request(request).votes] == ["p-bo"]
        assert roll_back(site).request == request, "who took it back may sign again"
    finally:
        site.close()


@pytest.mark.parametrize(("who", "entitled"), [("bo", True), ("cy", True), ("di", False)])
def test_whoever_could_sign_may_reject(site, who, entitled):
    site.promoted("one")
    request = roll_back(site).request
    if not entitled:
        with pytest.raises(DeniedError, match="cannot reject"):
            site.decide(who, Action.REJECT, request)
        assert state(site, request) == "open"
        return
    assert site.decide(who, Action.REJECT, request).state == "rejected"
    draft = site.draft("bo", Action.ROLLBACK, MODEL, digest=site.model().history[0].digest)
    assert draft.decision.request != request, "what is asked for again is another request"
    assert site.verify().ok


def test_a_request_that_is_not_there(site):
    with pytest.raises(UnknownNameError):
        site.decide("ada", Action.WITHDRAW, "R-0099")


# --- waivers -------------------------------------------------------------------------------


def waived(site: Site) -> tuple[str, str]:
    proposal = site.judged(BLOCKED)
    end = format_time(site.clock.time.replace(year=2027))
    granted = Waiver("pii", site.row(proposal).proposal.bundle, "p-ada", end)
    site.decide("ada", Action.WAIVE, proposal, waiver=granted)
    done = site.decide("bo", Action.WAIVE, proposal, waiver=granted)
    assert done.state == "done"
    assert site.gate.tick() == [f"{proposal}: judged again, awaiting_approval"]
    return proposal, done.request


def test_a_waiver_is_revoked_by_one_of_those_who_could_grant_it(site):
    proposal, request = waived(site)
    site.approve("ada", proposal)
    nobody = site.decide("di", Action.REVOKE, request)
    assert (nobody.state, nobody.effect) == ("open", "needs 1 person: operator or safety")
    assert site.decide("bo", Action.REVOKE, request).state == "done"
    with pytest.raises(StaleError, match="waivers changed"):
        site.approve("bo", proposal)
    assert site.gate.tick() == [f"{proposal}: judged again, blocked"]
    with pytest.raises(DeniedError, match="revoked already"):
        site.decide("ada", Action.REVOKE, request)
    assert site.verify().ok


def test_one_resolver_says_on_every_path_which_waivers_hold(site, monkeypatch):
    """Taken away in one place, the waiver is gone for the verdict, the what-if, the standing and the lists."""
    from guardrails.ledger import judging, waivers
    from guardrails.records import VerdictKind
    from ui.presenters import fields

    proposal, _ = waived(site)

    def paths() -> tuple[str, str, tuple[str, ...], bool]:
        with site.log.read() as snapshot:
            row = site.row(proposal)
            measured = judging.read_measurements(site.store, row)
            now = site.clock.text
            again = judging.judge(snapshot.tables, row, measured, now, intact=True)
            what_if = site.gate.verdict_on(snapshot, row, judging.in_force(snapshot.tables))
            rows = [waivers.read(snapshot.tables, waivers.WaiverRow, "R-0003")]
            listed = [fields.waiver_fields(item, now)["in_force"] for item in rows if item]
            return (
                again.kind.value,
                what_if.kind.value,
                waivers.waived_rules(snapshot.tables, row, now),
                any(listed),
            )

    assert paths()[:3] == (VerdictKind.REVIEW.value, VerdictKind.REVIEW.value, ("pii",))
    monkeypatch.setattr(Waiver, "holds_at", lambda self, moment: False)
    assert paths() == (VerdictKind.BLOCKED.value, VerdictKind.BLOCKED.value, (), False)


def test_a_void_rollback_does_not_come_back_with_the_champion_that_it_names(site):
    """One signature was given to leave B for A; then C came, and was rolled back to B. Nobody was asked again."""
    site.activate(policy(rollback="{quorum: 2, roles: [operator, safety]}"), "ada", "bo", "cy")
    first, second = (site.row(site.promoted(name)).proposal.bundle for name in ("A", "B"))
    asked = site.rollback("ada", first)
    site.promoted("C")
    site.rollback("ada", second)
    assert site.rollback("bo", second).state == "rolled_back"
    assert site.model().champion == second
    again = site.rollback("bo", first)
    assert (again.state, again.request != asked.request) == ("open", True), "a request of its own"
    with pytest.raises(DeniedError, match="is void"):
        site.decide("bo", Action.REJECT, asked.request)
    assert site.rollback("ada", first).state == "rolled_back", "the control"
    assert site.verify().ok


# --- the clock -----------------------------------------------------------------------------


def test_a_clock_far_ahead_moves_nothing_until_a_root_says_that_it_is_right(site):
    site.clock.pass_(days=367)
    with pytest.raises(DeniedError, match="more than 366 days before"):
        site.propose()
    assert site.decide("ada", Action.SET_CLOCK, WORKSPACE, role=Role.ROOT).state == "done"
    assert site.propose() == "P-0001"


def test_the_way_back_is_never_held_up_by_a_doubt_about_the_clock(site):
    site.promoted("one")
    site.clock.pass_(days=400)
    roll_back(site)
    assert roll_back(site, "bo").state == "rolled_back"


def test_roots_can_set_a_clock_back_that_was_wrong(site):
    site.clock.pass_(days=300)
    site.propose()
    site.clock.pass_(days=-300)
    with pytest.raises(DeniedError, match="the clock went backwards"):
        site.propose()
    nobody = site.decide("cy", Action.SET_CLOCK, WORKSPACE)
    assert (nobody.state, nobody.effect) == ("open", "needs 1 person: root")
    assert site.decide("ada", Action.SET_CLOCK, WORKSPACE, role=Role.ROOT).state == "done"
    assert site.propose() == "P-0002"
    assert site.verify().ok


# --- logs from before ----------------------------------------------------------------------


def test_subjects_that_do_not_follow_from_the_body_are_refused(site):
    draft = site.draft("ada", Action.HALT, WORKSPACE)
    statement = parse_statement(draft.payload)
    other = replace(statement, subjects={"halt": digest(b"something else")})
    with pytest.raises(DeniedError, match="subjects do not follow"):
        site.gate.commit(replace(draft, payload=other.encode()), site.people["ada"].key)
    assert site.gate.commit(draft, site.people["ada"].key).state == "done", "the control"
