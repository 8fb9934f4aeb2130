"""The golden workspace: what an earlier version wrote, this version opens, lists, verifies and goes on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import verify

from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.engine import ENGINE
from guardrails.records import Action, Surface
from guardrails.view import ERASED, view_of
from ui.wiring import open_workspace

GOLDEN = Path(__file__).parent / "golden"
PASSPHRASE = "golden test passphrase"
EXPECTED = json.loads((GOLDEN / "workspace.json").read_text(encoding="utf-8"))


@pytest.fixture
def workspace(folder, monkeypatch):
    """A copy of it; version control keeps no permissions, and keys must be their owner's alone."""
    monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    copy = folder / "workspace"
    shutil.copytree(GOLDEN / "workspace", copy)
    for key in (copy / "keys").rglob("*"):
        key.chmod(0o700 if key.is_dir() else 0o600)
    return open_workspace(copy)


def test_it_verifies_with_artifacts_and_verdicts(workspace):
    found = verify(
        workspace.database_url, workspace.store, root_key=EXPECTED["root_key"],
        known_checkpoint=EXPECTED["checkpoint"],
    )  # fmt: skip
    assert found.ok, found
    assert (found.entries, found.root) == (EXPECTED["entries"], EXPECTED["root"])
    verdicts = EXPECTED["records"].count("verdict")
    with workspace.log.read() as snapshot:
        engines = [e.statement.body["engine"] for e in snapshot.entries() if e.statement.record == "verdict"]
    assert found.recomputed == engines.count(ENGINE)
    assert found.recomputed + found.not_recomputed == verdicts >= 2


def test_it_is_listed_as_it_was(workspace):
    with view_of(workspace.log) as view:
        assert {row.id: row.state.value for row in view.proposals()} == EXPECTED["states"]
        assert {row.name: str(row.champion) for row in view.models()} == EXPECTED["champions"]
        assert {row.name: str(row.source.digest) for row in view.policies()} == EXPECTED["policies"]
        assert {name: [role.value for role in person.roles] for person, name in view.people()} == EXPECTED[
            "people"
        ]
        assert [entry.statement.record for entry in view.snapshot.entries()] == EXPECTED["records"]
        for request in view.requests():
            for vote in request.votes:
                assert view.text(vote.reason) != ERASED
        proposal = view.proposal("P-0001").proposal
        assert "seed 1" in view.text(proposal.intent)


def test_its_tables_can_be_made_anew(workspace):
    with workspace.log.read() as snapshot:
        before = {name: dict(snapshot.tables.scan(name)) for name in snapshot.tables.names()}
    assert workspace.gate.log.rebuild() == EXPECTED["entries"]
    with workspace.log.read() as snapshot:
        assert {name: dict(snapshot.tables.scan(name)) for name in snapshot.tables.names()} == before


def test_its_people_can_still_sign(workspace):
    with view_of(workspace.log) as view:
        bo = view.person_called("Bo")
    key = PersonKey.load(workspace.people_keys / bo.id, PASSPHRASE)
    wish = Intention(Action.HALT, "workspace", bo.id, bo.roles[0], "still here", Surface.CLI)
    assert workspace.gate.commit(workspace.gate.draft(wish), key).state == "done"
    found = verify(workspace.database_url, workspace.store, known_checkpoint=EXPECTED["checkpoint"])
    assert (found.ok, found.entries) == (True, EXPECTED["entries"] + 1)


def test_its_champion_can_still_be_had(workspace, folder):
    with view_of(workspace.log) as view:
        champion = view.model("tiny").champion
    workspace.store.checkout(champion, folder / "champion", below="model")
    assert (folder / "champion" / "model.safetensors").stat().st_size > 1_000_000


def test_a_change_in_it_is_noticed(workspace):
    """The control."""
    blobs = (workspace.path / "artifacts" / "blobs").rglob("*")
    path = next(p for p in blobs if p.is_file() and p.stat().st_size > 10**6)
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = verify(workspace.database_url, workspace.store)
    assert not found.ok
    assert "damaged" in found.reason
