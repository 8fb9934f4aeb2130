"""The append-only log: signed records, the Merkle tree over them, and what is projected from them.

``snapshot`` is the log at one moment, ``transaction`` one append; here it is made, opened, read and locked.

Invariants:
- Acknowledged means committed: when a ``transaction`` block ends without an exception, its records, their
  tree nodes, their projection and one signed checkpoint are on disk together; otherwise none of them is.
- Before it appends anything, a writer compares the newest checkpoint with the tree: it never extends, and
  never signs, a log that somebody has altered at its end.
- The database's projection is a cache for readers. A writer goes by what the signed records make of it (``proven``),
  and writes nothing where the two differ.
- Any number of processes may have a log open; each sees every committed record at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, insert, inspect, select

from guardrails.decision_log import checkpoint as notes
from guardrails.decision_log import cosigned, database, merkle, postgresql, sqlite, succession
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.database import Prepared
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proven import Proven
from guardrails.decision_log.scrub import scrub
from guardrails.decision_log.snapshot import Entry, Snapshot
from guardrails.decision_log.tables import Reader
from guardrails.decision_log.transaction import Project, Transaction
from guardrails.errors import LogVerificationError, RecordError, StorageError, UsageError

__all__ = ["Entry", "Log", "Project", "Snapshot", "Transaction"]

_ADD_CHECKPOINT = Prepared(insert(database.checkpoints))


class Log:
    """A decision log in a database. Every process, and every thread, may have its own."""

    def __init__(
        self, engine: Engine, origin: str, signer: ServiceKey | None, project: Project | None, *,
        prove: bool = True,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._signer = signer
        self._heads = None if signer is None else _Heads(signer)
        self._project = project
        self._proven = Proven(project) if project is not None and prove else None
        self.origin = origin

    @classmethod
    def create(
        cls, url: str, origin: str, signer: ServiceKey, project: Project, *, prove: bool = True
    ) -> Self:
        """A new, empty log, its checkpoint of size 0 signed. ``prove``: see ``open``.

        Raises:
            UsageError: there is a log already, or the URL or the origin cannot be used.
            StorageError: the database cannot be written.
        """
        try:
            note = _sign(origin, 0, merkle.EMPTY_ROOT.hex(), signer)
        except RecordError as error:
            raise UsageError(error.message) from None
        engine = database.connect(url, writable=True, create=True)
        with database.transaction(engine, write=True) as connection:
            if inspect(connection).has_table(database.meta.name):
                raise UsageError(f"{database.place(engine)} holds a decision log already")
            database.metadata.create_all(connection)
            facts = {"origin": origin, "schema": database.SCHEMA_VERSION}
            rows = [{"key": key, "value": value} for key, value in facts.items()]
            connection.execute(insert(database.meta), rows)
            connection.execute(insert(database.checkpoints).values(size=0, note=note))
        return cls(engine, origin, signer, project, prove=prove)

    @classmethod
    def open(
        cls, url: str, signer: ServiceKey | None = None, project: Project | None = None, *, prove: bool = True
    ) -> Self:
        """An existing log. Without a signer it can only be read, and its file is not written to.

        ``prove`` is False only for who lays out records that nobody believes yet, or plays the attacker in a test:
        then the tables of the database are believed as they stand.

        Raises:
            StorageError: there is no log, or it was written by another version.
        """
        engine = database.connect(url, writable=signer is not None)
        with database.transaction(engine, write=False) as connection:
            where = database.place(engine)
            if not inspect(connection).has_table(database.meta.name):
                raise StorageError(f"{where} holds no decision log")
            rows = connection.execute(select(database.meta.c.key, database.meta.c.value))
            facts = {row.key: row.value for row in rows}
        if facts.get("schema") != database.SCHEMA_VERSION or not facts.get("origin"):
            found = f"its format is {facts.get('schema')!r:.20}"
            raise StorageError(f"{where}: {found}, this version reads {database.SCHEMA_VERSION}")
        return cls(engine, facts["origin"], signer, project, prove=prove)

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """The log as it is now, unmoved by what others append meanwhile."""
        with database.transaction(self._engine, write=False) as connection:
            yield Snapshot(connection, self.origin)

    @contextmanager
    def read_proven(self) -> Iterator[Snapshot]:
        """The log as it is now, with tables that its signed records make; for whoever prepares what will be signed.

        Raises:
            LogVerificationError: the records do not hold, or the database's tables say something else.
            StaleError: the log's key was replaced since this process opened it.
        """
        heads, _ = self._writer()
        with ExitStack() as held:
            if self._proven is None:
                yield held.enter_context(self.read())
                return
            with self._proven.alone():
                connection = held.enter_context(database.transaction(self._engine, write=False))
                snapshot = Snapshot(connection, self.origin)
                _establish(snapshot, connection, heads, self._proven)
                snapshot.tables = self._proven.tables.as_it_is()
            yield snapshot

    @contextmanager
    def transaction(self, successor: ServiceKey | None = None) -> Iterator[Transaction]:
        """Append one or more records, all or none; waits for other writers, up to 30 s.

        ``successor`` is the log's next key, where a roster that is appended here names one.

        Raises:
            StaleError: the log's key was replaced since this process opened it.
            StorageError: locked for too long, read-only, disk full: nothing was written.
            LogVerificationError: the log's end is not what its newest checkpoint says, its records do not hold, or
                its tables say something else than the records.
        """
        with self._written(successor, compare=True) as transaction:
            yield transaction

    @contextmanager
    def _written(self, successor: ServiceKey | None, *, compare: bool) -> Iterator[Transaction]:
        heads, project = self._writer()
        proven = self._proven
        with ExitStack() as held:
            if proven is not None:
                held.enter_context(proven.alone())
                if not proven.tree.size:
                    # The long replay of a new process comes before the lock, so that nobody waits for it.
                    with database.transaction(self._engine, write=False) as connection:
                        snapshot = Snapshot(connection, self.origin)
                        _establish(snapshot, connection, heads, proven, compare=False)
                held.enter_context(proven.kept_if_committed())
            with database.transaction(self._engine, write=True) as connection:
                transaction = Transaction(connection, self.origin, project, proven)
                before = transaction.size
                _establish(transaction, connection, heads, proven, compare=compare)
                if proven is not None:
                    proven.begin()
                yield transaction
                transaction.finish()
                if transaction.size > before:
                    head = Checkpoint(self.origin, transaction.size, transaction.root)
                    note = heads.sign(transaction.tables, head, successor)
                    _ADD_CHECKPOINT(connection, size=transaction.size, note=note)
                named, note_commit = succession.key_in_force(transaction.tables), transaction.own_commit()
            note_commit()
        if successor is not None and successor.public_base64 == named:
            self._signer, self._heads = successor, _Heads(successor)

    def _writer(self) -> tuple[_Heads, Project]:
        if self._heads is None or self._project is None:
            raise UsageError("the log was opened for reading only")
        return self._heads, self._project

    def keep_cosignature(self, size: int, witness: str, line: str) -> None:
        """Keep what a witness said of the checkpoint of a size; the caller has verified it."""
        if self._signer is None:
            raise UsageError("the log was opened for reading only")
        with database.transaction(self._engine, write=True) as connection:
            cosigned.keep(connection, size, witness, line)

    def scrub(self) -> None:
        """Remove the last traces of deleted texts from the files; raises StorageError while others read."""
        if self._signer is None:
            raise UsageError("the log was opened for reading only")
        scrub(self._engine)

    def rebuild(self) -> int:
        """Make every projection anew from the records; the number of records replayed."""
        with self._written(None, compare=False) as transaction:
            transaction.project_anew()
            return transaction.size

    def describe(self) -> tuple[str, list[str]]:
        """The database under the log, in words, and what is wrong with it; checks nothing of the log itself."""
        describe = sqlite.describe if self._engine.dialect.name == "sqlite" else postgresql.describe
        with database.transaction(self._engine, write=False) as connection:
            return describe(connection)

    def close(self) -> None:
        """Give back connections and files."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sign(origin: str, size: int, root: str, signer: ServiceKey) -> str:
    return notes.sign(Checkpoint(origin, size, root), signer)


