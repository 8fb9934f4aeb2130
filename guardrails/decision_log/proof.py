"""Proofs that travel: C2SP tlog-proof for one record, and the add-checkpoint form for two tree heads.

Invariants:
- A proof is text and carries its checkpoint; whoever has the log's key (and witnesses' keys) checks it offline.
- One proof has one spelling: no leading zeros, canonical base64, nothing before, between or after.
- Verifying raises; what is not proved is never returned.
- Making a proof reads O(log n) stored nodes, whatever the length of the log.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log import merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.cosignature import LOG, Cosignature, VerifierKey, cosignatures
from guardrails.errors import LogVerificationError, RecordError

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
MAX_PROOF_CHARACTERS = checkpoints.MAX_NOTE_CHARACTERS + 100_000
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class InclusionProof:
    """That a record stands at ``index`` of the tree that ``note`` signs."""

    index: int
    path: tuple[bytes, ...]
    note: str

    def encode(self) -> str:
        """The proof as C2SP tlog-proof; without extra data, which nothing authenticates."""
        return f"{HEADER}\nindex {self.index}\n{_lines(self.path)}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> InclusionProof:
        """Read a tlog-proof; raises RecordError. Verifies nothing. Extra data is dropped."""
        head, note = _split(text)
        if head[0] != HEADER:
            raise RecordError(f"not a tlog-proof: it does not begin with {HEADER}")
        rest = head[1:]
        if rest and rest[0].startswith("extra "):
            _base64(rest.pop(0).removeprefix("extra "))
        if not rest:
            raise RecordError("not a tlog-proof: the index is missing")
        return cls(_number(rest[0], "index"), _path(rest[1:]), note)


@dataclass(frozen=True)
class ConsistencyProof:
    """That the log of ``note`` extends the one that had ``old`` records: what a witness is asked with."""

    old: int
    path: tuple[bytes, ...]
    note: str

    def encode(self) -> str:
        """The proof as the body of C2SP tlog-witness ``add-checkpoint``."""
        return f"old {self.old}\n{_lines(self.path)}\n{self.note}"

    @classmethod
    def parse(cls, text: str) -> ConsistencyProof:
        """Read such a body; raises RecordError. Verifies nothing."""
        head, note = _split(text)
        return cls(_number(head[0], "old"), _path(head[1:]), note)


@dataclass(frozen=True)
class Proved:
    """What a proof has shown: of which tree head, and which witnesses saw that."""

    head: Checkpoint
    witnesses: tuple[Cosignature, ...]


def verify_inclusion(
    proof: InclusionProof, envelope: bytes, log_key: VerifierKey, witnesses: Iterable[VerifierKey] = ()
) -> Proved:
    """Check that the bytes of a record stand in the log of this key.

    Raises:
        LogVerificationError: another log, a bad signature, or the record is not shown to be there.
    """
    head = _head(proof.note, log_key)
    leaf, root = merkle.leaf_hash(envelope), bytes.fromhex(head.root)
    merkle.verify_inclusion(leaf, proof.index, head.size, proof.path, root)
    return Proved(head, tuple(cosignatures(proof.note, witnesses)))


def verify_consistency(
    proof: ConsistencyProof, earlier: str, log_key: VerifierKey, witnesses: Iterable[VerifierKey] = ()
) -> Proved:
    """Check that the log only grew from an earlier checkpoint (a note that was kept) to the proof's.

    Raises:
        LogVerificationError: another log, a bad signature, or the later tree does not extend the earlier.
    """
    old, new = _head(earlier, log_key), _head(proof.note, log_key)
    if old.size != proof.old:
        raise LogVerificationError(
            f"the proof begins at {proof.old} records, the kept checkpoint covers {old.size}"
        )
    check_growth(old, new, proof.path)
    return Proved(new, tuple(cosignatures(proof.note, witnesses)))


def check_growth(old: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> None:
    """Raise LogVerificationError unless the proof shows that ``new`` extends ``old``."""
    merkle.verify_consistency(old.size, new.size, bytes.fromhex(old.root), bytes.fromhex(new.root), path)


def _head(note: str, log_key: VerifierKey) -> Checkpoint:
    if log_key.algorithm != LOG:
        raise LogVerificationError(f"{log_key.name} is the key of a witness, not of a log")
    return checkpoints.verify(note, log_key.name, log_key.public_base64)


# --- text ----------------------------------------------------------------------------------


def _split(text: str) -> tuple[list[str], str]:
    if len(text) > MAX_PROOF_CHARACTERS:
        raise RecordError("not a proof: too long")
    head, separator, note = text.partition("\n\n")
    if not separator:
        raise RecordError("not a proof: no empty line before the checkpoint")
    checkpoints.parse(note)
    return head.split("\n"), note


def _lines(path: Sequence[bytes]) -> str:
    return "".join(f"{base64.b64encode(item).decode('ascii')}\n" for item in path)


def _number(line: str, word: str) -> int:
    name, _, value = line.partition(" ")
    if name != word or not _NUMBER.fullmatch(value):
        raise RecordError(f"not a proof: expected '{word} N', found {line!r:.80}")
    return int(value)


def _path(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_HASHES:
        raise RecordError(f"not a proof: {len(lines)} hashes, more than {MAX_HASHES}")
    path = tuple(_base64(line) for line in lines)
    if any(len(item) != 32 for item in path):
        raise RecordError("not a proof: a hash in it has not 32 bytes")
    return path


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode("ascii") != text:
        raise RecordError(f"not a proof: bad base64 {text!r:.80}")
    return data
