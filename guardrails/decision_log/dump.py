"""The log's tables as files and back: the same for every database, so a log can move from one to another.

Invariants:
- What is written is one state of the log, however many append meanwhile; nobody waits for it.
- A table is one file of JSON lines, sorted by its key; memory does not grow with the log.
- What is read back is committed only if ``check`` finds no fault in it: an altered dump leaves nothing behind.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, LargeBinary, Table

from guardrails.decision_log import database
from guardrails.decision_log.cosigned import cosigned
from guardrails.decision_log.snapshot import Snapshot
from guardrails.errors import LogVerificationError, UsageError

_BATCH = 500
_TABLES = (*database.metadata.sorted_tables, cosigned)


@dataclass(frozen=True)
class Extent:
    """Which log, how many records, and the root of their tree in hexadecimal."""

    origin: str
    entries: int
    root: str


def extent_of(snapshot: Snapshot) -> Extent:
    """How far a log goes."""
    return Extent(snapshot.origin, snapshot.size, snapshot.root)


def dump(url: str, folder: Path) -> Extent:
    """Write each table of a log to ``<table>.jsonl`` in a folder.

    Raises:
        StorageError: there is no log, or the database cannot be read.
    """
    engine = database.connect(url, writable=False)
    try:
        with database.transaction(engine, write=False) as connection:
            for table in _TABLES:
                if sa.inspect(connection).has_table(table.name):
                    _write(connection, table, folder / f"{table.name}.jsonl")
            return extent_of(Snapshot(connection, _origin(connection)))
    finally:
        engine.dispose()


def load(url: str, folder: Path, check: Callable[[Snapshot], None], *, replace: bool = False) -> None:
    """Make a log of dumped tables, in one transaction, if ``check`` does not raise.

    Args:
        url: A database without a log; a SQLite file is created.
        folder: Where ``dump`` wrote to.
        check: Raises unless the log, as it is about to be committed, holds.
        replace: Drop the log that is there, in the same transaction.

    Raises:
        UsageError: there is a log already.
        LogVerificationError: these are no tables of a log.
    """
    engine = database.connect(url, writable=True, create=True)
    try:
        with database.transaction(engine, write=True) as connection:
            if sa.inspect(connection).has_table(database.meta.name):
                if not replace:
                    raise UsageError(f"{database.place(engine)} holds a decision log already")
                for table in reversed(_TABLES):
                    table.drop(connection, checkfirst=True)
            database.metadata.create_all(connection)
            for table in _TABLES:
                _read(connection, table, folder / f"{table.name}.jsonl")
            check(Snapshot(connection, _origin(connection)))
    finally:
        engine.dispose()


def _origin(connection: Connection) -> str:
    meta = database.meta
    facts = {row.key: row.value for row in connection.execute(sa.select(meta.c.key, meta.c.value))}
    if facts.get("schema") != database.SCHEMA_VERSION or not facts.get("origin"):
        raise LogVerificationError(f"a log of format {facts.get('schema')!r:.20}")
    return str(facts["origin"])


def _write(connection: Connection, table: Table, path: Path) -> None:
    query = sa.select(table).order_by(*table.primary_key.columns)
    rows = connection.execution_options(yield_per=_BATCH).execute(query)
    with path.open("x", encoding="ascii") as stream:
        for row in rows:
            values = {name: _plain(value) for name, value in row._mapping.items()}
            stream.write(json.dumps(values, sort_keys=True) + "\n")


def _read(connection: Connection, table: Table, path: Path) -> None:
    if not path.is_file():
        if table is cosigned:  # a log has it from its first cosignature on
            return
        raise LogVerificationError(f"table {table.name} is missing")
    table.create(connection, checkfirst=True)
    with path.open(encoding="ascii") as stream:
        rows = (_row(table, line) for line in stream)
        while batch := list(itertools.islice(rows, _BATCH)):
            try:
                connection.execute(sa.insert(table), batch)
            except (sa.exc.IntegrityError, sa.exc.StatementError):
                raise LogVerificationError(f"table {table.name} cannot be read back") from None


def _row(table: Table, line: str) -> dict[str, Any]:
    try:
        return dict(_typed(table, json.loads(line)))
    except (ValueError, RecursionError, binascii.Error):
        raise LogVerificationError(f"table {table.name} holds a line that is none of its rows") from None


def _typed(table: Table, values: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict) or set(values) != set(table.columns.keys()):
        raise ValueError(table.name)
    for name, column in table.columns.items():
        value, kind = values[name], column.type.python_type
        if isinstance(column.type, LargeBinary):
            value = base64.b64decode(value if isinstance(value, str) else "?", validate=True)
        elif type(value) is not kind:
            raise ValueError(name)
        yield name, value


def _plain(value: object) -> object:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
