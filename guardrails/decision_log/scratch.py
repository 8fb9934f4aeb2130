"""Where verification keeps what grows with the log: a database file of its own, so that memory does not.

Invariants:
- The file has no name, belongs to this process alone, and is gone with it; nothing in it comes from the log's
  own tables but through ``verify``.
- Memory is bounded: some megabytes of pages, and as many rows as ``ReplayTables`` holds.
- A row is the same whether it was kept in memory or written out: only how it is held differs.
- It has no journal: what a statement that failed has left there nobody knows, so nothing is asked of it any more.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.decision_log.tables import decoded, is_storable
from guardrails.errors import RecordError, StorageError

CACHE_KIB = 8_192
HELD_ROWS = 8_192
"""So many rows are held as what they mean, and as many that were used just before them."""

_GONE = object()
_FIRST_PAGE = 'SELECT key, body FROM rows WHERE "table" = ? ORDER BY key LIMIT 256'
_NEXT_PAGE = 'SELECT key, body FROM rows WHERE "table" = ? AND key > ? ORDER BY key LIMIT 256'

_SCHEMA = """
CREATE TABLE leaves (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL UNIQUE);
CREATE TABLE texts (sha256 TEXT PRIMARY KEY, seq INTEGER NOT NULL, kept INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE digests (digest TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rows ("table" TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY ("table", key)) WITHOUT ROWID;
CREATE TABLE labels ("table" TEXT, key TEXT, label TEXT NOT NULL, PRIMARY KEY ("table", key)) WITHOUT ROWID;
CREATE INDEX labelled ON labels ("table", label, key);
"""


class Scratch:
    """The file, with so many KiB of it in memory. Statements go to ``ask``, which puts its errors in words."""

    def __init__(self, cache_kib: int = CACHE_KIB) -> None:
        # No name: on disk, for this connection alone; which any thread may use while no other one does.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{cache_kib}"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.executescript(_SCHEMA)
        self._file.execute("BEGIN")
        self._flaw: sqlite3.Error | None = None

    def ask(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Run one statement."""
        return self._run(self._file.execute, statement, values)

    def tell(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Run one statement for each of these; how many rows that changed."""
        return self._run(self._file.executemany, statement, rows).rowcount

    def _run(self, how: Callable[[str, Any], sqlite3.Cursor], statement: str, values: Any) -> sqlite3.Cursor:
        if self._flaw is None:
            try:
                return how(statement, values)
            except sqlite3.Error as error:
                self._flaw = error
        raise StorageError(
            f"verification has no room for its own notes: {self._flaw}",
            hint="make room in the folder for temporary files, or name another one in SQLITE_TMPDIR",
        ) from self._flaw

    @property
    def failed(self) -> bool:
        """Whether a statement failed, after which nothing is answered any more."""
        return self._flaw is not None

    def close(self) -> None:
        """Give the room back."""
        self._file.close()


class Leaves:
    """The leaf of every record so far: what later ones may refer to, and must not repeat."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._newest: dict[int, bytes] = {}

    def add(self, rows: Sequence[tuple[int, bytes]]) -> dict[int, int]:
        """Keep the leaves of the next records; returns which were there before: the position, and the former one."""
        if self._scratch.tell("INSERT OR IGNORE INTO leaves VALUES (?, ?)", rows) == len(rows):
            self._newest = dict(rows)
            return {}
        self._newest = {}
        found = (
            (seq, self._scratch.ask("SELECT seq FROM leaves WHERE leaf = ?", leaf).fetchone()[0])
            for seq, leaf in rows
        )
        return {seq: first for seq, first in found if first != seq}

    def at(self, seq: int) -> bytes | None:
        """The leaf of a record; None where there is none yet."""
        if seq in self._newest:
            return self._newest[seq]
        row = self._scratch.ask("SELECT leaf FROM leaves WHERE seq = ?", seq).fetchone()
        return None if row is None else row[0]


class Labels:
    """Rows by a word that whoever writes them gives them, so that those with a rare one are found without all others."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def of(self, table: str, key: str) -> str:
        """The label of a row; empty where it has none."""
        row = self._scratch.ask(
            'SELECT label FROM labels WHERE "table" = ? AND key = ?', table, key
        ).fetchone()
        return "" if row is None else row[0]

    def give(self, table: str, key: str, label: str) -> None:
        """Label a row; with an empty label it has none."""
        if label:
            self._scratch.ask("INSERT OR REPLACE INTO labels VALUES (?, ?, ?)", table, key, label)
        else:
            self._scratch.ask('DELETE FROM labels WHERE "table" = ? AND key = ?', table, key)

    def keys(self, table: str, label: str) -> list[str]:
        """The rows of a table with this label."""
        asked = self._scratch.ask('SELECT key FROM labels WHERE "table" = ? AND label = ?', table, label)
        return [key for (key,) in asked]


class ReplayTables:
    """Tables for a replay: rows in use are held as records, the others written out as bytes.

    What is read of a table is as it was when the reading began, as with every other kind of tables: while somebody
    reads what was written out, nothing more is.
    """

    def __init__(self, scratch: Scratch, held: int = HELD_ROWS) -> None:
        self._scratch = scratch
        self._labels = Labels(scratch)
        self._limit = held
        self._new: dict[str, dict[str, Any]] = {}
        self._old: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._reading = 0
        self._written: set[str] = set()

    # --- rows as records: what the ledger uses -------------------------------------------

    def held(self, table: str, key: str) -> Any:
        """One row as it is held: a record, or its bytes; None where there is none."""
        rows = self._new.get(table)
        value = None if rows is None else rows.get(key)
        if value is None:
            value = self._older(table, key)
        return None if value is _GONE else value

    def all_held(self, table: str) -> Iterator[tuple[str, Any]]:
        """Every row of a table by ascending key, as ``held`` gives them."""
        rows = {**self._old.get(table, {}), **self._new.get(table, {})}
        if table not in self._written:
            return iter(sorted((item for item in rows.items() if item[1] is not _GONE), key=_key))
        merged = self._merged(table, sorted(rows.items(), key=_key))
        # Begun at once: what is read is the table as it is now, whenever the reader comes to look.
        return itertools.chain([*itertools.islice(merged, 1)], merged)

    def hold(self, table: str, key: str, row: Any) -> None:
        """Insert or replace one row by a record; where it has a ``label``, it is found by that."""
        if key not in self._new.get(table, ()) and not is_storable(table, key):
            raise RecordError(f"a row cannot be called {table!r:.80} {key!r:.80}")
        label = getattr(row, "label", None)
        if label is not None:
            former = self.held(table, key)
            if former is None or getattr(former, "label", None) != label:
                self._labels.give(table, key, label)
        self._put(table, key, row)

    def labelled(self, table: str, label: str) -> list[str]:
        """The keys of the rows of a table that were held with this label."""
        return self._labels.keys(table, label)

    # --- rows as everybody else sees them ------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        known = {*self._written, *self._new, *self._old}
        return tuple(sorted(name for name in known if next(self.all_held(name), None) is not None))

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """One row, or None where there is none."""
        body = self.body(table, key)
        return None if body is None else decoded(body)

    def scan(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row of a table by ascending key, as it was when the scan began."""
        return ((key, decoded(body)) for key, body in self.bodies(table))

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        value = self.held(table, key)
        return None if value is None else _encoded(value)

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key, as it was when the scan began."""
        rows = self.all_held(table)
        return ((key, _encoded(value)) for key, value in rows)

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row."""
        self.hold(table, key, canonical.encode(value))
        self._labels.give(table, key, label)

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""
        self._put(table, key, _GONE)
        self._labels.give(table, key, "")

    # --- inside ----------------------------------------------------------------------------

    def _put(self, table: str, key: str, value: Any) -> None:
        rows = self._new.setdefault(table, {})
        if key not in rows:
            if self._count >= self._limit and not self._reading:
                self._turn()
                rows = self._new.setdefault(table, {})
            self._count += 1
        rows[key] = value

    def _older(self, table: str, key: str) -> Any:
        value = self._old.get(table, {}).get(key)
        if value is None and table in self._written and is_storable(table, key):
            found = self._scratch.ask(
                'SELECT body FROM rows WHERE "table" = ? AND key = ?', table, key
            ).fetchone()
            value = None if found is None else found[0]
        if value is not None:
            self._put(table, key, value)
        return value

    def _turn(self) -> None:
        """Write out what has not been used for longest."""
        gone, kept = [], []
        for table, rows in self._old.items():
            self._written.add(table)
            for key, value in rows.items():
                if value is _GONE:
                    gone.append((table, key))
                elif key not in self._new.get(table, {}):
                    kept.append((table, key, _encoded(value)))
        self._scratch.tell('DELETE FROM rows WHERE "table" = ? AND key = ?', gone)
        self._scratch.tell("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", kept)
        self._old, self._new, self._count = self._new, {}, 0

    def _merged(self, table: str, held: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Rows that were written out and rows that are held, of which the latter are newer."""
        self._reading += 1
        try:
            newer = dict(held)
            written = (item for item in self._pages(table) if item[0] not in newer)
            for item in heapq.merge(written, held, key=_key):
                if item[1] is not _GONE:
                    yield item
        finally:
            self._reading -= 1

    def _pages(self, table: str) -> Iterator[tuple[str, bytes]]:
        page = self._scratch.ask(_FIRST_PAGE, table).fetchall()
        while page:
            yield from page
            page = self._scratch.ask(_NEXT_PAGE, table, page[-1][0]).fetchall()


def _key(item: tuple[str, Any]) -> str:
    return item[0]


def _encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else canonical.encode(encode_record(value, lean=True))
