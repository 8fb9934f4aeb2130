"""Signed tree heads: the published examples of the note format, and every way to spoil one."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.decision_log import checkpoint
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.keys import ServiceKey, verify_service
from guardrails.errors import LogVerificationError, RecordError

ORIGIN = "interlock/2f1c7a5e-7d1e-4a55-9f0e-6a3f8a1d9a10"
KEY = ServiceKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
HEAD = Checkpoint(ORIGIN, 7, "ab" * 32)
NOTE = checkpoint.sign(HEAD, KEY)

# The example of C2SP tlog-checkpoint.
PUBLISHED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9"
    "nTo+zyWE+xeMcTOAYQ8=\n"
)


# --- the format ----------------------------------------------------------------------------


def test_the_published_checkpoint_reads_as_its_specification_says():
    head, [signature] = checkpoint.parse(PUBLISHED)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.root == base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=").hex()
    assert signature.name == head.origin
    assert len(signature.signature) == 64
    assert PUBLISHED.startswith(head.text + "\n")


def test_key_id_and_signature_of_the_reference_implementation_of_notes():
    """The key, the text and the signature in the documentation of Go's ``sumdb/note``."""
    seed = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    key = ServiceKey(Ed25519PrivateKey.from_private_bytes(seed))
    public = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    assert base64.b64decode(key.public_base64) == public
    assert checkpoint.key_id("PeterNeumann", key.public_base64).hex() == "c74f20a3"
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    assert base64.b64decode(line) == bytes.fromhex("c74f20a3") + key.sign(text.encode())


def test_a_note_is_exactly_this():
    root = base64.b64encode(b"\xab" * 32).decode()
    text = f"{ORIGIN}\n7\n{root}\n"
    blob = checkpoint.key_id(ORIGIN, KEY.public_base64) + KEY.sign(text.encode())
    assert f"{text}\n— {ORIGIN} {base64.b64encode(blob).decode()}\n" == NOTE


@settings(deadline=None)
@given(st.integers(0, 2**50), st.binary(min_size=32, max_size=32))
def test_round_trip(size: int, root: bytes):
    head = Checkpoint(ORIGIN, size, root.hex())
    note = checkpoint.sign(head, KEY)
    assert checkpoint.verify(note, ORIGIN, KEY.public_base64) == head


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u00a0b"])
def test_origins_that_no_note_can_carry(origin: str):
    with pytest.raises(RecordError, match="origin"):
        checkpoint.sign(Checkpoint(origin, 0, "00" * 32), KEY)


# --- witnesses -----------------------------------------------------------------------------


def line_of(name: str, key: ServiceKey, text: str, identity: bytes | None = None) -> str:
    blob = (identity or checkpoint.key_id(name, key.public_base64)) + key.sign(text.encode())
    return f"— {name} {base64.b64encode(blob).decode()}\n"


def test_the_signatures_of_others_are_carried_and_ignored():
    witness = ServiceKey.generate()
    note = NOTE + line_of("witness.example/w1", witness, HEAD.text)
    assert checkpoint.verify(note, ORIGIN, KEY.public_base64) == HEAD
    first = HEAD.text + "\n" + line_of("witness.example/w1", witness, HEAD.text) + NOTE.split("\n\n")[1]
    assert checkpoint.verify(first, ORIGIN, KEY.public_base64) == HEAD
    _, (_, by_witness) = checkpoint.parse(note)
    verify_service(witness.public_base64, HEAD.text.encode(), by_witness.signature)


def test_the_same_name_with_another_key_is_another_key():
    stranger = ServiceKey.generate()
    note = HEAD.text + "\n" + line_of(ORIGIN, stranger, HEAD.text)
    with pytest.raises(LogVerificationError, match="not signed by this log's key"):
        checkpoint.verify(note, ORIGIN, KEY.public_base64)


