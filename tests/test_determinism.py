"""One order, two processes, one bundle: every learner of ours, merged where an adapter came of it.

Run as a program it makes all bundles once, and prints what each comes to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trials

from guardrails.canonical import digest
from guardrails.records import ModelKind
from guardrails.registry import encode_manifest
from sandbox.config import ModelConfig
from sandbox.models import navigator, player, pupil
from sandbox.reproduction import listed
from sandbox.worker.learners import LEARNERS

BASES = {"pupil": pupil, "navigator": navigator, "player": player}
STEPS = {"steps": 2, "batch": 4}
SAID = {"steps": 2, "prompts": 4, "group": 4}
PLAYED = {"iterations": 2, "layouts": 6, "episodes": 2, "epochs": 1, "batch": 64}
GAMES = {"method": "self_play", "iterations": 2, "games": 4, "keep_every": 1, "epochs": 1}
IN_LEVELS = {"method": "expert_iteration", "iterations": 2, "layouts": 6, "episodes": 3}
IN_GAMES = {"method": "expert_iteration", "iterations": 2, "games": 3, "simulations": 4}
WALKED = {"updates": 2, "batch": 4}
VISITS = {"method": "reptile", "rounds": 2, "inner": 2, "batch": 4, "shots": 2}


def pupils(*skills: str, **given: Any) -> ModelConfig:
    return ModelConfig(
        "pupil", ModelKind.LLM, "shipped:pupil", (), task="skills", train=skills, items=60, **given
    )


def agent(name: str, levels: str) -> ModelConfig:
    return ModelConfig(name, ModelKind.LAM, f"shipped:{name}", (), levels=levels, items=60)


SORTING, WIRED = pupils("sort"), agent("navigator", "crossed")
FAMILIES = pupils("rotate1:?", "rotate2:?", adapt=("rotate4:?",))
ORDERS: dict[str, tuple[ModelConfig, str, Mapping[str, Any]]] = {
    "llm self_supervised": (SORTING, "self_supervised", STEPS),
    "llm self_supervised, full": (SORTING, "self_supervised", STEPS | {"form": "full"}),
    "llm self_supervised, average": (SORTING, "self_supervised", STEPS | {"form": "average"}),
    "llm policy_gradient": (SORTING, "reinforcement", SAID | {"method": "policy_gradient"}),
    "llm policy_gradient, adapter": (SORTING, "reinforcement", SAID | {"form": "adapter"}),
    "llm expert_iteration": (SORTING, "reinforcement", SAID | {"method": "expert_iteration"}),
    "llm preference": (SORTING, "reinforcement", STEPS | {"method": "preference", "ask": 4, "pool": 8}),
    "llm active": (SORTING, "active", STEPS | {"ask": 4, "pool": 8, "rehearsed": 2}),
    "llm transfer": (pupils("descending"), "transfer", STEPS),
    "llm meta, reptile": (FAMILIES, "meta", {"rounds": 2, "inner": 2, "batch": 4}),
    "llm meta, joint": (FAMILIES, "meta", {"method": "joint", "rounds": 2, "inner": 2, "batch": 4}),
    "lam self_supervised": (WIRED, "self_supervised", WALKED),
    "lam reinforcement": (agent("navigator", "lava"), "reinforcement", PLAYED),
    "lam self_play": (agent("player", "connect-four"), "reinforcement", GAMES),
    "lam expert_iteration, levels": (agent("navigator", "lava"), "reinforcement", IN_LEVELS),
    "lam expert_iteration, games": (agent("player", "connect-four"), "reinforcement", IN_GAMES),
    "lam active": (agent("navigator", "lava"), "active", WALKED | {"labels": 3, "levels": 6}),
    "lam transfer": (WIRED, "transfer", WALKED | {"demonstrations": 8}),
    "lam transfer, adapter": (WIRED, "transfer", WALKED | {"demonstrations": 8, "form": "adapter"}),
    "lam meta": (agent("navigator", "rewired"), "meta", VISITS),
}  # fmt: skip
"""What is learnt, by what, how. Learners that ask are answered, and asked again."""
CHEAP = "llm self_supervised"


def answered(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a round mounts it once somebody has chosen the first option, or said 12345."""
    options = question.get("options", [])
    return {
        "options": options, **question, "answer": options[0] if options else "12345",
        "chosen": 0 if options else -1, "skipped": False, "fresh": True, "origin": "person",
    }  # fmt: skip


def made(order: str, folder: Path, seed: int = 7) -> dict[str, str]:
    """The bundle's digest, and that of the questions where the learner asked first."""
    model, technique, recipe = ORDERS[order]
    base = BASES[model.name]
    champion = trials.model_files(base.locate(), folder / "champion")
    trial = trials.propose(folder / "first", champion, model, technique, recipe, seed)
    found = {}
    if trial.asked:
        found["asked"] = str(digest(encode_manifest(listed(trial.folder / "bundle"))))
        answers = [answered(question) for question in trial.asked]
        trial = trials.propose(folder / "second", champion, model, technique, recipe, seed, answers=answers)
    assert (trial.model / "model.safetensors").is_file(), order
    return found | {"bundle": str(digest(encode_manifest(listed(trial.folder / "bundle"))))}


def in_another_process(folder: Path, **environment: str) -> dict[str, dict[str, str]]:
    """All bundles, made by a process of its own; what a hash seed can change must not matter."""
    folder.mkdir()
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_learner_is_looked_at() -> None:
    tried = {(technique, model.kind) for model, technique, _ in ORDERS.values()}
    assert tried == {(technique, kind) for technique, kinds in LEARNERS.items() for kind in kinds}


def test_the_same_order_gives_the_same_bundle_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        made(CHEAP, tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == again
    assert first != other


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_learner_gives_the_same_bundle_in_another_process(tmp_path: Path) -> None:
    first = in_another_process(tmp_path / "a", PYTHONHASHSEED="1")
    again = in_another_process(tmp_path / "b", PYTHONHASHSEED="2")
    assert set(first) == set(ORDERS)
    assert {name: found for name, found in again.items() if found != first[name]} == {}
    assert len({found["bundle"] for found in first.values()}) == len(ORDERS), "no two orders are the same"


if __name__ == "__main__":
    told = {}
    for name in ORDERS:
        told[name] = made(name, Path(sys.argv[1]) / name.replace(" ", "-"))
    print(json.dumps(told))
