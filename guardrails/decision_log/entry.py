"""One record in its place in the log.

Invariants: an ``Entry`` is made of well-formed bytes only; ``leaf`` is their hash in the tree. Its signatures are
not verified, but for those that ``proven`` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import made
from guardrails.decision_log import merkle, plain
from guardrails.decision_log.envelope import (
    Reference,
    Signature,
    Statement,
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
        leaf = merkle.leaf_hash(envelope).hex()
        return made(
            cls,
            {
                "seq": seq, "leaf": leaf, "envelope": envelope, "payload": opened.payload,
                "statement": statement, "signatures": opened.signatures, "proven": (),
            },
        )  # fmt: skip

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

    def proven_by(self, keys: tuple[str, ...]) -> Entry:
        """The same, with the keys whose signatures somebody has found to hold."""
        return made(Entry, {**self.__dict__, "proven": keys})

    def packed(self) -> tuple[Any, ...]:
        """All but position and envelope, as plain values: for another process, which has those two."""
        said = self.statement
        return (
            self.leaf, self.payload, said.record, [(name, one.hex) for name, one in said.subjects.items()],
            said.body, said.log, said.time, [(one.seq, one.sha256) for one in said.references],
            [(one.keyid, one.signature) for one in self.signatures], self.proven,
        )  # fmt: skip

    @classmethod
    def unpacked(cls, seq: int, envelope: bytes, packed: tuple[Any, ...]) -> Entry:
        """What ``packed`` was made of; nothing is checked, as that was done before it was packed."""
        leaf, payload, record, subjects, body, log, time, references, signatures, proven = packed
        cited = tuple([made(Reference, {"seq": at, "sha256": hex_}) for at, hex_ in references])
        about = {name: Digest.known(hex_) for name, hex_ in subjects}
        said = {
            "record": record, "subjects": about, "body": body, "log": log, "time": time, "references": cited,
        }  # fmt: skip
        signed = tuple([Signature(*one) for one in signatures])
        return made(
            cls,
            {
                "seq": seq, "leaf": leaf, "envelope": envelope, "payload": payload,
                "statement": made(Statement, said), "signatures": signed, "proven": proven,
            },
        )  # fmt: skip

    @property
    def reference(self) -> Reference:
        """What a later record cites."""
        return Reference(self.seq, self.leaf)

    @property
    def leaf_digest(self) -> Digest:
        """The digest by which rows name this record: its leaf hash."""
        return Digest.known(self.leaf)

    @property
    def body_digest(self) -> Digest:
        """The digest of the record itself, without what the statement says around it."""
        return canonical.digest(plain.body_of(self.payload))
