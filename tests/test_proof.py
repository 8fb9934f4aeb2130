"""Proofs of inclusion and of growth: ours, judged by ``oracle``, which knows only the specifications."""

from __future__ import annotations

from pathlib import Path

import oracle
import pytest
from growing_log import LOG_KEY, history
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN, add, project, record

from guardrails.decision_log import merkle
from guardrails.decision_log.cosignature import LOG, VerifierKey
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import (
    ConsistencyProof,
    InclusionProof,
    verify_consistency,
    verify_inclusion,
)
from guardrails.decision_log.store import Log
from guardrails.errors import LogVerificationError, RecordError


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 100])
def test_trees_and_proofs_are_those_of_the_rfc(size: int):
    h = history(size)
    root = h.tree.root()
    assert root == oracle.mth(h.data)
    for index in range(size):
        hashes = merkle.inclusion(h.tree.lookup, index, size)
        assert hashes == oracle.path(index, h.data)
        assert oracle.included(oracle.sha(b"\x00", h.data[index]), index, size, hashes, root)
    for old in range(1, size + 1):
        hashes = merkle.consistency(h.tree.lookup, old, size)
        assert hashes == oracle.proof(old, h.data)
        assert oracle.consistent(old, size, oracle.mth(h.data[:old]), root, hashes)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 70), st.integers(1, 70), st.data())
def test_our_verifier_and_the_rfcs_agree_on_spoilt_proofs(a: int, b: int, data):
    old, size = min(a, b), max(a, b)
    h = history(size)
    hashes = oracle.proof(old, h.data)
    kind = data.draw(st.sampled_from(["as it is", "flip", "drop", "add", "swap"]))
    if hashes and kind == "flip":
        at = data.draw(st.integers(0, len(hashes) - 1))
        hashes[at] = oracle.sha(hashes[at])
    elif hashes and kind == "drop":
        hashes.pop(data.draw(st.integers(0, len(hashes) - 1)))
    elif kind == "add":
        hashes.insert(data.draw(st.integers(0, len(hashes))), oracle.sha(b"x"))
    elif kind == "swap":
        hashes.reverse()
    roots = oracle.mth(h.data[:old]), oracle.mth(h.data)
    try:
        merkle.verify_consistency(old, size, *roots, hashes)
        ours = True
    except LogVerificationError:
        ours = False
    assert ours == oracle.consistent(old, size, *roots, hashes)


def test_a_real_log_proves_every_record_to_the_oracle(tmp_path: Path):
    Log.create(f"sqlite:///{tmp_path / 'log.db'}", ORIGIN, KEY, project).close()
    with Log.open(f"sqlite:///{tmp_path / 'log.db'}", KEY, project) as log:
        for count in (1, 2, 4, 6):
            add(log, *(record() for _ in range(count)))
        with log.read() as snapshot:
            envelopes = [entry.envelope for entry in snapshot.entries()]
            for size in snapshot.sizes()[1:]:
                note = snapshot.cosigned(size)
                assert oracle.log_signed(note, str(LOG_KEY)) == (ORIGIN, size, oracle.mth(envelopes[:size]))
                for index in range(size):
                    text = InclusionProof(index, tuple(snapshot.inclusion_proof(index, size)), note).encode()
                    assert oracle.tlog_proof(text) == (index, oracle.path(index, envelopes[:size]), note)
                    shown = verify_inclusion(InclusionProof.parse(text), envelopes[index], LOG_KEY)
                    assert shown.head.size == size


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("index 2", "index 3"), "does not lead to the root"),
        (lambda text: text.replace("index 2", "index 02"), "expected 'index N'"),
        (lambda text: text.replace("@v1", "@v2"), "does not begin with"),
        (lambda text: text.replace("index 2\n", "index 2\n" + "A" * 43 + "=\n"), "too long|does not lead"),
        (lambda text: text.replace("index 2\n", "index 2\nAAAA\n"), "32 bytes"),
        (lambda text: text.replace("index 2\n", "index 2\n???\n"), "bad base64"),
        (lambda text: text.replace("index 2\n", "index 2\n" + ("A" * 43 + "=\n") * 64), "more than 63"),
        (lambda text: text.replace("index 2\n", ""), "expected 'index N'"),
        (lambda text: text.replace("\n5\n", "\n4\n"), "not by service key"),
        (lambda text: "", "no empty line"),
    ],
)
def test_spoilt_proofs_are_refused(change, reason):
    h = history(5)
    text = InclusionProof(2, tuple(oracle.path(2, h.data)), h.note(5)).encode()
    verify_inclusion(InclusionProof.parse(text), h.data[2], LOG_KEY)
    spoilt = change(text)
    assert spoilt != text
    with pytest.raises((RecordError, LogVerificationError), match=reason):
        verify_inclusion(InclusionProof.parse(spoilt), h.data[2], LOG_KEY)


def test_a_proof_is_for_one_record_of_one_log():
    h = history(5)
    proof = InclusionProof(2, tuple(oracle.path(2, h.data)), h.note(5))
    with pytest.raises(LogVerificationError, match="does not lead to the root"):
        verify_inclusion(proof, b"another record", LOG_KEY)
    stranger = VerifierKey.of(ORIGIN, ServiceKey.generate(), LOG)
    with pytest.raises(LogVerificationError, match="not signed by this log's key"):
        verify_inclusion(proof, h.data[2], stranger)
    with pytest.raises(LogVerificationError, match="key of a witness"):
        verify_inclusion(proof, h.data[2], VerifierKey.of(ORIGIN, KEY))


def test_extra_data_of_a_proof_is_read_over():
    h = history(5)
    proof = InclusionProof(2, tuple(oracle.path(2, h.data)), h.note(5))
    assert InclusionProof.parse(proof.encode().replace("index", "extra AAAA\nindex", 1)) == proof
    with pytest.raises(RecordError, match="index is missing"):
        InclusionProof.parse(f"c2sp.org/tlog-proof@v1\nextra AAAA\n\n{h.note(5)}")


def test_growth_is_proved_from_a_checkpoint_that_was_kept():
    h, fork = history(9), history(9, fork_at=3)
    proof = ConsistencyProof.parse(h.request(5, 9).decode())
    assert verify_consistency(proof, h.note(5), LOG_KEY).head.size == 9
    with pytest.raises(LogVerificationError, match="does not extend"):
        verify_consistency(proof, fork.note(5), LOG_KEY)
    with pytest.raises(LogVerificationError, match="begins at 5"):
        verify_consistency(proof, h.note(4), LOG_KEY)
