"""Removing the last traces of deleted rows from the files of a database.

Invariants: run after the deletion is committed; changes nothing that a query sees; either no byte of a deleted
row is left in the database file and its write-ahead log, or this raises and may simply be run again.

What it cannot reach: blocks that the file system has given back, copies, backups and exports made before.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine

from guardrails.decision_log import database
from guardrails.errors import StorageError


def scrub(engine: Engine) -> None:
    """Rewrite the database without what was deleted.

    Raises:
        StorageError: somebody is reading or writing; nothing is lost, run it again.
    """
    raw = engine.raw_connection()
    try:
        connection: Any = raw.driver_connection
        if engine.dialect.name == "sqlite":
            _sqlite(connection, database.place(engine))
        else:
            connection.autocommit = True
            try:
                connection.execute("VACUUM FULL openings")
            finally:
                connection.autocommit = False
    finally:
        raw.close()


def _sqlite(connection: Any, where: str) -> None:
    hint = "the record of the erasure stands; `interlock log erase --scrub` runs this again"
    try:
        # Zero what is freed from here on, then lay the whole file out anew, then empty the write-ahead log.
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("VACUUM")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise StorageError(f"{where}: old bytes may be left: {error}", hint=hint) from None
    if busy:
        raise StorageError(f"{where}: somebody is reading, so old bytes are left", hint=hint)
