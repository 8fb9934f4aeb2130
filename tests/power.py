"""What a disk may hold after a loss of power, from the journal of every change that a process made (``faults.c``).

The model is harsher than most disks. Of a file, what was written before its last sync is there; of what came after,
each write is there, is not, or is there in some of its sectors only, whatever the order. Names (made, renamed, linked,
removed) are kept in their order up to some point, and for certain up to the last sync of their folder. Bytes that were
never written read as zeros. What stood in memory alone, such as SQLite's ``-shm``, is gone.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WRITE, SYNC, TRUNCATE, RENAME, LINK, UNLINK, MKDIR = range(1, 8)
_HEAD = struct.Struct("<5q")
SECTOR = 512


@dataclass(frozen=True)
class Change:
    """One call that succeeded."""

    kind: int
    path: str
    other: str
    offset: int
    data: bytes


def changes(journal: Path) -> Iterator[Change]:
    """Every change that a journal holds, in order."""
    bytes_, at = journal.read_bytes(), 0
    while at < len(bytes_):
        kind, first, second, offset, length = _HEAD.unpack_from(bytes_, at)
        at += _HEAD.size
        path, other = bytes_[at : at + first].decode(), bytes_[at + first : at + first + second].decode()
        at += first + second
        data = bytes_[at : at + length] if kind == WRITE else b""
        assert len(data) == (length if kind == WRITE else 0), "the journal ends within a change"
        at += len(data)
        yield Change(kind, path, other, offset, data)


@dataclass
class _File:
    """The bytes that are certain, and the changes after the last sync."""

    certain: bytearray = field(default_factory=bytearray)
    later: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.later:
            _apply(self.certain, change)
        self.later.clear()

    def after(self, chance: random.Random) -> bytes:
        """What may be found: some of the later changes, some of these in part."""
        found = bytearray(self.certain)
        for change in self.later:
            fate = chance.random()
            if fate < 0.4:
                continue
            if fate < 0.7 or change.kind == TRUNCATE:
                _apply(found, change)
                continue
            for start in range(0, len(change.data), SECTOR):
                if chance.random() < 0.5:
                    part = change.data[start : start + SECTOR]
                    _apply(found, Change(WRITE, "", "", change.offset + start, part))
        return bytes(found)


def _apply(bytes_: bytearray, change: Change) -> None:
    if change.kind == TRUNCATE:
        del bytes_[change.offset :]
        bytes_.extend(bytes(change.offset - len(bytes_)))
        return
    end = change.offset + len(change.data)
    bytes_.extend(bytes(max(0, end - len(bytes_))))
    bytes_[change.offset : end] = change.data


class Disk:
    """A folder before a process began to change it, and what happened to it then."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._live: dict[str, _File] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                self._live[str(path)] = _File(bytearray(path.read_bytes()))
        self._certain = dict(self._live)  # the names that are there for certain
        self._names: list[tuple[str, Change, _File | None]] = []

    def replay(self, happened: Iterator[Change], *, syncs: bool = True) -> None:
        """Take in what a process did. ``syncs=False``: a disk that says that it has synced, and has not."""
        for change in happened:
            if change.kind == SYNC:
                if syncs:
                    self._sync(change.path)
            elif change.kind in (WRITE, TRUNCATE):
                if not change.path.endswith(" (deleted)"):
                    self._file(change.path).later.append(change)
            else:
                self._rename(change)

    def _file(self, path: str) -> _File:
        if path not in self._live:
            self._live[path] = _File()
            self._names.append((str(Path(path).parent), Change(LINK, "", path, 0, b""), self._live[path]))
        return self._live[path]

    def _rename(self, change: Change) -> None:
        if change.kind == MKDIR:
            return  # folders without files in them hold nothing to lose
        moved = None if change.kind == UNLINK else self._file(change.path)
        place = change.path if change.kind == UNLINK else change.other
        self._names.append((str(Path(place).parent), change, moved))
        _name(self._live, change, moved)

    def _sync(self, path: str) -> None:
        if path in self._live:
            self._live[path].sync()
            return
        newest = max((at for at, (parent, _, _) in enumerate(self._names) if parent == path), default=-1)
        for _, change, file in self._names[: newest + 1]:
            _name(self._certain, change, file)
        del self._names[: newest + 1]

    def after(self, chance: random.Random, to: Path) -> None:
        """Write to a new folder what may be found when the power is back."""
        names = dict(self._certain)
        for _, change, file in self._names[: chance.randint(0, len(self._names))]:
            _name(names, change, file)
        contents: dict[int, bytes] = {}  # two names of one file show the same bytes
        for name, file in names.items():
            if name.endswith("-shm"):
                continue
            path = to / Path(name).relative_to(self.folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents.setdefault(id(file), file.after(chance)))


def _name(names: dict[str, _File], change: Change, file: _File | None) -> None:
    if change.kind == UNLINK:
        names.pop(change.path, None)
        return
    if change.kind == RENAME:
        names.pop(change.path, None)
    if file is not None:
        names[change.other] = file
