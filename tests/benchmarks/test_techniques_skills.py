"""What reinforcement and replay bring, five seeds each, on private items and by the checks that judge.

``python -m pytest -m trials -s tests/benchmarks/test_techniques_skills.py`` prints the tables of docs/techniques.md.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
import trials

from guardrails.canonical import Digest
from guardrails.engine import Case, judge
from guardrails.policy import Subject, load_policy
from guardrails.records import ModelKind, VerdictKind
from guardrails.statistics import Estimate
from sandbox.config import ModelConfig
from sandbox.models import pupil, tiny
from sandbox.worker.environments.skills import parse_skill

pytestmark = [pytest.mark.trials, pytest.mark.timeout(3600)]

SEEDS = (1, 2, 3, 4, 5)
PUPIL = ModelConfig(
    name="pupil", kind=ModelKind.LLM, base="shipped:pupil", recipes=(), train=("sort",),
    controls={"control-copy": "copy"}, task="skills", items=400,
)  # fmt: skip
READER = ModelConfig(
    name="reader", kind=ModelKind.LLM, base="shipped:tiny", recipes=(), train=("shipped:austen",),
    controls={"control-kjv": "shipped:kjv"}, replay=("control-kjv",), items=220,
)  # fmt: skip
RUNAWAY = {"lr": "1e-3", "warmup": "0", "kl": "0", "steps": "20"}
READING = {"steps": 60, "lr": 2e-3, "rank": 16, "alpha": 32}
COPIES = "control-copy-answers"


@pytest.fixture
def champion(tmp_path):
    return trials.model_files(pupil.locate(), tmp_path / "champion")


def answered(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices of somebody who knows how to sort, and does not choose between two wrong answers."""
    skill, lines = parse_skill("sort"), []
    for asked in questions:
        right = skill.answer(asked["prompt"][:5])
        chosen = asked["options"].index(right) if right in asked["options"] else -1
        said = {"answer": right if chosen >= 0 else "", "chosen": chosen, "skipped": chosen < 0}
        lines.append({**asked, **said, "fresh": True})
    return lines


def require_gains(gains: list[Estimate], least: int = 4) -> None:
    """At least so many intervals lie above zero."""
    assert sum(gain.lower > 0 for gain in gains) >= least, gains


def reinforce(tmp_path, champion, recipe: dict[str, Any], **given: Any) -> list[Estimate]:
    """Five seeds of a recipe; prints the gain, and what was forgotten of the control."""
    gains = []
    for seed in SEEDS:
        folder = tmp_path / f"{recipe.get('method', 'gradient')}-{seed}"
        made = trials.trial(folder, champion, PUPIL, "reinforcement", recipe, seed, **given)
        lost = made.read("drift.forgetting", "accuracy_delta", suite=COPIES)
        gains.append(made.gain("skills"))
        print(trials.table([(str(recipe), seed, gains[-1], made.cpu_s), ("  copying", seed, lost, 0)]))
        shutil.rmtree(folder)
    return gains


def test_policy_gradient_answers_more_puzzles(tmp_path, champion):
    require_gains(reinforce(tmp_path, champion, {}))


def test_expert_iteration_beside_it(tmp_path, champion):
    require_gains(reinforce(tmp_path, champion, {"method": "expert_iteration"}))


def test_what_people_prefer_answers_more_puzzles_and_forgets_little(tmp_path, champion):
    gains, kept = [], 0
    for seed in SEEDS:
        answers: list[dict[str, Any]] = []
        for number in range(2):
            recipe = {"method": "preference", "ask": 200, "answer_tokens": 8}
            known = [{**answer, "fresh": False} for answer in answers]
            folder = tmp_path / f"ask-{seed}-{number}"
            asked = trials.propose(
                folder, champion, PUPIL, "reinforcement", recipe, 100 * seed + number, answers=known
            )
            answers += answered(asked.asked)
        usable = sum(not answer["skipped"] for answer in answers)
        for rehearsed in (32, 0):
            recipe = {"method": "preference", "rehearsed": rehearsed}
            folder = tmp_path / f"t-{seed}-{rehearsed}"
            made = trials.trial(folder, champion, PUPIL, "reinforcement", recipe, seed, answers=answers)
            gain, lost = made.gain("skills"), made.read("drift.forgetting", "accuracy_delta", suite=COPIES)
            name = f"{usable} of {len(answers)} choices, {rehearsed} rehearsed"
            print(trials.table([(name, seed, gain, made.cpu_s), ("  copying", seed, lost, 0)]))
            if rehearsed:
                gains.append(gain)
                kept += lost.lower > -0.05
    require_gains(gains)
    assert kept >= 4


def test_replay_forgets_less_than_none(tmp_path):
    champion = trials.model_files(tiny.locate(), tmp_path / "champion")
    gains, spared = [], 0
    for seed in SEEDS:
        lost = []
        for share in (0.5, 0.0):
            folder = tmp_path / f"{share}-{seed}"
            made = trials.trial(
                folder, champion, READER, "self_supervised", {**READING, "replay": share}, seed,
                suites=("task", "control-kjv"),
            )  # fmt: skip
            lost.append(made.read("drift.bits_per_byte", "delta", suite="control-kjv"))
            gain = made.gain("task")
            print(
                trials.table(
                    [(f"replay {share}", seed, gain, made.cpu_s), ("  forgotten", seed, lost[-1], 0)]
                )
            )
            gains += [gain] if share else []
        spared += lost[0].upper < lost[1].lower
    require_gains(gains)
    assert spared >= 4


def test_training_that_runs_away_is_blocked(tmp_path, champion):
    """The recipe that research warned of: too large a step, no warm-up, nothing that holds it to the champion."""
    made = trials.trial(tmp_path / "t", champion, PUPIL, "reinforcement", RUNAWAY, 1)
    assert made.gain("skills").upper < -0.1
    verdict = judged(made)
    assert verdict.kind is VerdictKind.BLOCKED
    failed = {finding.rule for finding in verdict.findings if finding.outcome == "fail"}
    assert "gain.skills.collapse" in failed
    # Who changes nothing gains nothing, and is not blocked for it.
    same = trials.Trial(tmp_path / "s", {}, 1.0)
    trials.model_files(champion, same.model)
    (tmp_path / "s" / "data").mkdir()
    shutil.copy(tmp_path / "t" / "data" / "train.jsonl", tmp_path / "s" / "data")
    assert judged(trials.measure(same, champion, PUPIL, "1")).kind is VerdictKind.REVIEW


def judged(made: trials.Trial) -> Any:
    """The verdict of the shipped policy, with what the gate would know of the run."""
    from datetime import UTC, datetime

    from policy_cases import DEFAULT, subject

    about: Subject = replace(subject(), model="pupil", technique="reinforcement", labels={"task": "skills"})
    gate = {
        "compute.cpu_seconds": str(made.cpu_s),
        "compute.wall_seconds": "60.0",
        "compute.memory_bytes": "600000000",
    }
    case = Case(
        about, made.measurements, Digest.parse("sha256:" + "0" * 64), {**gate, "integrity.digest_matches": "true"},
        (), 1, datetime.now(UTC),
    )  # fmt: skip
    return judge([load_policy(DEFAULT)], case)
