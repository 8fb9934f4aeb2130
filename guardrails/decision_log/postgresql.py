"""The log in a PostgreSQL database: how it is reached, its one writer, and its errors in words.

Invariants:
- A write transaction takes an advisory lock before anything else and keeps it to its end: there is one writer,
  whatever the server's default isolation. Positions never come from a sequence, which would leave gaps.
- A committed transaction is on the server's disk: ``synchronous_commit`` is on for it, whatever the default.
- A server that does not answer is an error after a while, not a process that hangs.
- No message holds a password, wherever in the URL it stood, nor the values of a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table

from guardrails.errors import InterlockError, LogVerificationError, StorageError, UsageError

LOCK_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
_LOCK = int.from_bytes(b"intrlock", "big") >> 1  # advisory locks are numbered by signed 64-bit integers
_SILENCE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def open_engine(url: sa.URL) -> Engine:
    """An engine for a PostgreSQL URL. Nothing is connected yet.

    Raises:
        UsageError: another driver than psycopg is asked for.
        StorageError: the driver is not installed.
    """
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise UsageError(f"the driver of '{url.drivername}' is not supported", hint="postgresql+psycopg://")
    patience = {"connect_timeout": CONNECT_TIMEOUT_S, **_SILENCE}
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_use_lifo=True,
            connect_args={name: value for name, value in patience.items() if name not in url.query},
        )  # fmt: skip
    except ImportError as error:
        raise StorageError(
            f"the driver for PostgreSQL is missing: {error}", hint="pip install 'interlock[postgres]'"
        ) from None


def options(*, write: bool) -> dict[str, Any]:
    """Execution options of a transaction: a reader sees one state, a writer all that was committed before it."""
    if write:
        return {"isolation_level": "READ COMMITTED"}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def lock(connection: Connection) -> None:
    """Wait, in a transaction that has done nothing yet, until no other writer is at work."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_TIMEOUT_S * 1000)}ms'")
    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


@dataclass(frozen=True)
class State:
    """How a server is: the same again, and no transaction has come to its end in between, in any of its databases.

    Whoever changes a row, or what a table is, needs a transaction with a number; numbers are given in sequence.
    """

    ended: int
    """All transactions below this number have ended, but for those that are named as running."""
    running: str
    started: str
    """When the server was started."""
    table: int
    """Which table it is that the rows are in."""
    file: int
    """The file that they are in: another one when they were all written anew, or removed at once."""
    changes: int = field(compare=False)
    """Changes to its rows by this connection, counted from some moment before the transaction that asks."""


def state(raw: Any, table: str) -> State | None:
    """How the server is now; None where there is no such table.

    On a replica the list of what is running is not whole: see ``foreign_code``, which knows what else takes away the
    worth of this.

    What is read in a later statement, or in this one's snapshot, is what all transactions wrote that had ended.
    """
    row = raw.execute(_STATE, {"table": table}).fetchone()
    if row is None:
        return None
    _, ended, running = row[0].split(":")
    return State(int(ended), running, *row[1:])


def own_commit(raw: Any, before: State, records: range, rows: int) -> State | None:
    """How the server will be after the commit of this transaction, if no other one ends; asked just before it.

    ``before``: how it was before this transaction wrote anything: ``records``, and ``rows`` changes to the table. Its
    numbers, one and one for each savepoint, are then those that follow: if anybody else was given one of them, more
    have ended than this says. As they do if a savepoint was undone, of which nothing is left to be counted. None where
    the database itself has changed rows along.
    """
    asked = {"first": records.start, "end": records.stop, "table": before.table}
    numbers, changes = raw.execute(_OWN, asked).fetchone()
    if changes - before.changes != rows:
        return None
    return replace(before, ended=before.ended + numbers, changes=changes)


_OWN = """
    SELECT (SELECT pg_catalog.count(DISTINCT CAST(xmin AS text)) FROM entries WHERE seq >= %(first)s AND seq < %(end)s)
            + CASE WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN 0 ELSE 1 END,
        pg_catalog.pg_stat_get_xact_tuples_inserted(%(table)s)
            + pg_catalog.pg_stat_get_xact_tuples_updated(%(table)s)
            + pg_catalog.pg_stat_get_xact_tuples_deleted(%(table)s)
"""
_STATE = """
    SELECT CAST(pg_catalog.pg_current_snapshot() AS text), CAST(pg_catalog.pg_postmaster_start_time() AS text),
        CAST(oid AS bigint), CAST(relfilenode AS bigint),
        pg_catalog.pg_stat_get_xact_tuples_inserted(oid) + pg_catalog.pg_stat_get_xact_tuples_updated(oid)
            + pg_catalog.pg_stat_get_xact_tuples_deleted(oid)
    FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%(table)s)
"""


