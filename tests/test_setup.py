"""ui.setup and ui.wiring: from an empty directory to a workspace that can work, also when interrupted."""

from __future__ import annotations

import stat

import pytest
from fakes import verify

from guardrails.decision_log.keys import PersonKey, ServiceKey
from guardrails.decisions import Intention
from guardrails.errors import DeniedError, InterlockError, UsageError
from guardrails.ledger.people import SERVICES
from guardrails.records import Action, Role, Surface
from guardrails.view import view_of
from sandbox.runner import LocalRunner
from ui import setup
from ui.wiring import Workspace, create_workspace, open_workspace

CONFIG = '[models.tiny]\nkind = "llm"\nbase = "shipped:tiny"\ntrain = ["shipped:devils-dictionary"]\n'
CONFIG += 'controls = {kjv = "shipped:kjv"}\nlabels = {team = "red"}\n'
PASSPHRASE = "correct horse"


@pytest.fixture
def workspace(folder, monkeypatch):
    monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    made = create_workspace(folder / "workspace")
    (made.path / "interlock.toml").write_text(CONFIG, encoding="utf-8")
    return Workspace(made.path)


def complete(workspace, key):
    said = []
    setup.complete(workspace, key, LocalRunner(), Surface.CLI, lambda what, share: said.append(what))
    return said


def test_a_new_workspace_is_private_and_nobody_can_decide_in_it(workspace):
    assert not setup.is_founded(workspace)
    assert not setup.is_ready(workspace)
    assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
    for file in (workspace.path / "keys").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    with pytest.raises(DeniedError, match="nobody has been set up"):
        workspace.gate.require_ready("tiny")


def test_a_workspace_is_created_once(workspace):
    with pytest.raises(UsageError, match="is a workspace already"):
        create_workspace(workspace.path)
    with pytest.raises(UsageError, match="is not an Interlock workspace"):
        open_workspace(workspace.path / "keys")


@pytest.mark.parametrize(
    "left", ["keys/gate.pem.new", "keys/items.secret.new", "log.db", "interlock.toml.new"]
)
def test_an_interrupted_creation_is_started_again(folder, left):
    path = folder / "half"
    (path / "keys" / "people").mkdir(parents=True)
    (path / left).touch()
    made = create_workspace(path)
    assert setup.found(made, "Ada", PASSPHRASE, rounds=1)
    assert made.gate.log.origin.startswith("interlock/")
    assert len(made.secret) == 32


def test_creation_goes_on_with_the_keys_and_the_log_that_are_there(folder):
    first = create_workspace(folder / "workspace")
    origin, keys = first.log.origin, first.service_keys()
    first.log.close()
    (first.path / "interlock.toml").unlink()
    again = create_workspace(first.path)
    assert (again.log.origin, again.service_keys()) == (origin, keys)


