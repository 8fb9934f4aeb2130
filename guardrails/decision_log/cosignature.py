"""What a witness says of a checkpoint: C2SP tlog-cosignature, Ed25519 (type 0x04), and verifier keys.

Invariants:
- A cosignature covers the whole text of the checkpoint and the time at which the witness gave it.
- A verifier key is text ``name+id+key`` (C2SP signed-note); the id in it must be the one that follows from
  name and key, so a key that was mistyped is refused before it is used.
- A line counts only if name and key id both match a key that the verifier was given; a matching line that
  does not verify condemns the note. Lines of unknown keys count for nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from guardrails.decision_log.checkpoint import Checkpoint, NoteSignature, is_name, parse
from guardrails.decision_log.keys import ServiceKey
from guardrails.errors import LogVerificationError, RecordError

LOG, COSIGNER = 1, 4
"""Algorithm bytes of C2SP signed-note: an Ed25519 signature over the text; an Ed25519 cosignature."""

MAX_TIME = 2**63 - 1


@dataclass(frozen=True)
class VerifierKey:
    """The public key of a log or of a witness, with its name and what it signs."""

    name: str
    public: bytes
    algorithm: int = COSIGNER

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a note names this key."""
        data = self.name.encode("utf-8") + b"\n" + bytes([self.algorithm]) + self.public
        return hashlib.sha256(data).digest()[:4]

    @property
    def public_base64(self) -> str:
        """The raw key, as rosters hold it."""
        return base64.b64encode(self.public).decode("ascii")

    def __str__(self) -> str:
        key = base64.b64encode(bytes([self.algorithm]) + self.public).decode("ascii")
        return f"{self.name}+{self.key_id.hex()}+{key}"

    @classmethod
    def of(cls, name: str, key: ServiceKey, algorithm: int = COSIGNER) -> VerifierKey:
        """The verifier key of a private key."""
        return cls.of_public(name, key.public_base64, algorithm)

    @classmethod
    def of_public(cls, name: str, public_base64: str, algorithm: int = COSIGNER) -> VerifierKey:
        """The verifier key of a raw public key in base64."""
        return cls(name, base64.b64decode(public_base64), algorithm)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read ``name+id+key``; raises RecordError on anything else, also where the id does not follow."""
        name, _, rest = text.strip().partition("+")
        _, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if not is_name(name) or len(data) != 33 or data[0] not in (LOG, COSIGNER):
            raise RecordError(f"not a verifier key like name+0123abcd+base64: {text!r:.120}")
        key = cls(name, data[1:], data[0])
        if str(key) != text.strip():
            raise RecordError(
                f"the verifier key of {name!r:.80} is damaged: its id should be {key.key_id.hex()}"
            )
        return key


@dataclass(frozen=True)
class Cosignature:
    """That a witness saw a log consistent up to a size, at a time (POSIX seconds)."""

    witness: str
    size: int
    time: int

    @property
    def moment(self) -> datetime:
        """The time, aware; times that no calendar has read as the last that one has."""
        return datetime.fromtimestamp(min(self.time, 253_402_300_799), UTC)


def cosign(checkpoint: Checkpoint, name: str, key: ServiceKey, time: int) -> str:
    """The signature line of a witness over a checkpoint, with its new line."""
    blob = VerifierKey.of(name, key).key_id + time.to_bytes(8, "big") + key.sign(_message(checkpoint, time))
    return f"\u2014 {name} {base64.b64encode(blob).decode('ascii')}\n"


def read(checkpoint: Checkpoint, line: NoteSignature, key: VerifierKey) -> Cosignature:
    """The cosignature in one line; raises LogVerificationError unless it is by this key over this text."""
    time = int.from_bytes(line.signature[:8], "big")
    if len(line.signature) != 72 or time > MAX_TIME:
        raise LogVerificationError(f"checkpoint: the cosignature by {key.name} is not well formed")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(line.signature[8:], _message(checkpoint, time))
    except InvalidSignature:
        raise LogVerificationError(f"checkpoint: the cosignature is not by witness {key.name}") from None
    return Cosignature(key.name, checkpoint.size, time)


def cosignatures(note: str, keys: Iterable[VerifierKey]) -> list[Cosignature]:
    """What the given witnesses say of a note, one for each witness (its earliest).

    Raises:
        LogVerificationError: malformed, or a line names one of these keys and does not verify.
    """
    try:
        checkpoint, lines = parse(note)
    except RecordError as error:
        raise LogVerificationError(f"checkpoint: {error.message}") from None
    known = {(key.name, key.key_id): key for key in keys if key.algorithm == COSIGNER}
    found: dict[bytes, Cosignature] = {}
    for line in lines:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        one = read(checkpoint, line, key)
        # Two names for one key are one witness: a threshold counts witnesses, not names.
        if key.public not in found or one.time < found[key.public].time:
            found[key.public] = one
    return list(found.values())


def _message(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode()
