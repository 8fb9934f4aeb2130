"""Witnesses: what they cosign, what they refuse, and that no death makes them cosign two histories.

Trees, proofs, notes and cosignatures are judged by ``oracle``, which knows only the specifications.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import random
import signal
import stat
import time
from pathlib import Path

import oracle
import pytest
from growing_log import LOG_KEY, NAME, history, trusting_witness
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN

from guardrails.decision_log import checkpoint, cosignature
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.cosignature import VerifierKey
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import ConsistencyProof
from guardrails.decision_log.witness import MAX_REQUEST_BYTES, Witness
from guardrails.errors import LogVerificationError, RecordError, StorageError, UsageError


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return trusting_witness(tmp_path / "witness")


# --- keys and cosignatures -------------------------------------------------------------------


def test_cosignatures_are_what_the_specification_says(witness: Witness):
    h = history(5)
    answer = witness.add_checkpoint(h.request(0, 5))
    assert answer.status == 200
    note = h.note(5) + answer.body
    seen = oracle.witnessed(note, str(witness.verifier_key))
    assert abs(seen - time.time()) < 60
    [found] = cosignature.cosignatures(note, [witness.verifier_key])
    assert (found.witness, found.size, found.time) == (NAME, 5, seen)
    assert oracle.log_signed(witness.latest(ORIGIN), str(LOG_KEY))[1] == 5
    assert oracle.witnessed(witness.latest(ORIGIN), str(witness.verifier_key)) == seen


def test_the_published_cosignature_reads_as_one():
    """The example of C2SP tlog-cosignature: its time; its key is not published."""
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin"
        "1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    head, [line] = checkpoint.parse(note)
    assert len(line.signature) == 72
    assert int.from_bytes(line.signature[:8], "big") == 1679315147
    stranger = VerifierKey.of("witness.example.com/w1", ServiceKey.generate())
    with pytest.raises(LogVerificationError, match="not by witness"):
        cosignature.read(head, line, stranger)
    assert cosignature.cosignatures(note, [stranger]) == []


def test_a_threshold_counts_witnesses_not_names():
    h, key = history(3), ServiceKey.generate()
    head, _ = checkpoint.parse(h.note(3))
    lines = [cosignature.cosign(head, name, key, 10 + i) for i, name in enumerate(("one", "two"))]
    keys = [VerifierKey.of(name, key) for name in ("one", "two")]
    [found] = cosignature.cosignatures(h.note(3) + "".join(lines), keys)
    assert found.time == 10


@pytest.mark.parametrize("spoil", ["time", "text", "signature", "short"])
def test_a_spoilt_cosignature_condemns_the_note(witness: Witness, spoil: str):
    h = history(3)
    head, _ = checkpoint.parse(h.note(3))
    key = ServiceKey.generate()
    verifier = VerifierKey.of("w", key)
    line = cosignature.cosign(head, "w", key, 1000)
    if spoil == "time":
        blob = verifier.key_id + (1001).to_bytes(8, "big") + oracle.note_parts(f"x\n\n{line}")[1][0][2][8:]
        line = f"— w {base64.b64encode(blob).decode()}\n"
    elif spoil == "text":
        line = cosignature.cosign(Checkpoint(ORIGIN, 2, head.root), "w", key, 1000)
    elif spoil == "signature":
        line = f"— w {base64.b64encode(verifier.key_id + bytes(72)).decode()}\n"
    else:
        line = f"— w {base64.b64encode(verifier.key_id + bytes(64)).decode()}\n"
    with pytest.raises(LogVerificationError, match=r"not by witness w|not well formed"):
        cosignature.cosignatures(h.note(3) + line, [verifier])


@settings(deadline=None)
@given(st.integers(0, 200), st.characters(exclude_categories=["Cs"]))
def test_a_mistyped_verifier_key_is_refused(position: int, letter: str):
    text = str(LOG_KEY)
    assert VerifierKey.parse(text) == LOG_KEY
    assert oracle.vkey(text)[0] == ORIGIN
    spoilt = text[: position % len(text)] + letter + text[position % len(text) + 1 :]
    if spoilt.strip() != text:
        with pytest.raises(RecordError):
            VerifierKey.parse(spoilt)


# --- what a witness does -----------------------------------------------------------------------


def test_a_witness_follows_growth(witness: Witness):
    h = history(40)
    old = 0
    for size in (1, 1, 2, 7, 8, 8, 33, 40):
        answer = witness.add_checkpoint(h.request(old, size))
        assert answer.status == 200, answer
        assert oracle.witnessed(h.note(size) + answer.body, str(witness.verifier_key)) > 0
        old = size


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("fork", 422), ("fork of the same size", 409), ("rollback", 409), ("from elsewhere", 409),
        ("old beyond", 400), ("unknown log", 404), ("unsigned", 403), ("no proof", 422), ("proof too many", 422),
        ("nonsense", 400), ("too long", 400), ("no text", 400), ("extension line", 400),
    ],
)  # fmt: skip
def test_everything_else_is_refused_as_the_specification_says(witness: Witness, what: str, status: int):
    h, fork = history(20), history(20, fork_at=5)
    assert witness.add_checkpoint(h.request(0, 10)).status == 200
    before = witness.latest(ORIGIN)
    stranger = ServiceKey.generate()
    body = {
        "fork": fork.request(10, 15),
        "fork of the same size": ConsistencyProof(10, (), fork.note(10)).encode().encode(),
        "rollback": h.request(5, 8),
        "from elsewhere": h.request(9, 15),
        "old beyond": ConsistencyProof(12, (), h.note(11)).encode().encode(),
        "unknown log": h.request(10, 15, origin="another.example/log"),
        "unsigned": h.request(10, 15, key=stranger),
        "no proof": ConsistencyProof(10, (), h.note(15)).encode().encode(),
        "proof too many": ConsistencyProof(10, (bytes(32),), h.note(10)).encode().encode(),
        "nonsense": b"hello\n\nthere\n",
        "too long": b"old 10\n\n" + b"x" * MAX_REQUEST_BYTES,
        "no text": b"old 10\n\n\xff\xfe",
        "extension line": h.request(10, 15).replace(b"=\n\n\xe2", b"=\nmore\n\n\xe2"),
    }[what]
    answer = witness.add_checkpoint(body)
    assert answer.status == status, answer
    assert "—" not in answer.body
    if status == 409:
        assert (answer.body, answer.kind) == ("10\n", "text/x.tlog.size")
    assert witness.latest(ORIGIN) == before
    assert witness.add_checkpoint(h.request(10, 20)).status == 200, "the control"


def test_the_first_checkpoint_needs_no_proof_and_takes_none(witness: Witness):
    h = history(10)
    assert (
        witness.add_checkpoint(ConsistencyProof(0, (bytes(32),), h.note(10)).encode().encode()).status == 422
    )
    assert witness.add_checkpoint(h.request(3, 10)).body == "0\n"
    assert witness.add_checkpoint(h.request(0, 10)).status == 200


def test_signatures_of_others_are_not_kept(witness: Witness):
    h = history(4)
    lines = "".join(
        checkpoint.sign(Checkpoint(f"x{i}", 4, "00" * 32), KEY).split("\n\n")[1] for i in range(50)
    )
    body = (h.request(0, 4).decode() + lines).encode()
    assert witness.add_checkpoint(body).status == 200
    assert len(oracle.note_parts(witness.latest(ORIGIN))[1]) == 2


def test_a_clock_that_goes_back_signs_nothing(tmp_path: Path):
    Witness.create(tmp_path / "w", NAME).trust(LOG_KEY)
    now = [2000]
    witness = Witness(tmp_path / "w", lambda: now[0])
    h = history(10)
    assert witness.add_checkpoint(h.request(0, 4)).status == 200
    now[0] = 1999
    assert witness.add_checkpoint(h.request(4, 5)).status == 500
    now[0] = 2000
    assert witness.add_checkpoint(h.request(4, 5)).status == 200


# --- its folder ------------------------------------------------------------------------------------


def test_the_folder_is_its_owners_only_and_survives_a_restart(witness: Witness, tmp_path: Path):
    folder = tmp_path / "witness"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    h, fork = history(10), history(10, fork_at=2)
    assert witness.add_checkpoint(h.request(0, 5)).status == 200
    again = Witness(folder)
    assert again.verifier_key == witness.verifier_key
    assert again.add_checkpoint(fork.request(5, 8)).status == 422
    assert again.add_checkpoint(h.request(5, 8)).status == 200
    with pytest.raises(UsageError, match="holds a witness already"):
        Witness.create(folder, NAME)
    with pytest.raises(UsageError, match="holds no witness"):
        Witness(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="cannot name a witness"):
        Witness.create(tmp_path / "x", "a b")


@pytest.mark.parametrize("damage", ["", "cut", "other", "foreign"])
def test_damaged_state_signs_nothing(witness: Witness, tmp_path: Path, damage: str):
    h, fork = history(10), history(10, fork_at=2)
    assert witness.add_checkpoint(h.request(0, 5)).status == 200
    [path] = (tmp_path / "witness" / "logs").glob("*.note")
    whole = path.read_text()
    stranger = ServiceKey.generate()
    head = checkpoint.parse(fork.note(5))[0]
    path.write_text({
        "": "", "cut": whole[: len(whole) // 2], "other": fork.note(5),
        "foreign": fork.note(5) + cosignature.cosign(head, NAME, stranger, 1),
    }[damage])  # fmt: skip
    for request in (fork.request(0, 5), fork.request(5, 8), h.request(5, 8)):
        assert witness.add_checkpoint(request).status == 500
    with pytest.raises(StorageError):
        witness.latest(ORIGIN)
    path.write_text(whole)
    assert witness.add_checkpoint(h.request(5, 8)).status == 200, "the control"


def _serve_files(folder: str, sizes: list[int], fork_at: int, pipe) -> None:
    """A child that has checkpoints of one of two histories cosigned, and reports each cosignature it is given."""
    witness, h = Witness(Path(folder)), history(60, fork_at)
    while True:
        note = witness.latest(ORIGIN)
        old = checkpoint.parse(note)[0].size if note else 0
        for size in sizes:
            if size < old:
                continue
            answer = witness.add_checkpoint(h.request(old, size))
            if answer.ok:
                pipe.send((fork_at, size, answer.body))
                old = size


def test_two_histories_race_and_one_is_cosigned_whatever_is_killed(tmp_path: Path):
    """Processes that ask for two histories die at random moments; what was given out is one history."""
    Witness.create(tmp_path / "w", NAME).trust(LOG_KEY)
    verifier = Witness(tmp_path / "w").verifier_key
    rng, context = random.Random(4), multiprocessing.get_context("fork")
    given_out: dict[int, set[int]] = {-1: set(), 20: set()}
    killed = 0
    for turn in range(30):
        reader, writer = context.Pipe(duplex=False)
        top = 22 + turn
        children = [
            context.Process(
                target=_serve_files, args=(str(tmp_path / "w"), list(range(1, top)), fork, writer)
            )
            for fork in (-1, 20)
        ]
        rng.shuffle(children)
        for child in children:
            child.start()
        writer.close()
        time.sleep(rng.uniform(0.01, 0.12))
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
        try:
            while reader.poll():
                fork, size, body = reader.recv()
                given_out[fork].add(size)
                assert oracle.witnessed(history(60, fork).note(size) + body, str(verifier)) > 0
        except (EOFError, OSError):
            pass  # a message that was cut off was not given out
        Witness(tmp_path / "w").latest(ORIGIN)
    assert killed == 60
    past = {fork: {size for size in sizes if size > 20} for fork, sizes in given_out.items()}
    assert past[-1] or past[20], "the control: somebody got beyond the fork"
    assert not (past[-1] and past[20]), f"both histories were cosigned: {past}"
