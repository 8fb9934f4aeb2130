"""`log verify` and `log show` of logs that are empty, cut off, locked or read by somebody who pinned roots."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cli_workspace import HOSTILE, Cli, Made, copy_of, workspace_with

from guardrails.decision_log import sqlite
from guardrails.decision_log.keys import PersonKey
from guardrails.decision_log.store import Log
from guardrails.decisions import Intention
from guardrails.ledger import project
from guardrails.records import Action, Key, Person, Role, Surface, open_text
from guardrails.view import view_of
from ui.wiring import Workspace, create_workspace


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace_with(tmp_path_factory)


@pytest.fixture
def cli(template: Path, tmp_path: Path, capsys, monkeypatch) -> Cli:
    for name in ("INTERLOCK_AS", "INTERLOCK_ROOT_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def emptied(path: Path) -> None:
    """The same log without any record: its origin and its key, and nobody in it."""
    workspace = Workspace(path)
    key, origin = workspace.gate.log._signer, workspace.gate.log.origin
    workspace.gate.log.close()
    workspace.log.close()
    for file in path.glob("log.db*"):
        file.unlink()
    assert key is not None
    Log.create(f"sqlite:///{path / 'log.db'}", origin, key, project).close()


def test_a_new_workspace_has_an_empty_log_that_holds(cli, tmp_path):
    create_workspace(tmp_path / "new")
    cli.path = tmp_path / "new"
    told = cli.ok("log", "verify")
    assert (told["ok"], told["entries"]) == (True, 0)
    assert "the log is empty: nobody has been set up" in told["notes"]
    assert "The log is empty" in cli("log", "show").out


def test_a_log_that_was_emptied_is_refused_by_every_thing_that_somebody_kept(cli, tmp_path):
    kept, root = tmp_path / "kept", tmp_path / "root.pub"
    cli.ok("log", "checkpoint", "--to", kept)
    root.write_text(cli.ok("roster", "show")["people"][0]["public_keys"][0])
    assert cli("log", "verify", "--checkpoint", kept, "--root-key", root).status == 0, "the control"
    emptied(cli.path)
    refused = cli.json("log", "verify")  # keys/roots.pub is there: somebody was set up
    assert (refused.status, "exchanged or emptied" in refused.data["first_error"]["reason"]) == (7, True)
    assert cli("list").status == 7
    (cli.path / "keys" / "roots.pub").unlink()
    assert cli("log", "verify").status == 0
    for given, reason in (("--checkpoint", "a checkpoint covers"), ("--root-key", "the log is empty")):
        ran = cli.json("log", "verify", given, kept if given == "--checkpoint" else root)
        assert (ran.status, reason in ran.data["first_error"]["reason"]) == (7, True), ran.data


@pytest.mark.parametrize("kept", [60, 4096, 30_000])
def test_a_database_file_that_was_cut_off(cli, kept):
    whole = (cli.path / "log.db").read_bytes()
    (cli.path / "log.db").write_bytes(whole[:kept])
    ran = cli.json("log", "verify")
    assert (ran.status, ran.data["ok"]) == (7, False)
    assert "is damaged" in ran.data["first_error"]["reason"]


def test_a_database_file_that_is_empty_or_gone(cli):
    (cli.path / "log.db").write_bytes(b"")
    ran = cli("log", "verify")
    assert (ran.status, "holds no decision log" in ran.err) == (1, True)
    (cli.path / "log.db").unlink()
    ran = cli("log", "verify")
    assert (ran.status, "there is no decision log here" in ran.err) == (1, True)


def test_a_database_that_somebody_keeps_locked(cli, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)
    with closing(sqlite3.connect(cli.path / "log.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        ran = cli("log", "verify")
        assert (ran.status, "has kept the log locked" in ran.err) == (1, True)
        other.execute("COMMIT")
    assert cli("log", "verify").status == 0, "the control"


def test_a_workspace_behind_a_link_is_the_workspace(cli, tmp_path):
    before = cli.ok("log", "verify")["root"]
    (tmp_path / "link").symlink_to(cli.path)
    cli.path = tmp_path / "link"
    assert cli.ok("log", "verify")["root"] == before


def test_what_lies_in_a_workspace_is_its_owners_alone(tmp_path):
    """Also where its folder was there before, and open to others."""
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    create_workspace(folder)
    for name in ("keys", "keys/people", "artifacts"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    for path in (*(folder / "keys").glob("*.*"), folder / "log.db"):
        assert path.stat().st_mode & 0o077 == 0, path
    shutil.rmtree(folder)


def test_a_hostile_name_commands_no_terminal(tmp_path, capsys, monkeypatch):
    """A root can enrol any name past the checks of set-up; whoever looks must not be its victim."""
    monkeypatch.delenv("INTERLOCK_ROOT_KEYS", raising=False)
    made = Made(tmp_path / "workspace")
    proposal = made.proposed()
    gate, key, opening = made.workspace.gate, PersonKey.generate(), open_text(HOSTILE)
    with view_of(made.workspace.log) as view:
        old = view.roster
    person = Person("p-hostile", opening.commitment(), (Role.AUDITOR,), (Key(key.public),))
    gate.record_roster(
        replace(old, version=old.version + 1, people=(*old.people, person)), made.key, [opening]
    )
    for action in (Action.COMMENT, Action.REQUEST_CHANGES):
        wish = Intention(action, proposal, person.id, Role.AUDITOR, HOSTILE, Surface.CLI)
        gate.commit(gate.draft(wish), key)
    made.close()
    cli = Cli(made.workspace.path, capsys)
    lines = (
        "list", f"show {proposal}", "roster show", "log show", "log show 10", f"log show {proposal} --report",
        "log as-of 2999-01-01",
    )  # fmt: skip
    for words in lines:
        told = cli(*words.split())
        assert told.status == 0, told.err
        assert "not markup" in told.out or words == "list"
        assert not [c for c in told.out + told.err if not c.isprintable() and c != "\n"], words
    cli.ok("log", "export", "--csv", tmp_path / "log.csv")
    cells = (tmp_path / "log.csv").read_text().replace("\n", "").replace("\r", "")
    assert cells.isprintable()
    cli.ok("log", "export", "--to", tmp_path / "log.jsonl")
    for name in ("log.csv", "log.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name
