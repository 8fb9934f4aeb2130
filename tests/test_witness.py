"""Witnesses: what they cosign, what they refuse, and that no death makes them cosign two histories.

Trees, proofs, notes and cosignatures are judged by ``oracle``, which knows only the specifications.
"""

from __future__ import annotations

import base64
import http.client
import multiprocessing
import os
import random
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import KEY, ORIGIN, add, project, record

from guardrails.decision_log import checkpoint, cosignature, merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.cosignature import LOG, VerifierKey
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import (
    ConsistencyProof,
    InclusionProof,
    verify_consistency,
    verify_inclusion,
)
from guardrails.decision_log.store import Log
from guardrails.decision_log.witness import MAX_REQUEST_BYTES, Witness
from guardrails.decision_log.witness_client import WitnessAddress, ask, fetch_latest
from guardrails.decision_log.witness_server import WitnessServer
from guardrails.errors import InterlockError, LogVerificationError, RecordError, StorageError, UsageError

LOG_KEY = VerifierKey.of(ORIGIN, KEY, LOG)
NAME = "witness.example/w1"


class History:
    """A log of leaves in memory, with notes and proofs at any size."""

    def __init__(self, *leaves: bytes) -> None:
        self.data = list(leaves)
        self.tree = merkle.Tree()
        for leaf in leaves:
            self.tree.append(merkle.leaf_hash(leaf))

    def note(self, size: int, key: ServiceKey = KEY, origin: str = ORIGIN) -> str:
        return checkpoint.sign(Checkpoint(origin, size, self.tree.root(size).hex()), key)

    def request(self, old: int, size: int, **note) -> bytes:
        path = tuple(merkle.consistency(self.tree.lookup, old, size)) if old <= size else ()
        return ConsistencyProof(old, path, self.note(size, **note)).encode().encode()


def history(size: int, fork_at: int = -1) -> History:
    return History(*(b"%d%s" % (i, b"'" if 0 <= fork_at <= i else b"") for i in range(size)))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    made = Witness.create(tmp_path / "witness", NAME)
    made.trust(LOG_KEY)
    return made


# --- the oracle ----------------------------------------------------------------------------


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


# --- over HTTP, and from a log -----------------------------------------------------------------------


@pytest.fixture
def served(witness: Witness):
    server = WitnessServer(("127.0.0.1", 0), witness, lambda text: None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def log(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    Log.create(url, ORIGIN, KEY, project).close()
    with Log.open(url, KEY, project) as opened:
        yield opened


def address(server: WitnessServer, witness: Witness) -> WitnessAddress:
    return WitnessAddress(f"http://127.0.0.1:{server.server_address[1]}", witness.verifier_key)


def test_a_log_has_its_growth_cosigned(served, witness, log):
    where = address(served, witness)
    for count in (1, 3, 5):
        add(log, *(record() for _ in range(count)))
        seen = ask(log, where)
        with log.read() as snapshot:
            assert seen.size == snapshot.size
            note = snapshot.cosigned()
            assert oracle.witnessed(note, str(where.key)) == seen.time
            assert [checkpoint.parse(n)[0].size for n in snapshot.notes()][-1] == snapshot.size
    assert ask(log, where).size == 9, "asking again changes nothing"
    assert fetch_latest(where.url, ORIGIN).startswith(ORIGIN)


def test_a_witness_that_is_ahead_of_what_the_log_remembers_is_asked_again(served, witness, log):
    where = address(served, witness)
    add(log)
    with log.read() as snapshot:
        body = ConsistencyProof(0, (), snapshot.checkpoint()).encode().encode()
    assert witness.add_checkpoint(body).ok, "the answer to this never reached the log"
    add(log)
    assert ask(log, where).size == 2


def test_a_witness_that_cannot_tells_its_keeper_why_and_a_client_no_path(witness: Witness, tmp_path: Path):
    told: list[str] = []
    server = WitnessServer(("127.0.0.1", 0), witness, told.append)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    h = history(5)
    body = h.request(0, 5)

    def post() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        try:
            connection.request("POST", "/add-checkpoint", body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    try:
        assert post()[0] == 200  # control
        [path] = (tmp_path / "witness" / "logs").glob("*.note")
        path.write_text("cut")
        status, said = post()
        assert status == 500
        assert "whoever keeps it was told" in said
        assert str(tmp_path) not in said
        assert told[-1].startswith("add-checkpoint: 500: ")
        assert len(told[-1]) > len("add-checkpoint: 500: ")
        witness.add_checkpoint = lambda _body: 1 / 0  # an error of our own, of no kind that was thought of
        with pytest.raises((http.client.HTTPException, OSError)):
            post()
        deadline = time.monotonic() + 5
        while "ZeroDivisionError" not in told[-1]:
            assert time.monotonic() < deadline, told
            time.sleep(0.01)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_log_that_was_cut_or_forked_is_an_alarm(served, witness, log, tmp_path):
    where = address(served, witness)
    add(log, *(record() for _ in range(5)))
    ask(log, where)
    for count in (3, 5, 7):
        url = f"sqlite:///{tmp_path / f'fork{count}.db'}"
        Log.create(url, ORIGIN, KEY, project).close()
        with Log.open(url, KEY, project) as fork:
            add(fork, *(record() for _ in range(count)))
            with pytest.raises(LogVerificationError, match=r"another history|only grew"):
                ask(fork, where)


def test_an_answer_under_another_key_is_not_kept(served, witness, log):
    add(log)
    stranger = WitnessAddress(address(served, witness).url, VerifierKey.of(NAME, ServiceKey.generate()))
    with pytest.raises(LogVerificationError, match="not signed by witness"):
        ask(log, stranger)
    with log.read() as snapshot:
        assert list(snapshot.notes()) == []


def test_a_witness_that_is_not_there_is_no_alarm(log):
    add(log)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(InterlockError, match="cannot be asked") as caught:
            ask(log, WitnessAddress(f"http://127.0.0.1:{port}", VerifierKey.of(NAME, ServiceKey.generate())))
    assert not isinstance(caught.value, LogVerificationError)
    with pytest.raises(RecordError, match="over http"):
        ask(log, WitnessAddress("file:///etc", VerifierKey.of(NAME, ServiceKey.generate())))


def test_requests_that_are_none_are_refused(served):
    port = served.server_address[1]

    def answer(method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        status = connection.getresponse().status
        connection.close()
        return status

    assert answer("POST", "/add-checkpoint", None, Content_Length="99999999") == 413
    assert answer("POST", "/add-checkpoint", None, Content_Length="-1") == 411
    assert answer("POST", "/add-checkpoint", None, Transfer_Encoding="chunked") == 411
    assert answer("POST", "/add-checkpoint", b"hi", Content_Length="2") == 400
    assert answer("POST", "/else", b"hi", Content_Length="2") == 404
    assert answer("GET", "/latest/../../key.pem") == 404
    assert answer("PUT", "/add-checkpoint", b"", Content_Length="0") == 501


def test_more_connections_than_there_are_places_are_turned_away(served, witness):
    port = served.server_address[1]
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    try:
        time.sleep(0.3)
        closed = 0
        for one in held:
            one.settimeout(0.05)
            try:
                closed += one.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                closed += 1
        assert closed == 8
    finally:
        for one in held:
            one.close()
    time.sleep(0.3)
    assert witness.add_checkpoint(b"") is not None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", "/add-checkpoint", b"hi")
    assert connection.getresponse().status == 400, "the control: the places are free again"
    connection.close()
