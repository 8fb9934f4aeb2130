"""The tree over the records as verification grows it, and what the log keeps of it: nodes and checkpoints.

Invariants:
- Every stored node is compared, not only those that the root of today needs: inclusion proofs are made of the others.
- Every stored checkpoint is verified under the key that was the log's at its size, and has the root of that size.
- Of the tree only the newest node of each level is held, so memory grows with the logarithm of the log.
- What is found wrong is kept until ``require_…`` asks: a record that does not hold is told first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log import merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.snapshot import Snapshot
from guardrails.decision_log.succession import LogKeys
from guardrails.errors import InterlockError, LogVerificationError


class Growth:
    """A tree that grows record by record beside a snapshot; ``known`` are checkpoints that somebody kept."""

    def __init__(self, snapshot: Snapshot, known: Sequence[str]) -> None:
        self.size = 0
        self._snapshot = snapshot
        self._newest: dict[int, bytes] = {}
        self._grown: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self._stored = Nodes(snapshot)
        self._heads = Heads(snapshot, known)

    def add(self, batch: Sequence[Entry]) -> None:
        """Take in the next records, whose places in the log were found to be right."""
        for entry in batch:
            for level, position, value in merkle.completed(
                self._lookup, self.size, bytes.fromhex(entry.leaf)
            ):
                self._newest[level] = value
                self._grown[level].append((position, value))
            self.size += 1
            if entry.statement.record == "roster":
                self._heads.learn(entry)
            if self._heads.waits_for(self.size):
                self._heads.reach(self.size, self.root())
        self._compare()

    def root(self) -> bytes:
        """The root now."""
        return merkle.root(self._lookup, self.size)

    def require_nodes(self) -> None:
        """Refuse stored nodes that are not those of the records."""
        self._compare()
        self._stored.require()

    def require_checkpoints(self) -> None:
        """Refuse checkpoints that do not hold, and records that are covered by none."""
        self._heads.require(self.root())

    def _lookup(self, level: int, _position: int) -> bytes:
        # Whoever asks for a node of a growing tree asks for the newest of its level: the left neighbour, or a peak.
        return self._newest[level]

    def _compare(self) -> None:
        for level, nodes in self._grown.items():
            self._stored.compare(level, nodes)
        self._grown.clear()


class Nodes:
    """The stored nodes beside those that were computed; of each level the first flaw is kept."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._flaws: dict[int, str] = {}

    def compare(self, level: int, nodes: Sequence[tuple[int, bytes]]) -> None:
        """Look at the next nodes of a level, which follow each other."""
        if level in self._flaws:
            return
        stored = self._snapshot.span(level, nodes[0][0], nodes[-1][0] + 1)
        if stored == nodes:
            return
        for at, (position, value) in enumerate(nodes):
            if at >= len(stored) or stored[at][0] != position:
                self._flaws[level] = f"tree node {level}/{position} is missing"
                return
            if stored[at][1] != value:
                self._flaws[level] = f"the stored tree does not match the records at {level}/{position}"
                return

    def require(self) -> None:
        """Raise what was found on the lowest level."""
        for _, flaw in sorted(self._flaws.items()):
            raise LogVerificationError(flaw)


class Heads:
    """The stored checkpoints by ascending size, and those that somebody kept."""

    def __init__(self, snapshot: Snapshot, known: Sequence[str]) -> None:
        self._snapshot = snapshot
        self._keys = LogKeys()
        self._stored = snapshot.heads() if snapshot.size else iter(())
        self._next = next(self._stored, None)
        self._known = known
        self._roots = dict.fromkeys(size for note in known if (size := _size_of(note)) is not None)
        self._flaw: LogVerificationError | None = None
        self._covered = -1

    def learn(self, entry: Entry) -> None:
        """Take in what a record says of the log's keys."""
        self._keys.learn(entry)

    def waits_for(self, size: int) -> bool:
        """Whether the root of this size is asked for."""
        return size in self._roots or (self._next is not None and self._next[0] <= size)

    def reach(self, size: int, root: bytes) -> None:
        """Judge the checkpoints of a size, now that its root is known."""
        if size in self._roots:
            self._roots[size] = root
        while self._next is not None and self._next[0] <= size:
            at, note = self._next
            # The checkpoint of no records is judged with the first one, which says whose key it has.
            self._judge(note, root if at == size else merkle.EMPTY_ROOT if at == 0 else None, at)
            self._next = next(self._stored, None)

    def require(self, root: bytes) -> None:
        """Raise the first flaw; judges first what covers more than there is, and what somebody kept."""
        size = self._snapshot.size
        self._roots |= {size: root, 0: merkle.EMPTY_ROOT}
        while self._next is not None:
            self._judge(self._next[1], None, self._next[0])
            self._next = next(self._stored, None)
        for note in self._known:
            self._judge(note, None, None)
        if self._flaw is not None:
            raise self._flaw
        if size and self._covered != size:
            raise LogVerificationError("the newest records are covered by no checkpoint", index=size - 1)

    def _judge(self, note: str, root: bytes | None, stored_at: int | None) -> None:
        if self._flaw is None:
            try:
                point = self._opened(note)
                self._require_root(point, self._roots.get(point.size) if root is None else root, stored_at)
            except LogVerificationError as error:
                self._flaw = error
            else:
                self._covered = max(self._covered, point.size)

    def _opened(self, note: str) -> Checkpoint:
        try:
            head = checkpoints.parse(note)[0]
            if self._snapshot.size == 0:
                # Of an empty log nobody knows the key; but no checkpoint that somebody kept can be of a longer one.
                return head
            return checkpoints.verify(note, self._snapshot.origin, self._keys.at(head.size))
        except InterlockError as error:
            raise LogVerificationError(f"a checkpoint does not hold: {error.message}") from None

    def _require_root(self, point: Checkpoint, root: bytes | None, stored_at: int | None) -> None:
        if point.size > self._snapshot.size:
            raise LogVerificationError(
                f"a checkpoint covers {point.size} records, the log has {self._snapshot.size}"
            )
        if stored_at is not None and stored_at != point.size:
            raise LogVerificationError(
                f"the checkpoint that is stored for {stored_at} records covers {point.size}"
            )
        if root is None or point.root != root.hex():
            raise LogVerificationError(
                f"the checkpoint of size {point.size} has another root than these records"
            )


def _size_of(note: str) -> int | None:
    try:
        return checkpoints.parse(note)[0].size
    except InterlockError:
        return None  # said when it is judged
