"""The golden workspace: what an earlier version wrote, this version opens, lists, verifies and goes on with."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from fakes import verify

from guardrails.decision_log import bundle
from guardrails.decision_log.keys import PersonKey
from guardrails.decision_log.verify import verify_log
from guardrails.decisions import Intention
from guardrails.engine import ENGINE
from guardrails.ledger import project
from guardrails.loader import open_champion
from guardrails.records import Action, Surface
from guardrails.view import ERASED, view_of
from ui.wiring import Workspace, open_workspace

GOLDEN = Path(__file__).parent / "golden"
sys.path.append(str(GOLDEN))  # the scripts that made them know what a reader must find
PASSPHRASE = "golden test passphrase"
EXPECTED = json.loads((GOLDEN / "workspace.json").read_text(encoding="utf-8"))


def copy_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of a golden workspace; version control keeps no permissions, and keys must be their owner's alone."""
    monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    copy = folder / name
    shutil.copytree(GOLDEN / name, copy)
    for key in (copy / "keys").rglob("*"):
        key.chmod(0o700 if key.is_dir() else 0o600)
    return open_workspace(copy)


@pytest.fixture
def workspace(folder, monkeypatch):
    return copy_of("workspace", folder, monkeypatch)


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


# --- the second one: every kind of record that the first does not have ---------------------------

LATER = json.loads((GOLDEN / "records.json").read_text(encoding="utf-8"))


@pytest.fixture
def later(folder, monkeypatch):
    return copy_of("records", folder, monkeypatch)


def test_the_second_verifies_with_artifacts_and_verdicts(later):
    found = verify(
        later.database_url, later.store, root_key=LATER["root_key"], known_checkpoint=LATER["checkpoint"]
    )
    assert found.ok, found
    assert (found.entries, found.root) == (LATER["entries"], LATER["root"])
    assert (found.texts.erased, found.texts.missing) == (1, 0)
    assert any("1 bundles were removed" in note for note in found.notes)
    with later.log.read() as snapshot:
        engines = [e.statement.body["engine"] for e in snapshot.entries() if e.statement.record == "verdict"]
    assert found.recomputed == engines.count(ENGINE)
    assert found.recomputed + found.not_recomputed == LATER["records"].count("verdict") == 8


def test_the_second_holds_what_the_first_has_not():
    for kind in (
        "comment",
        "request-changes",
        "withdraw",
        "reject",
        "revoke",
        "erase",
        "removal",
        "set-clock",
    ):
        assert kind in LATER["records"], kind
    assert LATER["records"].count("roster") == 4
    assert LATER["surfaces"] == ["cli", "offline"]


def test_the_second_is_listed_as_it_was(later):
    from make_records import told

    assert told(later.path) == LATER


def test_the_tables_of_the_second_can_be_made_anew(later):
    with later.log.read() as snapshot:
        before = {name: dict(snapshot.tables.scan(name)) for name in snapshot.tables.names()}
    assert later.gate.log.rebuild() == LATER["entries"]
    with later.log.read() as snapshot:
        assert {name: dict(snapshot.tables.scan(name)) for name in snapshot.tables.names()} == before


def test_the_second_goes_on_and_its_champion_is_loaded(later, folder):
    with view_of(later.log) as view:
        bo = view.person_called("Bo")
    key = PersonKey.load(later.people_keys / bo.id, PASSPHRASE)
    wish = Intention(Action.HALT, "workspace", bo.id, bo.roles[0], "still here", Surface.CLI)
    assert later.gate.commit(later.gate.draft(wish), key).state == "done"
    champion = open_champion(
        later.database_url, later.store, "toy", LATER["root_key"], known_checkpoint=LATER["checkpoint"]
    )
    assert str(champion.digest) == LATER["champions"]["toy"]
    champion.checkout(folder / "champion")
    assert (folder / "champion" / "model.safetensors").read_bytes() == b"candidate 5" * 8


def test_a_bundle_of_the_second_is_verified_offline(later, folder):
    with later.log.read() as snapshot:
        bundle.write(snapshot, folder / "log.bundle", texts=True)
    with bundle.opened(folder / "log.bundle") as laid_out, laid_out.read() as snapshot:
        found = verify_log(snapshot, project, root_key=LATER["root_key"], compare_tables=False)
    assert (found.ok, found.root) == (True, LATER["root"])


def test_an_erased_text_that_is_put_back_in_the_second_is_noticed(later):
    """The control."""
    with later.log.read() as snapshot:
        (erased,) = [key for key, _ in snapshot.tables.scan("erased")]
    with sqlite3.connect(later.path / "log.db") as database:
        row = database.execute("SELECT salt, text FROM openings LIMIT 1").fetchone()
        database.execute("INSERT INTO openings VALUES (?, ?, ?)", (erased, *row))
    found = verify(later.database_url, later.store)
    assert not found.ok
    assert "is not what that binds" in found.reason


# --- the third one: what people handed in ---------------------------------------------------------

ANSWERS = json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture
def answered(folder, monkeypatch):
    return copy_of("answers", folder, monkeypatch)


def test_the_third_verifies_and_its_answers_count_as_they_did(answered):
    from make_answers import told

    found = verify(
        answered.database_url, answered.store, root_key=ANSWERS["root_key"], known_checkpoint=ANSWERS["checkpoint"]
    )  # fmt: skip
    assert found.ok, found
    assert (found.entries, found.root) == (ANSWERS["entries"], ANSWERS["root"])
    assert "1 statements of answers were erased, each by a record of the log" in found.notes
    assert told(answered.path) == ANSWERS
    assert answered.gate.log.rebuild() == ANSWERS["entries"]


def test_in_the_third_what_is_a_draft_can_be_handed_in(answered):
    with view_of(answered.log) as view:
        cy = view.person_called("Cy")
    desk = answered.desk("toy")
    handed = desk.hand_in(
        answered.gate, desk.statements(cy.id), PersonKey.load(answered.people_keys / cy.id, PASSPHRASE)
    )
    assert (handed.answers, handed.records) == (1, (ANSWERS["entries"],))
    assert desk.book().authors_for("active") == tuple(sorted({*ANSWERS["authors"]["P-0004"], cy.id}))
    assert verify(answered.database_url, answered.store).ok
