"""Action models in levels: five seeds of each way of learning, and beside it a control at equal cost or equal labels.

What is private is drawn anew for each seed. Every cell prints its table; a cell holds where the paired interval of
the gain lies above zero on four seeds of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import trials

from guardrails.records import ModelKind
from guardrails.statistics import Estimate, paired_sign_difference
from sandbox.config import ModelConfig
from sandbox.models import navigator
from sandbox.tasks import levels as shared
from sandbox.worker import weights
from sandbox.worker.environments import world
from sandbox.worker.environments.episodes import play
from sandbox.worker.environments.policy import Encoder, Policy

SEEDS = (1, 2, 3, 4, 5)
ITEMS = 150
MANY = 400
"""Levels where the gain is small: the champion is at home there."""
EXPERT = {"method": "expert_iteration"}
"""As many episodes, at the same rate; its defaults take as long."""
LABELS = 80
REPLAY = {"replay": 0.5}
JOINT = {"method": "joint", "rounds": 30}  # as many updates as ``rescale`` makes
BASES = {"navigator": navigator}

pytestmark = [pytest.mark.trials, pytest.mark.timeout(3600)]


def model(name: str, levels: str, items: int = ITEMS) -> ModelConfig:
    return ModelConfig(name, ModelKind.LAM, f"shipped:{name}", (), levels=levels, items=items)


def champion(name: str, folder: Path) -> Path:
    return trials.model_files(BASES[name].locate(), folder / "champion")


Recipes = Mapping[str, tuple[str, Mapping[str, Any]]]


def cell(
    folder: Path, base: str, levels: str, suite: str, recipes: Recipes, *, kept: bool = False
) -> dict[str, list[Estimate]]:
    """Every recipe with every seed, printed as it comes; returns the gains by recipe.

    ``kept`` prints, and returns under ``NAME, lava``, what became of plain lava levels too.
    """
    wanted, best = model(base, levels), champion(base, folder)
    found: dict[str, list[Estimate]] = {}
    for name, (technique, recipe) in recipes.items():
        for seed in SEEDS:
            done = trials.trial(
                folder / f"{name}-{seed}".replace(" ", "-"), best, wanted, technique, recipe, seed
            )
            gain = done.gain(suite)
            found.setdefault(name, []).append(gain)
            print(trials.table([(name, seed, gain, done.cpu_s)]), rates(done, suite), flush=True)
            if kept:
                lava = on_lava(done.model, best, seed)
                found.setdefault(f"{name}, lava", []).append(lava)
                print(trials.table([(f"{name}, lava", seed, lava, done.cpu_s)]), flush=True)
    return found


def on_lava(candidate: Path, champion: Path, seed: int) -> Estimate:
    """Plain lava levels won, candidate less champion."""
    levels = shared.private_levels("lava", ITEMS, str(seed), "kept")
    ends = []
    for path in (candidate, champion):
        policy = Policy(weights.load_model(path, torch.float32), Encoder(weights.load_tokenizer(path)))
        ends.append([episode.end == "success" for episode in play(policy, levels)])
    return paired_sign_difference(ends[0], ends[1], trials.CONFIDENCE)


def rates(done: trials.Trial, suite: str) -> str:
    """Shares of what was counted, champion to candidate."""
    assert done.measurements is not None
    series = next(s for s in done.measurements.series if s.suite == suite)
    names = sorted({name.rsplit("_", 1)[0] for name in series.columns} - {"steps"})
    shares = {name: sum(values) / len(values) for name, values in series.columns.items()}
    return "  ".join(f"{n} {shares[f'{n}_champion']:.3f} to {shares[f'{n}_candidate']:.3f}" for n in names)


def above_zero(gains: Iterable[Estimate]) -> int:
    return sum(gain.lower > 0 for gain in gains)


def holds(gains: Iterable[Estimate]) -> bool:
    return above_zero(gains) >= 4


def won(done: trials.Trial, suite: str) -> list[bool]:
    """Whether the candidate won, level by level."""
    assert done.measurements is not None
    series = next(s for s in done.measurements.series if s.suite == suite)
    return [value == 1.0 for value in series.columns["success_candidate"]]


def test_return_and_cost_win_more_levels_and_burn_less(tmp_path: Path) -> None:
    best, suite = champion("navigator", tmp_path), "lava-holdout"
    gains, safer = [], 0
    for seed in SEEDS:
        outcomes = []
        for name, recipe in {"return and cost": {}, "expert iteration": EXPERT}.items():
            folder = tmp_path / f"{name}-{seed}".replace(" ", "-")
            wanted = model("navigator", "lava", MANY)
            done = trials.trial(folder, best, wanted, "reinforcement", recipe, seed, suites=(suite,))
            gain, unsafe = done.gain(suite), done.read("harm.unsafe_actions", "delta", suite=suite)
            rows = [(name, seed, gain, done.cpu_s), ("  unsafe", seed, unsafe, 0)]
            print(trials.table(rows), rates(done, suite), flush=True)
            outcomes.append(won(done, suite))
            if name == "return and cost":
                gains.append(gain)
                safer += unsafe.upper < 0
        ahead = paired_sign_difference(outcomes[1], outcomes[0], trials.CONFIDENCE)
        print(trials.table([("  expert iteration ahead by", seed, ahead, 0)]), flush=True)
    assert holds(gains)
    assert safer >= 4


def test_transfer_to_crossed_controls(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "crossed", "crossed-holdout", {
        "full": ("transfer", {}),
        "from scratch": ("transfer", {"start": "scratch"}),
    })  # fmt: skip
    assert holds(found["full"])
    better = [a.value > b.value for a, b in zip(found["full"], found["from scratch"], strict=True)]
    assert sum(better) >= 4


def test_recordings_of_a_clumsy_walker_serve_a_later_learner(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "few", "few-adaptation", {
        "no replay": ("self_supervised", {}),
        "replay": ("self_supervised", REPLAY),
    }, kept=True)  # fmt: skip
    assert holds(found["no replay"])
    kept = [a.value > b.value for a, b in zip(found["replay, lava"], found["no replay, lava"], strict=True)]
    assert sum(kept) >= 4


def test_meta_learning_serves_a_wiring_that_no_record_has(tmp_path: Path) -> None:
    found = cell(tmp_path, "navigator", "rewired", "rewired-adaptation", {
        "rescaled": ("meta", {}),
        "joint": ("meta", JOINT),
    })  # fmt: skip
    assert holds(found["rescaled"])
    better = [a.value > b.value for a, b in zip(found["rescaled"], found["joint"], strict=True)]
    assert sum(better) >= 4


def told(asked: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What somebody who knows the way and the controls would answer, as a round mounts it."""
    answers = []
    for one in asked:
        level = world.parse_level(one["layout"])
        way = world.plan(level)
        said = level.says(way[0]) if way else ""
        answers.append({
            "id": one["id"], "kind": one["kind"], "prompt": one["prompt"], "options": one["options"],
            "chosen": one["options"].index(said) if way else -1, "answer": said, "skipped": not way, "fresh": True,
            "origin": "person", "text": one["prompt"] + said, "layout": one["layout"],
        })  # fmt: skip
    return answers


def test_questions_in_states_of_doubt_make_the_navigator_better(tmp_path: Path) -> None:
    wanted, best = model("navigator", "crossed"), champion("navigator", tmp_path)
    found: dict[str, list[Estimate]] = {}
    for query in ("entropy", "random"):
        for seed in SEEDS:
            folder, recipe = (
                tmp_path / f"{query}-{seed}",
                {"query": query, "labels": LABELS, "budget": LABELS},
            )
            asked = trials.propose(folder / "ask", best, wanted, "active", recipe, seed)
            assert not asked.claims
            assert len(asked.asked) == LABELS
            done = trials.trial(
                folder / "train", best, wanted, "active", recipe, seed,
                suites=("crossed-holdout",), answers=told(asked.asked),
            )  # fmt: skip
            gain = done.gain("crossed-holdout")
            found.setdefault(query, []).append(gain)
            line = trials.table([(query, seed, gain, asked.cpu_s + done.cpu_s)])
            print(line, rates(done, "crossed-holdout"), flush=True)
    assert holds(found["entropy"])
