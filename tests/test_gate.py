"""guardrails.gate: the whole line, and every way in which it must not be walked."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import (
    BLOCKED,
    BROKEN,
    INCONCLUSIVE,
    MODEL,
    PASSING,
    REVIEWABLE,
    SECRET,
    UNMEASURED,
    Human,
    Site,
    halt,
    measurements,
)

from guardrails.errors import (
    DeniedError,
    HaltedError,
    InterlockError,
    JobFailedError,
    RecordError,
    StaleError,
    UnknownNameError,
    UsageError,
)
from guardrails.gate import Gate
from guardrails.ledger.rows import Workspace, read
from guardrails.records import Action, Role
from guardrails.registry import ArtifactStore

# --- the whole line ------------------------------------------------------------------------


def test_the_whole_line_from_proposal_to_rollback(site):
    base = site.model().champion
    proposal = site.propose("better")
    assert site.state(proposal) == "proposed"
    site.measure(proposal)
    assert site.state(proposal) == "judged"
    assert site.gate.judge(proposal) == "awaiting_approval"
    assert site.model().champion == base, "a verdict alone moves nothing"

    receipt = site.approve("ada", proposal)
    assert (receipt.state, site.state(proposal)) == ("promoted", "promoted")
    assert site.model().champion == site.row(proposal).proposal.bundle

    receipt = site.rollback("bo", base)
    assert receipt.state == "rolled_back"
    assert (site.model().champion, site.state(proposal)) == (base, "rolled_back")
    assert site.kinds()[-7:] == [
        "transition", "evidence", "verdict", "decision", "promotion", "decision", "rollback",
    ]  # fmt: skip
    found = site.verify(root_key=site.people["ada"].key.public)
    assert (found.ok, found.recomputed, found.not_recomputed) == (True, 1, 0), found


@pytest.mark.parametrize(
    ("measured", "state", "kind"),
    [
        (PASSING, "awaiting_approval", "eligible"),
        (REVIEWABLE, "awaiting_approval", "review"),
        (INCONCLUSIVE, "awaiting_approval", "review"),
        (measurements(saved=-0.1), "awaiting_approval", "review"),
        (BLOCKED, "blocked", "blocked"),
        (BROKEN, "blocked", "blocked"),
        (UNMEASURED, "blocked", "blocked"),
        (measurements(kl=float("nan")), "blocked", "blocked"),
    ],
)
def test_evidence_becomes_the_verdict_that_the_policy_says(site, measured, state, kind):
    row = site.row(site.judged(measured))
    assert (row.state.value, row.verdict.kind.value) == (state, kind)


def test_errors_carry_the_documented_exit_statuses(site):
    proposal = site.judged()
    stale = site.draft("ada", Action.APPROVE, proposal)
    site.promoted()
    with pytest.raises(StaleError) as caught:
        site.gate.commit(stale, site.people["ada"].key)
    assert caught.value.exit_status == 6
    with pytest.raises(DeniedError) as denied:
        site.decide(
            "bo", Action.ADOPT, "other", digest=site.bundle("base"), kind=site.row(proposal).proposal.kind
        )
    assert denied.value.exit_status == 6
    halt(site)
    with pytest.raises(HaltedError) as halted:
        site.propose()
    assert halted.value.exit_status == 6
    with pytest.raises(UnknownNameError) as unknown:
        site.approve("ada", "P-9999")
    assert unknown.value.exit_status == 2


def test_a_decision_needs_a_reason(site):
    proposal = site.judged()
    for reason in ("", " \n\t ", "x" * 2001):
        with pytest.raises(UsageError, match="reason"):
            site.approve("ada", proposal, reason=reason)
    assert site.approve("ada", proposal, reason="x" * 2000).state == "promoted"


def test_before_set_up_nothing_can_be_done(folder):
    site = Site(folder / "site", set_up=False)
    with pytest.raises(DeniedError, match="set up"):
        site.gate.require_ready(MODEL)
    with pytest.raises(DeniedError, match="set up"):
        halt(site)
    with pytest.raises(DeniedError, match="set up"):
        site.gate.record_failure(MODEL, "propose", "x", JobFailedError("broken"))
    assert site.kinds() == []
    site.found()
    with pytest.raises(UnknownNameError, match="no model"):
        site.gate.require_ready(MODEL)


# --- measuring -----------------------------------------------------------------------------


def test_evidence_is_about_this_bundle_and_this_champion(site):
    one, two = site.propose(), site.propose()
    order = site.gate.begin_measurement(one)
    with pytest.raises(DeniedError, match="no measurement is under way"):
        site.hand_in(replace(order, proposal=two))
    other = site.gate.begin_measurement(two)
    with pytest.raises(DeniedError, match="another bundle"):
        site.hand_in(replace(other, proposal=one))
    with pytest.raises(StaleError, match="champion changed"):
        site.hand_in(replace(order, champion=order.bundle))
    site.hand_in(order)
    with pytest.raises(DeniedError, match="no measurement is under way"):
        site.hand_in(order)


def test_nonces_differ_and_follow_from_the_log(site):
    proposal = site.propose()
    first, second = site.gate.begin_measurement(proposal), site.gate.begin_measurement(proposal)
    assert first.nonce != second.nonce
    assert len(first.nonce) == 64


def test_evidence_against_a_former_champion_comes_too_late(site):
    proposal = site.propose()
    order = site.gate.begin_measurement(proposal)
    site.promoted()
    assert site.state(proposal) == "stale"
    with pytest.raises(DeniedError, match="no measurement is under way"):
        site.hand_in(order)


def test_a_proposal_from_a_former_champion_is_refused(site):
    late = site.submission("late")
    site.promoted()
    with pytest.raises(StaleError, match="another champion"):
        site.gate.record_proposal(late)


def test_measurements_that_are_not_canonical_are_refused(site):
    order = site.gate.begin_measurement(site.propose())
    for data in (b"", b"{}", b'{"facts": {}, "series": []}', b'{"facts":{},"series":[],"x":1}', b"\x80"):
        with pytest.raises(RecordError):
            site.gate.record_evidence(order, data, "e", "strict", site.submission("x").compute)


def test_each_measurement_spends_the_error_budget_and_a_promotion_refills_it(site):
    confidences = [site.row(site.judged()).verdict.confidence for _ in range(3)]
    for k, confidence in enumerate(confidences, start=1):
        assert confidence == pytest.approx(1 - 0.05 * 6 / (3.141592653589793**2 * k**2))
    again = site.judged()
    site.measure(again)
    site.gate.judge(again)
    assert site.row(again).verdict.attempt == 5, "measuring again spends, too"
    site.gate.judge(again)
    assert site.row(again).verdict.attempt == 5, "judging again does not"
    site.approve("ada", again)
    assert site.row(site.judged()).verdict.attempt == 1


def test_a_verdict_on_other_evidence_is_stale(site):
    proposal = site.judged()
    verdict = site.row(proposal).verdict
    site.measure(proposal)
    with pytest.raises(StaleError, match="other evidence"):
        site.inject(site.sealed(verdict, site.services["gate"]))


def test_evidence_that_is_replaced_while_it_is_read_is_not_judged(site):
    proposal = site.propose()
    site.measure(proposal, BLOCKED)

    class Interrupted(ArtifactStore):
        """A store that is slow enough for somebody else to measure again meanwhile."""

        def get_bytes(self, address, **limits):
            data = super().get_bytes(address, **limits)
            if site.row(proposal).evidence.measurements == address == blocked:
                site.measure(proposal, PASSING)
            return data

    blocked = site.row(proposal).evidence.measurements
    gate = Gate(site.log, Interrupted(site.store.root), site.services, SECRET, site.clock)
    with pytest.raises(StaleError, match="measured again meanwhile"):
        gate.judge(proposal)
    assert site.state(proposal) == "judged"
    assert gate.judge(proposal) == "awaiting_approval"


def test_text_of_a_job_is_made_safe_to_show(site):
    error = JobFailedError("bad \x1b[31m\u202e end", log_tail="line\nto\x07o " + "x" * 9000)
    failure = site.gate.record_failure(MODEL, "propose", "x", error)
    kept = site.row(failure).failure
    assert "\x1b" not in kept.reason
    assert "\u202e" not in kept.reason
    assert len(kept.log_tail) == 4000
    with pytest.raises(DeniedError, match="nothing to measure"):
        site.gate.begin_measurement(failure)


# --- rosters -------------------------------------------------------------------------------


def test_a_roster_is_signed_by_its_roots_and_by_the_former_ones(site):
    site.people["eve"] = Human("eve", Role.ROOT)
    with pytest.raises(DeniedError, match="signed by 0 of the 1 roots"):
        site.enrol(signer="eve")
    with pytest.raises(DeniedError, match="signed by 0 of the 1 roots"):
        site.enrol(signer="bo")
    site.enrol()
    site.version -= 1
    with pytest.raises(StaleError, match="does not follow"):
        site.enrol()


def test_one_key_belongs_to_one_person_whatever_its_comment(site):
    twin = Human("twin", Role.SAFETY)
    roster = site.roster()
    entry = replace(twin.entry(), keys=tuple(replace(k, public=f"{site.people['ada'].key.public} twin@host")
                                             for k in twin.entry().keys))  # fmt: skip
    with pytest.raises(DeniedError, match="a key stands twice"):
        site.gate.record_roster(replace(roster, people=(*roster.people, entry)), site.people["ada"].key, [])
    with pytest.raises(DeniedError, match="at least one root"):
        site.gate.record_roster(replace(roster, people=roster.people[1:]), site.people["ada"].key, [])
    with pytest.raises(DeniedError, match="stands twice"):
        site.gate.record_roster(
            replace(roster, people=(*roster.people, roster.people[1])), site.people["ada"].key, []
        )
    with pytest.raises(DeniedError, match="threshold 2, but 1 of its roots can sign"):
        site.gate.record_roster(replace(roster, threshold=2), site.people["ada"].key, [])


# --- races ---------------------------------------------------------------------------------


def test_two_gates_race_for_the_same_promotion_and_one_wins(site):
    for attempt in range(5):
        proposal = site.judged(content=f"race {attempt}")
        drafts = {who: site.draft(who, Action.APPROVE, proposal) for who in ("ada", "cy")}
        gates = {who: site.open() for who in drafts}
        start, results = threading.Barrier(2), {}

        def run(who, drafts=drafts, gates=gates, start=start, results=results):
            start.wait()
            try:
                results[who] = gates[who].commit(drafts[who], site.people[who].key).state
            except InterlockError as error:
                results[who] = error

        threads = [threading.Thread(target=run, args=(who,)) for who in drafts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [r for r in results.values() if r == "promoted"]
        lost = [r for r in results.values() if isinstance(r, DeniedError)]
        assert (len(won), len(lost)) == (1, 1), results
        assert lost[0].exit_status == 6
        for gate in gates.values():
            gate.log.close()
    assert site.kinds().count("promotion") == 5
    assert site.verify().ok


def test_two_proposals_race_for_one_champion_and_one_wins(site):
    drafts = {site.judged(): who for who in ("ada", "cy")}
    drafts = {p: (site.draft(who, Action.APPROVE, p), site.people[who].key) for p, who in drafts.items()}
    start, results = threading.Barrier(2), []

    def run(draft, key):
        gate = site.open()
        start.wait()
        try:
            results.append(gate.commit(draft, key).state)
        except DeniedError as error:
            results.append(type(error).__name__)
        gate.log.close()

    threads = [threading.Thread(target=run, args=pair) for pair in drafts.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) in (["DeniedError", "promoted"], ["StaleError", "promoted"])
    assert sorted(site.state(p) for p in drafts) == ["promoted", "stale"]


def test_the_core_promotes_without_anything_heavy(folder):
    """The gate needs neither torch nor ray nor streamlit."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from fakes import Site\n"
        "site = Site(Path(sys.argv[1])); site.promoted()\n"
        "print(site.verify().ok, sorted({'torch', 'ray', 'streamlit', 'transformers'} & set(sys.modules)))"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "site"), str(here), str(here.parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True []"


def test_the_halt_stands_in_the_tables(site):
    halt(site)
    with site.log.read() as snapshot:
        assert read(snapshot.tables, Workspace).halted_by == "R-0002"
