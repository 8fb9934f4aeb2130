"""Witnesses over HTTP: growth is asked for and kept, alarms, and requests that are none."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from pathlib import Path

import oracle
import pytest
from growing_log import NAME, history, trusting_witness
from log_samples import KEY, ORIGIN, add, project, record

from guardrails.decision_log import checkpoint
from guardrails.decision_log.cosignature import VerifierKey
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import ConsistencyProof
from guardrails.decision_log.store import Log
from guardrails.decision_log.witness import Witness
from guardrails.decision_log.witness_client import WitnessAddress, ask, fetch_latest
from guardrails.decision_log.witness_server import WitnessServer
from guardrails.errors import InterlockError, LogVerificationError, RecordError


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return trusting_witness(tmp_path / "witness")


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
