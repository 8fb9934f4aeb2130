"""What the specifications say, written from their text alone: nothing of ours is imported here.

RFC 6962 section 2.1 (tree, audit path, consistency proof), RFC 9162 section 2.1.3.2 and 2.1.4.2 (how proofs are
verified), C2SP signed-note, tlog-checkpoint, tlog-cosignature and tlog-proof.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def power_below(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


# --- RFC 6962, 2.1 ----------------------------------------------------------------------------


def mth(data: list[bytes]) -> bytes:
    """MTH(D[n])."""
    if not data:
        return sha()
    if len(data) == 1:
        return sha(b"\x00", data[0])
    k = power_below(len(data))
    return sha(b"\x01", mth(data[:k]), mth(data[k:]))


def path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(data) == 1:
        return []
    k = power_below(len(data))
    if m < k:
        return [*path(m, data[:k]), mth(data[k:])]
    return [*path(m - k, data[k:]), mth(data[:k])]


def proof(m: int, data: list[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return subproof(m, data, whole=True)


def subproof(m: int, data: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b)."""
    if m == len(data):
        return [] if whole else [mth(data)]
    k = power_below(len(data))
    if m <= k:
        return [*subproof(m, data[:k], whole=whole), mth(data[k:])]
    return [*subproof(m - k, data[k:], whole=False), mth(data[:k])]


# --- RFC 9162, 2.1.3.2 and 2.1.4.2 ------------------------------------------------------------


def included(leaf: bytes, index: int, size: int, hashes: list[bytes], root: bytes) -> bool:
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in hashes:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = sha(b"\x01", p, r)
            if not fn & 1:
                while not (fn & 1 or fn == 0):
                    fn, sn = fn >> 1, sn >> 1
        else:
            r = sha(b"\x01", r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistent(first: int, second: int, first_root: bytes, second_root: bytes, hashes: list[bytes]) -> bool:
    if first == second:
        return not hashes and first_root == second_root
    if not hashes:
        return False
    way = list(hashes)
    if first & (first - 1) == 0:
        way.insert(0, first_root)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = way[0]
    for c in way[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = sha(b"\x01", c, fr), sha(b"\x01", c, sr)
            if not fn & 1:
                while not (fn & 1 or fn == 0):
                    fn, sn = fn >> 1, sn >> 1
        else:
            sr = sha(b"\x01", sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root


# --- C2SP -------------------------------------------------------------------------------------


def note_parts(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Text (with its last new line) and signatures (name, key id, rest) of a signed note."""
    text, _, tail = note.rpartition("\n\n")
    found = []
    for line in tail.splitlines():
        assert line.startswith("\u2014 ")
        name, encoded = line[2:].split(" ")
        blob = base64.b64decode(encoded)
        found.append((name, blob[:4], blob[4:]))
    return text + "\n", found


def key_id(name: str, algorithm: int, public: bytes) -> bytes:
    return sha(name.encode(), b"\n", bytes([algorithm]), public)[:4]


def vkey(text: str) -> tuple[str, int, bytes]:
    """Name, algorithm and key of a verifier key; asserts that its id is right."""
    name, given, encoded = text.split("+", 2)
    data = base64.b64decode(encoded)
    assert key_id(name, data[0], data[1:]).hex() == given
    return name, data[0], data[1:]


def holds(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def log_signed(note: str, key: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint that the log of this verifier key signed."""
    name, algorithm, public = vkey(key)
    assert algorithm == 1
    text, signatures = note_parts(note)
    assert any(
        (n, i) == (name, key_id(name, 1, public)) and holds(public, text.encode(), s)
        for n, i, s in signatures
    )
    origin, size, root = text.splitlines()
    assert origin == name
    return origin, int(size), base64.b64decode(root)


def witnessed(note: str, key: str) -> int:
    """The time of the cosignature of this witness; -1 if it did not sign."""
    name, algorithm, public = vkey(key)
    assert algorithm == 4
    text, signatures = note_parts(note)
    for n, i, blob in signatures:
        if (n, i) == (name, key_id(name, 4, public)) and len(blob) == 72:
            time = int.from_bytes(blob[:8], "big")
            if holds(public, f"cosignature/v1\ntime {time}\n{text}".encode(), blob[8:]):
                return time
    return -1


def tlog_proof(text: str) -> tuple[int, list[bytes], str]:
    """Index, hashes and checkpoint of a tlog-proof."""
    lines = text.split("\n")
    assert lines.pop(0) == "c2sp.org/tlog-proof@v1"
    word, index = lines.pop(0).split(" ")
    assert word == "index"
    end = lines.index("")
    return int(index), [base64.b64decode(line) for line in lines[:end]], "\n".join(lines[end + 1 :])
