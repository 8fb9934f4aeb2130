"""Techniques of action models in levels: five seeds each against the champion, the control beside it at equal cost.

What is private is drawn anew for each seed. Every cell prints its table; a cell holds where the paired interval of
the gain lies above zero on four seeds of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trials

from guardrails.records import ModelKind
from guardrails.statistics import Estimate
from sandbox.config import ModelConfig
from sandbox.models import navigator, rover
from sandbox.worker.environments import world

SEEDS = (1, 2, 3, 4, 5)
ITEMS = 150
BASES = {"navigator": navigator, "rover": rover}

pytestmark = pytest.mark.slow


def model(name: str, levels: str, items: int = ITEMS) -> ModelConfig:
    return ModelConfig(name, ModelKind.LAM, f"shipped:{name}", (), levels=levels, items=items)


def champion(name: str, folder: Path) -> Path:
    return trials.model_files(BASES[name].locate(), folder / "champion")


def cell(
    folder: Path, base: str, levels: str, suite: str, recipes: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, list[Estimate]]:
    """Every recipe with every seed, printed as it comes; returns the gains by recipe."""
    wanted, best = model(base, levels), champion(base, folder)
    found: dict[str, list[Estimate]] = {}
    for seed in SEEDS:
        for name, (technique, recipe) in recipes.items():
            done = trials.trial(
                folder / f"{name}-{seed}".replace(" ", "-"), best, wanted, technique, recipe, seed
            )
            gain = done.gain(suite)
            found.setdefault(name, []).append(gain)
            print(trials.table([(name, seed, gain, done.cpu_s)]), rates(done, suite), flush=True)
    return found


def rates(done: trials.Trial, suite: str) -> str:
    """Shares of what was counted, champion to candidate."""
    assert done.measurements is not None
    series = next(s for s in done.measurements.series if s.suite == suite)
    names = sorted({name.rsplit("_", 1)[0] for name in series.columns} - {"steps"})
    shares = {name: sum(values) / len(values) for name, values in series.columns.items()}
    return "  ".join(f"{n} {shares[f'{n}_champion']:.3f} to {shares[f'{n}_candidate']:.3f}" for n in names)


def holds(gains: Iterable[Estimate]) -> bool:
    return sum(gain.lower > 0 for gain in gains) >= 4


def test_transfer_to_crossed_controls(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "crossed", "crossed-holdout", {
        "full": ("transfer", {}),
        "adapter": ("transfer", {"form": "adapter", "lr": 8e-3}),
        "from scratch": ("transfer", {"start": "scratch"}),
    })  # fmt: skip
    assert holds(found["full"])
    assert holds(found["adapter"])
    better = [a.value > b.value for a, b in zip(found["full"], found["from scratch"], strict=True)]
    assert sum(better) >= 4


def test_reptile_over_crossed_controls(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "rewired", "rewired-adaptation", {
        "reptile": ("meta", {}),
        "joint": ("meta", {"method": "joint"}),
    })  # fmt: skip
    assert holds(found["reptile"])


def test_next_step_prediction_before_a_few_demonstrations(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "few", "few-adaptation", {
        "next action": ("self_supervised", {}),
        "next observation": ("self_supervised", {"predict": "observation"}),
    })  # fmt: skip
    assert holds(found["next action"])


@pytest.mark.parametrize("query", ["entropy", "random"])
def test_asking_in_states_of_doubt(tmp_path: Path, query: str) -> None:
    gains = []
    for seed in SEEDS:
        gain, cpu_s, seen = asked(tmp_path / str(seed), query, seed)
        gains.append(gain)
        print(trials.table([(query, seed, gain, cpu_s)]), seen, flush=True)
    if query == "entropy":
        assert holds(gains)


def asked(folder: Path, query: str, seed: int, batches: int = 1) -> tuple[Estimate, float, str]:
    """Ask and train in turn; somebody who knows the best action answers. Returns what the last proposal gained."""
    wanted, best = model("navigator", "crossed"), champion("navigator", folder)
    answers: list[dict[str, Any]] = []
    cpu_s = 0.0
    for batch in range(batches + 1):
        budget = {"query": query, "budget": 120 * min(batch + 1, batches), "labels": 120, "keep": 0}
        done = trials.propose(folder / f"{batch}", best, wanted, "active", budget, seed, answers=answers)
        cpu_s += done.cpu_s
        answers = [{**answer, "fresh": False} for answer in answers] + [reply(q) for q in done.asked]
    trials.measure(done, best, wanted, str(seed))
    return done.gain("crossed-holdout"), cpu_s, f"{len(answers)} labels  " + rates(done, "crossed-holdout")


def reply(question: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody says who knows the way; where there is none left, that nobody can say."""
    level = world.parse_level(question["layout"])
    way = world.plan(level)
    said = level.says(way[0]) if way else ""
    return {
        "id": question["id"], "kind": "action", "prompt": question["prompt"], "options": question["options"],
        "layout": question["layout"], "answer": said, "chosen": question["options"].index(said) if said else -1,
        "skipped": not said, "fresh": True, "origin": "person",
    }  # fmt: skip