class _Heads:
    """The log's key, and the newest note that it has signed here: whose signature needs no second look."""

    def __init__(self, key: ServiceKey) -> None:
        self.key = key
        self._own: tuple[str, Checkpoint] | None = None

    def sign(self, tables: Reader, head: Checkpoint, successor: ServiceKey | None) -> str:
        """The note of a tree head; see ``succession.sign``."""
        note = succession.sign(tables, head, self.key, successor)
        self._own = note, head
        return note

    def verified(self, note: str, origin: str) -> Checkpoint:
        """The tree head of a note that this key signed; see ``checkpoint.verify``."""
        if self._own is not None and self._own[0] == note:
            return self._own[1]
        return notes.verify(note, origin, self.key.public_base64)


def _establish(
    snapshot: Snapshot, connection: Connection, heads: _Heads, proven: Proven | None, *, compare: bool = True
) -> None:  # fmt: skip
    """Refuse a log that is not the signed one, and (``compare``) tables that are not what its records make."""
    if proven is None:
        succession.require_in_force(snapshot.tables, heads.key)
        _check_head(snapshot, heads)
        return
    flaw: LogVerificationError | None = None
    try:
        _check_head(snapshot, heads)
    except LogVerificationError as error:
        flaw = error
    try:
        proven.catch_up(snapshot)
    except LogVerificationError as error:
        raise flaw or error from None
    # Where the key was replaced, the checkpoint is another key's: no flaw of the log, but the end of this process.
    succession.require_in_force(proven.tables, heads.key)
    if flaw is not None:
        raise flaw
    proven.require_root(snapshot.root)
    if compare:
        proven.require_same(connection)


def _check_head(snapshot: Snapshot, heads: _Heads) -> None:
    head = heads.verified(snapshot.checkpoint(), snapshot.origin)
    hint = "nothing was written; run interlock log verify and compare with a backup"
    if head.size != snapshot.size:
        counts = f"the newest checkpoint covers {head.size} records, the log has {snapshot.size}"
        raise LogVerificationError(counts, hint=hint)
    root = snapshot.root  # only now: of more records than were signed it may not even be there
    if head.root != root:
        roots = f"the newest checkpoint has root {head.root[:12]}…, the records have {root[:12]}…"
        raise LogVerificationError(roots, hint=hint)
