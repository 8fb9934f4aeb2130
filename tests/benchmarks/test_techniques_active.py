"""Active learning on ``pupil``: an oracle answers what it asks; five seeds, and beside them random questions.

``python -m pytest -m trials -s tests/benchmarks/test_techniques_active.py`` prints the table of docs/techniques.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trials

from guardrails.records import ModelKind
from guardrails.statistics import Estimate
from sandbox.config import ModelConfig
from sandbox.models import pupil
from sandbox.worker.environments.skills import parse_skill

pytestmark = [pytest.mark.trials, pytest.mark.timeout(1800)]

SEEDS = (1, 2, 3, 4, 5)
ASK, POOL = 128, 400
MODEL = ModelConfig(
    name="pupil", kind=ModelKind.LLM, base="shipped:pupil", recipes=(), task="skills", train=("sort",),
    controls={"control-copy": "copy"}, items=400,
)  # fmt: skip


def oracle(asked: list[dict[str, Any]], *, fresh: bool) -> list[dict[str, Any]]:
    """What somebody who can sort would answer, as a round mounts it."""
    skill = parse_skill("sort")
    return [
        {
            "id": one["id"], "kind": one["kind"], "prompt": one["prompt"], "options": [], "chosen": -1,
            "answer": skill.answer(one["prompt"].removesuffix(skill.sign)), "skipped": False, "fresh": fresh,
            "origin": "person", "text": one["prompt"],
        }
        for one in asked
    ]  # fmt: skip


def taught(folder: Path, champion: Path, query: str, seed: int) -> tuple[trials.Trial, float]:
    """Asked once, then trained on the answers; and the learner's CPU seconds for both."""
    recipe = {"query": query, "ask": ASK, "pool": POOL}
    found = trials.propose(folder / "ask", champion, MODEL, "active", recipe, seed)
    assert not found.claims, "it proposed where it should have asked"
    assert len({one["id"] for one in found.asked}) == ASK
    done = trials.trial(
        folder / "train",
        champion,
        MODEL,
        "active",
        recipe,
        seed,
        suites=("skills", "control-copy-answers"),
        answers=oracle(found.asked, fresh=True),
    )
    return done, found.cpu_s + done.cpu_s


def test_questions_that_people_answer_make_the_pupil_better(tmp_path):
    champion = trials.model_files(pupil.locate(), tmp_path / "champion")
    rows: list[tuple[str, int, Estimate, float]] = []
    kept: list[tuple[str, int, Estimate, float]] = []
    for query in ("uncertainty", "random"):
        for seed in SEEDS:
            done, cpu_s = taught(tmp_path / f"{query}-{seed}", champion, query, seed)
            rows.append((query, seed, done.gain("skills"), cpu_s))
            kept.append((f"{query}, copy", seed, done.gain("control-copy-answers"), cpu_s))
            print(trials.table([rows[-1], kept[-1]]), flush=True)
    better = [
        row for row in rows if row[0] == "uncertainty" and row[2].lower is not None and row[2].lower > 0
    ]
    assert len(better) >= 4, json.dumps([str(row) for row in rows])
    means = {name: sum(row[2].value or 0 for row in rows if row[0] == name) / len(SEEDS) for name, *_ in rows}
    print({name: round(value, 4) for name, value in means.items()})
    assert all(row[2].value > -0.05 for row in kept), "what nobody asked about is not forgotten"
