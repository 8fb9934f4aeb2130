"""The tables as the records make them, kept in memory: what a writer goes by, whatever the database's tables say.

Invariants:
- Nothing is taken from the database's projection. State is made of the records alone, by the projection function,
  which checks signatures and rules; the records are those that the log's key has signed.
- Only new records are replayed. That the ones below are still the same follows from the tree: its frontier, kept here,
  and the leaves of the new records must give the very root that the newest checkpoint signs.
- What this process has once seen signed is never taken back: a log that is shorter now, or another one, is refused.
- What was not committed leaves no trace here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from guardrails.decision_log import merkle
from guardrails.decision_log.database import Prepared, expect, projection
from guardrails.decision_log.tables import MemoryTables, SqlTables, Tables
from guardrails.errors import InterlockError, LogVerificationError, StorageError

if TYPE_CHECKING:
    from guardrails.decision_log.snapshot import Entry, Snapshot

PATIENCE_S = 30
"""How long one thread waits for another one of the same process."""

_ROWS = Prepared(select(projection.c.table, projection.c.key, projection.c.body))
_REBUILD = "`interlock log rebuild` makes the tables anew; find out who changed them"


class _Undoable(MemoryTables):
    """Tables in memory that remember what was there before, while somebody asks them to."""

    def __init__(self) -> None:
        super().__init__()
        self.former: list[tuple[str, str, bytes | None]] | None = None

    def put_body(self, table: str, key: str, body: bytes) -> None:
        """Insert or replace one row."""
        if self.former is not None:
            self.former.append((table, key, self.body(table, key)))
        super().put_body(table, key, body)

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""
        if self.former is not None:
            self.former.append((table, key, self.body(table, key)))
        super().delete(table, key)

    def undo(self, mark: int) -> None:
        """Put back what was there when so many changes had been made."""
        while self.former is not None and len(self.former) > mark:
            table, key, body = self.former.pop()
            if body is None:
                self._tables.get(table, {}).pop(key, None)
            else:
                self._tables[table][key] = body


class Proven:
    """State as the signed records make it, up to one position. One to a ``Log``; its lock is held while it moves."""

    def __init__(self, project: Callable[[Tables, Entry], None]) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._signed = (0, merkle.EMPTY_ROOT)
        self._start: merkle.Frontier | None = None
        self._forget()

    def _forget(self) -> None:
        self.tables, self.tree = _Undoable(), merkle.Frontier()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads out; raises StorageError if one of them does not come to an end."""
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise StorageError(
                f"another thread has kept the log for {PATIENCE_S} s; nothing was written", hint="try again"
            )
        try:
            yield
        finally:
            self._lock.release()

    def catch_up(self, snapshot: Snapshot) -> None:
        """Replay the records that came since; what comes of it counts once ``require_root`` has been asked.

        Raises:
            LogVerificationError: a record is missing, is not what its leaf says, or breaks the rules.
        """
        size, root = self._signed
        if snapshot.size < size:
            raise LogVerificationError(
                f"the log has {snapshot.size} records, this process has seen {size} of them signed",
                hint="nothing was written; somebody cut it off, or put a former copy in its place",
            )
        try:
            for entry in snapshot.entries(self.tree.size):
                self._replay(entry)
                self._require_seen(size, root)
        except BaseException:
            self._forget()
            raise

    def _require_seen(self, size: int, root: bytes) -> None:
        if self.tree.size == size and self.tree.root() != root:
            raise LogVerificationError(
                f"the first {size} records are not those that this process has seen signed",
                hint="nothing was written; run interlock log verify and compare with a backup",
            )

    def _replay(self, entry: Entry) -> None:
        try:
            self._project(self.tables, entry)
        except InterlockError as error:
            raise LogVerificationError(f"it cannot be replayed: {error}", index=entry.seq) from error
        self.tree.append(bytes.fromhex(entry.leaf))

    def require_root(self, root: str) -> None:
        """Refuse records whose tree is not the one with this root, which the newest checkpoint signs."""
        if self.tree.root().hex() != root:
            self._forget()
            raise LogVerificationError(
                "the records are not those that the newest checkpoint signs",
                hint="nothing was written; run interlock log verify and compare with a backup",
            )
        self._signed = (self.tree.size, self.tree.root())

    def require_same(self, connection: Connection) -> None:
        """Refuse a database whose tables say anything else than the records, be it in one byte."""
        found = 0
        for table, key, body in _ROWS(connection):
            expect(str, table), expect(str, key)
            expected = self.tables.body(table, key)
            if body != expected:
                raise _differs(table, key, "is not in the log" if expected is None else "differs")
            found += 1
        if found == sum(1 for _ in self._rows()):
            return
        # Bodies were equal wherever there was one, so what is left is missing.
        there = {(table, key) for table, key, _ in _ROWS(connection)}
        table, key = min((table, key) for table, key, _ in self._rows() if (table, key) not in there)
        raise _differs(table, key, "is missing")

    def write_to(self, connection: Connection) -> None:
        """Make the database's tables anew."""
        connection.execute(delete(projection))
        rows = [{"table": table, "key": key, "body": body} for table, key, body in self._rows()]
        if rows:
            connection.execute(insert(projection), rows)

    def _rows(self) -> Iterator[tuple[str, str, bytes]]:
        for table in self.tables.names():
            for key, body in self.tables.bodies(table):
                yield table, key, body

    @contextmanager
    def kept_if_committed(self) -> Iterator[None]:
        """Around a transaction: what was done since ``begin`` is undone here unless the block ends well."""
        try:
            yield
        except BaseException:
            if self._start is not None:
                self.tables.undo(0)
                self.tree = self._start
            raise
        else:
            self._signed = (self.tree.size, self.tree.root())
        finally:
            self.tables.former = self._start = None

    def begin(self) -> None:
        """Remember what is here now, which is what has been committed."""
        self.tables.former, self._start = [], self.tree.copy()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a part of a transaction: undone by itself if the block fails."""
        mark, tree = len(self.tables.former or ()), self.tree.copy()
        try:
            yield
        except BaseException:
            self.tables.undo(mark)
            self.tree = tree
            raise


class MirroredTables(SqlTables):
    """The projection in the log's database and in memory: written to both, read from memory alone."""

    def __init__(self, connection: Connection, proven: Proven) -> None:
        super().__init__(connection)
        self._proven = proven

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        return self._proven.tables.names()

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        return self._proven.tables.body(table, key)

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key."""
        return self._proven.tables.bodies(table)

    def put_body(self, table: str, key: str, body: bytes) -> None:
        """Insert or replace one row, here and there."""
        self._proven.tables.put_body(table, key, body)
        super().put_body(table, key, body)

    def delete(self, table: str, key: str) -> None:
        """Remove one row, here and there."""
        self._proven.tables.delete(table, key)
        super().delete(table, key)


def _differs(table: str, key: str, what: str) -> LogVerificationError:
    return LogVerificationError(
        f"projection {table}/{key:.80} {what}: the table says something else than the signed records; "
        "nothing was written",
        hint=_REBUILD,
    )
