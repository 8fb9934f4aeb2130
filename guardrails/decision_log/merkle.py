"""RFC 6962 Merkle tree over leaf hashes that somebody else keeps.

Invariants:
- Leaves and inner nodes are hashed with different prefixes, so neither can pass for the other.
- Only complete subtrees are ever stored; they never change once written. A node is
  ``(level, position)``: the tree over the 2**level leaves from ``position * 2**level`` on.
- Appending, the root of any size, and proofs each touch O(log n) stored nodes.
- Verifying raises; it never returns a boolean that somebody could forget to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from guardrails.errors import LogVerificationError

EMPTY_ROOT = hashlib.sha256(b"").digest()

Lookup = Callable[[int, int], bytes]
"""``lookup(level, position)``: the stored hash of one complete subtree."""


class Node(NamedTuple):
    """One complete subtree."""

    level: int
    position: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """The hash of a record as a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(lookup: Lookup, size: int, leaf: bytes) -> list[Node]:
    """The subtrees that the leaf at index ``size`` completes, the leaf itself first: what to store."""
    nodes = [Node(0, size, leaf)]
    while nodes[-1].position % 2:
        level, position, right = nodes[-1]
        nodes.append(Node(level + 1, position // 2, node_hash(lookup(level, position - 1), right)))
    return nodes


def root(lookup: Lookup, size: int) -> bytes:
    """The root of the tree over the first ``size`` leaves."""
    return _span(lookup, 0, size) if size else EMPTY_ROOT


def peaks(size: int) -> list[tuple[int, int]]:
    """The largest complete subtrees, ``(level, position)``, that a tree of ``size`` leaves is made of."""
    return [(level, (size >> level) - 1) for level in range(size.bit_length()) if size >> level & 1]


def inclusion(lookup: Lookup, index: int, size: int) -> list[bytes]:
    """The audit path of the leaf at ``index`` in the tree of ``size`` leaves, lowest hash first."""
    if not 0 <= index < size:
        raise LogVerificationError(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_span(lookup, middle, stop))
            stop = middle
        else:
            path.append(_span(lookup, start, middle))
            start = middle
    return path[::-1]


def consistency(lookup: Lookup, old: int, new: int) -> list[bytes]:
    """The proof that the tree of ``old`` leaves is a prefix of the tree of ``new`` leaves."""
    if not 0 <= old <= new:
        raise LogVerificationError(f"a tree of {old} cannot be a prefix of a tree of {new}")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    start, stop = 0, new
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            proof.append(_span(lookup, middle, stop))
            stop = middle
        else:
            proof.append(_span(lookup, start, middle))
            start = middle
    if start:  # otherwise the old tree is this very subtree, and the verifier has its root
        proof.append(_span(lookup, start, stop))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> None:
    """Check an audit path against a root that is already trusted.

    Raises:
        LogVerificationError: the leaf is not shown to be at that index of that tree.
    """
    if not 0 <= index < size:
        raise LogVerificationError(f"there is no leaf {index} in a tree of {size}")
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise LogVerificationError("the inclusion proof is too long", index=index)
        if node % 2 or node == last:
            computed = node_hash(sibling, computed)
            while not node % 2 and node:  # the levels at which this rightmost subtree has no sibling
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last or computed != expected:
        raise LogVerificationError("the inclusion proof does not lead to the root", index=index)


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` leaves only appended to the tree of ``old`` leaves.

    Raises:
        LogVerificationError: history is not shown to be the same.
    """
    if not 0 <= old <= new:
        raise LogVerificationError(f"a tree of {old} cannot be a prefix of a tree of {new}")
    if old in (0, new):
        known = new_root if old == new else EMPTY_ROOT
        if proof or known != old_root or (new == 0 and new_root != EMPTY_ROOT):
            raise LogVerificationError(f"the trees of {old} and {new} records differ")
        return
    prefix, whole, complete = _replay(old, new, old_root, proof)
    if not complete or prefix != old_root or whole != new_root:
        raise LogVerificationError(f"the tree of {new} records does not extend the tree of {old}")


def _replay(old: int, new: int, old_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    """Both roots as a consistency proof gives them, and whether it had the right length."""
    hashes = list(proof)
    node, last = old - 1, new - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    if node:
        if not hashes:
            return b"", b"", False
        prefix = whole = hashes.pop(0)
    else:  # old is a power of two: its root is a node of the new tree, and is left out of the proof
        prefix = whole = old_root
    for item in hashes:
        if last == 0:
            return prefix, whole, False
        if node % 2 or node == last:
            prefix, whole = node_hash(item, prefix), node_hash(item, whole)
            while not node % 2 and node:
                node, last = node >> 1, last >> 1
        else:
            whole = node_hash(whole, item)
        node, last = node >> 1, last >> 1
    return prefix, whole, last == 0


class Tree:
    """A tree in memory, grown leaf by leaf: what verification recomputes."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: dict[tuple[int, int], bytes] = {}

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        for level, position, value in completed(self.lookup, self.size, leaf):
            self._nodes[level, position] = value
        self.size += 1

    def lookup(self, level: int, position: int) -> bytes:
        """The hash of one complete subtree."""
        return self._nodes[level, position]

    def root(self, size: int | None = None) -> bytes:
        """The root now, or as it was at an earlier size."""
        return root(self.lookup, self.size if size is None else size)


class Frontier:
    """A tree of which only the peaks are kept: enough for the root now, and for the root after more leaves."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        level, value = 0, leaf
        while self._peaks and self._peaks[-1][0] == level:
            level, value = level + 1, node_hash(self._peaks.pop()[1], value)
        self._peaks.append((level, value))
        self.size += 1

    def root(self) -> bytes:
        """The root now."""
        if not self._peaks:
            return EMPTY_ROOT
        value = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            value = node_hash(left, value)
        return value

    def copy(self) -> Frontier:
        """The same, to be grown apart."""
        twin = Frontier()
        twin.size, twin._peaks = self.size, list(self._peaks)
        return twin


def _split(size: int) -> int:
    """The largest power of two smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _span(lookup: Lookup, start: int, stop: int) -> bytes:
    """The hash over ``start:stop``, where ``start`` is a multiple of the power of two that holds it."""
    size = stop - start
    if size & (size - 1) == 0:
        return lookup(size.bit_length() - 1, start // size)
    middle = start + _split(size)
    return node_hash(_span(lookup, start, middle), _span(lookup, middle, stop))
