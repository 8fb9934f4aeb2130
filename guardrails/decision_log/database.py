"""The database under the log: its SQL schema, its engine, its transactions and their errors.

Invariants:
- A write transaction holds the log alone from its first statement on (SQLite ``BEGIN IMMEDIATE``, PostgreSQL
  an advisory lock), so positions have no gaps and no reader ever waits.
- A committed transaction is on disk; see ``sqlite`` and ``postgresql`` for how.
- A read transaction sees one state throughout, and cannot write.
- Records, tree nodes and checkpoints are refused every UPDATE and DELETE. That stops accidents; an
  attacker who can write the file is found by verification, not stopped here.
- No error of the driver leaves this module raw: see ``guarded``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, LargeBinary, MetaData, String, Table

from guardrails.decision_log import postgresql, sqlite
from guardrails.errors import LogVerificationError, StorageError, UsageError

SCHEMA_VERSION = "1"

metadata = MetaData()


class _Text(String):
    """Text and nothing else: a SQLite column holds whatever somebody has put into it."""

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        return partial(expect, str)


class _Bytes(LargeBinary):
    """Bytes and nothing else."""

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        return partial(expect, bytes)


def expect(kind: type, value: Any) -> Any:
    """The value, if the database holds the kind of value that belongs there; raises LogVerificationError."""
    if not isinstance(value, kind):
        raise LogVerificationError(
            f"the database holds {type(value).__name__} where {kind.__name__} belongs",
            hint="somebody has altered it; run interlock log verify",
        )
    return value


# Keys sort by code point in every database; PostgreSQL would otherwise follow the locale.
_text = _Text().with_variant(_Text(collation="C"), "postgresql")
# SQLite makes exactly "INTEGER PRIMARY KEY" the row id; it holds 64 bits all the same.
_position = BigInteger().with_variant(Integer(), "sqlite")

entries = Table(
    "entries",
    metadata,
    Column("seq", _position, primary_key=True, autoincrement=False),
    Column("leaf", _text, nullable=False, unique=True),
    Column("envelope", _Bytes, nullable=False),
    Column("time", _text, nullable=False),
)
nodes = Table(
    "nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", _Bytes, nullable=False),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", _position, primary_key=True, autoincrement=False),
    Column("note", _text, nullable=False),
)
openings = Table(
    "openings",
    metadata,
    Column("sha256", _text, primary_key=True),
    Column("salt", _text, nullable=False),
    Column("text", _text, nullable=False),
)
projection = Table(
    "projection",
    metadata,
    Column("table", _text, primary_key=True),
    Column("key", _text, primary_key=True),
    Column("body", _Bytes, nullable=False),
)
meta = Table("meta", metadata, Column("key", _text, primary_key=True), Column("value", _text, nullable=False))

for _table in (entries, nodes, checkpoints):
    for _verb in ("UPDATE", "DELETE"):
        _trigger = sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER {_table.name}_refuse_{_verb.lower()} BEFORE {_verb} ON {_table.name} "
            f"BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END"
        )
        sa.event.listen(_table, "after_create", _trigger.execute_if(dialect="sqlite"))

for _statement, _after in postgresql.append_only(entries, nodes, checkpoints):
    sa.event.listen(_after, "after_create", _statement.execute_if(dialect="postgresql"))


def connect(url: str, *, writable: bool, create: bool = False) -> Engine:
    """An engine for a database URL. ``create`` makes a SQLite file that is not there yet.

    Raises:
        UsageError: not a URL of SQLite or PostgreSQL.
        StorageError: the file is missing, or cannot be made.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the text itself may hold a password
        raise UsageError("the database URL cannot be read", hint="like sqlite:////path/to/log.db") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return sqlite.open_engine(parsed, writable=writable, create=create)
    if backend == "postgresql":
        return postgresql.open_engine(parsed)
    raise UsageError(f"database '{backend}' is not supported", hint="sqlite:// or postgresql+psycopg://")


