"""The player through the whole line, isolated: self-play, a match that stops, and a verdict that recomputes."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrails.canonical import parse
from guardrails.codec import decode_record
from guardrails.errors import BundleError
from guardrails.records import Measurements, Series, Surface
from guardrails.view import view_of
from sandbox import rounds
from sandbox.config import Recipe
from sandbox.rounds import Bench, measuring
from sandbox.runner import LocalRunner
from ui import setup
from ui.cli.main import run
from ui.wiring import Workspace, create_workspace

CONFIG = """
[models.player]
kind = "lam"
base = "shipped:player"
levels = "connect-four"
items = 40
samples = 2
[[models.player.recipes]]
technique = "reinforcement"
"""


def quiet(*_: object) -> None:
    return None


def test_a_match_out_of_its_order_is_refused() -> None:
    found = Measurements((Series("games", "s", ("b", "a"), {}),), {}, (), {})
    measuring.require_order(found, {"s": ("b", "a", "c")})
    measuring.require_order(found, {})
    for drawn in (("a", "b", "c"), ("a", "c", "b"), ("b",)):
        with pytest.raises(BundleError, match="first of those drawn"):
            measuring.require_order(found, {"s": drawn})


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_player_goes_the_whole_line(tmp_path: Path) -> None:
    create_workspace(tmp_path / "w")
    (tmp_path / "w" / "interlock.toml").write_text(CONFIG, encoding="utf-8")
    workspace = Workspace(tmp_path / "w")
    key = setup.found(workspace, "Ada", "correct horse", rounds=1)
    setup.complete(workspace, key, LocalRunner(), Surface.CLI, quiet)
    bench = Bench(workspace.gate, LocalRunner(), workspace.path, workspace.secret, "strict")
    model = workspace.config.models["player"]
    short = Recipe("reinforcement", {"method": "self_play", "iterations": "1", "games": "8"})
    proposal = rounds.propose(bench, model, short, 1, quiet)
    state = rounds.measure(bench, model, proposal, quiet)
    with view_of(workspace.log) as view:
        row = view.proposal(proposal)
    assert row.evidence is not None
    assert row.verdict is not None
    measured = decode_record(Measurements, parse(workspace.gate.store.get_bytes(row.evidence.measurements)))
    match = measured.find("games", "connect-four")
    assert match is not None
    assert 20 <= len(match.items) <= 40
    (told,) = [finding for finding in row.verdict.findings if finding.rule == "gain.match"]
    assert told.n == len(match.items)
    # Eight games teach nothing that a match would show: not won is blocked, whatever else was fine.
    assert (state, told.outcome.value) in (("blocked", "fail"), ("awaiting_approval", "pass"))
    assert any("1 2 3 4 5 6 7" in sample.candidate for sample in measured.samples)
    assert run(["--workspace", str(workspace.path), "log", "verify", "--recompute"]) == 0
