"""One record in its place in the log.

Invariants: an ``Entry`` is made of well-formed bytes only; ``leaf`` is their hash in the tree. Its signatures are
not verified, but for those that ``proven`` names.
"""

from __future__ import annotations

from dataclasses import dataclass

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log import merkle
from guardrails.decision_log.envelope import (
    Reference,
    Signature,
    Statement,
    body_of,
    open_envelope,
    parse_statement,
)
from guardrails.errors import LogVerificationError, RecordError


@dataclass(frozen=True)
class Entry:
    """One record in its place. ``leaf`` is its hash in the tree; no signature has been verified.

    ``payload`` is what was signed: the bytes that ``statement`` was read from. ``proven`` are public keys under
    which somebody has already found a signature that states the key to hold over ``payload``: see ``readers``.
    """

    seq: int
    leaf: str
    envelope: bytes
    payload: bytes
    statement: Statement
    signatures: tuple[Signature, ...]
    proven: tuple[str, ...] = ()

    @classmethod
    def parse(cls, seq: int, envelope: bytes) -> Entry:
        """The entry that these bytes are at this position; raises RecordError if they are no record."""
        opened = open_envelope(envelope)
        statement = parse_statement(opened.payload)
        return cls(
            seq, merkle.leaf_hash(envelope).hex(), envelope, opened.payload, statement, opened.signatures
        )

    @classmethod
    def stored(cls, seq: int, leaf: str, envelope: bytes, time: str) -> Entry:
        """The entry of a row of the database; raises LogVerificationError unless all of it fits together."""
        try:
            entry = cls.parse(seq, envelope)
        except RecordError as error:
            raise LogVerificationError(error.message, index=seq) from None
        if entry.leaf != leaf:
            raise LogVerificationError("its bytes are not those that its leaf hash was made of", index=seq)
        if entry.statement.time != time:
            raise LogVerificationError("the time stored beside it is not the one that it states", index=seq)
        return entry

    @property
    def reference(self) -> Reference:
        """What a later record cites."""
        return Reference(self.seq, self.leaf)

    @property
    def body_digest(self) -> Digest:
        """The digest of the record itself, without what the statement says around it."""
        return canonical.digest(body_of(self.payload))