def test_one_bad_line_of_a_known_key_condemns_the_note():
    forged = line_of(ORIGIN, ServiceKey.generate(), HEAD.text, checkpoint.key_id(ORIGIN, KEY.public_base64))
    for note in (NOTE + forged, HEAD.text + "\n" + forged + NOTE.split("\n\n")[1], HEAD.text + "\n" + forged):
        with pytest.raises(LogVerificationError, match="not by service key"):
            checkpoint.verify(note, ORIGIN, KEY.public_base64)


# --- tampering -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, len(NOTE) - 1), st.characters(exclude_categories=["Cs"]))
def test_any_other_character_anywhere_is_refused(position: int, letter: str):
    altered = NOTE[:position] + letter + NOTE[position + 1 :]
    if altered != NOTE:
        with pytest.raises(LogVerificationError):
            checkpoint.verify(altered, ORIGIN, KEY.public_base64)


@settings(deadline=None)
@given(st.integers(0, len(NOTE) - 1), st.sampled_from(" \n+=A0—"))
def test_inserted_and_removed_characters_are_refused(position: int, letter: str):
    for altered in (NOTE[:position] + NOTE[position + 1 :], NOTE[:position] + letter + NOTE[position:]):
        with pytest.raises(LogVerificationError):
            checkpoint.verify(altered, ORIGIN, KEY.public_base64)


def test_another_logs_checkpoint_is_refused_even_from_the_same_key():
    other = checkpoint.sign(Checkpoint("interlock/other", 7, "ab" * 32), KEY)
    with pytest.raises(LogVerificationError, match="of log 'interlock/other'"):
        checkpoint.verify(other, ORIGIN, KEY.public_base64)
    # Neither does a second signature, by the right name, over the other log's head make it ours.
    head = Checkpoint("interlock/other", 7, "ab" * 32)
    with pytest.raises(LogVerificationError, match="of log 'interlock/other'"):
        checkpoint.verify(other + line_of(ORIGIN, KEY, head.text), ORIGIN, KEY.public_base64)


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n07\n{'A' * 43}=\n",
        f"{ORIGIN}\n-7\n{'A' * 43}=\n",
        f"{ORIGIN}\n+7\n{'A' * 43}=\n",
        f"{ORIGIN}\n٧\n{'A' * 43}=\n",
        f"{ORIGIN}\n7\n{'A' * 42}B=\n",
        f"{ORIGIN}\n7\nAAAA\n",
        f"{ORIGIN}\n7\n\n",
        f"{ORIGIN}\n7\n{'A' * 43}=\nextension line\n",
        f"{ORIGIN}\n7\n",
        f"{ORIGIN}\t\n7\n{'A' * 43}=\n",
        f"{ORIGIN} x\n7\n{'A' * 43}=\n",
        f"{ORIGIN}\x01\n7\n{'A' * 43}=\n",
    ],
)
def test_malformed_heads_are_refused_even_when_properly_signed(text: str):
    well_formed = f"{ORIGIN}\n7\n{'A' * 43}=\n"
    assert checkpoint.verify(
        well_formed + "\n" + line_of(ORIGIN, KEY, well_formed), ORIGIN, KEY.public_base64
    )
    with pytest.raises(LogVerificationError, match="not a checkpoint"):
        checkpoint.verify(text + "\n" + line_of(ORIGIN, KEY, text), ORIGIN, KEY.public_base64)


@pytest.mark.parametrize(
    "tail", ["", "— x\n", "— x AAAA\n", "- x AAAAAAAA\n", "— x  AAAAAAAA\n", "— x+y AAAAAAAA\n"]
)
def test_malformed_signature_lines_are_refused(tail: str):
    with pytest.raises(RecordError):
        checkpoint.parse(HEAD.text + "\n" + tail)
    with pytest.raises(RecordError):
        checkpoint.parse(NOTE + (tail or "\n"))


def test_a_note_ends_with_a_new_line_and_nothing_in_its_place():
    for altered in (NOTE[:-1], NOTE[:-1] + "X", NOTE[:-1] + " "):
        with pytest.raises(RecordError):
            checkpoint.parse(altered)


def test_endless_notes_are_refused():
    with pytest.raises(RecordError, match="too long"):
        checkpoint.parse(NOTE + line_of("w", KEY, "x") * 2000)
