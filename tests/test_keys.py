"""Keys on disk, and their signatures checked by ``openssl`` and ``ssh-keygen`` instead of by us."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from guardrails.decision_log import envelope as env
from guardrails.decision_log import sshsig
from guardrails.decision_log.keys import (
    KDF_ROUNDS,
    HeldSignature,
    PersonKey,
    ServiceKey,
    person_keyid,
    service_keyid,
    verify_person,
    verify_service,
)
from guardrails.errors import DeniedError, InvalidInputError, RecordError, UsageError

MESSAGE = env.pae(env.PAYLOAD_TYPE, b'{"a":1}')
PASSPHRASE = "correct horse – staple"

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="OpenSSL's command is not installed")
needs_ssh_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="OpenSSH is not installed")

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_service_signatures_are_those_of_rfc_8032(secret: str, public: str, message: str, signature: str):
    key = ServiceKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert base64.b64decode(key.public_base64).hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verify_service(key.public_base64, bytes.fromhex(message), bytes.fromhex(signature))


# --- services ------------------------------------------------------------------------------


def test_a_service_key_survives_the_disk(tmp_path: Path):
    key, path = ServiceKey.generate(), tmp_path / "gate.key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = ServiceKey.load(path)
    assert (again.keyid, again.public_base64) == (key.keyid, key.public_base64)
    verify_service(key.public_base64, MESSAGE, again.sign(MESSAGE))


def test_a_key_file_is_private_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        ServiceKey.generate().save(tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path):
    path = tmp_path / "key"
    ServiceKey.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        ServiceKey.generate().save(path)
    with pytest.raises(UsageError, match="exists already"):
        PersonKey.generate().save(path, PASSPHRASE, rounds=1)
    assert path.read_bytes() == before


def test_a_service_key_that_others_may_read_is_not_loaded(tmp_path: Path):
    path = tmp_path / "key"
    ServiceKey.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(InvalidInputError, match=r"others may read.*chmod 600"):
        ServiceKey.load(path)


def test_service_key_files_that_are_none(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="cannot read the private key"):
        ServiceKey.load(tmp_path / "missing")
    other = rsa.generate_private_key(65537, 1024)
    contents = {
        "empty": b"",
        "rsa": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "locked": Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        ),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(InvalidInputError, match="not an"):
            ServiceKey.load(tmp_path / name)
    with pytest.raises(InvalidInputError, match="cannot write"):
        ServiceKey.generate().save(tmp_path / "no" / "folder")


def test_a_service_signature_is_for_one_key_and_one_message():
    key, other = ServiceKey.generate(), ServiceKey.generate()
    signature = key.sign(MESSAGE)
    verify_service(key.public_base64, MESSAGE, signature)
    for public, message, candidate in [
        (other.public_base64, MESSAGE, signature),
        (key.public_base64, MESSAGE + b" ", signature),
        (key.public_base64, MESSAGE, signature[:-1]),
        (key.public_base64, MESSAGE, b""),
        (key.public_base64, MESSAGE, signature + b"\0"),
    ]:
        with pytest.raises(DeniedError, match="not by service key sha256:"):
            verify_service(public, message, candidate)


@pytest.mark.parametrize("public", ["", "é", "AAAA", "A" * 44, base64.b64encode(b"x" * 33).decode()])
def test_what_is_no_public_key_of_a_service_is_refused(public: str):
    with pytest.raises(RecordError, match="not the base64 of a raw"):
        verify_service(public, MESSAGE, b"")


@needs_openssl
def test_openssl_verifies_a_service_signature_over_the_pae(tmp_path: Path):
    key = ServiceKey.generate()
    [signature] = env.open_envelope(env.seal(b'{"a":1}', key)).signatures
    assert openssl_accepts(tmp_path, key.public_base64, MESSAGE, signature.signature)
    assert not openssl_accepts(tmp_path, key.public_base64, MESSAGE + b" ", signature.signature)


@needs_openssl
def test_a_saved_service_key_signs_with_openssl(tmp_path: Path):
    key = ServiceKey.generate()
    key.save(tmp_path / "key.pem")
    (tmp_path / "pae").write_bytes(MESSAGE)
    openssl("pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "pae", "-out", "sig", folder=tmp_path)
    verify_service(key.public_base64, MESSAGE, (tmp_path / "sig").read_bytes())


def openssl(*arguments: str, folder: Path) -> bool:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def openssl_accepts(folder: Path, public: str, message: bytes, signature: bytes) -> bool:
    point = Ed25519PublicKey.from_public_bytes(base64.b64decode(public))
    pem = point.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, data in {"public.pem": pem, "pae": message, "sig": signature}.items():
        (folder / name).write_bytes(data)
    told = ["-pubin", "-inkey", "public.pem", "-rawin", "-in", "pae", "-sigfile", "sig"]
    return openssl("pkeyutl", "-verify", *told, folder=folder)


# --- people --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alice() -> PersonKey:
    return PersonKey.generate()


def test_a_persons_key_survives_the_disk(tmp_path: Path, alice: PersonKey):
    path = tmp_path / "alice"
    alice.save(path, PASSPHRASE, rounds=1)
    assert path.stat().st_mode & 0o777 == 0o600
    again = PersonKey.load(path, PASSPHRASE)
    assert (again.public, again.keyid) == (alice.public, alice.keyid)
    verify_person(alice.public, MESSAGE, again.sign(MESSAGE))


@pytest.mark.parametrize("attempt", ["", "Correct horse – staple", PASSPHRASE + " ", "x" * 100])
def test_a_wrong_passphrase_is_denied(tmp_path: Path, alice: PersonKey, attempt: str):
    alice.save(tmp_path / "alice", PASSPHRASE, rounds=1)
    with pytest.raises(DeniedError, match="passphrase"):
        PersonKey.load(tmp_path / "alice", attempt)


def test_a_persons_key_needs_a_passphrase(tmp_path: Path, alice: PersonKey):
    with pytest.raises(UsageError, match="needs a passphrase"):
        alice.save(tmp_path / "alice", "")
    assert not (tmp_path / "alice").exists()
    (tmp_path / "open").write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    (tmp_path / "open").chmod(0o600)
    with pytest.raises(InvalidInputError, match=r"not behind a passphrase.*ssh-keygen -p"):
        PersonKey.load(tmp_path / "open", PASSPHRASE)


def test_person_key_files_that_are_none(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="cannot read the private key"):
        PersonKey.load(tmp_path / "missing", PASSPHRASE)
    ServiceKey.generate().save(tmp_path / "service")
    with pytest.raises(InvalidInputError, match="not a private key in the OpenSSH format"):
        PersonKey.load(tmp_path / "service", PASSPHRASE)
    slow = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(PASSPHRASE.encode())
    other = rsa.generate_private_key(65537, 1024)
    (tmp_path / "rsa").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, slow))
    (tmp_path / "rsa").chmod(0o600)
    with pytest.raises(InvalidInputError, match="not an Ed25519 key"):
        PersonKey.load(tmp_path / "rsa", PASSPHRASE)


def test_a_damaged_key_is_never_loaded_as_another_one(tmp_path: Path, alice: PersonKey):
    alice.save(tmp_path / "alice", PASSPHRASE, rounds=1)
    text, refused = (tmp_path / "alice").read_bytes(), 0
    for position in range(0, len(text), 7):
        (tmp_path / "damaged").write_bytes(text[:position] + b"%" + text[position + 1 :])
        (tmp_path / "damaged").chmod(0o600)
        try:
            loaded = PersonKey.load(tmp_path / "damaged", PASSPHRASE)
        except (InvalidInputError, DeniedError):
            refused += 1
        else:  # the comment and the padding inside are not checked by anybody
            assert loaded.public == alice.public
    assert refused > 10


def test_by_default_a_guess_at_the_passphrase_costs_64_rounds_of_bcrypt(tmp_path: Path, alice: PersonKey):
    alice.save(tmp_path / "alice", PASSPHRASE)
    body = base64.b64decode("".join((tmp_path / "alice").read_text().splitlines()[1:-1]))
    cipher, kdf, options = _strings(body[len(b"openssh-key-v1\0") :], 3)
    assert (cipher, kdf) == (b"aes256-ctr", b"bcrypt")
    assert int.from_bytes(options[-4:], "big") == KDF_ROUNDS == 64


def _strings(data: bytes, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        length = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


@needs_ssh_keygen
def test_a_person_signs_offline_with_their_saved_key_and_ssh_keygen(tmp_path: Path, alice: PersonKey):
    alice.save(tmp_path / "alice", PASSPHRASE, rounds=1)
    (tmp_path / "pae").write_bytes(MESSAGE)
    helper = tmp_path / "askpass"
    helper.write_text(f"#!/bin/sh\nprintf '%s\\n' '{PASSPHRASE}'\n")
    helper.chmod(0o700)
    ask = {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}
    told = ["ssh-keygen", "-Y", "sign", "-f", "alice", "-n", env.NAMESPACE, "pae"]
    done = subprocess.run(told, cwd=tmp_path, env=os.environ | ask, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    signature = sshsig.dearmor((tmp_path / "pae.sig").read_text())
    verify_person(alice.public, MESSAGE, signature)
    assert signature == alice.sign(MESSAGE)


def test_a_persons_signature_is_for_one_key_one_message_and_one_namespace(alice: PersonKey):
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    bob = PersonKey(private)
    verify_person(bob.public, MESSAGE, bob.sign(MESSAGE))
    for public, message, signature in [
        (alice.public, MESSAGE, bob.sign(MESSAGE)),
        (bob.public, MESSAGE + b" ", bob.sign(MESSAGE)),
        (bob.public, MESSAGE, sshsig.sign(private, MESSAGE, "git")),
        (bob.public, MESSAGE, private.sign(MESSAGE)),
    ]:
        with pytest.raises(DeniedError):
            verify_person(public, message, signature)


def test_key_ids_tell_people_from_services(alice: PersonKey):
    service = ServiceKey.generate()
    assert service_keyid(service.public_base64) == service.keyid
    assert service.keyid.startswith("sha256:")
    assert len(service.keyid) == 7 + 64
    assert person_keyid(alice.public + " with a comment") == alice.keyid
    assert alice.keyid.startswith("SHA256:")


def test_a_service_key_has_one_spelling():
    """Unused bits of base64 would give one key two ids."""
    text = ServiceKey.generate().public_base64
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:-2] + letters[letters.index(text[-2]) + 1] + "="
    assert base64.b64decode(other) == base64.b64decode(text)
    service_keyid(text)  # the control
    with pytest.raises(RecordError, match="not the base64 of a raw Ed25519 public key"):
        service_keyid(other)


def test_a_held_signature_is_given_for_the_bytes_that_it_is_over(alice: PersonKey):
    made = sshsig.armor(alice.sign(b"these"))
    assert HeldSignature.parse(made, "x.sig").sign(b"these")
    with pytest.raises(DeniedError):
        HeldSignature.parse(made, "x.sig").sign(b"others")
    with pytest.raises(InvalidInputError, match=r"x\.sig: not an SSH signature"):
        HeldSignature.parse("nothing of the kind", "x.sig")


def test_a_service_key_of_small_order_is_refused():
    with pytest.raises(RecordError, match="small order"):
        service_keyid(base64.b64encode(b"\x01" + b"\x00" * 31).decode("ascii"))
