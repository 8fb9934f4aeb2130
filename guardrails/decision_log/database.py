"""The database under the log: its SQL schema, its engine, its transactions and their errors.

Invariants:
- A write transaction holds the log alone from its first statement on (SQLite ``BEGIN IMMEDIATE``; elsewhere
  a row lock, see ``lock``), so positions have no gaps and no reader ever waits.
- A committed transaction is on disk: SQLite runs in WAL with ``synchronous=FULL``.
- A read transaction sees one state throughout, and cannot write.
- Records, tree nodes and checkpoints are refused every UPDATE and DELETE. That stops accidents; an
  attacker who can write the file is found by verification, not stopped here.
- No error of the driver leaves this module raw: see ``guarded``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.pool import QueuePool

from guardrails.errors import InterlockError, LogVerificationError, StorageError, UsageError

SCHEMA_VERSION = "1"
BUSY_TIMEOUT_S = 30

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

_WRITER = "interlock_writer"


def connect(url: str, *, writable: bool, create: bool = False) -> Engine:
    """An engine for a database URL. ``create`` makes a SQLite file that is not there yet.

    Raises:
        UsageError: not a URL of SQLite or PostgreSQL.
        StorageError: the file is missing, or cannot be made.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise UsageError("the database URL cannot be read", hint="like sqlite:////path/to/log.db") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed, writable=writable, create=create)
    if backend != "postgresql":
        raise UsageError(f"database '{backend}' is not supported", hint="sqlite:// or postgresql+psycopg://")
    try:
        return sa.create_engine(parsed, pool_pre_ping=True)
    except ImportError as error:
        raise StorageError(
            f"the driver for PostgreSQL is missing: {error}", hint="install psycopg, version 3"
        ) from None


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Connection]:
    """One transaction: committed at the end of the block, rolled back on any exception."""
    with guarded(engine), engine.connect() as connection:
        options: dict[str, Any] = {_WRITER: write}
        if engine.dialect.name == "postgresql" and not write:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with connection.execution_options(**options).begin():
            yield connection


def lock(connection: Connection) -> None:
    """Wait for every other writer. SQLite has done so at BEGIN and drops the ``FOR UPDATE``."""
    connection.execute(sa.select(meta.c.value).where(meta.c.key == "origin").with_for_update())


@contextmanager
def guarded(engine: Engine) -> Iterator[None]:
    """Raise what went wrong in the database as an InterlockError that says what to do."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _explain(_where(engine), error.orig) from error
    except sa.exc.TimeoutError as error:
        raise StorageError(f"{_where(engine)}: too many connections at once") from error


def _sqlite(url: sa.URL, *, writable: bool, create: bool) -> Engine:
    if url.query or url.host or not url.database or url.database == ":memory:":
        raise UsageError("the decision log needs a file of its own", hint="like sqlite:////path/to/log.db")
    path = Path(url.database).absolute()
    if create:
        _make_private(path)
    elif not path.is_file():
        raise StorageError(f"{path}: there is no decision log here", hint="interlock init makes a workspace")

    def open_file() -> sqlite3.Connection:
        uri = f"file:{quote(str(path))}?{'mode=rw' if writable else _read_only(path)}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        connection.isolation_level = None  # this module says BEGIN, not the driver
        return connection

    engine = sa.create_engine(f"sqlite:///{path}", creator=open_file, poolclass=QueuePool)
    sa.event.listen(engine, "connect", _configure_writer if writable else _configure_reader)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _read_only(path: Path) -> str:
    """How to open a file without changing it.

    ``immutable`` takes no locks and needs no side files: right for a copy on read-only media, wrong while
    somebody writes, and whoever writes keeps a ``-wal`` file beside the database.
    """
    wal = path.with_name(path.name + "-wal")
    if wal.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return "mode=ro"
    return "mode=ro&immutable=1"


def _make_private(path: Path) -> None:
    """Create the file for its owner only: openings in it are personal data."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(f"{path}: cannot make the decision log: {error.strerror}") from None


def _configure_writer(connection: Any, _record: object) -> None:
    mode = _ask(connection, "PRAGMA journal_mode=WAL")
    if mode != "wal":
        raise sqlite3.OperationalError(f"this file system has no write-ahead log for SQLite (mode {mode})")
    connection.execute("PRAGMA synchronous=FULL")


def _configure_reader(connection: Any, _record: object) -> None:
    _ask(connection, "SELECT count(*) FROM sqlite_master")
    connection.execute("PRAGMA query_only=ON")


def _ask(connection: Any, statement: str) -> Any:
    """The answer to the first statement of a connection, which makes SQLite read the schema."""
    try:
        return connection.execute(statement).fetchone()[0]
    except UnicodeDecodeError as error:  # from the driver, where a damaged schema is not even text
        damaged = sqlite3.DatabaseError(f"the schema cannot be read: {error}")
        damaged.sqlite_errorname = "SQLITE_CORRUPT"
        raise damaged from None


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(_WRITER)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _where(engine: Engine) -> str:
    return engine.url.database or "" if engine.dialect.name == "sqlite" else engine.url.render_as_string()


def _explain(where: str, error: BaseException | None) -> InterlockError:
    """The error of the driver in words; never the statement, whose values may be personal data."""
    code: str = getattr(error, "sqlite_errorname", "") or ""
    for prefix, (what, hint) in _CAUSES.items():
        if code.startswith(prefix):
            return StorageError(f"{where}: {what}", hint=hint)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(where, error)
    return StorageError(f"{where}: {str(error).strip()}")


def _damaged(where: str, error: BaseException | None) -> LogVerificationError:
    return LogVerificationError(
        f"{where} is damaged: {error}", hint="restore it from a backup; do not write to it"
    )


_CAUSES = {
    "SQLITE_BUSY": (
        f"another process has kept the log locked for {BUSY_TIMEOUT_S} s; nothing was written",
        "try again; if it stays so, look for a process that hangs",
    ),
    "SQLITE_READONLY": ("the file, or its folder, is read-only; nothing was written", "check permissions"),
    "SQLITE_FULL": ("the disk is full; nothing was written", "make room and try again"),
    "SQLITE_CANTOPEN": (
        "the log, or its -wal and -shm files, cannot be opened",
        "check permissions; read-only media: copy the files into a folder that you may write",
    ),
    "SQLITE_IOERR": ("reading or writing failed on the disk; nothing was acknowledged", "check the disk"),
}
