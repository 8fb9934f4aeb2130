"""One append to the log: records, their tree nodes and what is projected from them, all or none.

Invariants:
- Records are numbered from 0 without gaps. No record is there twice.
- A record that is refused leaves the transaction as it was before it; after a failure of the database itself nothing
  of the transaction can be committed, even if a caller goes on regardless.
- Projections are written by the projection function alone, and only while a record is appended or replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy import Connection, bindparam, delete, insert, select

from guardrails.decision_log import database, merkle
from guardrails.decision_log.database import Prepared
from guardrails.decision_log.envelope import Reference
from guardrails.decision_log.proven import MirroredTables, Proven
from guardrails.decision_log.snapshot import Entry, Snapshot, commit_to
from guardrails.decision_log.tables import ERASED_TABLE, SqlTables, Tables
from guardrails.errors import LogVerificationError, RecordError, StorageError, UsageError
from guardrails.records import Commitment, Opening

_LOOKED_UP = 500
_ADD_ENTRIES, _ADD_NODES = Prepared(insert(database.entries)), Prepared(insert(database.nodes))
_WITH_LEAF = Prepared(select(database.entries.c.seq).where(database.entries.c.leaf == bindparam("sought")))
_LEAF_AT = Prepared(select(database.entries.c.leaf).where(database.entries.c.seq == bindparam("at")))

Project = Callable[[Tables, Entry], None]
"""Brings the projection up to date with one entry; raises an InterlockError to refuse the entry."""


class Transaction(Snapshot):
    """The right to append, alone, until the ``with`` block ends."""

    def __init__(
        self, connection: Connection, origin: str, project: Project, proven: Proven | None = None
    ) -> None:
        super().__init__(connection, origin)
        self._first = self.size
        self._project = project
        self._proven = proven
        self._mirrored = None if proven is None else MirroredTables(connection, proven)
        self._writable = SqlTables(connection) if self._mirrored is None else self._mirrored
        self.tables = self._writable
        self._failed = False

    @property
    def next_seq(self) -> int:
        """The position that the next record will get."""
        return self.size

    def append(self, envelope: bytes, openings: Iterable[Opening] = ()) -> Entry:
        """Add one record and project it; if it is refused, the transaction is as it was before.

        Raises:
            RecordError: no well-formed record of this log, one that is already there, or one whose
                references are wrong.
            InterlockError: whatever the projection refuses it for.
        """
        entry = Entry.parse(self.size, envelope)
        self._check(entry)
        grown = merkle.completed(self.node, self.size, bytes.fromhex(entry.leaf))
        with self._all_or_nothing():
            row = {"seq": entry.seq, "leaf": entry.leaf, "envelope": envelope, "time": entry.statement.time}
            _ADD_ENTRIES(self._connection, **row)
            _ADD_NODES.many(self._connection, (node._asdict() for node in grown))
            for opening in openings:
                self._keep(opening)
            self._apply(entry)
        self._nodes.update({(node.level, node.position): node.hash for node in grown})
        self.size += 1
        return entry

    def append_all(self, envelopes: Iterable[bytes], openings: Iterable[Opening] = ()) -> list[Entry]:
        """Add many records, all or none: what costs ``append`` some statements a record costs this some a batch.

        Raises:
            RecordError: as ``append``; the transaction is as it was before.
            InterlockError: whatever the projection refuses one of them for.
        """
        entries = [Entry.parse(seq, envelope) for seq, envelope in enumerate(envelopes, self.size)]
        self._check_all(entries)
        grown: dict[tuple[int, int], bytes] = {}

        def lookup(level: int, position: int) -> bytes:
            return grown.get((level, position)) or self.node(level, position)

        for entry in entries:
            for node in merkle.completed(lookup, entry.seq, bytes.fromhex(entry.leaf)):
                grown[node.level, node.position] = node.hash
        if not entries:
            return entries
        rows = [
            {"seq": one.seq, "leaf": one.leaf, "envelope": one.envelope, "time": one.statement.time}
            for one in entries
        ]
        nodes = [{"level": level, "position": at, "hash": value} for (level, at), value in grown.items()]
        with self._all_or_nothing():
            _ADD_ENTRIES.many(self._connection, rows)
            _ADD_NODES.many(self._connection, nodes)
            for opening in openings:
                self._keep(opening)
            for entry in entries:
                self._apply(entry)
        self._nodes.update(grown)
        self.size += len(entries)
        return entries

    def project_anew(self) -> None:
        """Write every projection as the signed records make it; raises UsageError where they are not proven here."""
        if self._proven is None:
            raise UsageError("tables are made anew of proven records alone")
        self._proven.write_to(self._connection)

    def finish(self) -> None:
        """Refuse to commit what the database has failed on, even if a caller went on regardless."""
        if self._failed:
            raise StorageError("the database failed within this transaction; nothing of it was kept")

    def own_commit(self) -> Callable[[], None]:
        """What is to be called when this transaction, as it is now, has been committed."""
        if self._proven is None or self._mirrored is None:
            return lambda: None
        return self._proven.own_commit(
            self._connection, range(self._first, self.size), self._mirrored.changed
        )

    def _apply(self, entry: Entry) -> None:
        self._project(self._writable, entry)
        if self._proven is not None:
            self._proven.tree.append(bytes.fromhex(entry.leaf))

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        self.finish()
        savepoint = database.Savepoint(self._connection)
        try:
            with self._undone_together(), database.guarded(self._connection.engine):
                yield
        except (StorageError, LogVerificationError):
            # A full or failing disk makes SQLite give up the whole transaction, this savepoint with it;
            # later statements would then be committed one by one.
            self._failed = True
            raise
        except BaseException:
            savepoint.rollback()
            raise
        savepoint.release()

    def _undone_together(self) -> AbstractContextManager[None]:
        return nullcontext() if self._proven is None else self._proven.attempt()

    def _check_all(self, entries: list[Entry]) -> None:
        """What ``_check`` does, for a batch whose records may refer to each other."""
        own: dict[str, int] = {}
        table = database.entries
        for entry in entries:
            self._check_origin(entry)
            there = own.setdefault(entry.leaf, entry.seq)
            if there != entry.seq:
                raise RecordError(f"this very record is already in the log, as record {there}")
            for reference in entry.statement.references:
                if own.get(reference.sha256) == reference.seq < entry.seq:
                    continue
                self._require_there(reference)
        for low in range(0, len(entries), _LOOKED_UP):
            leaves = [entry.leaf for entry in entries[low : low + _LOOKED_UP]]
            known = self._connection.execute(select(table.c.seq).where(table.c.leaf.in_(leaves))).scalar()
            if known is not None:
                raise RecordError(f"this very record is already in the log, as record {known}")

    def _check_origin(self, entry: Entry) -> None:
        if entry.statement.log != self.origin:
            raise RecordError(f"a record of log '{entry.statement.log:.80}' cannot enter '{self.origin}'")

    def _check(self, entry: Entry) -> None:
        self._check_origin(entry)
        there = _WITH_LEAF(self._connection, sought=entry.leaf).fetchone()
        if there is not None:
            raise RecordError(f"this very record is already in the log, as record {there[0]}")
        for reference in entry.statement.references:
            self._require_there(reference)

    def _require_there(self, reference: Reference) -> None:
        if _LEAF_AT(self._connection, at=reference.seq).fetchone() != (reference.sha256,):
            raise RecordError(f"it refers to a record {reference.seq} that this log does not have")

    def forget(self, commitments: Iterable[Commitment]) -> None:
        """Delete texts that a record of this transaction erases. Their bytes go with ``Log.scrub`` afterwards."""
        names = [item.sha256 for item in commitments]
        table = database.openings
        with self._all_or_nothing():
            self._connection.execute(delete(table).where(table.c.sha256.in_(names)))

    def _keep(self, opening: Opening) -> None:
        commitment = commit_to(opening)
        if self.tables.get(ERASED_TABLE, commitment.sha256) is not None:
            return  # a later roster brings the name along again; what was erased stays so
        if self.opening(commitment) is None:
            row = {"sha256": commitment.sha256, "salt": opening.salt, "text": opening.text}
            self._connection.execute(insert(database.openings).values(row))
