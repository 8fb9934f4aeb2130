"""The log's time can be moved back by its roots: nothing may assume that it never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fakes import MODEL, PASSING, Site, memory_folder, policy

from guardrails.as_of import as_of
from guardrails.decision_log.cosignature import Cosignature
from guardrails.decision_log.coverage import Coverage, doubts
from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import DeniedError
from guardrails.ledger import project
from guardrails.ledger.deadlines import expiry_of
from guardrails.ledger.requests import WORKSPACE
from guardrails.records import Action, Role

LIMITED = (
    policy()
    .files["main.yaml"]
    .replace("budgets: {", "budgets: {promotions: {perDay: 1}, proposals: {perDay: 2}, ")
)


@pytest.fixture
def site():
    made = Site(memory_folder(), source=policy(LIMITED))
    yield made
    made.close()


def set_clock(site: Site) -> None:
    assert site.decide("ada", Action.SET_CLOCK, WORKSPACE, role=Role.ROOT).state == "done"


def test_a_day_that_was_taken_back_uses_up_no_budget(site):
    site.clock.pass_(days=300)
    site.promoted("dated ahead")
    site.propose()
    with pytest.raises(DeniedError, match="proposals in the last 24 hours: 2 of 2 used"):
        site.gate.require_ready(MODEL)
    site.clock.pass_(days=-300)
    set_clock(site)
    site.gate.require_ready(MODEL)
    site.promoted("in time")
    late = site.judged(PASSING)
    assert site.approve("ada", late).state == "approved", "the control: the budget of this day is used up"
    assert site.verify().ok


def test_a_verdict_of_a_time_that_was_taken_back_is_made_anew(site):
    site.clock.pass_(days=300)
    proposal = site.judged(PASSING)
    site.clock.pass_(days=-300)
    set_clock(site)
    with pytest.raises(DeniedError, match="would not count"):
        site.approve("ada", proposal)
    assert site.gate.tick() == [f"{proposal}: judged again, awaiting_approval"]
    assert site.gate.tick() == [], "once"
    assert site.approve("ada", proposal).state == "promoted"
    assert site.verify().ok


def test_what_was_in_force_where_one_time_was_there_twice(site):
    start = site.clock.time
    with site.log.read() as snapshot:
        founded = snapshot.size
    site.clock.pass_(days=300)
    site.promoted("dated ahead")
    ahead = site.clock.time
    site.clock.pass_(days=-299)
    set_clock(site)
    with site.log.read() as snapshot:
        size = snapshot.size
        assert as_of(snapshot, project, start).size == founded, "before it was set"
        assert as_of(snapshot, project, site.clock.time).size == size, "what stands now"
        assert as_of(snapshot, project, ahead + timedelta(days=1)).size == size
    site.clock.pass_(days=1)
    site.promoted("later")
    with site.log.read() as snapshot:
        assert as_of(snapshot, project, site.clock.time - timedelta(hours=12)).size == size
        assert as_of(snapshot, project, site.clock.time).size == snapshot.size


def test_a_request_to_set_the_clock_that_nobody_completed_settles_nothing(site):
    site.clock.pass_(days=300)
    site.propose()
    site.clock.pass_(days=-300)
    assert site.decide("cy", Action.SET_CLOCK, WORKSPACE).state == "open"
    with site.log.read() as snapshot:
        assert as_of(snapshot, project, site.clock.time).size == snapshot.size - 2


def test_a_record_that_states_a_time_still_to_come_when_it_was_witnessed_is_said():
    """Whoever has the gate's key can date a promotion after the cool-down; a witness that saw it before shows it."""
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    seen = Coverage(1, 9, ((b"w", Cosignature("w", 9, int(noon.timestamp()))),))
    later, within = (format_time(noon + timedelta(minutes=n)) for n in (6, 4))
    (told,) = doubts(seen, 8, later, "")
    assert "the witnesses saw it before that, at 2026-03-02T12:00:00" in told
    assert doubts(seen, 8, within, format_time(noon)) == [], "two clocks that are both right, and in time"
    assert doubts(seen, 9, later, "") == [], "a record that no witness saw has no time but its own"
    (told,) = doubts(seen, 8, within, format_time(noon - timedelta(seconds=1)))
    assert "first saw it" in told


def test_a_promotion_was_allowed_for_as_long_as_all_that_it_rests_on(site):
    """The end of an approval of its own counts too, not only the policy's."""
    ends: dict[str, str] = {}

    def watch(tables, entry):
        if entry.statement.record == "promotion":
            ends[entry.statement.body["proposal"]] = expiry_of(tables, entry)
        project(tables, entry)

    short = site.judged(PASSING)
    end = format_time(site.clock.time + timedelta(hours=1))
    site.approve("ada", short, expires_at=end)
    site.clock.pass_(days=2)
    long = site.promoted()
    with site.log.read() as snapshot:
        tables = MemoryTables()
        for entry in snapshot.entries():
            watch(tables, entry)
    assert ends[short] == end
    assert ends[long] > format_time(site.clock.time + timedelta(hours=71)), "the control"


def test_what_a_clock_that_ran_ahead_leaves_behind(site):
    """Ahead, expiries and cool-downs end early, by the log's own rules; set right, only the roots open the line again."""
    waiting, champion = site.judged(PASSING), site.model().champion
    proposal = site.promoted("before the accident")
    site.clock.pass_(days=200)
    assert f"{waiting}: expired" in site.gate.tick() or site.state(waiting) == "stale"
    ahead = site.promoted("dated ahead")
    site.clock.pass_(days=-200)
    for act in (site.propose, lambda: site.gate.begin_measurement(waiting)):
        with pytest.raises(DeniedError, match="clock went backwards") as caught:
            act()
        assert "interlock clock confirm" in caught.value.hint
    assert site.decide("di", Action.HALT, WORKSPACE).state == "done", "a halt is never held up"
    receipt = site.decide("ada", Action.ROLLBACK, MODEL, digest=champion)
    assert receipt.state == "rolled_back", "nor is the way back"
    assert site.model().champion == champion
    assert (site.state(ahead), site.state(proposal)) == ("rolled_back", "rolled_back")
    assert site.decide("ada", Action.RESUME, WORKSPACE).state == "done"
    with pytest.raises(DeniedError, match="clock went backwards"):
        site.propose()
    set_clock(site)
    assert site.propose()
    found = site.verify()
    assert found.ok, found


def test_a_way_back_that_two_must_sign_is_open_under_a_clock_that_was_set_back(folder):
    two = policy().files["main.yaml"].replace("rollback: {quorum: 1", "rollback: {quorum: 2")
    site = Site(folder / "two", source=policy(two))
    base = site.model().original
    site.promoted("one")
    site.clock.pass_(days=200)
    site.promoted("dated ahead")
    site.clock.pass_(days=-200)
    assert site.rollback("ada", base).state == "open"
    assert site.rollback("bo", base).state == "rolled_back"
    assert site.verify().ok
    site.close()


def test_a_decision_dated_ahead_is_refused_rollbacks_too(site):
    site.promoted("one")
    base, proposal = site.model().original, site.judged(PASSING)
    drafts = []
    site.clock.pass_(days=2)
    drafts.append(site.draft("ada", Action.REJECT, proposal))
    drafts.append(site.draft("ada", Action.ROLLBACK, MODEL, digest=base))
    site.clock.pass_(days=-2)
    for draft in drafts:
        with pytest.raises(DeniedError, match="still to come"):
            site.gate.commit(draft, site.people["ada"].key)
    site.clock.pass_(days=2)
    for draft in drafts:
        site.gate.commit(draft, site.people["ada"].key)