def test_a_place_that_cannot_be_written_is_said(folder):
    (folder / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot create"):
        create_workspace(folder / "file" / "workspace")


def test_damaged_parts_are_said_not_guessed(workspace):
    (workspace.path / "keys" / "items.secret").write_bytes(b"short")
    with pytest.raises(InterlockError, match="damaged: 32 bytes"):
        assert workspace.secret
    (workspace.path / "keys" / "gate.pem").write_text("nonsense")
    with pytest.raises(InterlockError, match="not an unencrypted private key"):
        assert workspace.gate


def test_founding_completing_and_verifying(workspace):
    key = setup.found(workspace, "  Ada   Lovelace ", PASSPHRASE, rounds=1)
    assert setup.is_founded(workspace)
    assert not setup.is_ready(workspace)
    said = complete(workspace, key)
    assert "adopted tiny" in said
    assert setup.is_ready(workspace)
    with view_of(workspace.log) as view:
        ((person, name),) = view.people()
        assert name == "Ada Lovelace"
        assert set(person.roles) == {Role.OPERATOR, Role.ROOT}
        assert [policy.name for policy in view.policies()] == ["default"]
        assert view.model("tiny").labels == {"team": "red"}
        assert view.model("tiny").champion == view.model("tiny").original
        roster = view.roster
    assert set(roster.services) == set(SERVICES)
    assert b"Lovelace" not in b"".join(entries(workspace)), "names stand beside the log, not in it"
    found = verify(workspace.database_url, workspace.store, root_key=key.public)
    assert (found.ok, found.entries) == (True, 3), found
    assert complete(workspace, key) == [], "done twice, it does nothing"


def entries(workspace):
    with workspace.log.read() as snapshot:
        return [entry.statement.encode() for entry in snapshot.entries()]


def test_an_interrupted_set_up_goes_on_where_it_ended(workspace):
    key = setup.found(workspace, "Ada", PASSPHRASE, rounds=1)

    class PulledPlugError(Exception):
        pass

    def report(what, share):
        if what.startswith("adopting"):
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        setup.complete(workspace, key, LocalRunner(), Surface.CLI, report)
    with view_of(workspace.log) as view:
        assert (len(view.policies()), view.models()) == (1, [])
    again = open_workspace(workspace.path)
    complete(again, PersonKey.load(next(workspace.people_keys.iterdir()), PASSPHRASE))
    assert setup.is_ready(again)


def test_there_is_one_first_person(workspace):
    setup.found(workspace, "Ada", PASSPHRASE, rounds=1)
    with pytest.raises(DeniedError, match="first person already"):
        setup.found(workspace, "Eve", PASSPHRASE, rounds=1)
    with pytest.raises(DeniedError, match="only a root"):
        complete(workspace, PersonKey.generate())


@pytest.mark.parametrize(
    ("name", "passphrase"),
    [
        ("", PASSPHRASE),
        ("   ", PASSPHRASE),
        ("x" * 81, PASSPHRASE),
        ("a\x1b[0m", PASSPHRASE),
        ("Ada", "short"),
    ],
)
def test_a_name_and_a_passphrase_that_cannot_be_used(workspace, name, passphrase):
    with pytest.raises(UsageError):
        setup.found(workspace, name, passphrase, rounds=1)
    assert not setup.is_founded(workspace)
    assert not list(workspace.people_keys.iterdir()), "no key is left over"


def test_a_model_that_is_adopted_cannot_be_adopted_again(workspace):
    key = setup.found(workspace, "Ada", PASSPHRASE, rounds=1)
    complete(workspace, key)
    model = workspace.config.models["tiny"]
    with view_of(workspace.log) as view:
        person = view.people()[0][0].id
    with pytest.raises(DeniedError, match="has a champion already"):
        setup.adopt(workspace, model, person, key, LocalRunner(), Surface.CLI, lambda what, share: None)


def test_keys_work_only_with_their_passphrase_and_only_for_their_person(workspace):
    key = setup.found(workspace, "Ada", PASSPHRASE, rounds=1)
    with view_of(workspace.log) as view:
        person = view.people()[0][0].id
    with pytest.raises(DeniedError, match="wrong passphrase"):
        PersonKey.load(workspace.people_keys / person, "wrong horse")
    wish = Intention(Action.HALT, "workspace", person, Role.OPERATOR, "why not", Surface.CLI)
    draft = workspace.gate.draft(wish)
    with pytest.raises(DeniedError):
        workspace.gate.commit(draft, ServiceKey.load(workspace.path / "keys" / "gate.pem"))
    assert workspace.gate.commit(draft, key).state == "done"


def test_the_token_opens_the_set_up_until_somebody_is_there(workspace):
    with pytest.raises(DeniedError, match="no set-up is open"):
        setup.check_setup_token(workspace, "anything")
    first = setup.make_setup_token(workspace)
    second = setup.make_setup_token(workspace)
    file = workspace.path / "keys" / setup.TOKEN_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert second not in file.read_text()
    for wrong in (first, "", second + "x", second[:-1]):
        with pytest.raises(DeniedError, match="not the token") as refused:
            setup.check_setup_token(workspace, wrong)
        assert "the newest one counts" in refused.value.hint
    setup.check_setup_token(workspace, f" {second}\n")
    setup.drop_setup_token(workspace)
    with pytest.raises(DeniedError, match="no set-up is open"):
        setup.check_setup_token(workspace, second)
