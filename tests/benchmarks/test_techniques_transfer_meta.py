"""Transfer and meta-learning of ``pupil``: five seeds, and beside them from scratch and joint training, equal compute.

``python -m pytest -m trials -s tests/benchmarks/test_techniques_transfer_meta.py`` prints the tables of
docs/techniques.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trials

from guardrails.records import ModelKind
from guardrails.statistics import Estimate
from sandbox.config import ModelConfig
from sandbox.models import pupil

pytestmark = pytest.mark.trials

SEEDS = (1, 2, 3, 4, 5)
TRANSFER = ModelConfig(
    name="pupil",
    kind=ModelKind.LLM,
    base="shipped:pupil",
    task="skills",
    recipes=(),
    train=("descending",),
    items=600,
)
META = ModelConfig(
    name="pupil", kind=ModelKind.LLM, base="shipped:pupil", task="skills", recipes=(), items=600, adapt=("rotate4:?",),
    train=("rotate1:?", "rotate2:?", "rotate3:?", "reverse:?", "descending:?"),
)  # fmt: skip
CELLS: dict[str, tuple[ModelConfig, str, str, dict[str, dict[str, Any]]]] = {
    "transfer": (TRANSFER, "transfer", "skills", {
        "adapter": {}, "full": {"form": "full", "lr": 2e-3},
        "from scratch": {"form": "full", "lr": 2e-3, "start": "scratch"},
    }),
    "transfer, 40 steps": (TRANSFER, "transfer", "skills", {
        "full": {"form": "full", "lr": 2e-3, "steps": 40},
        "from scratch": {"form": "full", "lr": 2e-3, "steps": 40, "start": "scratch"},
    }),
    "meta": (META, "meta", "adapt", {"reptile": {}, "joint": {"method": "joint"}}),
}  # fmt: skip
"""Cell → model, technique, suite, and what is compared; the first must improve the champion."""


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("cell", CELLS)
def test_a_new_task_is_learnt_on_four_of_five_seeds(cell: str, tmp_path: Path) -> None:
    model, technique, suite, recipes = CELLS[cell]
    champion = trials.model_files(pupil.locate(), tmp_path / "champion")
    found: dict[str, list[Estimate]] = {name: [] for name in recipes}
    rows = []
    for seed in SEEDS:
        for name, recipe in recipes.items():
            done = trials.trial(tmp_path / f"{name}-{seed}", champion, model, technique, recipe, seed)
            found[name].append(done.gain(suite))
            rows.append((f"{cell}: {name}", seed, found[name][-1], done.cpu_s))
    print("\n" + trials.table(rows))
    first = next(iter(recipes))
    assert sum(estimate.lower > 0 for estimate in found[first]) >= 4
