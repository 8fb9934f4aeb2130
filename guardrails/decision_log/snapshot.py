"""Reading the log: its records, its tree, its checkpoints and its projection, as of one moment.

Invariants:
- A snapshot does not move while others append.
- A record is handed out only if its bytes are well-formed and are those that its leaf hash was made of.
- What is missing in the middle is an error with its position, never a shorter answer.

Signatures are not verified here; see ``verify``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select, tuple_

from guardrails.decision_log import cosigned, database, merkle
from guardrails.decision_log.checkpoint import parse
from guardrails.decision_log.envelope import (
    Reference,
    Signature,
    Statement,
    open_envelope,
    parse_statement,
)
from guardrails.decision_log.tables import Reader, SqlReader
from guardrails.errors import LogVerificationError, RecordError, UnknownNameError
from guardrails.records import Commitment, Opening

_BATCH = 500

# Statements that every append makes are built once: building one costs more than running it.
_nodes = database.nodes.c
_NODE = select(_nodes.hash).where(
    _nodes.level == bindparam("level"), _nodes.position == bindparam("position")
)
_NODES = select(database.nodes).where(
    tuple_(_nodes.level, _nodes.position).in_(bindparam("keys", expanding=True))
)
_NEWEST = select(database.checkpoints.c.note).order_by(database.checkpoints.c.size.desc()).limit(1)
_LAST = select(func.max(database.entries.c.seq))


@dataclass(frozen=True)
class Entry:
    """One record in its place. ``leaf`` is its hash in the tree; no signature has been verified.

    ``payload`` is what was signed: the bytes that ``statement`` was read from.
    """

    seq: int
    leaf: str
    envelope: bytes
    payload: bytes
    statement: Statement
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, seq: int, envelope: bytes) -> Entry:
        """The entry that these bytes are at this position; raises RecordError if they are no record."""
        opened = open_envelope(envelope)
        statement = parse_statement(opened.payload)
        return cls(
            seq, merkle.leaf_hash(envelope).hex(), envelope, opened.payload, statement, opened.signatures
        )

    @property
    def reference(self) -> Reference:
        """What a later record cites."""
        return Reference(self.seq, self.leaf)


class Snapshot:
    """One consistent state of the log. Valid inside the ``with`` block that gave it."""

    def __init__(self, connection: Connection, origin: str) -> None:
        self._connection = connection
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.origin = origin
        self.tables: Reader = SqlReader(connection)
        last = connection.execute(_LAST).scalar()
        self.size: int = 0 if last is None else database.expect(int, last) + 1

    @property
    def root(self) -> str:
        """The root of the tree over all records, in hexadecimal."""
        self._fetch(merkle.peaks(self.size))
        return merkle.root(self.node, self.size).hex()

    def entry(self, seq: int) -> Entry:
        """One record; raises UnknownNameError if the log is not that long."""
        if not 0 <= seq < self.size:
            raise UnknownNameError(f"there is no record {seq}: the log has {self.size}")
        return next(self.entries(seq, seq + 1))

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """The records ``start:stop`` in order.

        Raises:
            LogVerificationError: a record is missing, unreadable, or not what its leaf hash says.
        """
        end = self.size if stop is None else min(stop, self.size)
        table = database.entries
        for low in range(start, end, _BATCH):
            high = min(low + _BATCH, end)
            query = select(table).where(table.c.seq >= low, table.c.seq < high).order_by(table.c.seq)
            rows = {row.seq: row for row in self._connection.execute(query)}
            for seq in range(low, high):
                if seq not in rows:
                    raise LogVerificationError("it is missing", index=seq)
                yield _stored(seq, rows[seq].leaf, rows[seq].envelope, rows[seq].time)

    def checkpoint(self, size: int | None = None) -> str:
        """The newest signed checkpoint, or the one of a size; raises UnknownNameError if that has none."""
        query = _NEWEST if size is None else _NEWEST.where(database.checkpoints.c.size == size)
        note = self._connection.execute(query).scalar()
        if note is None and size is not None:
            raise UnknownNameError(
                f"the log has no checkpoint of size {size}: it signs one after each transaction",
                hint="`interlock log checkpoint --all` lists their sizes",
            )
        if note is None:
            raise LogVerificationError("the log has no checkpoint")
        return str(note)

    def cosigned(self, size: int | None = None) -> str:
        """A checkpoint with what witnesses said of it: a note that others can verify by itself."""
        note = self.checkpoint(size)
        return note + cosigned.lines(self._connection, _size_of(note))

    def notes(self) -> Iterator[str]:
        """Every checkpoint that a witness cosigned, with the cosignatures, oldest first."""
        for size in cosigned.sizes(self._connection):
            yield self.cosigned(size)

    def sizes(self) -> list[int]:
        """The sizes that have a checkpoint, ascending."""
        table = database.checkpoints
        return list(self._connection.execute(select(table.c.size).order_by(table.c.size)).scalars())

    def checkpoints(self) -> Iterator[str]:
        """Every signed checkpoint, oldest first."""
        table = database.checkpoints
        yield from self._connection.execute(select(table.c.note).order_by(table.c.size)).scalars()

    def opening(self, commitment: Commitment) -> Opening | None:
        """What opens a commitment, or None where it was erased or never there."""
        table = database.openings
        row = self._connection.execute(select(table).where(table.c.sha256 == commitment.sha256)).first()
        if row is None:
            return None
        opening = Opening(row.salt, row.text)
        if commit_to(opening) != commitment:
            raise LogVerificationError(f"the text kept for {commitment.sha256} is not what that binds")
        return opening

    def openings(self) -> Iterator[Opening]:
        """Every text that is kept, by its commitment; whether it is the committed one is not checked."""
        table = database.openings
        for row in self._connection.execute(select(table).order_by(table.c.sha256)):
            yield Opening(row.salt, row.text)

    def cosignatures(self) -> Iterator[tuple[int, str, str]]:
        """Every kept cosignature: size, witness and signature line. Not verified."""
        yield from cosigned.everything(self._connection)

    def inclusion_proof(self, seq: int, size: int | None = None) -> list[bytes]:
        """The audit path of a record in the tree of this snapshot, or as it was at an earlier size."""
        return merkle.inclusion(self.node, seq, self.size if size is None else min(size, self.size))

    def consistency_proof(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that this log extends the one that had ``old`` records."""
        return merkle.consistency(self.node, old, self.size if size is None else min(size, self.size))

    def _fetch(self, wanted: list[tuple[int, int]]) -> None:
        """Read nodes in one statement; what is missing is noticed when it is used."""
        absent = [key for key in wanted if key not in self._nodes]
        if absent:
            for row in self._connection.execute(_NODES, {"keys": absent}):
                self._nodes[row.level, row.position] = row.hash

    def level(self, level: int) -> Iterator[tuple[int, bytes]]:
        """Every stored node of one level of the tree: position and hash, in order."""
        table = database.nodes
        query = (
            select(table.c.position, table.c.hash).where(table.c.level == level).order_by(table.c.position)
        )
        for row in self._connection.execution_options(yield_per=_BATCH).execute(query):
            yield row.position, row.hash

    def node(self, level: int, position: int) -> bytes:
        """The stored hash of one complete subtree; raises LogVerificationError if it is missing."""
        if (level, position) not in self._nodes:
            found = self._connection.execute(_NODE, {"level": level, "position": position}).scalar()
            if found is None:
                raise LogVerificationError(f"tree node {level}/{position} is missing")
            self._nodes[level, position] = found
        return self._nodes[level, position]


def _stored(seq: int, leaf: str, envelope: bytes, time: str) -> Entry:
    try:
        entry = Entry.parse(seq, envelope)
    except RecordError as error:
        raise LogVerificationError(error.message, index=seq) from None
    if entry.leaf != leaf:
        raise LogVerificationError("its bytes are not those that its leaf hash was made of", index=seq)
    if entry.statement.time != time:
        raise LogVerificationError("the time stored beside it is not the one that it states", index=seq)
    return entry


def _size_of(note: str) -> int:
    try:
        return parse(note)[0].size
    except RecordError as error:
        raise LogVerificationError(f"checkpoint: {error.message}") from None


def commit_to(opening: Opening) -> Commitment:
    """The commitment of an opening; raises RecordError if it is not well-formed."""
    try:
        return opening.commitment()
    except ValueError:
        raise RecordError("an opening whose salt is not hexadecimal") from None
