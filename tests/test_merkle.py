"""The Merkle tree against published roots and against the definitions of RFC 6962, section 2.1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.decision_log import merkle
from guardrails.errors import LogVerificationError

# Inputs and roots of the reference implementation of Certificate Transparency.
CT_LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    bytes(range(0x60, 0x70)),
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


# --- the oracle: RFC 6962, sections 2.1, 2.1.1 and 2.1.2, word for word --------------------


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _k(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return _sha(b"")
    if len(d) == 1:
        return _sha(b"\x00" + d[0])
    k = _k(len(d))
    return _sha(b"\x01" + mth(d[:k]) + mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = _k(len(d))
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = _k(len(d))
    if m <= k:
        return [*subproof(m, d[:k], whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def tree(data: Sequence[bytes]) -> merkle.Tree:
    grown = merkle.Tree()
    for item in data:
        grown.append(merkle.leaf_hash(item))
    return grown


def leaves(count: int) -> list[bytes]:
    return [b"%d" % index for index in range(count)]


# --- roots ---------------------------------------------------------------------------------


def test_the_empty_tree():
    assert merkle.Tree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int):
    assert tree(CT_LEAVES[:size]).root().hex() == CT_ROOTS[size - 1]
    assert tree(CT_LEAVES).root(size).hex() == CT_ROOTS[size - 1]


def test_every_root_up_to_130_leaves_now_and_in_hindsight():
    data = leaves(130)
    whole, growing = tree(data), merkle.Tree()
    for size in range(131):
        assert growing.root() == whole.root(size) == mth(data[:size])
        if size < 130:
            growing.append(merkle.leaf_hash(data[size]))


def test_a_leaf_is_not_a_node():
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_appending_and_rooting_touch_few_nodes():
    grown = tree(leaves(1000))
    touched: list[tuple[int, int]] = []

    def counted(level: int, position: int) -> bytes:
        touched.append((level, position))
        return grown.lookup(level, position)

    merkle.completed(counted, 1000, b"\0" * 32)
    merkle.root(counted, 1000)
    merkle.inclusion(counted, 17, 1000)
    merkle.consistency(counted, 333, 1000)
    assert len(touched) < 60


# --- the worked examples of RFC 6962, section 2.1.3 ----------------------------------------


def test_the_examples_of_the_rfc():
    d = leaves(7)
    grown = tree(d)
    a, b, c, d3, e, f, j = (merkle.leaf_hash(item) for item in d)
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d3), merkle.node_hash(e, f)
    k, l_ = merkle.node_hash(g, h), merkle.node_hash(i, j)
    assert merkle.inclusion(grown.lookup, 0, 7) == [b, h, l_]
    assert merkle.inclusion(grown.lookup, 3, 7) == [c, g, l_]
    assert merkle.inclusion(grown.lookup, 4, 7) == [f, j, k]
    assert merkle.inclusion(grown.lookup, 6, 7) == [i, k]
    assert merkle.consistency(grown.lookup, 3, 7) == [c, d3, g, l_]
    assert merkle.consistency(grown.lookup, 4, 7) == [l_]
    assert merkle.consistency(grown.lookup, 6, 7) == [i, j, k]


# --- proofs --------------------------------------------------------------------------------


def test_every_proof_up_to_33_leaves():
    data = leaves(33)
    grown = tree(data)
    for new in range(1, 34):
        new_root = mth(data[:new])
        for index in range(new):
            proof = merkle.inclusion(grown.lookup, index, new)
            assert proof == path(index, data[:new])
            merkle.verify_inclusion(merkle.leaf_hash(data[index]), index, new, proof, new_root)
        for old in range(1, new + 1):
            proof = merkle.consistency(grown.lookup, old, new)
            assert proof == subproof(old, data[:new], True)
            merkle.verify_consistency(old, new, mth(data[:old]), new_root, proof)


def spoiled(proof: list[bytes], at: int) -> list[list[bytes]]:
    """The same proof with one hash changed, removed, repeated, and with one too many at either end."""
    junk = b"\x55" * 32
    variants = [[*proof, junk], [junk, *proof]]
    if proof:
        at %= len(proof)
        variants += [
            [*proof[:at], junk, *proof[at + 1 :]],
            proof[:at] + proof[at + 1 :],
            [*proof[: at + 1], *proof[at:]],
        ]
    return variants


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_inclusion_for_random_sizes(size: int, data: st.DataObject):
    index = data.draw(st.integers(0, size - 1))
    content = leaves(size)
    grown = tree(content)
    root, leaf = grown.root(), merkle.leaf_hash(content[index])
    proof = merkle.inclusion(grown.lookup, index, size)
    assert proof == path(index, content)
    merkle.verify_inclusion(leaf, index, size, proof, root)
    wrong = [(leaf, index, size, spoilt, root) for spoilt in spoiled(proof, data.draw(st.integers(0, 20)))]
    wrong += [
        (merkle.leaf_hash(b"forged"), index, size, proof, root),
        (leaf, index, size, proof, merkle.leaf_hash(b"forged")),
        (leaf, size, size, proof, root),
        (leaf, -1, size, proof, root),
    ]
    elsewhere = data.draw(st.integers(0, size - 1))
    if elsewhere != index:
        wrong.append((leaf, elsewhere, size, proof, root))
    for arguments in wrong:
        with pytest.raises(LogVerificationError):
            merkle.verify_inclusion(*arguments)


@settings(deadline=None)
@given(st.integers(0, 300), st.data())
def test_consistency_for_random_sizes(new: int, data: st.DataObject):
    old = data.draw(st.integers(0, new))
    content = leaves(new)
    grown = tree(content)
    roots = grown.root(old), grown.root()
    proof = merkle.consistency(grown.lookup, old, new)
    assert proof == (subproof(old, content, True) if old else [])
    merkle.verify_consistency(old, new, *roots, proof)
    other = merkle.leaf_hash(b"forged")
    wrong = [(old, new, *roots, spoilt) for spoilt in spoiled(proof, data.draw(st.integers(0, 20)))]
    wrong += [(old, new, other, roots[1], proof), (new + 1, new, *roots, proof), (-1, new, *roots, proof)]
    if old:  # every tree extends the empty one, so there the new root is bound by nothing
        wrong.append((old, new, roots[0], other, proof))
    for arguments in wrong:
        with pytest.raises(LogVerificationError):
            merkle.verify_consistency(*arguments)


@settings(deadline=None)
@given(st.integers(2, 120), st.data())
def test_rewritten_history_has_no_consistency_proof(new: int, data: st.DataObject):
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    before = leaves(new)
    after = [*before[:changed], b"rewritten", *before[changed + 1 :]]
    forged = tree(after)
    proof = merkle.consistency(forged.lookup, old, new)
    merkle.verify_consistency(old, new, mth(after[:old]), forged.root(), proof)
    with pytest.raises(LogVerificationError, match="does not extend"):
        merkle.verify_consistency(old, new, mth(before[:old]), forged.root(), proof)


def test_a_proof_for_another_size_of_tree_does_not_pass():
    """The hashes lead to the root in both cases; only the length of the path gives the lie away."""
    a, b = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    whole = merkle.node_hash(a, b)
    merkle.verify_inclusion(b, 1, 2, [a], whole)
    with pytest.raises(LogVerificationError, match="too long"):
        merkle.verify_inclusion(b, 0, 1, [a], whole)
    with pytest.raises(LogVerificationError, match="does not lead to the root"):
        merkle.verify_inclusion(whole, 0, 2, [], whole)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_no_inclusion_proof_for_a_leaf_that_is_not_there(index: int, size: int):
    with pytest.raises(LogVerificationError, match="no leaf"):
        merkle.inclusion(tree(leaves(5)).lookup, index, size)


def test_no_consistency_proof_backwards():
    with pytest.raises(LogVerificationError, match="cannot be a prefix"):
        merkle.consistency(tree(leaves(5)).lookup, 4, 3)


def test_no_proof_shows_that_a_log_became_shorter_or_that_an_empty_tree_has_another_root():
    with pytest.raises(LogVerificationError, match="a tree of 3 cannot be a prefix of a tree of 2"):
        merkle.verify_consistency(3, 2, bytes(32), bytes(32), [])
    with pytest.raises(LogVerificationError, match="differ"):
        merkle.verify_consistency(0, 0, bytes(32), bytes(32), [])
    merkle.verify_consistency(0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, [])  # the control


def test_the_frontier_has_the_root_of_the_whole_tree():
    tree, frontier = merkle.Tree(), merkle.Frontier()
    assert frontier.root() == tree.root() == merkle.EMPTY_ROOT
    for number in range(70):
        former, leaf = frontier.copy(), merkle.leaf_hash(bytes([number]))
        tree.append(leaf)
        frontier.append(leaf)
        assert frontier.root() == tree.root()
        assert (former.size, former.root()) == (number, tree.root(number))
