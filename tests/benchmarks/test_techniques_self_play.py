"""Self-play against the champion, five seeds, beside expert iteration by tree search and beside training against the
champion alone, each at equal compute.

Each match is measured over all its items, and then stopped where the sequential test of the default policy decides:
the games depend on models and opening alone, so that the beginning of the whole match is the match that stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import trials

from guardrails.matches import Stopping
from guardrails.records import ModelKind
from guardrails.sequential import Match, match_mean
from guardrails.statistics import mean_interval
from sandbox.config import ModelConfig
from sandbox.models import player
from sandbox.worker import weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import Minimax, Model, encoder_for, mean_score
from sandbox.worker.environments.policy import Policy
from sandbox.worker.probes.games import BETA, MARGIN

SEEDS = (1, 2, 3, 4, 5)
OPPONENTS = {"random": 0, "minimax 1": 1, "minimax 2": 2, "minimax 4": 4}
PLAYER = ModelConfig("player", ModelKind.LAM, "shipped:player", (), levels="connect-four", items=200)
SELF_PLAY = {"method": "self_play"}
CHAMPION_ONLY = {"method": "self_play", "pool": 1.0, "keep_every": 0, "iterations": 43}
"""Every game against the champion; a game teaches one side only, so more of them take the same time."""
EXPERT = {"method": "expert_iteration"}
"""Its defaults were made to take as long as those of self-play."""
ATTEMPT = Stopping(0.5, 0.05 * 6 / 9.869604401089358 / 2, 20)
"""What the default policy asks of the first attempt since a promotion."""


def strength(model: Path) -> dict[str, float]:
    """Mean score against fixed opponents from held-out openings, both sides, greedy."""
    torch.set_num_threads(1)
    policy = Policy(weights.load_model(model, torch.float32), encoder_for(weights.load_tokenizer(model)))
    openings = c4.draw_openings(100, "strength", part="held_out")
    return {name: mean_score(Model(policy), Minimax(depth, 1), openings) for name, depth in OPPONENTS.items()}


def stopped(scores: tuple[float, ...]) -> tuple[float, ...]:
    """The scores up to where the match would have ended."""
    match, decided = Match(ATTEMPT.null, ATTEMPT.null + MARGIN, ATTEMPT.alpha, BETA), False
    for played, score in enumerate(scores, 1):
        decided = decided or match.add(score).decided
        if decided and played >= ATTEMPT.least:
            return scores[:played]
    return scores


def run(folder: Path, recipe: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One proposal: its match, and its strength."""
    champion = trials.model_files(player.locate(), folder / "champion")
    done = trials.trial(folder / "trial", champion, PLAYER, "reinforcement", recipe, seed)
    assert done.measurements is not None
    series = done.measurements.find("games", "connect-four")
    assert series is not None
    scores = series.columns["success_candidate"]
    early = stopped(scores)
    found = match_mean(early, 1 - 2 * ATTEMPT.alpha)
    kl = done.read("drift.output_kl", "kl_mean", suite="connect-four-states", reference="champion")
    p99 = done.read("drift.output_kl", "kl_p99", suite="connect-four-states", reference="champion")
    return {
        "seed": seed, "score": found.value, "lower": found.lower, "upper": found.upper, "pairs": len(early),
        "scores": scores, "all": sum(scores) / len(scores), "cpu_s": done.cpu_s, "kl": kl.upper, "p99": p99.upper,
        **strength(done.model),
    }  # fmt: skip


def show(name: str, row: Mapping[str, Any]) -> None:
    """One line for people, as soon as it is known."""
    cells = (
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "scores"
    )
    print(f"{name:<10}", "  ".join(cells), flush=True)


def runs(folder: Path, name: str, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All seeds of a recipe."""
    rows = []
    for seed in SEEDS:
        rows.append(run(folder / f"{name}{seed}", recipe, seed))
        show(name, rows[-1])
    return rows


@pytest.mark.trials
@pytest.mark.timeout(7200)
def test_self_play_wins_its_match(tmp_path: Path) -> None:
    show("champion", strength(player.locate()))
    rows = runs(tmp_path, "self-play", SELF_PLAY)
    assert sum(row["lower"] > 0.5 for row in rows) >= 4
    assert sum(row["pairs"] for row in rows) / len(rows) <= 0.5 * PLAYER.items
    experts = runs(tmp_path, "expert", EXPERT)
    assert sum(row["lower"] > 0.5 for row in experts) >= 4
    for one, other in zip(experts, rows, strict=True):  # the same openings: the draw is the seed's
        found = mean_interval(
            [a - b for a, b in zip(one["scores"], other["scores"], strict=True)], trials.CONFIDENCE
        )
        print(trials.table([("expert ahead of self-play by", one["seed"], found, 0)]))
    runs(tmp_path, "fixed", CHAMPION_ONLY)