def describe(connection: Connection) -> tuple[str, list[str]]:
    """The version of the server and its settings, and which of them may lose what was acknowledged."""
    ask = connection.exec_driver_sql
    version, fsync, pages = (
        ask(f"SHOW {name}").scalar() for name in ("server_version", "fsync", "full_page_writes")
    )
    size = ask("SELECT pg_database_size(current_database())").scalar_one()
    told = f"PostgreSQL {version}, fsync {fsync}, full_page_writes {pages}, {size / 2**20:.1f} MiB"
    worries = []
    if fsync != "on":
        worries.append("fsync is off on the server: a crash of its machine loses what was acknowledged")
    if pages != "on":
        worries.append("full_page_writes is off on the server: a crash of its machine may damage the log")
    if ask("SELECT pg_is_in_recovery()").scalar():
        worries.append("the server is a replica: it can be read, not written")
    return told, worries


def append_only(*tables: Table) -> Iterator[tuple[sa.DDL, Table]]:
    """Triggers that refuse UPDATE, DELETE and TRUNCATE, each with the table after whose creation it is made."""
    yield (
        _ddl(
            "CREATE OR REPLACE FUNCTION interlock_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the decision log is append-only'; END $$"
        ),
        tables[0],
    )
    for table in tables:
        yield (
            _ddl(
                f"CREATE TRIGGER {table.name}_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION interlock_refuse()"
            ),
            table,
        )


def place(url: sa.URL) -> str:
    """Where the database is, without password and without options, which may hold one."""
    host = url.query.get("host", "")
    bare = url.set(password=None, query={"host": host} if host else {})
    return bare.render_as_string().replace("%2F", "/")


def explainer(url: sa.URL) -> Callable[[str, BaseException | None], InterlockError]:
    """How to put an error of this database in words; texts of the driver are freed of its password."""
    secrets = {text for text in (url.password, url.query.get("password")) if isinstance(text, str) and text}

    def explain(where: str, error: BaseException | None) -> InterlockError:
        code: str = getattr(error, "sqlstate", None) or ""
        primary = getattr(getattr(error, "diag", None), "message_primary", None)
        text = " ".join(str(primary or error).split())[:300]
        for secret in secrets:
            text = text.replace(secret, "***")
        for prefixes, what, hint in _CAUSES:
            if code.startswith(prefixes):
                return StorageError(f"{where}: {what} ({text})", hint=hint)
        if code.startswith("XX"):
            return LogVerificationError(
                f"{where} is damaged: {text}", hint="restore it from a backup; do not write to it"
            )
        if not code and text.startswith("connection "):
            return StorageError(
                f"{where}: cannot be reached; nothing was written: {text}", hint="is the server running?"
            )
        if not code or code.startswith(_LOST):
            return StorageError(f"{where}: the connection was lost: {text}", hint=_UNCERTAIN)
        return StorageError(f"{where}: {text}")

    return explain


def _ddl(statement: str) -> sa.DDL:
    return sa.DDL(statement)  # type: ignore[no-untyped-call]


_LOST = ("08", "57P")
_UNCERTAIN = (
    "what was acknowledged is there; whether the last step is, the log says: look before you repeat it"
)
_CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("55P03",),
        f"another process has kept the log locked for {LOCK_TIMEOUT_S} s; nothing was written",
        "try again; if it stays so, look for a process that hangs",
    ),
    (("53100",), "the server's disk is full; nothing was written", "make room and try again"),
    (("53",), "the server has no room for this; nothing was written", "try again when it has less to do"),
    (("25006",), "the database is read-only; nothing was written", "is it a replica? use the primary"),
    (("28",), "the server refuses this user", "check user, password and pg_hba.conf"),
    (("3D000",), "there is no such database", "createdb makes one"),
    (("42501",), "this user may not do that", "the user of Interlock owns its tables"),
    (("23505", "42P07"), "another process wrote the same at the same time; nothing was written", "try again"),
)
