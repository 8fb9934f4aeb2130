"""Is the candidate a model of the same make as the champion, and are its weights sound? Exact.

Invariants:
- The candidate's files are compared, never interpreted: no configuration, template or code of its is run.
- A fact is ``true`` only where it was established; whatever cannot be read is ``false``.
- Every tensor is looked at; nothing is sampled.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError
from sandbox.worker import weights

if TYPE_CHECKING:
    import torch

# Fields that say how a directory came about, not what the model is.
VOLATILE = ("transformers_version", "_name_or_path", "_model_name_or_path")
POWER_STEPS = 12
NEEDED = (
    "integrity.safetensors_only",
    "integrity.finite",
    "integrity.same_architecture",
    "integrity.same_tokenizer",
)


@dataclass
class Change:
    """How far the candidate's weights lie from the champion's."""

    parameters: int = 0
    tensors: int = 0
    changed: int = 0
    finite: bool = True
    squared_change: float = 0.0
    squared_first: float = 0.0
    squared_norm: float = 0.0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Count one tensor of both models."""
        self.tensors += 1
        self.parameters += after.numel()
        if not bool(after.isfinite().all()):
            self.finite = False
        if not bool(before.equal(after)):
            self.changed += 1
            change = after.double() - before.double()
            squared = float(change.square().sum())
            self.squared_change += squared
            self.squared_first += _first_direction(change) if change.dim() == 2 else squared
        self.squared_norm += float(before.double().square().sum())


def facts(candidate: Path, champion: Path) -> dict[str, str]:
    """The facts ``integrity.*`` of a candidate directory against the champion's."""
    foreign = weights.foreign_files(candidate)
    found = {
        "integrity.safetensors_only": _word(not foreign),
        "integrity.same_tokenizer": _word(_same_files(candidate, champion)),
        "integrity.same_architecture": "false",
        "integrity.finite": "false",
    }
    if foreign:
        found["integrity.foreign_files"] = ", ".join(name[:80] for name in foreign[:10])
    try:
        same_tensors = weights.shapes(candidate) == weights.shapes(champion)
        same_config = all(
            _settings(candidate / name) == _settings(champion / name)
            for name in (weights.CONFIG, "generation_config.json")
        )
    except InvalidInputError as error:
        return found | {"integrity.problem": str(error)}
    found["integrity.same_architecture"] = _word(same_tensors and same_config)
    if not same_tensors:
        finite = all(bool(tensor.isfinite().all()) for _, tensor in weights.tensors(candidate))
        return found | {"integrity.finite": _word(finite)}
    return found | _changes(candidate, champion)


def sound(found: dict[str, str]) -> bool:
    """True where the candidate can be run and compared at all."""
    return all(found.get(name) == "true" for name in NEEDED)


def _changes(candidate: Path, champion: Path) -> dict[str, str]:
    change = Change()
    for (_, before), (_, after) in zip(
        weights.tensors(champion), weights.tensors(candidate), strict=True
    ):  # both hold the same names, so both come in the same order
        change.add(before, after)
    relative = math.sqrt(change.squared_change / change.squared_norm) if change.squared_norm else math.nan
    # No change has no direction: nothing of it lies along one.
    share = min(1.0, change.squared_first / change.squared_change) if change.squared_change else 0.0
    return {
        "integrity.finite": _word(change.finite),
        "integrity.parameters": str(change.parameters),
        "integrity.tensors": str(change.tensors),
        "integrity.changed_tensors": str(change.changed),
        "integrity.relative_change": decimal(relative),
        "integrity.spectral_share": decimal(share),
    }


def _first_direction(change: torch.Tensor) -> float:
    """The largest singular value of a matrix, squared, by power iteration from its longest row."""
    vector = change[int(change.square().sum(1).argmax())]
    length = 0.0
    for _ in range(POWER_STEPS):
        norm = float(vector.norm())
        if not (math.isfinite(norm) and norm > 0):
            return norm * norm
        image = change @ (vector / norm)
        length = float(image.square().sum())
        vector = change.T @ image
    return length


def _settings(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path.name}: {error}") from None
    if not isinstance(settings, dict):
        raise InvalidInputError(f"{path.name}: not a JSON object")
    return {name: value for name, value in settings.items() if name not in VOLATILE}


def _same_files(candidate: Path, champion: Path) -> bool:
    """True where every tokenizer file is in both directories with the same bytes, or in neither."""
    for name in weights.TOKENIZER_FILES:
        mine, theirs = candidate / name, champion / name
        if mine.is_symlink() or mine.exists() != theirs.exists():
            return False
        if mine.exists() and mine.read_bytes() != theirs.read_bytes():
            return False
    return True


def _word(value: bool) -> str:
    return "true" if value else "false"
