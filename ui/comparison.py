"""What differs between a candidate and the champion: files, settings, and how far the weights moved.

Invariants:
- Reads only bytes whose digest was checked, needs no torch, and runs nothing that lies in them.
- A file that cannot be taken apart is still listed as changed, with the reason why no more is known.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from guardrails.canonical import Digest
from guardrails.errors import InterlockError
from guardrails.registry import ArtifactStore, TreeEntry
from ui.presenters import changed_settings

FOLDER = "model/"
WEIGHTS = ".safetensors"
_MAX_HEADER = 64 << 20
_MAX_SETTINGS = 1 << 20
_WIDTHS: dict[str, np.dtype[Any]] = {
    name: np.dtype(code) for name, code in (("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"), ("BF16", "<u2"))
}


@dataclass(frozen=True)
class FileChange:
    """One file of the model; ``change`` is ``added``, ``removed`` or ``changed``; sizes in bytes."""

    path: str
    change: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Moved:
    """How far one tensor moved: the norm of the difference over the norm of what it was."""

    name: str
    relative: float


@dataclass(frozen=True)
class Comparison:
    """What differs. ``tensors`` counts all of them, ``moved`` is sorted by how far, farthest first."""

    files: tuple[FileChange, ...]
    unchanged: int
    settings: tuple[dict[str, Any], ...]
    tensors: int
    moved: tuple[Moved, ...]
    relative: float | None
    notes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """The same as JSON values; the ten tensors that moved farthest."""
        return {
            "files": [asdict(change) for change in self.files],
            "files_unchanged": self.unchanged,
            "settings": list(self.settings),
            "tensors": self.tensors,
            "tensors_changed": len(self.moved),
            "relative_change": self.relative,
            "farthest": [asdict(moved) for moved in self.moved[:10]],
            "notes": list(self.notes),
        }


def compare_models(store: ArtifactStore, champion: Digest, candidate: Digest) -> Comparison:
    """What differs between the models of two bundles; raises ArtifactError where one is damaged."""
    before = {entry.path: entry for entry in store.tree(champion) if entry.path.startswith(FOLDER)}
    after = {entry.path: entry for entry in store.tree(candidate) if entry.path.startswith(FOLDER)}
    changes = [
        _change(path, before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if _sha(before.get(path)) != _sha(after.get(path))
    ]
    settings: list[dict[str, Any]] = []
    weights = _Weights()
    notes: list[str] = []
    for change in changes:
        if change.change != "changed":
            continue
        try:
            if change.path.endswith(".json") and max(change.before or 0, change.after or 0) <= _MAX_SETTINGS:
                pair = [_flat(json.loads(_bytes(store, side[change.path]))) for side in (before, after)]
                name = change.path.removeprefix(FOLDER)
                settings += [{**item, "file": name} for item in changed_settings(*pair)]
            elif change.path.endswith(WEIGHTS):
                weights.add(_bytes(store, before[change.path]), _bytes(store, after[change.path]))
        except (InterlockError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            notes.append(f"{change.path}: no closer look possible: {error!s:.160}")
    moved = tuple(sorted(weights.moved, key=lambda m: -m.relative))
    return Comparison(
        tuple(changes), len({*before, *after}) - len(changes), tuple(settings[:200]), weights.count, moved,
        weights.relative, tuple(notes),
    )  # fmt: skip


class _Weights:
    """Adds up how far tensors moved, over several files."""

    def __init__(self) -> None:
        self.count = 0
        self.moved: list[Moved] = []
        self._moved_squares = 0.0
        self._squares = 0.0

    @property
    def relative(self) -> float | None:
        """All weights as one vector: the norm of the difference over the norm before."""
        return math.sqrt(self._moved_squares / self._squares) if self._squares > 0 else None

    def add(self, before: bytes, after: bytes) -> None:
        """Compare two files tensor by tensor; raises ValueError where they are not safetensors."""
        old, new = _tensors(before), _tensors(after)
        for name in sorted({*old, *new}):
            self.count += 1
            if name not in old or name not in new or old[name][0] != new[name][0]:
                self.moved.append(Moved(name, math.inf if name in new else 1.0))
                continue
            dtype, first, second = old[name][0][0], old[name][1], new[name][1]
            same = first == second
            if dtype not in _WIDTHS:
                if not same:
                    self.moved.append(Moved(name, math.nan))
                continue
            numbers = _numbers(dtype, first)
            squares = float(np.dot(numbers, numbers))
            self._squares += squares
            if not same:
                difference = _numbers(dtype, second) - numbers
                moved = float(np.dot(difference, difference))
                self._moved_squares += moved
                self.moved.append(Moved(name, math.sqrt(moved / squares) if squares > 0 else math.inf))


def _tensors(data: bytes) -> dict[str, tuple[tuple[str, tuple[int, ...]], memoryview]]:
    """Name to ((dtype, shape), bytes)."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("not a safetensors file")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file: its header is no object")  # noqa: TRY004 - of the file, not of ours
    body = memoryview(data)[8 + length :]
    found = {}
    for name, item in header.items():
        if name == "__metadata__":
            continue
        start, end = item["data_offsets"]
        if not 0 <= start <= end <= len(body):
            raise ValueError(f"tensor {name!r:.80} lies outside its file")
        found[str(name)] = ((str(item["dtype"]), tuple(item["shape"])), body[start:end])
    return found


def _numbers(dtype: str, data: memoryview) -> np.ndarray[Any, np.dtype[np.float32]]:
    raw = np.frombuffer(data, dtype=_WIDTHS[dtype])
    if dtype == "BF16":
        wide: np.ndarray[Any, np.dtype[np.float32]] = (raw.astype(np.uint32) << 16).view(np.float32)
        return wide
    numbers: np.ndarray[Any, np.dtype[np.float32]] = raw.astype(np.float32)
    return numbers


def _change(path: str, before: TreeEntry | None, after: TreeEntry | None) -> FileChange:
    word = "added" if before is None else "removed" if after is None else "changed"
    return FileChange(path, word, before.size if before else None, after.size if after else None)


def _sha(entry: TreeEntry | None) -> str:
    return entry.sha256 if entry else ""


def _bytes(store: ArtifactStore, entry: TreeEntry) -> bytes:
    return store.get_bytes(Digest(entry.sha256), limit=8 << 30)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    if not isinstance(value, dict):
        return {prefix or "value": value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
