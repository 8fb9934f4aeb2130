"""guardrails.loader: whoever can write to the database, and even to the artifacts, gets nothing loaded."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace

import pytest
from fakes import MODEL, REVIEWABLE, Site, memory_folder

from guardrails import canonical
from guardrails.canonical import digest
from guardrails.codec import decode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.errors import InterlockError, LogVerificationError, UsageError
from guardrails.loader import open_champion
from guardrails.records import Action, Promotion, Verdict, VerdictKind
from guardrails.registry import ArtifactError

FORGE = """UPDATE projection SET body = ? WHERE "table" = 'models' AND key = ?"""


@pytest.fixture
def site():
    made = Site(memory_folder())
    made.promoted("first")
    made.promoted("second")
    yield made
    made.close()


def load(site: Site, **more):
    key = more.pop("root_key", site.people["ada"].key.public)
    return open_champion(site.url, site.store, MODEL, key, **more)


def rewrite(site: Site, sql: str, *values) -> None:
    """What somebody with write access to the file does."""
    with sqlite3.connect(site.folder / "log.db") as database:
        database.execute("PRAGMA writable_schema = ON")
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(sql, values).rowcount > 0
    database.close()


def point_at(site: Site, bundle) -> None:
    """Forge the projection's pointer, history and all."""
    row = site.model()
    forged = {
        "name": MODEL, "kind": row.kind, "champion": str(bundle), "original": str(row.original),
        "history": [{"digest": str(bundle), "promoted_at": site.clock.text, "proposal": ""}],
    }  # fmt: skip
    body = canonical.encode(forged)
    rewrite(site, FORGE, body, MODEL)


def test_the_champion_that_the_log_justifies_is_loaded(site, tmp_path):
    champion = load(site)
    assert champion.digest == site.model().champion
    assert champion.proposal == "P-0002"
    champion.checkout(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == b"second" * 20
    with site.log.read() as snapshot:
        assert (champion.log_size, champion.log_root) == (snapshot.size, snapshot.root)


def test_a_forged_pointer_is_refused(site):
    point_at(site, site.bundle("evil"))
    assert site.model().champion == site.bundle("evil"), "the database believes it"
    with pytest.raises(LogVerificationError, match="projection models/toy differs") as refused:
        load(site)
    assert refused.value.exit_status == 7


def test_a_forged_pointer_with_artifacts_and_a_record_without_signature_is_refused(site):
    evil = site.bundle("evil")
    before = site.model()
    record = Promotion("P-0002", MODEL, evil, before.champion, (), False, before.champion)
    site.inject(site.sealed(record, PersonKey.generate()), projection=lambda tables, entry: None)
    point_at(site, evil)
    with pytest.raises(LogVerificationError, match="promotion: not signed by the gate service"):
        load(site)


def test_a_whole_log_of_somebody_else_is_refused_by_the_root_key(site):
    other = Site(memory_folder())
    other.promoted("evil")
    try:
        key = site.people["ada"].key.public
        with pytest.raises(LogVerificationError, match="root key"):
            open_champion(other.url, other.store, MODEL, key)
        assert open_champion(other.url, other.store, MODEL, other.people["ada"].key.public), "the control"
    finally:
        other.close()


def test_without_a_root_key_nothing_is_loaded(site):
    with pytest.raises(UsageError, match="a root key is needed"):
        load(site, root_key=" ")


def test_a_log_cut_short_is_refused_by_the_checkpoint_that_was_kept(site):
    with site.log.read() as snapshot:
        kept = snapshot.checkpoint()
    assert load(site, known_checkpoint=kept).proposal == "P-0002"
    other = Site(memory_folder())
    other.promoted("first")
    try:
        with pytest.raises(InterlockError):
            open_champion(
                other.url, other.store, MODEL, other.people["ada"].key.public, known_checkpoint=kept
            )
    finally:
        other.close()


def test_damaged_bytes_are_refused(site):
    name = digest(b"second" * 20).hex
    blob = site.store.root / "blobs" / name[:2] / name
    blob.chmod(0o644)
    blob.write_bytes(b"x" * 120)
    with pytest.raises(ArtifactError, match="damaged"):
        load(site)


def test_a_verdict_that_its_evidence_does_not_give_is_refused(site):
    """The gate's key alone makes no champion: what it signed is judged again."""
    proposal = site.propose("worse")
    site.measure(proposal, REVIEWABLE)
    with site.log.read() as snapshot:
        honest = next(e for e in snapshot.entries() if e.statement.record == "verdict").statement.body
    row = site.row(proposal)
    forged = replace(
        decode_record(Verdict, dict(honest)), proposal=proposal, kind=VerdictKind.ELIGIBLE,
        evidence=row.evidence_record, attempt=row.attempt,
    )  # fmt: skip
    site.inject(site.sealed(forged, site.services["gate"]))
    assert site.decide("ada", Action.APPROVE, proposal).state == "promoted"
    with pytest.raises(LogVerificationError, match="the engine comes to another verdict"):
        load(site)


def test_a_verdict_of_an_engine_that_is_not_here_is_said_and_refused_where_that_is_asked_for(site):
    """Naming another engine keeps a verdict from being judged again; that must not go unseen."""
    assert load(site, strict=True).doubt == "", "the control"
    proposal = site.propose("worse")
    site.measure(proposal, REVIEWABLE)
    with site.log.read() as snapshot:
        honest = next(e for e in snapshot.entries() if e.statement.record == "verdict").statement.body
    row = site.row(proposal)
    forged = replace(
        decode_record(Verdict, dict(honest)), proposal=proposal, kind=VerdictKind.ELIGIBLE,
        evidence=row.evidence_record, attempt=row.attempt, engine="interlock-engine/0",
    )  # fmt: skip
    site.inject(site.sealed(forged, site.services["gate"]))
    assert site.decide("ada", Action.APPROVE, proposal).state == "promoted"
    assert "made by interlock-engine/0" in load(site).doubt
    with pytest.raises(LogVerificationError, match="cannot be judged again: made by interlock-engine/0"):
        load(site, strict=True)


def test_evidence_that_is_gone_is_said_too(site):
    name = site.row("P-0002").evidence.measurements.hex
    (site.store.root / "blobs" / name[:2] / name).unlink()
    assert name[:8] in load(site).doubt or "missing" in load(site).doubt
    with pytest.raises(LogVerificationError, match="cannot be judged again"):
        load(site, strict=True)


def test_loading_a_small_log_takes_well_under_a_second(site):
    start = time.process_time()
    load(site)
    assert time.process_time() - start < 1.0


def test_the_row_that_is_forged_is_the_one_that_is_read(site):
    """The control of the forgery itself: the same write with the honest row changes nothing."""
    with site.log.read() as snapshot:
        honest = snapshot.tables.get("models", MODEL)
    rewrite(site, FORGE, canonical.encode(honest), MODEL)
    assert load(site).digest == site.model().champion
