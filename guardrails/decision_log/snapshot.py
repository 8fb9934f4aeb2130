"""Reading the log: its records, its tree, its checkpoints and its projection, as of one moment.

Invariants:
- A snapshot does not move while others append.
- A record is handed out only if its bytes are well-formed and are those that its leaf hash was made of.
- What is missing in the middle is an error with its position, never a shorter answer.

Signatures are not verified here; see ``verify``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from guardrails.decision_log import cosigned, database, merkle
from guardrails.decision_log.checkpoint import parse
from guardrails.decision_log.database import Prepared, expect
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.tables import Reader, SqlReader
from guardrails.errors import LogVerificationError, RecordError, UnknownNameError
from guardrails.records import Commitment, Opening

__all__ = ["Entry", "Row", "Snapshot", "commit_to"]

_BATCH = 500
_PAGED = {"yield_per": _BATCH}

Row = tuple[int, str, bytes, str]
"""A record as it is stored: position, leaf hash, envelope, time."""

_entries, _nodes, _openings = database.entries.c, database.nodes.c, database.openings.c
_ROWS = Prepared(
    select(_entries.seq, _entries.leaf, _entries.envelope, _entries.time)
    .where(_entries.seq >= bindparam("low"), _entries.seq < bindparam("high"))
    .order_by(_entries.seq)
)
_NODE = Prepared(
    select(_nodes.hash).where(_nodes.level == bindparam("at"), _nodes.position == bindparam("beside"))
)
_SPAN = Prepared(
    select(_nodes.position, _nodes.hash)
    .where(
        _nodes.level == bindparam("at"),
        _nodes.position >= bindparam("low"),
        _nodes.position < bindparam("high"),
    )
    .order_by(_nodes.position)
)
_notes = database.checkpoints.c
_NEWEST = Prepared(select(_notes.note).where(_notes.size == select(func.max(_notes.size)).scalar_subquery()))
_NOTE = Prepared(select(_notes.note).where(_notes.size == bindparam("of")))
_LAST = Prepared(select(func.max(_entries.seq)))
_OPENING = Prepared(select(_openings.salt, _openings.text).where(_openings.sha256 == bindparam("of")))


class Snapshot:
    """One consistent state of the log. Valid inside the ``with`` block that gave it."""

    def __init__(self, connection: Connection, origin: str) -> None:
        self._connection = connection
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._rooted = -1, ""
        self.origin = origin
        self.tables: Reader = SqlReader(connection)
        last = _LAST(connection).fetchone()[0]
        self.size: int = 0 if last is None else expect(int, last) + 1

    @property
    def root(self) -> str:
        """The root of the tree over all records, in hexadecimal."""
        if self._rooted[0] != self.size:
            self._fetch(merkle.peaks(self.size))
            self._rooted = self.size, merkle.root(self.node, self.size).hex()
        return self._rooted[1]

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
        for rows in self.rows(start, stop):
            for row in rows:
                yield Entry.stored(*row)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[list[Row]]:
        """The records ``start:stop`` in order, some hundred at a time, as they are stored and not looked at.

        Raises:
            LogVerificationError: a record is missing, after those before it; or is not of bytes and texts.
        """
        end = self.size if stop is None else min(stop, self.size)
        for low in range(start, end, _BATCH):
            high = min(low + _BATCH, end)
            found = {row[0]: row for row in _ROWS(self._connection, low=low, high=high).fetchall()}
            rows = [_typed(found[seq]) for seq in itertools.takewhile(found.__contains__, range(low, high))]
            if rows:
                yield rows
            if len(rows) < high - low:
                raise LogVerificationError("it is missing", index=low + len(rows))

    def checkpoint(self, size: int | None = None) -> str:
        """The newest signed checkpoint, or the one of a size; raises UnknownNameError if that has none."""
        asked = _NEWEST(self._connection) if size is None else _NOTE(self._connection, of=size)
        found = asked.fetchone()
        note: str | None = None if found is None else expect(str, found[0])
        if note is None and size is not None:
            raise UnknownNameError(
                f"the log has no checkpoint of size {size}: it signs one after each transaction",
                hint="`interlock log checkpoint --all` lists their sizes",
            )
        if note is None:
            raise LogVerificationError("the log has no checkpoint")
        return note

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
        return (note for _, note in self.heads())

    def heads(self) -> Iterator[tuple[int, str]]:
        """Every signed checkpoint with the size that it is stored under, by that size; some hundred in memory."""
        table = database.checkpoints
        query = select(table.c.size, table.c.note).order_by(table.c.size)
        for row in self._connection.execute(query, execution_options=_PAGED):
            yield expect(int, row.size), row.note

    def projected(self, table: str) -> Iterator[tuple[str, bytes]]:
        """Every stored row of a table of the projection, by key; some hundred in memory."""
        kept = database.projection.c
        query = select(kept.key, kept.body).where(kept.table == table).order_by(kept.key)
        for row in self._connection.execute(query, execution_options=_PAGED):
            yield row.key, row.body

    def opening(self, commitment: Commitment) -> Opening | None:
        """What opens a commitment, or None where it was erased or never there."""
        row = _OPENING(self._connection, of=commitment.sha256).fetchone()
        if row is None:
            return None
        opening = Opening(expect(str, row[0]), expect(str, row[1]))
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
            for level, position, value in _some_nodes(len(absent))(
                self._connection, **{f"part{at}": part for at, part in enumerate(itertools.chain(*absent))}
            ):
                self._nodes[level, position] = expect(bytes, value)

    def span(self, level: int, low: int, high: int) -> list[tuple[int, bytes]]:
        """The stored nodes ``low:high`` of one level of the tree, with their positions, in order."""
        found = _SPAN(self._connection, at=level, low=low, high=high).fetchall()
        return [(position, expect(bytes, value)) for position, value in found]

    def node(self, level: int, position: int) -> bytes:
        """The stored hash of one complete subtree; raises LogVerificationError if it is missing."""
        if (level, position) not in self._nodes:
            found = _NODE(self._connection, at=level, beside=position).fetchone()
            if found is None:
                raise LogVerificationError(f"tree node {level}/{position} is missing")
            self._nodes[level, position] = expect(bytes, found[0])
        return self._nodes[level, position]


@cache
def _some_nodes(count: int) -> Prepared:
    """The statement that reads so many nodes; a tree has no more peaks than its size has digits."""
    either = [
        and_(_nodes.level == bindparam(f"part{2 * at}"), _nodes.position == bindparam(f"part{2 * at + 1}"))
        for at in range(count)
    ]
    return Prepared(select(_nodes.level, _nodes.position, _nodes.hash).where(or_(*either)))


def _typed(row: tuple[Any, ...]) -> Row:
    """A row whose columns hold what belongs there: a SQLite column holds whatever somebody has put into it."""
    seq, leaf, envelope, time = row
    return expect(int, seq), expect(str, leaf), expect(bytes, envelope), expect(str, time)


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
