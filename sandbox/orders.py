"""What was ordered from a learner, and what it claims to have done: lines of a proposal's record.

Invariants:
- An order is known before the job runs, from the recipe and from our own sources; nothing of it comes from the job.
- A claim is recorded only where something can contradict it, and only as a number: no text of a learner's gets
  into the log this way.
- No learner is imported here.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from guardrails import third_party
from guardrails.canonical import Digest, digest, digest_file, encode
from guardrails.checks.control import CLAIM, COMPARED, LEARNER, ORDERED
from guardrails.records import ModelKind
from sandbox.config import Recipe
from sandbox.isolation.manifest import Manifest
from sandbox.worker.learners import LEARNERS
from sandbox.worker.learners.recipes import settings_of

_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,24})?(e[+-]?[0-9]{1,3})?")
_WORKER = Path(__file__).parent / "worker"
_NOT_TRAINING = ("probes", "measure.py", "merge.py")
_COUNTED = ("steps", "batch", "length")


def ordered(recipe: Recipe, kind: ModelKind) -> dict[str, str]:
    """The learner's code by digest, the objective, and what steps and tokens the recipe comes to, where known.

    A program of others has its command and files on record instead (``command_learner``). Of a learner that another
    distribution brings, the digest is of all that it installed, and its recipe's defaults are not known here.
    """
    if third_party.is_reference(recipe.technique):
        brought = third_party.find(third_party.LEARNERS, recipe.technique)
        return {
            f"{LEARNER}code": str(brought.code),
            f"{LEARNER}distribution": brought.provenance()["distribution"],
            f"{ORDERED}objective": str(stated_objective({"text": str(_objective(recipe, kind))})),
        }
    if kind not in LEARNERS.get(recipe.technique, {}):
        return {}
    lines = {
        f"{LEARNER}code": str(learner_code()),
        f"{ORDERED}objective": str(stated_objective({"text": str(_objective(recipe, kind))})),
    }
    known = settings_of(recipe.technique, kind, recipe.settings.get("method", ""))
    counted = _counted({name: setting.default for name, setting in known.items()} | recipe.settings)
    if counted is not None:
        steps, batch, length = counted
        lines |= {f"{ORDERED}steps": str(steps), f"{ORDERED}tokens": str(steps * batch * length)}
    return lines


def claimed(manifest: Manifest) -> dict[str, str]:
    """The claims of a bundle that something can contradict."""
    claims = {name: manifest.claims[name] for name in COMPARED if name in manifest.claims}
    return {
        f"{CLAIM}{name}": text if _NUMBER.fullmatch(text) else "not a number" for name, text in claims.items()
    }


def stated_objective(objective: dict[str, Any]) -> Digest:
    """Digest of the objective as a bundle states it."""
    return digest(json.dumps(objective, sort_keys=True).encode())


@cache
def learner_code() -> Digest:
    """Digest of the sources that our learners are made of."""
    return digest(
        encode({str(path.relative_to(_WORKER)): str(digest_file(path)) for path in learner_sources()})
    )


def learner_sources() -> list[Path]:
    """The worker's modules but for those that only measure, sorted."""
    paths = sorted(_WORKER.rglob("*.py"))
    return [path for path in paths if path.relative_to(_WORKER).parts[0] not in _NOT_TRAINING]


def _objective(recipe: Recipe, kind: ModelKind) -> Digest:
    """As ``sandbox.worker.propose`` states it: the digest of what it was asked for."""
    asked = {"technique": recipe.technique, "recipe": dict(recipe.settings), "kind": kind.value}
    return digest(encode(asked))


def _counted(settings: dict[str, Any]) -> tuple[int, ...] | None:
    """Steps, batch and length, where the recipe fixes them beforehand."""
    try:
        counted = tuple(int(settings[name]) for name in _COUNTED)
    except (KeyError, ValueError):
        return None
    return counted if min(counted) > 0 and math.prod(counted) < 10**15 else None
