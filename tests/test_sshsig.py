"""SSHSIG against the real ``ssh-keygen``, in both directions, and against everything that is not one."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.decision_log import sshsig
from guardrails.decision_log.sshsig import PublicKey
from guardrails.errors import DeniedError, RecordError

NAMESPACE = "interlock-decision"
MESSAGE = b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = sshsig.public_of(KEY)

needs_ssh_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="OpenSSH is not installed")


def ssh_keygen(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ssh-keygen", *arguments], input=stdin, capture_output=True, check=False)


def private_file(folder: Path, key: Ed25519PrivateKey = KEY) -> Path:
    path = folder / "key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path


def ssh_accepts(
    folder: Path, public: PublicKey, signature: bytes, message: bytes = MESSAGE, namespace: str = NAMESPACE
) -> bool:
    (folder / "allowed").write_text(f'alice namespaces="{NAMESPACE}" {public.text}\n')
    (folder / "signature").write_text(sshsig.armor(signature))
    told = ["-f", str(folder / "allowed"), "-I", "alice", "-n", namespace, "-s", str(folder / "signature")]
    return ssh_keygen("-Y", "verify", *told, stdin=message).returncode == 0


def ssh_sign(folder: Path, *options: str, namespace: str = NAMESPACE, message: bytes = MESSAGE) -> str:
    (folder / "message.sig").unlink(missing_ok=True)
    target = folder / "message"
    target.write_bytes(message)
    done = ssh_keygen("-Y", "sign", "-f", str(private_file(folder)), "-n", namespace, *options, str(target))
    assert done.returncode == 0, done.stderr
    return (folder / "message.sig").read_text()


# --- with ssh-keygen -----------------------------------------------------------------------


@needs_ssh_keygen
def test_ssh_keygen_verifies_what_we_sign(tmp_path: Path):
    signature = sshsig.sign(KEY, MESSAGE, NAMESPACE)
    assert ssh_accepts(tmp_path, PUBLIC, signature)
    assert not ssh_accepts(tmp_path, PUBLIC, signature, message=MESSAGE + b" ")
    assert not ssh_accepts(tmp_path, PUBLIC, signature, namespace="file")
    assert not ssh_accepts(tmp_path, PUBLIC, sshsig.sign(KEY, MESSAGE, "file"))


@needs_ssh_keygen
def test_we_verify_what_ssh_keygen_signs_and_ed25519_makes_both_the_same(tmp_path: Path):
    text = ssh_sign(tmp_path)
    signature = sshsig.dearmor(text)
    sshsig.verify(PUBLIC, MESSAGE, signature, NAMESPACE)
    assert signature == sshsig.sign(KEY, MESSAGE, NAMESPACE)
    assert text == sshsig.armor(signature)


@needs_ssh_keygen
def test_other_namespaces_and_hashes_of_ssh_keygen_are_refused(tmp_path: Path):
    with pytest.raises(DeniedError, match="namespace 'file' is not 'interlock-decision'"):
        sshsig.verify(PUBLIC, MESSAGE, sshsig.dearmor(ssh_sign(tmp_path, namespace="file")), NAMESPACE)
    with pytest.raises(DeniedError, match="only hash sha512"):
        sshsig.verify(PUBLIC, MESSAGE, sshsig.dearmor(ssh_sign(tmp_path, "-O", "hashalg=sha256")), NAMESPACE)


@needs_ssh_keygen
def test_public_keys_and_fingerprints_are_those_of_ssh_keygen(tmp_path: Path):
    derived = ssh_keygen("-y", "-f", str(private_file(tmp_path))).stdout.decode()
    assert PublicKey.parse(derived) == PUBLIC
    (tmp_path / "key.pub").write_text(PUBLIC.text + " a comment\n")
    listed = ssh_keygen("-l", "-E", "sha256", "-f", str(tmp_path / "key.pub")).stdout.decode()
    assert listed.split()[1] == PUBLIC.keyid


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys_are_refused_with_advice(tmp_path: Path, kind: str):
    ssh_keygen("-q", "-t", kind, "-N", "", "-f", str(tmp_path / "other"))
    with pytest.raises(RecordError, match=r"cannot sign decisions.*ssh-keygen -t ed25519"):
        PublicKey.parse((tmp_path / "other.pub").read_text())


# --- hardware keys -------------------------------------------------------------------------

TOKEN = PublicKey(sshsig.SK_ED25519, PUBLIC.raw, b"ssh:interlock")


def wire(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def token_signature(flags: int = 0x01, counter: int = 7, public: PublicKey = TOKEN) -> bytes:
    """What a FIDO token would make of MESSAGE: PROTOCOL.u2f, written down from the document."""
    covered = b"SSHSIG" + wire(NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(MESSAGE).digest())
    state = struct.pack(">BI", flags, counter)
    by_token = hashlib.sha256(public.application).digest() + state + hashlib.sha256(covered).digest()
    inner = wire(b"sk-ssh-ed25519@openssh.com", KEY.sign(by_token)) + state
    body = wire(public.blob, NAMESPACE.encode(), b"", b"sha512", inner)
    return b"SSHSIG" + struct.pack(">I", 1) + body


@pytest.mark.parametrize("flags", [0x01, 0x05])
def test_a_hardware_signature_counts_when_somebody_touched_the_token(flags: int):
    sshsig.verify(TOKEN, MESSAGE, token_signature(flags), NAMESPACE)


@pytest.mark.parametrize("flags", [0x00, 0x04])
def test_a_hardware_signature_without_a_touch_is_refused(flags: int):
    with pytest.raises(DeniedError, match="nobody touched"):
        sshsig.verify(TOKEN, MESSAGE, token_signature(flags), NAMESPACE)


@needs_ssh_keygen
def test_ssh_keygen_agrees_about_hardware_signatures(tmp_path: Path):
    assert ssh_accepts(tmp_path, TOKEN, token_signature())
    assert not ssh_accepts(tmp_path, TOKEN, token_signature(), message=MESSAGE + b" ")
    # About a missing touch it does not: OpenSSH 9.2 verifies such a signature, so the check is ours to make.


def test_a_hardware_key_is_bound_to_its_application():
    other = PublicKey(sshsig.SK_ED25519, PUBLIC.raw, b"ssh:elsewhere")
    with pytest.raises(DeniedError, match="another key"):
        sshsig.verify(other, MESSAGE, token_signature(), NAMESPACE)


def test_the_counter_and_the_flags_are_covered_by_the_signature():
    signature = bytearray(token_signature(flags=0x01))
    signature[-5] |= 0x04
    with pytest.raises(DeniedError, match="does not fit"):
        sshsig.verify(TOKEN, MESSAGE, bytes(signature), NAMESPACE)


def test_a_software_signature_does_not_pass_for_a_hardware_one():
    inner = wire(b"ssh-ed25519", KEY.sign(MESSAGE))
    body = wire(TOKEN.blob, NAMESPACE.encode(), b"", b"sha512", inner)
    with pytest.raises(DeniedError, match="algorithm is not the key's"):
        sshsig.verify(TOKEN, MESSAGE, b"SSHSIG" + struct.pack(">I", 1) + body, NAMESPACE)


@pytest.mark.parametrize("public", [PUBLIC, TOKEN])
def test_nothing_may_hide_inside_a_signature(public: PublicKey):
    """One byte more in the innermost field, every length around it corrected."""
    if public is TOKEN:
        honest, kind = token_signature(), sshsig.SK_ED25519
        proof = honest[-64 - 5 : -5], honest[-5:]
    else:
        honest, kind = sshsig.sign(KEY, MESSAGE, NAMESPACE), sshsig.ED25519
        proof = honest[-64:], b""
    for extra in (b"", b"\0"):
        inner = wire(kind.encode(), proof[0]) + proof[1] + extra
        made = b"SSHSIG\0\0\0\1" + wire(public.blob, NAMESPACE.encode(), b"", b"sha512", inner)
        if extra:
            with pytest.raises(DeniedError, match="damaged"):
                sshsig.verify(public, MESSAGE, made, NAMESPACE)
        else:
            assert made == honest
            sshsig.verify(public, MESSAGE, made, NAMESPACE)


# --- tampering -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "signature"),
    [(PUBLIC, sshsig.sign(KEY, MESSAGE, NAMESPACE)), (TOKEN, token_signature())],
)
def test_every_byte_of_a_signature_matters(public: PublicKey, signature: bytes):
    sshsig.verify(public, MESSAGE, signature, NAMESPACE)
    for position in range(len(signature)):
        altered = bytearray(signature)
        altered[position] ^= 0x01
        with pytest.raises(DeniedError):
            sshsig.verify(public, MESSAGE, bytes(altered), NAMESPACE)
        with pytest.raises(DeniedError):
            sshsig.verify(public, MESSAGE, signature[:position], NAMESPACE)
    with pytest.raises(DeniedError):
        sshsig.verify(public, MESSAGE, signature + b"\0", NAMESPACE)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_without_a_crash(data: bytes):
    with pytest.raises(DeniedError):
        sshsig.verify(PUBLIC, MESSAGE, data, NAMESPACE)
    with pytest.raises(DeniedError):
        sshsig.verify(PUBLIC, MESSAGE, b"SSHSIG\0\0\0\1" + data, NAMESPACE)


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_is_for_one_message(signed: bytes, presented: bytes):
    signature = sshsig.sign(KEY, signed, NAMESPACE)
    sshsig.verify(PUBLIC, signed, signature, NAMESPACE)
    if signed != presented:
        with pytest.raises(DeniedError):
            sshsig.verify(PUBLIC, presented, signature, NAMESPACE)


def test_another_key_is_named_as_the_reason():
    other = sshsig.public_of(Ed25519PrivateKey.generate())
    with pytest.raises(DeniedError, match="by another key than SHA256:"):
        sshsig.verify(other, MESSAGE, sshsig.sign(KEY, MESSAGE, NAMESPACE), NAMESPACE)


# --- text forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reserved", "hash_name", "counts"),
    [(b"", b"sha512", True), (b"x", b"sha512", False), (b"", b"sha256", False)],
)
def test_nothing_hides_in_the_reserved_field_and_no_other_hash_is_named(reserved, hash_name, counts):
    """Neither stands in what is signed but as a constant: the same signature would be another record."""
    inner = wire(b"ssh-ed25519", sshsig.sign(KEY, MESSAGE, NAMESPACE)[-64:])
    made = b"SSHSIG\0\0\0\1" + wire(PUBLIC.blob, NAMESPACE.encode(), reserved, hash_name, inner)
    if counts:
        sshsig.verify(PUBLIC, MESSAGE, made, NAMESPACE)
    else:
        with pytest.raises(DeniedError, match="only hash sha512 is accepted"):
            sshsig.verify(PUBLIC, MESSAGE, made, NAMESPACE)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_armor_round_trip(data: bytes):
    assert sshsig.dearmor(sshsig.armor(data)) == data
    assert sshsig.dearmor(sshsig.armor(data).replace("\n", "\r\n")) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2ln",
        "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        sshsig.armor(b"x").replace("A", "*"),
        sshsig.armor(b"x").replace("BEGIN", "BEGUN"),
        sshsig.armor(b"x").replace("END", "AND"),
    ],
)
def test_what_is_no_armor_is_refused(text: str):
    with pytest.raises(RecordError, match="SSH signature"):
        sshsig.dearmor(text)


@pytest.mark.parametrize("key", [PUBLIC, TOKEN])
def test_public_keys_round_trip_and_lose_their_comment(key: PublicKey):
    assert PublicKey.parse(key.text) == key
    assert PublicKey.parse(f"{key.text}   alice@example.org and more\n") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        PUBLIC.text.split()[1],
        PUBLIC.text[:-4],
        PUBLIC.text.replace("AAAA", "AAAB", 1),
        PUBLIC.text + "\n" + PUBLIC.text,
        TOKEN.text.replace("sk-ssh-ed25519@openssh.com", "ssh-ed25519"),
        PUBLIC.text.replace("ssh-ed25519 ", "sk-ssh-ed25519@openssh.com "),
        "ssh-ed25519 " + "é" * 8,
        'namespaces="x" ' + PUBLIC.text,
    ],
)
def test_what_is_no_public_key_is_refused(text: str):
    with pytest.raises(RecordError):
        PublicKey.parse(text)


# --- claims ------------------------------------------------------------------------------------


def test_claims_are_read_without_being_believed():
    plain = sshsig.read(sshsig.sign(KEY, MESSAGE, NAMESPACE))
    assert (plain.key, plain.namespace, plain.present, plain.counter) == (PUBLIC, NAMESPACE, None, None)
    for flags, present, verified in ((0x00, False, False), (0x01, True, False), (0x05, True, True)):
        token = sshsig.read(token_signature(flags, 9))
        assert (token.key, token.present, token.verified, token.counter) == (TOKEN, present, verified, 9)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_arbitrary_bytes_make_no_claims_and_no_crash(data: bytes, cut: int):
    for attempt in (data, token_signature()[:cut] + data):
        try:
            sshsig.read(attempt)
        except RecordError:
            continue


def test_a_public_key_has_32_bytes_one_spelling_and_one_type():
    kind, encoded = PUBLIC.text.split()
    assert PublicKey.parse(PUBLIC.text) == PUBLIC
    short = base64.b64encode(wire(b"ssh-ed25519", PUBLIC.raw[:-1])).decode()
    with pytest.raises(RecordError, match="damaged OpenSSH public key"):
        PublicKey.parse(f"{kind} {short}")
    padded = base64.b64encode(wire(b"sk-ssh-ed25519@openssh.com", PUBLIC.raw, b"ssh:xy")).decode()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert padded.endswith("="), "there are unused bits"
    at = len(padded.rstrip("=")) - 1
    other = padded[:at] + letters[letters.index(padded[at]) + 1] + padded[at + 1 :]
    assert base64.b64decode(other) == base64.b64decode(padded)
    assert PublicKey.parse(f"sk-ssh-ed25519@openssh.com {padded}").application == b"ssh:xy"
    with pytest.raises(RecordError, match="damaged OpenSSH public key"):
        PublicKey.parse(f"sk-ssh-ed25519@openssh.com {other}")
    with pytest.raises(RecordError, match="the type in the public key is not the type before it"):
        PublicKey.parse(f"sk-ssh-ed25519@openssh.com {encoded}")


def test_an_armor_around_something_else_says_so():
    with pytest.raises(RecordError, match="damaged SSH signature: not base64"):
        sshsig.dearmor("-----BEGIN SSH SIGNATURE-----\n****\n-----END SSH SIGNATURE-----\n")


SMALL_ORDER = (
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)  # fmt: skip


@pytest.mark.parametrize("sign", [0x00, 0x80])
@pytest.mark.parametrize("raw", SMALL_ORDER)
def test_a_key_under_which_one_signature_fits_every_message_is_refused(raw, sign):
    data = bytearray(bytes.fromhex(raw))
    data[-1] |= sign
    line = sshsig.PublicKey(sshsig.ED25519, bytes(data)).text
    with pytest.raises(RecordError, match="small order"):
        PublicKey.parse(line)


def test_the_point_of_order_one_would_accept_what_nobody_signed():
    """The control: the library under it verifies a signature that no private key made."""
    neutral = b"\x01" + b"\x00" * 31
    for message in (b"approve", b"promote"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + b"\x00" * 32, message)


def test_a_signature_whose_key_is_of_another_shape_names_nobody():
    inner = f"{PUBLIC.kind} {PUBLIC.text.split()[1]}".encode()
    forged = b"SSHSIG" + struct.pack(">I", 1) + wire(wire(inner), b"interlock-decision", b"", b"sha512", b"")
    with pytest.raises(RecordError, match="names no key"):
        sshsig.key_of(forged)
    with pytest.raises(RecordError, match="damaged SSH signature"):
        sshsig.read(forged)
