"""Keys on disk, and what their signatures are worth.

Invariants:
- A service signs plain Ed25519 over the DSSE encoding, so ``openssl pkeyutl -verify`` can check it;
  a person signs SSHSIG in the namespace ``interlock-decision``, so ``ssh-keygen -Y verify`` can.
- A private key is written once, readable by its owner only, and never overwritten. A service key
  that others may read is not loaded.
- A person's key is always behind a passphrase, with a slow key derivation.
- The public halves are pinned elsewhere (roster); a key id here is a fingerprint, never a proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from guardrails.decision_log import sshsig
from guardrails.decision_log.envelope import NAMESPACE, Signature
from guardrails.decision_log.small_order import require_large_order
from guardrails.errors import DeniedError, InvalidInputError, RecordError, UsageError

KDF_ROUNDS = 64
"""OpenSSH bcrypt rounds: about half a second to a second for each guess of a passphrase."""

_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


class ServiceKey:
    """The key of a service (gate, evaluator, log): unattended, so without a passphrase."""

    scheme: Literal["ed25519"] = "ed25519"

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_base64 = base64.b64encode(private.public_key().public_bytes_raw()).decode("ascii")
        self.keyid = service_keyid(self.public_base64)

    @classmethod
    def generate(cls) -> ServiceKey:
        """A fresh key, in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> ServiceKey:
        """Read the key that ``save`` wrote.

        Raises:
            InvalidInputError: missing, not an Ed25519 key, or readable by others.
        """
        data = _read_private(path)
        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidInputError(f"{path}: not an unencrypted private key in PEM") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidInputError(f"{path}: not an Ed25519 key")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM, mode 0600; refuses to overwrite."""
        _write_private(path, self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def sign(self, pae: bytes) -> bytes:
        """The Ed25519 signature over the message."""
        return self._private.sign(pae)


class PersonKey:
    """The key of a person, unlocked for the moment of signing."""

    scheme: Literal["sshsig"] = "sshsig"

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = sshsig.public_of(private)

    @classmethod
    def generate(cls) -> PersonKey:
        """A fresh key, in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: str) -> PersonKey:
        """Unlock a key in the OpenSSH format.

        Raises:
            InvalidInputError: missing, not an Ed25519 key, or not behind a passphrase.
            DeniedError: the passphrase is wrong.
        """
        data = _read_private(path)
        if not data.startswith(_OPENSSH):
            raise InvalidInputError(f"{path}: not a private key in the OpenSSH format")
        if not passphrase:
            raise DeniedError(f"{path}: a passphrase is needed to sign")
        try:
            private = load_ssh_private_key(data, passphrase.encode("utf-8"))
        except TypeError:
            raise InvalidInputError(
                f"{path}: the key is not behind a passphrase", hint=f"set one with: ssh-keygen -p -f {path}"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise DeniedError(f"{path}: wrong passphrase (or the file is damaged)") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidInputError(f"{path}: not an Ed25519 key")
        return cls(private)

    def save(self, path: Path, passphrase: str, *, rounds: int = KDF_ROUNDS) -> None:
        """Write the key in the OpenSSH format behind a passphrase, mode 0600; refuses to overwrite."""
        if not passphrase:
            raise UsageError(f"{path}: a person's key needs a passphrase; none was given")
        slow = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(rounds)
        locked = slow.build(passphrase.encode("utf-8"))
        _write_private(path, self._private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, locked))

    @property
    def public(self) -> str:
        """The public key as an OpenSSH line without a comment: what the roster holds."""
        return self._public.text

    @property
    def keyid(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it."""
        return self._public.keyid

    def sign(self, pae: bytes) -> bytes:
        """The binary SSHSIG over the message."""
        return sshsig.sign(self._private, pae, NAMESPACE)


class HeldSignature:
    """A signature that a person made elsewhere, over bytes that were exported: it signs these and no others."""

    scheme: Literal["sshsig"] = "sshsig"

    def __init__(self, signature: bytes) -> None:
        self._signature = signature
        self.claims = sshsig.read(signature)

    @classmethod
    def parse(cls, text: str, where: str) -> HeldSignature:
        """Read what ``ssh-keygen -Y sign`` wrote; raises InvalidInputError where it is something else."""
        try:
            return cls(sshsig.dearmor(text))
        except RecordError as error:
            raise InvalidInputError(f"{where}: {error.message}", hint=error.hint) from None

    @property
    def public(self) -> str:
        """The public key that the signature names."""
        return self.claims.key.text

    @property
    def keyid(self) -> str:
        """Its fingerprint."""
        return self.claims.key.keyid

    def sign(self, pae: bytes) -> bytes:
        """The signature that is held, if it is over just these bytes; raises DeniedError otherwise."""
        sshsig.verify(self.claims.key, pae, self._signature, NAMESPACE)
        return self._signature


@lru_cache(maxsize=64)
def service_keyid(public_base64: str) -> str:
    """``sha256:`` and the hash of the raw public key of a service."""
    return "sha256:" + hashlib.sha256(_raw_public(public_base64)).hexdigest()


def person_keyid(openssh_public: str) -> str:
    """``SHA256:…`` as ``ssh-keygen -l`` prints it, for the public key of a person."""
    return sshsig.PublicKey.parse(openssh_public).keyid


def verify_service(public_base64: str, pae: bytes, signature: bytes) -> None:
    """Check the signature of a service; raises DeniedError unless it holds."""
    try:
        _public(public_base64).verify(signature, pae)
    except InvalidSignature:
        raise DeniedError(f"the signature is not by service key {service_keyid(public_base64)}") from None


def verify_person(openssh_public: str, pae: bytes, signature: bytes) -> None:
    """Check the SSHSIG of a person over a decision; raises DeniedError unless it holds."""
    sshsig.verify(sshsig.PublicKey.parse(openssh_public), pae, signature, NAMESPACE)


def is_signed_by(openssh_public: str, pae: bytes, signatures: Iterable[Signature]) -> bool:
    """True if one of these signatures states this key of a person and holds under it."""
    for signature in signatures:
        try:
            if signature.keyid == person_keyid(openssh_public):
                verify_person(openssh_public, pae, signature.signature)
                return True
        except (DeniedError, RecordError):
            continue
    return False


@lru_cache(maxsize=64)
def _public(public_base64: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_raw_public(public_base64))


@lru_cache(maxsize=64)
def _raw_public(public_base64: str) -> bytes:
    try:
        raw = base64.b64decode(public_base64, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode("ascii") != public_base64:
        raise RecordError(f"not the base64 of a raw Ed25519 public key: {public_base64!r:.80}")
    require_large_order(raw)
    return raw


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(65_536)
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot read the private key: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidInputError(f"{path}: others may read this private key", hint=f"chmod 600 {path}")
    return data


def _write_private(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path}: exists already; a private key is never overwritten") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot write the private key: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
