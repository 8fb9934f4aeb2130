"""Replays of the past: the engine's own answers, loosened first, and nothing guessed where numbers are gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from cli_workspace import Cli, Made
from policy_cases import SOUND, drift, integrity_rule, loaded, rule
from policy_history import PastWorkspace

from guardrails.authoring.backtest import Backtest, backtest, flips_at, with_limit
from guardrails.authoring.history import read_history
from guardrails.canonical import digest
from guardrails.ledger.rows import ProposalRow, write
from guardrails.policy import LoadedPolicy
from guardrails.records import Measurements, Role, State, VerdictKind
from guardrails.registry import ArtifactStore

ELIGIBLE, REVIEW, BLOCKED = VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED
LEVELS = (0.05, 0.12, 0.3)


def measured(kl: float, **facts: str) -> Measurements:
    values = [kl * (0.9 + 0.2 * (i % 2)) for i in range(220)]
    return Measurements((drift(values),), SOUND | facts)


def main(value: float = 0.15, **changes: object) -> LoadedPolicy:
    require = {"metric": "kl_mean", "bound": "upper", "op": "<", "value": value}
    return loaded(rule(require=require, **changes), integrity_rule(), name="main")


def past(store: ArtifactStore | None = None, *others: LoadedPolicy) -> PastWorkspace:
    workspace = PastWorkspace(main(), *others, store=store)
    for kl in LEVELS:
        workspace.add(measured(kl))
    return workspace


def replay(new: LoadedPolicy, workspace: PastWorkspace, **how: bool) -> Backtest:
    return backtest(new, read_history(workspace.tables), workspace.store, **how)


def test_the_policy_in_force_changes_nothing() -> None:
    found = replay(main(), past())
    assert (found.replayed, found.flips, found.not_replayable) == (3, [], [])
    assert (found.never_fired, found.never_applied) == (["integrity.weights"], [])


def test_flips_are_the_engines_own_and_loosened_ones_come_first() -> None:
    workspace = past()
    for value in (0.02, 0.1, 0.15, 0.2, 0.5):
        found = replay(main(value), workspace)
        expected = {
            f"P-0000{i}": (
                workspace.verdict(measured(kl)).kind, PastWorkspace(main(value)).verdict(measured(kl)).kind,
            )
            for i, kl in enumerate(LEVELS, 1)
        }  # fmt: skip
        assert {f.id: (f.before, f.after) for f in found.flips} == {
            k: v for k, v in expected.items() if v[0] != v[1]
        }
        assert [f.loosened for f in found.flips] == sorted((f.loosened for f in found.flips), reverse=True)
    assert [(f.id, f.rules) for f in replay(main(0.1), workspace).flips] == [("P-00002", ("drift.output",))]
    assert [f.id for f in replay(main(0.5), workspace).flips] == ["P-00003"]


def test_mixed_flips_put_the_loosened_first() -> None:
    workspace = past()
    tight_and_loose = loaded(
        rule(require={"metric": "kl_mean", "bound": "upper", "op": "<", "value": 0.5}),
        rule(id="floor", require={"metric": "kl_mean", "bound": "lower", "op": ">", "value": 0.06}),
        name="main",
    )
    flips = replay(tight_and_loose, workspace).flips
    assert [(f.id, f.loosened) for f in flips] == [("P-00003", True), ("P-00001", False)]


def test_another_confidence_is_read_from_the_measurements_and_never_guessed(tmp_path: Path) -> None:
    sharper = main(0.15, id="drift.output")
    sharper = loaded(rule(), integrity_rule(), name="main", defaults={"confidence": 0.99})
    with_store = past(ArtifactStore(tmp_path))
    assert replay(sharper, with_store).replayed == 3
    without = replay(sharper, past())
    # Facts and readings have no confidence; the sampled rule cannot be answered from the log alone.
    assert (without.replayed, [id_ for id_, _ in without.not_replayable]) == (
        0,
        ["P-00001", "P-00002", "P-00003"],
    )
    gone = past(ArtifactStore(tmp_path / "other"))
    for file in (tmp_path / "other").rglob("*"):
        if file.is_file():
            file.unlink()
    assert replay(sharper, gone).replayed == 0


def test_what_was_not_measured_then_is_said(tmp_path: Path) -> None:
    more = loaded(rule(), integrity_rule(), rule(id="drift.other", params={"suite": "other"}), name="main")
    found = replay(more, past(ArtifactStore(tmp_path)))
    assert {f.after for f in found.flips} == {BLOCKED}
    assert all(f.not_measured == ("drift.other",) for f in found.flips)
    assert found.not_measured == {"drift.other": ["P-00001", "P-00002", "P-00003"]}


def test_the_other_policies_of_that_time_still_count() -> None:
    beside = loaded(
        rule(id="second", require={"metric": "kl_mean", "bound": "upper", "op": "<", "value": 0.2}),
        name="beside",
    )
    workspace = past(None, beside)
    assert replay(main(0.5), workspace).flips == []  # the other policy still sends it to review
    assert [f.after for f in replay(main(0.5), workspace, alone=True).flips] == [ELIGIBLE]


def test_what_cannot_be_replayed_is_listed() -> None:
    workspace = past()
    workspace.add(measured(0.05))
    write(workspace.tables, ProposalRow("P-00009", "assistant", "x", State.FAILED, "t", "t"), "P-00009")
    found = replay(main(), workspace)
    assert found.replayed == 4
    assert found.not_replayable == [("P-00009", "it failed")]


def test_a_waiver_counts_where_it_counted_then() -> None:
    workspace = PastWorkspace(loaded(rule(severity="block"), name="main"))
    workspace.add(measured(0.3), waived=["drift.output"])
    workspace.add(measured(0.3))
    same = replay(loaded(rule(severity="block"), name="main"), workspace)
    assert same.flips == []
    fixed = replay(loaded(rule(severity="block", waivable=False), name="main"), workspace)
    assert [(f.id, f.before, f.after) for f in fixed.flips] == [("P-00001", REVIEW, BLOCKED)]


def test_past_approvals_that_would_have_been_refused() -> None:
    workspace = PastWorkspace(main())
    one = workspace.add(measured(0.05), state=State.PROMOTED, votes=[("ada", Role.OPERATOR)])
    two = workspace.add(
        measured(0.3), state=State.PROMOTED, votes=[("ada", Role.OPERATOR), ("bo", Role.SAFETY)]
    )
    workspace.add(measured(0.3), votes=[("ada", Role.OPERATOR)])  # never took effect
    assert replay(main(), workspace).refused == []
    strict = loaded(
        rule(), integrity_rule(), name="main",
        approval={"onEligible": {"quorum": 2, "roles": ["operator", "safety"], "distinctRoles": True}},
    )  # fmt: skip
    assert [r.id for r in replay(strict, workspace).refused] == [one]
    offline = loaded(rule(), integrity_rule(), name="main", approval={"surfaces": ["offline"]})
    assert [r.id for r in replay(offline, workspace).refused] == [one, two]
    blocking = main(0.15, severity="block")
    (refused,) = replay(blocking, workspace).refused
    assert (refused.id, "blocked" in refused.reason) == (two, True)


def test_a_shadow_policy_is_replayed_as_if_it_were_binding() -> None:
    shadow = main(0.02)
    shadow = LoadedPolicy(replace(shadow.policy, mode="shadow"), shadow.source)
    assert len(replay(shadow, past()).flips) == 2


def test_a_moved_limit_gives_what_a_whole_replay_gives() -> None:
    workspace = past()
    history = read_history(workspace.tables)
    for value in (0.01, 0.05, 0.1, 0.12, 0.15, 0.2, 0.31, 1.0):
        flips, tried = flips_at(main(), "drift.output", value, history, None)
        assert tried == 3
        assert flips == backtest(with_limit(main(), "drift.output", value), history, None).flips
    assert flips_at(main(), "no.such.rule", 1.0, history, None) == ([], 0)


def test_a_policy_that_is_no_longer_in_the_log_is_not_replaced_by_a_guess() -> None:
    workspace = past()
    verdict = replace(workspace.verdict(measured(0.05)), policies={"main": str(digest(b"another"))})
    lost = workspace.add(measured(0.05), verdict=verdict)
    assert replay(main(), workspace).not_replayable == [
        (lost, "a policy that it was judged by is not in the log")
    ]


def test_the_command_replays_a_real_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Made(tmp_path / "w")
    workspace.proposed()
    workspace.proposed(fakes.REVIEWABLE)
    workspace.proposed(fakes.BLOCKED)
    workspace.proposed(None)
    cli = Cli(tmp_path / "w", capsys)
    same, looser = tmp_path / "main.yaml", tmp_path / "looser.yaml"
    same.write_text(fakes.POLICY)
    looser.write_text(fakes.POLICY.replace("value: 0.15", "value: 5"))
    data = cli.ok("policy", "backtest", same)
    assert (data["replayed"], data["flips"]) == (3, [])
    assert [item["id"] for item in data["not_replayable"]] == ["P-0004"]
    data = cli.ok("policy", "backtest", looser)
    assert [(f["id"], f["before"], f["after"], f["loosened"]) for f in data["flips"]] == [
        ("P-0002", "review", "eligible", True)
    ]
    ran = cli("policy", "backtest", looser)
    assert "1 loosened, 0 tightened" in ran.out
    assert "P-0004 cannot be replayed" in ran.out
    diff = cli.ok("policy", "diff", "main", looser)
    assert [(c["path"], c["direction"]) for c in diff["changes"]] == [("rules.drift.require", "looser")]
    assert cli.json("policy", "diff", "nobody", looser).status == 2
    workspace.close()
