"""The tables that a projection fills: one interface, in memory or in the log's database.

Invariants:
- Both implementations give the same answers, in the same order (keys by code point), for the same
  calls; verification relies on it when it compares a replay in memory with the database.
- A row is canonical JSON. What is read is a copy: changing it changes nothing.
- Readers cannot write: only the projection function is handed ``Tables``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from guardrails import canonical
from guardrails.decision_log.database import Prepared, expect, projection
from guardrails.errors import LogVerificationError, RecordError

ERASED_TABLE = "erased"
"""The projection's table of erased commitments: ``sha256`` → the record that erased them."""

ANSWERS_TABLE = "answers"
"""The projection's table of what people handed in: SHA-256 of a statement → its record (``ledger.rows.AnswersRow``)."""

# Built once: building a statement costs more than running it.
_ROW = (projection.c.table == bindparam("name"), projection.c.key == bindparam("at"))
_GET = Prepared(select(projection.c.body).where(*_ROW))
_UPDATE = Prepared(update(projection).where(*_ROW).values(body=bindparam("new")))
_DELETE = Prepared(delete(projection).where(*_ROW))
_INSERT = Prepared(insert(projection))
_NAMES = Prepared(select(projection.c.table).distinct())
_BODIES = Prepared(
    select(projection.c.key, projection.c.body)
    .where(projection.c.table == bindparam("name"))
    .order_by(projection.c.key)
)


class Reader(Protocol):
    """Tables that can be looked at."""

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """One row, or None where there is none."""

    def scan(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row of a table by ascending key, as it was when the scan began."""

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row, as they are kept and not looked at; for whoever remembers what they mean."""

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key, as it was when the scan began."""


class Tables(Reader, Protocol):
    """Tables that a projection may change."""

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row. Tables that have ``labelled`` find it by its label; for others that is nothing."""

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""


class MemoryTables:
    """Tables in dictionaries: for replaying a log without touching its database."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bytes]] = {}

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        return tuple(sorted(name for name, rows in self._tables.items() if rows))

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """One row, or None where there is none."""
        body = self.body(table, key)
        return None if body is None else decoded(body)

    def scan(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row of a table by ascending key, as it was when the scan began."""
        return iter([(key, decoded(body)) for key, body in self.bodies(table)])

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        return self._tables.get(table, {}).get(key)

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key."""
        return iter(sorted(self._tables.get(table, {}).items()))

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row."""
        self.put_body(table, key, canonical.encode(value))

    def put_body(self, table: str, key: str, body: bytes) -> None:
        """Insert or replace one row, given as its canonical bytes."""
        if not is_storable(table, key):
            raise RecordError(f"a row cannot be called {table!r:.80} {key!r:.80}")
        self._tables.setdefault(table, {})[key] = body

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""
        self._tables.get(table, {}).pop(key, None)

    def copy(self) -> MemoryTables:
        """The same rows, which what is done to these later does not change."""
        twin = MemoryTables()
        twin._tables = {name: dict(rows) for name, rows in self._tables.items()}
        return twin


class SqlReader:
    """The projection in the log's database, as one transaction sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def names(self) -> tuple[str, ...]:
        """Every table that has a row, sorted."""
        return tuple(sorted(expect(str, row[0]) for row in _NAMES(self._connection)))

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """One row, or None where there is none."""
        body = self.body(table, key)
        return None if body is None else _stored(table, key, body)

    def scan(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row of a table by ascending key, as it was when the scan began."""
        return iter([(key, _stored(table, key, body)) for key, body in self.bodies(table)])

    def body(self, table: str, key: str) -> bytes | None:
        """The bytes of one row."""
        if not is_storable(table, key):
            return None
        row = _GET(self._connection, name=table, at=key).fetchone()
        return None if row is None else expect(bytes, row[0])

    def bodies(self, table: str) -> Iterator[tuple[str, bytes]]:
        """The bytes of every row of a table by ascending key."""
        rows = _BODIES(self._connection, name=table).fetchall()
        return iter([(expect(str, key), expect(bytes, body)) for key, body in rows])


class SqlTables(SqlReader):
    """The same, for the projection function while a record is appended."""

    def put(self, table: str, key: str, value: dict[str, Any], label: str = "") -> None:
        """Insert or replace one row."""
        self.put_body(table, key, canonical.encode(value))

    def put_body(self, table: str, key: str, body: bytes) -> None:
        """Insert or replace one row, given as its canonical bytes."""
        if not is_storable(table, key):
            raise RecordError(f"a row cannot be called {table!r:.80} {key!r:.80}")
        # The writer holds the log's lock, so nothing can come between these two statements.
        if not _UPDATE(self._connection, name=table, at=key, new=body).rowcount:
            _INSERT(self._connection, table=table, key=key, body=body)

    def delete(self, table: str, key: str) -> None:
        """Remove one row, if it is there."""
        if is_storable(table, key):
            _DELETE(self._connection, name=table, at=key)


def is_storable(table: str, key: str) -> bool:
    """Whether databases have a text for these: no NUL, and no bytes of a command line that are no UTF-8."""
    text = table + key
    return "\0" not in text and (text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text))


def _stored(table: str, key: str, body: bytes) -> dict[str, Any]:
    try:
        return decoded(body)
    except RecordError as error:
        raise LogVerificationError(
            f"projection {table}/{key} is damaged: {error.message}",
            hint="interlock log verify names what differs; interlock log rebuild makes it anew",
        ) from None


def decoded(body: bytes) -> dict[str, Any]:
    """The object that the bytes of a row mean; raises RecordError if they are no row."""
    value = canonical.parse(body)
    if not isinstance(value, dict):
        raise RecordError("a row is not an object")
    return value
