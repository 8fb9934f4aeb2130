"""SSHSIG: the signature format of ``ssh-keygen -Y sign``, for one namespace and one hash.

Invariants:
- ``ssh-ed25519`` can sign and verify; ``sk-ssh-ed25519@openssh.com`` (hardware keys) can only verify,
  and only where the token says that a person touched it.
- A signature counts for exactly one message, one namespace and one public key; SHA-512 only.
- Every byte of a signature is determined: no trailing bytes, no reserved bytes, no second spelling.
- Verifying raises DeniedError; it never returns a boolean that somebody could forget to look at.

The format is OpenSSH's PROTOCOL.sshsig; the hardware part is PROTOCOL.u2f.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import textwrap
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from guardrails.decision_log.small_order import require_large_order
from guardrails.errors import DeniedError, RecordError

ED25519 = "ssh-ed25519"
SK_ED25519 = "sk-ssh-ed25519@openssh.com"
FINGERPRINT = "SHA256:"

_MAGIC = b"SSHSIG"
_VERSION = 1
_HEAD = _MAGIC + struct.pack(">I", _VERSION)
_PROOF = 64
_COUNTED = struct.Struct(">BI")
_HASH = b"sha512"
_USER_PRESENT = 0x01
_USER_VERIFIED = 0x04
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"


@dataclass(frozen=True)
class PublicKey:
    """A public key as OpenSSH writes it. ``application`` is set for hardware keys only."""

    kind: str
    raw: bytes
    application: bytes = b""

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read ``type base64 [comment]`` on one line; raises RecordError on anything else."""
        return _parsed(text)

    @classmethod
    def _read(cls, text: str) -> PublicKey:
        words = text.strip().split(None, 2)
        if len(words) < 2 or "\n" in text.strip():
            raise RecordError(f"not an OpenSSH public key on one line: {text.strip()!r:.80}")
        kind, encoded = words[0], words[1]
        if kind not in (ED25519, SK_ED25519):
            raise RecordError(
                f"public key of type {kind!r:.80} cannot sign decisions",
                hint="make one with: ssh-keygen -t ed25519 (with a token: -t ed25519-sk)",
            )
        try:
            reader = _Reader(base64.b64decode(encoded, validate=True))
            if reader.string() != kind.encode():
                raise RecordError("the type in the public key is not the type before it")
            key = cls(kind, reader.string(), reader.string() if kind == SK_ED25519 else b"")
        except (binascii.Error, ValueError, struct.error):
            raise RecordError(f"damaged OpenSSH public key: {text.strip()!r:.80}") from None
        if len(key.raw) != 32 or key.text.split()[1] != encoded:
            raise RecordError(f"damaged OpenSSH public key: {text.strip()!r:.80}")
        require_large_order(key.raw)
        return key

    @cached_property
    def blob(self) -> bytes:
        """The key in the SSH wire format."""
        tail = _string(self.application) if self.kind == SK_ED25519 else b""
        return _string(self.kind.encode()) + _string(self.raw) + tail

    @cached_property
    def text(self) -> str:
        """``type base64``, without a comment: one key has one text."""
        return f"{self.kind} {base64.b64encode(self.blob).decode('ascii')}"

    @cached_property
    def keyid(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it."""
        return FINGERPRINT + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")


@lru_cache(maxsize=256)
def _parsed(text: str) -> PublicKey:
    # The keys of a roster are asked for record after record.
    return PublicKey._read(text)


@lru_cache(maxsize=256)
def _named(blob: bytes) -> PublicKey:
    kind = _Reader(blob).string().decode("ascii")
    key = PublicKey.parse(f"{kind} {base64.b64encode(blob).decode('ascii')}")
    if key.blob != blob:  # a kind with a blank in it would bring a key of its own
        raise ValueError("not the bytes of a public key")
    return key


@lru_cache(maxsize=256)
def _verifier(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def public_of(key: Ed25519PrivateKey) -> PublicKey:
    """The public half of a private key."""
    return PublicKey(ED25519, key.public_key().public_bytes_raw())


def sign(key: Ed25519PrivateKey, message: bytes, namespace: str) -> bytes:
    """The binary SSHSIG of a message; ``armor`` makes the text that ssh-keygen reads."""
    return _before_proof(public_of(key), namespace) + key.sign(_signed_data(namespace, message))


def verify(public: PublicKey, message: bytes, signature: bytes, namespace: str) -> None:
    """Check a binary SSHSIG.

    Raises:
        DeniedError: it is not this key's signature over this message in this namespace.
    """
    head = _before_proof(public, namespace)
    proof, behind = signature[len(head) : len(head) + _PROOF], signature[len(head) + _PROOF :]
    is_token = public.kind == SK_ED25519
    if not signature.startswith(head) or len(behind) != is_token * _COUNTED.size:
        raise _misshapen(public, signature, namespace)
    signed = _signed_data(namespace, message)
    if is_token:
        flags, counter = _COUNTED.unpack(behind)
        signed = _token_data(public, flags, counter, signed)
    try:
        _verifier(public.raw).verify(proof, signed)
    except (InvalidSignature, ValueError):
        raise DeniedError(f"signature by {public.keyid} does not fit what it should sign") from None


@dataclass(frozen=True)
class Claims:
    """What a signature says of itself. Nothing of it is proven before ``verify`` has held.

    For hardware keys: whether the token felt a touch (``present``), whether it checked a PIN or a finger
    (``verified``), and how many signatures it says to have made (``counter``). None for other keys.
    """

    key: PublicKey
    namespace: str
    present: bool | None = None
    verified: bool | None = None
    counter: int | None = None


def read(signature: bytes) -> Claims:
    """The claims of a binary SSHSIG; raises RecordError where it is none that can sign decisions."""
    reader = _Reader(signature)
    try:
        blob = reader.string() if reader.take(len(_HEAD)) == _HEAD else b""
        key = _named(blob)
        namespace = reader.string().decode("utf-8")
        reader.string(), reader.string()
        inner = _Reader(reader.string())
        inner.string(), inner.string()
        if key.kind != SK_ED25519:
            return Claims(key, namespace)
        flags, counter = _COUNTED.unpack(inner.take(_COUNTED.size))
    except (ValueError, struct.error):
        raise RecordError("damaged SSH signature", hint="expected what ssh-keygen -Y sign wrote") from None
    return Claims(key, namespace, bool(flags & _USER_PRESENT), bool(flags & _USER_VERIFIED), counter)


def key_of(signature: bytes) -> PublicKey:
    """The key that a binary SSHSIG names, whatever else it may say; raises RecordError where it names none."""
    start = len(_HEAD) + 4
    try:
        return _named(signature[start : start + int.from_bytes(signature[len(_HEAD) : start], "big")])
    except ValueError:
        raise RecordError("damaged SSH signature: it names no key") from None


def armor(signature: bytes) -> str:
    """The text form that ``ssh-keygen -Y verify`` reads."""
    lines = textwrap.wrap(base64.b64encode(signature).decode("ascii"), 70)
    return "\n".join([_BEGIN, *lines, _END, ""])


def dearmor(text: str) -> bytes:
    """The binary SSHSIG in the text that ``ssh-keygen -Y sign`` wrote; raises RecordError otherwise."""
    lines = text.strip().splitlines()
    if len(lines) < 3 or lines[0].strip() != _BEGIN or lines[-1].strip() != _END:
        raise RecordError("not an SSH signature", hint="expected the .sig file that ssh-keygen -Y sign wrote")
    try:
        return base64.b64decode("".join(line.strip() for line in lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise RecordError("damaged SSH signature: not base64") from None


@lru_cache(maxsize=256)
def _before_proof(public: PublicKey, namespace: str) -> bytes:
    """All that stands before the proof in a signature of this key: only one text can."""
    behind = _COUNTED.size if public.kind == SK_ED25519 else 0
    algorithm = _string(public.kind.encode())
    return (
        _HEAD
        + _string(public.blob)
        + _string(namespace.encode())
        + _string(b"")
        + _string(_HASH)
        + struct.pack(">I", len(algorithm) + 4 + _PROOF + behind)
        + algorithm
        + struct.pack(">I", _PROOF)
    )


def _misshapen(public: PublicKey, signature: bytes, namespace: str) -> DeniedError:
    """Why a signature has not the only shape that one of this key can have."""
    damaged = DeniedError(f"signature by {public.keyid}: damaged SSHSIG")
    reader = _Reader(signature)
    try:
        if reader.take(len(_HEAD)) != _HEAD:
            return DeniedError(f"signature by {public.keyid}: not an SSHSIG version {_VERSION}")
        if reader.string() != public.blob:
            return DeniedError(f"the signature is by another key than {public.keyid}")
        found = reader.string()
        if found != namespace.encode():
            return DeniedError(
                f"signature by {public.keyid}: namespace {found.decode('utf-8', 'replace')!r:.80} "
                f"is not '{namespace}'",
                hint=f"sign with: ssh-keygen -Y sign -n {namespace}",
            )
        if reader.string() != b"" or reader.string() != _HASH:
            return DeniedError(f"signature by {public.keyid}: only hash {_HASH.decode()} is accepted")
        if _Reader(reader.string()).string() != public.kind.encode():
            return DeniedError(f"signature by {public.keyid}: its algorithm is not the key's")
    except ValueError:
        return damaged
    return damaged


def _signed_data(namespace: str, message: bytes) -> bytes:
    return _before_digest(namespace) + hashlib.sha512(message).digest()


@lru_cache(maxsize=16)
def _before_digest(namespace: str) -> bytes:
    scope, length = _string(namespace.encode()), struct.pack(">I", hashlib.sha512().digest_size)
    return _MAGIC + scope + _string(b"") + _string(_HASH) + length


def _token_data(public: PublicKey, flags: int, counter: int, data: bytes) -> bytes:
    """What a hardware token signs instead of the data; refuses a signature made without a touch."""
    if not flags & _USER_PRESENT:
        raise DeniedError(f"signature by {public.keyid}: the token says that nobody touched it")
    application = hashlib.sha256(public.application).digest()
    return application + _COUNTED.pack(flags, counter) + hashlib.sha256(data).digest()


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class _Reader:
    """Reads the SSH wire format; raises ValueError where bytes are missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise ValueError("truncated")
        self._at += count
        return piece

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))
