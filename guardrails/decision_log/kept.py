"""The tables that a writer goes by: rows in a private file, which can be undone, and looked at as they were.

Invariants:
- Rows are the bytes that the projection wrote; they are in a ``Scratch`` file, so memory does not grow with them.
- What is done between ``remember`` and ``forget`` can be undone, back to any point of it.
- Rows that were put with a label are found by it; it is no part of the row.
- A look (``as_it_is``) stands still, whatever is done to the tables afterwards, and by whichever thread.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from guardrails import canonical
from guardrails.decision_log.scratch import Labels, Scratch
from guardrails.decision_log.tables import decoded, is_storable
from guardrails.errors import RecordError

CACHE_KIB = 4_096
_PAGE = 256

_ROW = 'SELECT body FROM rows WHERE "table" = ? AND key = ?'
_PUT = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)"
_DELETE = 'DELETE FROM rows WHERE "table" = ? AND key = ?'
_NEXT_TABLE = 'SELECT min("table") FROM rows WHERE "table" > ?'
_FIRST_ROWS = 'SELECT key, body FROM rows WHERE "table" = ? ORDER BY key LIMIT ?'
_NEXT_ROWS = 'SELECT key, body FROM rows WHERE "table" = ? AND key > ? ORDER BY key LIMIT ?'

Change = tuple[str, str, bytes | None, str]
"""A row that was changed: its table, its key, and its bytes and its label before."""


class _Rows(ABC):
    """What both kinds of tables answer, the ones that change and the ones that do not."""

    @abstractmethod
    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""

    @abstractmethod
    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key, as it was when the scan began."""

    @abstractmethod
    def page(self, table: str, after: str | None) -> tuple[list[tuple[str, bytes]], str | None]:
        """Some rows by ascending key, those after one; and the key to go on from, or None at the end."""

    @abstractmethod
    def labelled(self, table: str, label: str) -> list[str]:
        """The keys of the rows of a table that were put with this label."""

    @abstractmethod
    def table_after(self, name: str) -> str | None:
        """The next table that has, or had, a row."""

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        return tuple(name for name in self._tables() if next(self.bodies(name), None) is not None)

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """One row, or None where there is none."""
        body = self.body(table, key)
        return None if body is None else decoded(body)

    def scan(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row of a table by ascending key, as it was when the scan began."""
        return ((key, decoded(body)) for key, body in self.bodies(table))

    def _tables(self) -> Iterator[str]:
        name = self.table_after("")
        while name is not None:
            yield name
            name = self.table_after(name)

    def _pages(self, table: str) -> Iterator[tuple[str, bytes]]:
        rows, last = self.page(table, None)
        yield from rows
        while last is not None:
            rows, last = self.page(table, last)
            yield from rows


class KeptTables(_Rows):
    """The tables; one thread changes them at a time, and any may look."""

    def __init__(self) -> None:
        self._scratch = Scratch(CACHE_KIB)
        self._labels = Labels(self._scratch)
        self._lock = threading.RLock()
        self._looks: weakref.WeakSet[Look] = weakref.WeakSet()
        self._former: list[Change] | None = None

    # --- reading ---------------------------------------------------------------------------

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        if not is_storable(table, key):
            return None
        with self._lock:
            found = self._scratch.ask(_ROW, table, key).fetchone()
        return None if found is None else found[0]

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key, as it was when the scan began."""
        rows, last = self.page(table, None)
        return iter(rows) if last is None else self.as_it_is().bodies(table)

    def all_bodies(self) -> Iterator[tuple[str, str, bytes]]:
        """The bytes of every row by table and key, while nobody changes one."""
        return ((table, *row) for table in self._tables() for row in self._pages(table))

    def page(self, table: str, after: str | None) -> tuple[list[tuple[str, bytes]], str | None]:
        """Some rows by ascending key, those after one; and the key to go on from, or None at the end."""
        with self._lock:
            asked = (_FIRST_ROWS, table) if after is None else (_NEXT_ROWS, table, after)
            rows: list[tuple[str, bytes]] = self._scratch.ask(*asked, _PAGE).fetchall()
        return rows, rows[-1][0] if len(rows) == _PAGE else None

    def table_after(self, name: str) -> str | None:
        """The next table that has a row."""
        with self._lock:
            found: str | None = self._scratch.ask(_NEXT_TABLE, name).fetchone()[0]
        return found

    def labelled(self, table: str, label: str) -> list[str]:
        """The keys of the rows of a table that were put with this label."""
        with self._lock:
            return self._labels.keys(table, label)

    def as_it_is(self) -> Look:
        """The tables as they are now, which nothing changes any more."""
        with self._lock:
            look = Look(self, self._lock)
            self._looks.add(look)
        return look

    # --- writing ---------------------------------------------------------------------------

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row, to be found by its label."""
        self.put_body(table, key, canonical.encode(value), label)

    def put_body(self, table: str, key: str, body: bytes, label: str = "") -> None:
        """Insert or replace one row, given as its canonical bytes."""
        if not is_storable(table, key):
            raise RecordError(f"a row cannot be called {table!r:.80} {key!r:.80}")
        self._change(table, key, body, label)

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""
        if is_storable(table, key):
            self._change(table, key, None, "")

    def _change(self, table: str, key: str, body: bytes | None, label: str) -> None:
        with self._lock:
            former = self._labels.of(table, key)
            self._note(table, key, former)
            if body is None:
                self._scratch.ask(_DELETE, table, key)
            else:
                self._scratch.ask(_PUT, table, key, body)
            if label != former:
                self._labels.give(table, key, label)

    @property
    def failed(self) -> bool:
        """Whether their file has failed: what is in it nobody knows then, and it answers no more."""
        return self._scratch.failed

    def remember(self) -> None:
        """From now on, keep what is changed."""
        self._former = []

    def forget(self) -> None:
        """What was changed stays so."""
        self._former = None

    def mark(self) -> int:
        """The point that has been reached: so many changes."""
        return len(self._former or ())

    def undo(self, mark: int) -> None:
        """Put back what was there when so many changes had been made."""
        former, self._former = self._former or [], None
        while len(former) > mark:
            self._change(*former.pop())
        self._former = former

    def _note(self, table: str, key: str, label: str) -> None:
        if self._former is None and not self._looks:
            return
        body = self.body(table, key)
        if self._former is not None:
            self._former.append((table, key, body, label))
        for look in self._looks:
            look.keep(table, key, body, label)


class Look(_Rows):
    """Tables as they were at one moment: what was changed since is kept here as it was."""

    def __init__(self, tables: KeptTables, lock: threading.RLock) -> None:
        self._now = tables
        self._lock = lock
        self._then: dict[str, dict[str, bytes | None]] = {}
        self._labels: dict[str, dict[str, str]] = {}

    def keep(self, table: str, key: str, body: bytes | None, label: str) -> None:
        """Keep a row that is about to be changed, if it is for the first time."""
        self._then.setdefault(table, {}).setdefault(key, body)
        self._labels.setdefault(table, {}).setdefault(key, label)

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        with self._lock:
            then = self._then.get(table, {})
            return then[key] if key in then else self._now.body(table, key)

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key."""
        return self._pages(table)

    def page(self, table: str, after: str | None) -> tuple[list[tuple[str, bytes]], str | None]:
        """Some rows by ascending key, those after one; and the key to go on from, or None at the end."""
        with self._lock:
            rows, last = self._now.page(table, after)
            then = self._then.get(table)
            if not then:
                return rows, last
            own = {
                key: body
                for key, body in then.items()
                if (after is None or key > after) and (last is None or key <= last)
            }
            merged = {**dict(rows), **own}
        return sorted((key, body) for key, body in merged.items() if body is not None), last

    def labelled(self, table: str, label: str) -> list[str]:
        """The keys of the rows of a table that were put with this label."""
        with self._lock:
            then = self._labels.get(table, {})
            now = [key for key in self._now.labelled(table, label) if key not in then]
            return sorted([*now, *(key for key, former in then.items() if former == label)])

    def table_after(self, name: str) -> str | None:
        """The next table that has, or had, a row."""
        with self._lock:
            known = [one for one in self._then if one > name]
            now = self._now.table_after(name)
            return min([*known, *([] if now is None else [now])], default=None)
