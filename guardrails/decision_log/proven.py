"""The tables as the records make them: what a writer goes by, whatever the database's tables say.

Invariants:
- Nothing is taken from the database's projection. State is made of the records alone, by the projection function,
  which checks signatures and rules; the records are those that the log's key has signed.
- Only new records are replayed. That the ones below are still the same follows from the tree: its frontier, kept here,
  and the leaves of the new records must give the very root that the newest checkpoint signs.
- What this process has once seen signed is never taken back: a log that is shorter now, or another one, is refused.
- What was not committed leaves no trace here; where it cannot be undone, nothing is known any more, and all is
  replayed by whoever comes next.
- The database's tables are compared with these before anything is written: all rows, unless it is shown that nobody
  else has written since they were found to be the same (``database.state``), and that no code but the log's own could
  run along with what was written here (``foreign_code``).
- Rows lie in a private file (``kept``), so memory does not grow with them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select

from guardrails import canonical
from guardrails.decision_log import database, foreign_code, merkle
from guardrails.decision_log.database import Prepared, expect, projection
from guardrails.decision_log.kept import KeptTables
from guardrails.decision_log.tables import SqlTables, Tables
from guardrails.errors import InterlockError, LogVerificationError, StorageError

if TYPE_CHECKING:
    from guardrails.decision_log.snapshot import Entry, Snapshot

PATIENCE_S = 30
"""How long one thread waits for another one of the same process."""

_WRITTEN_AT_ONCE = 500
_COMPARED = "interlock_compared"
_ROWS = Prepared(
    select(projection.c.table, projection.c.key, projection.c.body).order_by(
        projection.c.table, projection.c.key
    )
)
_REBUILD = "`interlock log rebuild` makes the tables anew; find out who changed them"


class _Compared(NamedTuple):
    """When a connection found the tables to be the same: as of which replay, and how the database was."""

    epoch: object
    state: database.State | None


class Proven:
    """State as the signed records make it, up to one position. One to a ``Log``; its lock is held while it moves."""

    def __init__(self, project: Callable[[Tables, Entry], None]) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._signed = (0, merkle.EMPTY_ROOT)
        self._start: merkle.Frontier | None
        self._forget()

    def _forget(self) -> None:
        self.tables, self.tree = KeptTables(), merkle.Frontier()
        self._epoch = object()
        self._start = None

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
        if self.tables.failed:
            self._forget()
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
        now = _Compared(self._epoch, database.state(connection))
        if now.state is None or connection.info.get(_COMPARED) != now:
            connection.info.pop(_COMPARED, None)
            self._compare(connection)
            if foreign_code.possible(connection):
                return  # which may yet change a row in this very transaction
        connection.info[_COMPARED] = now

    def _compare(self, connection: Connection) -> None:
        database.read_anew(connection)
        for stored, expected in itertools.zip_longest(_ROWS.each(connection), self.tables.all_bodies()):
            if stored != expected:
                raise _difference(stored, expected)

    def own_commit(self, connection: Connection, records: range, rows: int) -> Callable[[], None]:
        """To be called after a commit of what stands here, and made just before it: what was compared stays so.

        Unless somebody else wrote during the transaction: then all rows are compared again. ``records`` were appended,
        and ``rows`` changes made to rows.
        """
        info = connection.info
        compared: _Compared | None = info.pop(_COMPARED, None)
        if compared is None or compared.state is None:
            return lambda: None
        after = database.own_commit(connection, compared.state, records, rows)

        def note() -> None:
            info[_COMPARED] = compared._replace(state=after())

        return note

    def write_to(self, connection: Connection) -> None:
        """Make the database's tables anew."""
        connection.info.pop(_COMPARED, None)
        connection.execute(delete(projection))
        names = ("table", "key", "body")
        rows = (dict(zip(names, row, strict=True)) for row in self.tables.all_bodies())
        while some := list(itertools.islice(rows, _WRITTEN_AT_ONCE)):
            connection.execute(insert(projection), some)

    @contextmanager
    def kept_if_committed(self) -> Iterator[None]:
        """Around a transaction: what was done since ``begin`` is undone here unless the block ends well."""
        try:
            yield
        except BaseException:
            if self._start is not None:
                self._undo(0, self._start)
            raise
        else:
            self._signed = (self.tree.size, self.tree.root())
        finally:
            self.tables.forget()
            self._start = None

    def begin(self) -> None:
        """Remember what is here now, which is what has been committed."""
        self.tables.remember()
        self._start = self.tree.copy()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a part of a transaction: undone by itself if the block fails."""
        mark, tree = self.tables.mark(), self.tree.copy()
        try:
            yield
        except BaseException:
            self._undo(mark, tree)
            raise

    def _undo(self, mark: int, tree: merkle.Frontier) -> None:
        try:
            self.tables.undo(mark)
        except BaseException:
            self._forget()
            raise
        self.tree = tree


class MirroredTables(SqlTables):
    """The projection in the log's database and here: written to both, read from here alone."""

    def __init__(self, connection: Connection, proven: Proven) -> None:
        super().__init__(connection)
        self._proven = proven
        self.changed = 0
        """How many times a row was put or removed."""

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        return self._proven.tables.names()

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        return self._proven.tables.body(table, key)

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key."""
        return self._proven.tables.bodies(table)

    def labelled(self, table: str, label: str) -> list[str]:
        """The keys of the rows of a table that were put with this label."""
        return self._proven.tables.labelled(table, label)

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row, here and there."""
        body = canonical.encode(value)
        self._proven.tables.put_body(table, key, body, label)
        self.put_body(table, key, body)
        self.changed += 1

    def delete(self, table: str, key: str) -> None:
        """Remove one row, here and there."""
        self.changed += self._proven.tables.body(table, key) is not None
        self._proven.tables.delete(table, key)
        super().delete(table, key)


def _difference(
    stored: tuple[Any, Any, Any] | None, expected: tuple[str, str, bytes] | None
) -> LogVerificationError:
    """What is wrong where the rows of both, by table and key, are not the same for the first time."""
    if stored is None and expected is not None:
        return _differs(expected[0], expected[1], "is missing")
    table, key, _ = stored or ("", "", b"")
    place = expect(str, table), expect(str, key)
    if expected is None or place < expected[:2]:
        return _differs(*place, "is not in the log")
    if place > expected[:2]:
        return _differs(*expected[:2], "is missing")
    return _differs(*place, "differs")


def _differs(table: str, key: str, what: str) -> LogVerificationError:
    return LogVerificationError(
        f"projection {table}/{key:.80} {what}: the table says something else than the signed records; "
        "nothing was written",
        hint=_REBUILD,
    )
