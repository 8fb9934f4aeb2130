"""guardrails.decision_log.readers: several processes read what one would, and nothing is good for want of an answer."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Site, verify
from large_log import grow
from log_samples import tamper

from guardrails.decision_log import readers
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.readers import Refused, entries_of, read
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
        alone = list(entries_of(snapshot, 1))
        patch.setattr(readers, "_AHEAD", 1)
        together = list(entries_of(snapshot, 2))
    assert [replace(entry, proven=()) for entry in together] == alone
    assert all(len(entry.proven) == 1 for entry in together)


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
    for entry in read(rows[:40], services_of(site)):
        assert isinstance(entry, Entry)
        kind = entry.statement.record
        service = {"failure": "gate", "transition": "gate", "verdict": "gate", "evidence": "evaluator"}.get(
            kind
        )
        if service:
            assert entry.proven == (site.services[service].public_base64,)
        elif kind in ("roster", "decision"):
            assert entry.proven[0] in {human.key.public for human in site.people.values()}
    assert {entry.proven for entry in read(rows[6:7], frozenset())} == {()}, "an unknown key proves nothing"


def test_a_signature_that_does_not_hold_proves_nothing(site: Site):
    rows = rows_of(site)
    one, other = read([rows[-2], rows[-1]], services_of(site))
    assert isinstance(one, Entry)
    assert isinstance(other, Entry)
    words = [entry for entry in read(rows[3:30], frozenset()) if entry.statement.record == "decision"]  # type: ignore[union-attr]
    taken = replace(words[-1], signatures=words[-2].signatures)  # type: ignore[arg-type, union-attr]
    assert words[-1].proven  # type: ignore[union-attr]
    assert readers._proven(taken, frozenset()) == ()
    exchanged = replace(one, signatures=other.signatures)
    assert readers._proven(exchanged, services_of(site)) == ()
    with site.log.read() as snapshot, pytest.raises(DeniedError, match="not signed by"):
        require_service(exchanged, require_roster(snapshot.tables))


def test_what_is_not_well_formed_is_refused_in_its_place(site: Site):
    rows = rows_of(site)[:4]
    rows[2] = (2, rows[2][1], rows[2][2][:-1], rows[2][3])
    found = read(rows, frozenset())
    assert [type(one) for one in found] == [Entry, Entry, Refused]
    assert found[2] == Refused(2, found[2].reason)  # type: ignore[union-attr]


def test_a_process_that_ends_early_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch):
    submit = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda pool, *_: submit(pool, os._exit, 1))
    monkeypatch.setattr(readers._Batch, "take_over", lambda *_: False)
    with site.log.read() as snapshot, pytest.raises(InterlockError, match="ended early; nothing is known"):
        list(entries_of(snapshot, 2))
