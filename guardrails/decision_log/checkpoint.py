"""Signed tree heads: C2SP tlog-checkpoint in a C2SP signed note, Ed25519 (type 0x01).

Invariants:
- The note is three lines (origin, size, root), an empty line, and signature lines; no extension lines,
  which no monitor could audit.
- The key's name is the log's origin. A signature line counts only if name and key id both match; lines of
  other keys (witnesses) are ignored, a matching line that does not verify condemns the whole note.
- One tree head has one note text: no leading zeros, canonical base64, no control characters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from guardrails.canonical import Digest
from guardrails.decision_log import keys
from guardrails.decision_log.keys import ServiceKey
from guardrails.errors import DeniedError, LogVerificationError, RecordError

ED25519 = b"\x01"
MAX_NOTE_CHARACTERS = 100_000

_SIGNATURE_LINE = re.compile("\u2014 ([^ ]+) ([A-Za-z0-9+/]+={0,2})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class Checkpoint:
    """One tree head: which log, how many records, and the root over them (hexadecimal)."""

    origin: str
    size: int
    root: str

    @property
    def text(self) -> str:
        """The lines that are signed."""
        if not is_name(self.origin):
            raise RecordError(f"origin {self.origin!r:.80} is empty, or holds white space or '+'")
        root = base64.b64encode(bytes.fromhex(Digest(self.root).hex)).decode("ascii")
        return f"{self.origin}\n{self.size}\n{root}\n"


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: the key it names, its four-byte id, and the signature."""

    name: str
    key_id: bytes
    signature: bytes


def key_id(name: str, public_base64: str) -> bytes:
    """The four bytes by which a note names a key."""
    data = name.encode("utf-8") + b"\n" + ED25519 + base64.b64decode(public_base64)
    return hashlib.sha256(data).digest()[:4]


def sign(checkpoint: Checkpoint, key: ServiceKey) -> str:
    """The signed note of a tree head."""
    text = checkpoint.text
    blob = key_id(checkpoint.origin, key.public_base64) + key.sign(text.encode("utf-8"))
    return f"{text}\n\u2014 {checkpoint.origin} {base64.b64encode(blob).decode('ascii')}\n"


@lru_cache(maxsize=64)
def parse(note: str) -> tuple[Checkpoint, tuple[NoteSignature, ...]]:
    """The tree head and the signature lines of a note. Verifies no signature.

    Raises:
        RecordError: the text is not exactly such a note.
    """
    if len(note) > MAX_NOTE_CHARACTERS or _CONTROL.search(note):
        raise RecordError("not a checkpoint: too long, or control characters in it")
    head, separator, tail = note.rpartition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) != 3 or not tail.endswith("\n"):
        raise RecordError("not a checkpoint: expected origin, size, root, an empty line, and signatures")
    origin, size, root = lines
    if not (is_name(origin) and _SIZE.fullmatch(size)):
        raise RecordError(f"not a checkpoint: origin {origin!r:.80}, size {size!r:.80}")
    checkpoint = Checkpoint(origin, int(size), _decode(root, 32).hex())
    return checkpoint, tuple(_signature(line) for line in tail[:-1].split("\n"))


def verify(note: str, origin: str, public_base64: str) -> Checkpoint:
    """The tree head of a note that this log's key signed.

    Raises:
        LogVerificationError: malformed, of another log, or not signed by that key.
    """
    try:
        checkpoint, signatures = parse(note)
        wanted = origin, key_id(origin, public_base64)
        known = [item for item in signatures if (item.name, item.key_id) == wanted]
        for item in known:
            keys.verify_service(public_base64, checkpoint.text.encode("utf-8"), item.signature)
    except (RecordError, DeniedError) as error:
        raise LogVerificationError(f"checkpoint: {error.message}") from None
    if checkpoint.origin != origin:
        raise LogVerificationError(f"checkpoint: it is of log '{checkpoint.origin}', not of '{origin}'")
    if not known:
        raise LogVerificationError(f"checkpoint of size {checkpoint.size}: not signed by this log's key")
    return checkpoint


def require_signature_line(text: str, name: str) -> None:
    """Refuse anything but one signature line, with its end, that names this key; raises RecordError."""
    if not text.endswith("\n") or _signature(text[:-1]).name != name:
        raise RecordError(f"not a signature line of {name!r:.80}")


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if not match or not is_name(match[1]):
        raise RecordError(f"not a signature line of a note: {line!r:.80}")
    blob = _decode(match[2], None)
    if len(blob) <= 4:
        raise RecordError(f"not a signature line of a note: {line!r:.80}")
    return NoteSignature(match[1], blob[:4], blob[4:])


def _decode(text: str, length: int | None) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode("ascii") != text or (length and len(data) != length):
        raise RecordError(f"not a checkpoint: bad base64 {text!r:.80}")
    return data


def is_name(text: str) -> bool:
    """Whether a note can carry this name of a key: not empty, no white space, no ``+``."""
    return _NAME.fullmatch(text) is not None