class Prepared:
    """A statement that is made into SQL once for each kind of database, and then handed to the driver as it is.

    What every append and every record read needs goes this way: result objects cost more than SQLite takes to answer.
    Types of what comes back are not looked at: see ``expect``. Errors are the driver's; ``guarded`` knows them.
    """

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def __call__(self, connection: Connection, **values: Any) -> Any:
        """The driver's cursor, after the statement has run with these values."""
        sql, order = self._sql(connection)
        return _driver(connection).execute(sql, values if order is None else [values[name] for name in order])

    def each(self, connection: Connection) -> Iterator[tuple[Any, ...]]:
        """The rows that it finds, of which some hundred are in memory."""
        cursor = _streaming(connection)
        try:
            yield from cursor.execute(self._sql(connection)[0])
        finally:
            cursor.close()

    def many(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run it for each of these."""
        sql, order = self._sql(connection)
        _driver(connection).cursor().executemany(
            sql, list(rows) if order is None else [[row[name] for name in order] for row in rows]
        )

    def _sql(self, connection: Connection) -> tuple[str, tuple[str, ...] | None]:
        name = connection.dialect.name
        if name not in self._compiled:
            made = self._statement.compile(dialect=connection.dialect)
            order = tuple(made.positiontup or ()) if made.positional else None  # type: ignore[attr-defined]
            self._compiled[name] = str(made), order
        return self._compiled[name]


class Savepoint:
    """A place to go back to within a transaction, without undoing what came before it."""

    def __init__(self, connection: Connection) -> None:
        self._raw = _driver(connection)
        self._raw.execute("SAVEPOINT interlock")

    def release(self) -> None:
        """Keep what was done since."""
        self._raw.execute("RELEASE SAVEPOINT interlock")

    def rollback(self) -> None:
        """Undo what was done since."""
        self._raw.execute("ROLLBACK TO SAVEPOINT interlock")
        self.release()


def _driver(connection: Connection) -> Any:
    """The connection of ``sqlite3`` or ``psycopg``, which both run statements by themselves."""
    return connection.connection.driver_connection


def _streaming(connection: Connection) -> Any:
    """A cursor that does not fetch all of its rows at once."""
    raw = _driver(connection)
    return raw.cursor() if connection.dialect.name == "sqlite" else raw.cursor(name="interlock_rows")


State = sqlite.State | postgresql.State
"""How a database is, as far as it and the file system tell: the same again, and nobody else has written in between."""


def state(connection: Connection) -> State | None:
    """How the database is now; None where that says nothing. To be asked before what it is to say something of."""
    raw = _driver(connection)
    if connection.dialect.name == "sqlite":
        return sqlite.state(raw, place(connection.engine))
    return postgresql.state(raw, projection.name)


def own_commit(
    connection: Connection, before: State, records: range, rows: int
) -> Callable[[], State | None]:
    """To be asked after a commit, and made just before it: how the database is then, if nobody else has written.

    ``before``: how it was before the transaction wrote anything; ``records``: those it appended; ``rows``: how many
    changes it made to rows of the projection.
    """
    if isinstance(before, sqlite.State):
        return sqlite.own_commit(place(connection.engine), before)
    found = postgresql.own_commit(_driver(connection), before, records, rows)
    return lambda: found


def read_anew(connection: Connection) -> None:
    """Read pages from the file again, also those that SQLite holds and takes for unchanged."""
    if connection.dialect.name == "sqlite":
        _driver(connection).execute("PRAGMA shrink_memory")


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Connection]:
    """One transaction: committed at the end of the block, rolled back on any exception."""
    with guarded(engine), engine.connect() as connection:
        options: dict[str, Any] = {sqlite.WRITER: write}
        if engine.dialect.name == "postgresql":
            options |= postgresql.options(write=write)
        with connection.execution_options(**options).begin():
            if write and engine.dialect.name == "postgresql":
                postgresql.lock(connection)
            yield connection
            if write and engine.dialect.name == "sqlite":
                sqlite.require_in_place(_driver(connection), place(engine))


@contextmanager
def guarded(engine: Engine) -> Iterator[None]:
    """Raise what went wrong in the database as an InterlockError that says what to do."""
    explain = sqlite.explain if engine.dialect.name == "sqlite" else postgresql.explainer(engine.url)
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise explain(place(engine), error.orig) from error
    except engine.dialect.loaded_dbapi.Error as error:  # of what went to the driver as it is
        raise explain(place(engine), error) from error
    except sa.exc.TimeoutError as error:
        raise StorageError(f"{place(engine)}: too many connections at once") from error


def place(engine: Engine) -> str:
    """Where a log is, for messages: a path, or a URL without password and without options."""
    return engine.url.database or "" if engine.dialect.name == "sqlite" else postgresql.place(engine.url)
