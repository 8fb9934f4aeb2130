"""guardrails.decision_log.readers: several processes read what one would, and nothing is good for want of an answer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Site, verify
from large_log import grow
from log_samples import tamper

from guardrails.decision_log import crew, readers
from guardrails.decision_log.crew import Crew, Work
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.readers import Refused, batches_of, read, read_packed
from guardrails.errors import DeniedError, InterlockError
from guardrails.ledger.people import require_service
from guardrails.ledger.rows import require_roster


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    """Some thousand records: more than are read at a time."""
    made = grow(tmp_path_factory.mktemp("readers") / "site", 1_000)
    yield made
    made.close()


def rows_of(site: Site) -> list[Any]:
    with site.log.read() as snapshot:
        return [row for batch in snapshot.rows() for row in batch]


def services_of(site: Site) -> frozenset[str]:
    return frozenset(key.public_base64 for key in site.services.values())


def test_two_processes_read_what_one_does(site: Site):
    with site.log.read() as snapshot, pytest.MonkeyPatch.context() as patch:
        alone = [entry for batch in batches_of(snapshot, 1) for entry in batch]
        patch.setattr(readers, "_AHEAD", 1)
        together = [entry for batch in batches_of(snapshot, 2) for entry in batch]
        plainly = list(snapshot.entries())
    assert together == alone
    assert all(len(entry.proven) == 1 for entry in together)
    assert [replace(entry, proven=()) for entry in together] == plainly


def test_a_log_verified_by_two_processes_is_refused_for_the_same_reason(site: Site, tmp_path: Path):
    assert verify(site.url, site.store, jobs=2, recompute=None).ok
    shutil.copytree(site.folder, tmp_path / "copy")
    url = f"sqlite:///{tmp_path / 'copy' / 'log.db'}"
    for statement, seq, reason in (
        ("update entries set envelope = substr(envelope, 2) where seq = 900", 900, "not JSON"),
        ("delete from entries where seq = 800", 800, "it is missing"),
    ):
        tamper(url, statement)
        for jobs in (1, 2):
            found = verify(url, site.store, jobs=jobs, recompute=None)
            assert (found.index, found.reason[: len(reason)]) == (seq, reason)


def test_what_is_proven(site: Site):
    rows = rows_of(site)
    for entry in read(rows[:40], services_of(site)).entries:
        assert isinstance(entry, Entry)
        kind = entry.statement.record
        service = {"failure": "gate", "transition": "gate", "verdict": "gate", "evidence": "evaluator"}.get(
            kind
        )
        if service:
            assert entry.proven == (site.services[service].public_base64,)
        elif kind in ("roster", "decision"):
            assert entry.proven[0] in {human.key.public for human in site.people.values()}
    assert {entry.proven for entry in read(rows[6:7], frozenset()).entries} == {()}, (
        "an unknown key proves nothing"
    )


def test_a_signature_that_does_not_hold_proves_nothing(site: Site):
    rows = rows_of(site)
    services = {key.keyid: key.public_base64 for key in site.services.values()}
    one, other = read([rows[-2], rows[-1]], services_of(site)).entries
    words = [entry for entry in read(rows[3:30], frozenset()).entries if entry.statement.record == "decision"]
    taken = replace(words[-1], signatures=words[-2].signatures)
    assert words[-1].proven
    assert readers._proven(taken, {}) == ()
    exchanged = replace(one, signatures=other.signatures)
    assert readers._proven(one, services) == one.proven != ()
    assert readers._proven(exchanged, services) == ()
    with site.log.read() as snapshot, pytest.raises(DeniedError, match="not signed by"):
        require_service(exchanged, require_roster(snapshot.tables))


def test_what_is_not_well_formed_is_refused_in_its_place(site: Site):
    rows = rows_of(site)[:4]
    rows[2] = (2, rows[2][1], rows[2][2][:-1], rows[2][3])
    found = read(rows, frozenset())
    assert [entry.seq for entry in found.entries] == [0, 1]
    assert found.refused == Refused(2, found.refused.reason)  # type: ignore[union-attr]
    assert readers._unpacked(rows, read_packed(rows, frozenset())) == found, "another process says the same"


def test_services_that_are_no_keys_prove_nothing_and_break_nothing(site: Site):
    rows = rows_of(site)[5:7]
    known = read(rows, services_of(site)).entries
    assert read(rows, services_of(site) | {"no key", ""}).entries == known


# --- processes that do not answer -------------------------------------------------------------


def pid(*_order: object) -> bytes:
    return str(os.getpid()).encode()


def ended(*_order: object) -> bytes:
    os._exit(1)


def slow(*_order: object) -> bytes:
    time.sleep(600)
    return b"too late"


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_ends_early_is_an_error():
    work = Work()
    with Crew(1, ended) as hands:
        hands.submit(work)
        with pytest.raises(InterlockError, match="ended early; nothing is known"):
            hands.answer(work)


def test_where_not_all_processes_can_be_started_none_is_left(monkeypatch: pytest.MonkeyPatch):
    started, start = [], subprocess.Popen

    def only_one(*words: Any, **options: Any) -> Any:
        if started:
            raise BlockingIOError("no more processes")
        started.append(start(*words, **options))
        return started[0]

    monkeypatch.setattr(crew.subprocess, "Popen", only_one)
    with pytest.raises(InterlockError, match="cannot be started: no more processes"):
        Crew(2, ended)
    assert started[0].returncode is not None, "it was ended, and waited for"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "ended early; nothing is known"),
        (signal.SIGSTOP, "not answered for 3 s; nothing is known"),
    ],
)
def test_a_process_that_is_stopped_or_killed_is_an_error_in_bounded_time(
    number: signal.Signals, reason: str, monkeypatch: pytest.MonkeyPatch
):
    with Crew(1, pid) as hands:
        first = Work(b"x")
        hands.submit(first)
        process = int(hands.answer(first))
        monkeypatch.setattr(crew, "PATIENCE_S", 3)
        os.kill(process, number)
        begun = time.monotonic()
        later = Work(b"x" * 10_000_000)  # more than a pipe holds: who would write it here would wait for ever
        hands.submit(later)
        with pytest.raises(InterlockError, match=reason):
            hands.answer(later)
        assert time.monotonic() - begun < 10
        assert later.answer is None
    assert not is_alive(process), "nothing is left behind, not even what was stopped"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_verification_whose_process_is_stopped_or_killed_fails(
    site: Site, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    """In the middle of it, and with the parent doing all that it can do itself."""
    monkeypatch.setattr(crew, "PATIENCE_S", 2)
    monkeypatch.setattr(readers, "_AHEAD", 1)
    talk: Callable[..., Any] = Crew._talk

    def cut(hands: Crew, process: Any) -> None:
        os.kill(process.pid, number)
        talk(hands, process)

    monkeypatch.setattr(Crew, "_talk", cut)
    monkeypatch.setattr(Crew, "take_back", lambda *_: False)
    with pytest.raises(InterlockError, match="nothing is known of the log"):
        verify(site.url, site.store, jobs=2, recompute=None)


def test_work_that_nobody_has_begun_can_be_taken_back():
    with Crew(1, slow) as hands:
        first, second = Work(), Work()
        hands.submit(first)
        while hands._waiting:
            time.sleep(0.01)
        hands.submit(second)
        assert (hands.take_back(first), hands.take_back(second), hands.take_back(second)) == (
            False,
            True,
            False,
        )
