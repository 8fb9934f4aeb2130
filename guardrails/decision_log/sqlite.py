"""The log in a SQLite file: how it is opened, and its errors in words.

Invariants:
- A committed transaction is on disk: write-ahead log, ``synchronous=FULL``; a file system that cannot have a
  write-ahead log is refused.
- A write transaction begins with ``BEGIN IMMEDIATE``: it holds the log alone from its first statement on.
- The file is its owner's only. A log that is opened for reading is not written to.
- What is read and written is the file that has the log's name now: a connection to one that was moved away, deleted
  or replaced is given up, and nothing is committed to it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import QueuePool

from guardrails.errors import InterlockError, LogVerificationError, StorageError, UsageError

BUSY_TIMEOUT_S = 30
WRITER = "interlock_writer"


def open_engine(url: sa.URL, *, writable: bool, create: bool) -> Engine:
    """An engine for a SQLite file. ``create`` makes one that is not there yet.

    Raises:
        UsageError: the URL names no file of its own.
        StorageError: the file is missing, or cannot be made.
    """
    if url.query or url.host or not url.database or url.database == ":memory:":
        raise UsageError("the decision log needs a file of its own", hint="like sqlite:////path/to/log.db")
    path = Path(url.database).absolute()
    if create:
        _make_private(path)
    elif not path.is_file():
        raise StorageError(f"{path}: there is no decision log here", hint="interlock init makes a workspace")

    def open_file() -> sqlite3.Connection:
        uri = f"file:{quote(str(path))}?{'mode=rw' if writable else _read_only(path)}"
        inode = _inode(path)  # before it is opened: replaced in between, it is noticed too
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False, factory=_OfFile
        )
        connection.inode = inode
        connection.isolation_level = None  # this module says BEGIN, not the driver
        return connection

    engine = sa.create_engine(f"sqlite:///{path}", creator=open_file, poolclass=QueuePool, pool_use_lifo=True)
    sa.event.listen(engine, "connect", _configure_writer if writable else _configure_reader)
    sa.event.listen(engine, "checkout", _require_in_place_or_reopen(path))
    sa.event.listen(engine, "begin", _begin)
    return engine


class _OfFile(sqlite3.Connection):
    """A connection that knows which file it was opened to."""

    inode: tuple[int, ...] = ()


def _inode(path: str | Path) -> tuple[int, ...]:
    return _stat(str(path))[:2]


def _require_in_place_or_reopen(path: Path) -> Callable[..., None]:
    def check(connection: Any, _record: object, _proxy: object) -> None:
        if connection.inode != _inode(path):
            raise sa.exc.DisconnectionError(f"{path} is another file now")  # the pool opens it anew

    return check


def require_in_place(raw: Any, path: str) -> None:
    """Refuse to commit to a file that has lost its name; raises StorageError."""
    if raw.inode != _inode(path):
        raise StorageError(
            f"{path}: the file was replaced or removed while it was written to; nothing was written",
            hint="look who did that; run interlock log verify",
        )


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
    write = connection.get_execution_options().get(WRITER)
    raw: Any = connection.connection.driver_connection
    raw.execute("BEGIN IMMEDIATE" if write else "BEGIN")


class State(NamedTuple):
    """How a database is: the same again, and only this connection has written in between."""

    version: int
    """Changes for a connection with every commit of another one, in whatever process."""
    files: tuple[int, ...]
    """What the file system says of the files; whoever writes, past SQLite too, changes it. Readers do not."""


def state(raw: Any, path: str) -> State:
    """How the database is now, for this connection."""
    return State(raw.execute("PRAGMA data_version").fetchone()[0], _files(path))


def own_commit(path: str, before: State) -> Callable[[], State | None]:
    """To be asked after a commit, and made just before it: how the database is then, if only the commit has changed it.

    ``before``: how it was before the transaction. The commit changes the files, and so hides what somebody else did to
    them during the transaction; that shows now.
    """
    if _files(path) != before.files:
        return lambda: None
    return lambda: before._replace(files=_files(path))


def _files(path: str) -> tuple[int, ...]:
    return *_stat(path), *_stat(f"{path}-wal")


def _stat(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except OSError:
        return (0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def describe(connection: Connection) -> tuple[str, list[str]]:
    """The kind, version and journal of the database, and what is wrong with them."""
    version, journal = sqlite3.sqlite_version, connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    path = Path(connection.engine.url.database or "")
    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    free = shutil.disk_usage(path.parent).free
    told = f"SQLite {version}, journal {journal}, {size / 2**20:.1f} MiB, {free >> 20} MiB free"
    worries = []
    if not has_wal_reset_fix(sqlite3.sqlite_version_info):
        worries.append(
            f"SQLite {version} has a fault that very rarely damages a WAL database which two connections write and "
            f"checkpoint at the same instant; it is mended in 3.51.3"
        )
    if journal != "wal":
        worries.append(f"the journal is {journal}, not wal: nobody has written to it with this program yet")
    return told, worries


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Whether a version has the fix of SQLite's "WAL-reset bug": 3.51.3, and 3.50.7 and 3.44.6 of older lines."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def explain(where: str, error: BaseException | None) -> InterlockError:
    """The error of the driver in words; never the statement, whose values may be personal data."""
    code: str = getattr(error, "sqlite_errorname", "") or ""
    for prefix, (what, hint) in _CAUSES.items():
        if code.startswith(prefix):
            return StorageError(f"{where}: {what}", hint=hint)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return LogVerificationError(
            f"{where} is damaged: {error}", hint="restore it from a backup; do not write to it"
        )
    return StorageError(f"{where}: {str(error).strip()}")


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
