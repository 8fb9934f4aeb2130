"""The roster on the command line: keys that change hands, pinned roots, and the ways back when keys are lost."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from cli_workspace import OPERATOR, SAFETY, Cli, Made, copy_of, workspace_with
from fakes import PASSING

from guardrails.decision_log.keys import PersonKey, ServiceKey
from guardrails.decision_log.roots import founding_keys
from guardrails.view import view_of
from ui import pins
from ui.succession import inheritance_of, take_over
from ui.wiring import Workspace, create_workspace


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ui.cli.people.KDF_ROUNDS", 1)
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    monkeypatch.delenv("INTERLOCK_ROOT_KEYS", raising=False)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def test_revoke_and_rekey_in_one_step(cli, tmp_path):
    fresh = tmp_path / "fresh"
    fresh.write_text("another passphrase\n")
    shown = {one["name"]: one for one in cli.ok("operator", "list")}
    before = shown[SAFETY]["keys"][0]
    done = cli.ok("operator", "rekey", SAFETY, "--new-passphrase-file", fresh)
    listed = {one["name"]: one for one in cli.ok("operator", "list")}[SAFETY]
    assert listed["keys"] == [f"{before} (revoked)", done["key"]]
    assert listed["key_here"]
    assert (
        PersonKey.load(cli.path / "keys" / "people" / listed["id"], "another passphrase").keyid == done["key"]
    )
    cli.ok("operator", "revoke", SAFETY)
    assert cli.signed("operator", "revoke", SAFETY).status == 6
    assert cli.signed("operator", "revoke", "Nobody").status == 2
    last = cli.signed("operator", "revoke", OPERATOR)
    assert (last.status, "at least one root" in last.err) == (6, True)
    assert cli.ok("log", "verify")["ok"]


def test_a_sole_root_gives_themselves_a_new_key(cli, tmp_path):
    fresh = tmp_path / "fresh"
    fresh.write_text("another passphrase\n")
    cli.ok("operator", "rekey", OPERATOR, "--new-passphrase-file", fresh)
    assert cli("--passphrase-file", cli.passphrase_file, "approve", "P-0001", "--reason", "x").status == 6
    assert cli("--passphrase-file", fresh, "approve", "P-0001", "--reason", "x").status == 0
    assert cli.ok("log", "verify")["ok"]


def test_a_refused_rekey_leaves_the_key_that_was_there(cli, tmp_path):
    folder = cli.path / "keys" / "people"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase\n")
    ran = cli(
        "--passphrase-file", wrong, "operator", "rekey", SAFETY, "--new-passphrase-file", cli.passphrase_file
    )
    assert (ran.status, "wrong passphrase" in ran.err) == (6, True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["log", "gate"])
def test_rotating_a_service_on_the_command_line(cli, name):
    keys = cli.path / "keys"
    before = (keys / f"{name}.pem").read_bytes()
    cli.ok("halt", "--reason", "before")
    done = cli.ok("roster", "rotate-service", name)
    assert (keys / f"{name}.pem").read_bytes() != before
    assert not (keys / f"{name}.pem.next").exists()
    assert ServiceKey.load(keys / f"{name}.pem").public_base64 == done["public_key"]
    cli.ok("resume", "--reason", "after")
    assert cli.ok("approve", "P-0001", "--reason", "fine")["state"] == "promoted"
    assert cli.ok("log", "verify")["ok"]


def test_a_rotation_that_was_interrupted_after_the_commit_is_finished(cli):
    keys = cli.path / "keys"
    before = (keys / "log.pem").read_bytes()
    cli.ok("roster", "rotate-service", "log")
    (keys / "log.pem").rename(keys / "log.pem.next")
    (keys / "log.pem").write_bytes(before)
    (keys / "log.pem").chmod(0o600)
    cli.ok("halt", "--reason", "goes on")
    assert not (keys / "log.pem.next").exists()
    (keys / "log.pem").write_bytes(before)
    ran = cli.signed("resume", "--reason", "with a key from before")
    assert (ran.status, "not the key that the roster names" in ran.err) == (3, True)


def test_a_rotation_that_was_refused_changes_nothing(cli):
    before = (cli.path / "keys" / "log.pem").read_bytes()
    assert cli.signed("roster", "rotate-service", "log", "--as", SAFETY).status == 6
    assert (cli.path / "keys" / "log.pem").read_bytes() == before
    cli.ok("halt", "--reason", "still works")
    assert cli.ok("log", "verify")["ok"]


def test_proposals_that_make_no_sense(cli, tmp_path):
    out = tmp_path / "roster"
    for words, status in (
        ((), 6), (("--revoke", "Nobody"), 2), (("--roles", SAFETY), 2), (("--roles", f"{SAFETY}=king"), 2),
        (("--add", f"{SAFETY}={tmp_path / 'none'}"), 2), (("--revoke-key", "SHA256:none"), 2),
        (("--threshold", "2"), 6), (("--revoke", OPERATOR), 6),
    ):  # fmt: skip
        assert cli.signed("roster", "propose", *words, "--out", out).status == status, words
        assert not out.exists()


# --- pinned roots ------------------------------------------------------------------------------


def test_every_opening_refuses_a_log_that_other_roots_founded(cli, tmp_path, monkeypatch):
    pinned = (cli.path / "keys" / pins.FILE_NAME).read_text()
    assert cli.ok("log", "verify")["ok"]
    other = Made(tmp_path / "other")
    other.close()
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (cli.path / name).unlink(missing_ok=True)
        if (tmp_path / "other" / name).exists():
            shutil.copy(tmp_path / "other" / name, cli.path / name)
    for words in (("list",), ("log", "show"), ("pull", "toy", "--to", tmp_path / "out"), ("tick",)):
        ran = cli(*words)
        assert (ran.status, "not signed by the root key" in ran.err) == (7, True), words
    assert not (tmp_path / "out").exists()
    verified = cli.json("log", "verify")
    assert (verified.status, verified.data["first_error"]["index"]) == (7, 0)
    (cli.path / "keys" / pins.FILE_NAME).unlink()
    assert cli("list").status == 0, "without a pin nothing tells the two apart"
    monkeypatch.setenv(pins.VARIABLE, pinned.splitlines()[-1])
    assert cli("list").status == 7
    monkeypatch.setenv(pins.VARIABLE, str(tmp_path / "absent"))
    assert cli("list").status == 2


def test_set_up_pins_what_founded_the_log(template):
    workspace = Workspace(template)
    with workspace.log.read() as snapshot:
        assert pins.pinned(template) == founding_keys(snapshot.entry(0))
    workspace.log.close()


# --- the ways back -----------------------------------------------------------------------------


@pytest.fixture
def founded(tmp_path, capsys, monkeypatch):
    """Runs ``init`` with a fast key derivation and without any model."""
    monkeypatch.setattr("ui.cli.start.KDF_ROUNDS", 1)
    monkeypatch.setattr("ui.cli.people.KDF_ROUNDS", 1)
    monkeypatch.setattr("ui.setup.adopt", lambda *_: None)
    for name in ("INTERLOCK_AS", "INTERLOCK_ROOT_KEYS"):
        monkeypatch.delenv(name, raising=False)

    def make(name: str, *words) -> Cli:
        made = Cli(tmp_path / name, capsys)
        made.ok("init", "--operator", "Ada", *words)
        return made

    return make


def test_a_recovery_key_replaces_a_lost_one(founded, tmp_path):
    spare = tmp_path / "recovery"
    cli = founded("workspace", "--recovery-key", spare)
    assert spare.stat().st_mode & 0o077 == 0
    assert len(pins.pinned(cli.path)) == 2, "both founded the log, both are pinned"
    assert len(cli.ok("roster", "show")["people"]) == 2
    # A sole operator with a recovery key is still alone, and can loosen a policy.
    policy = tmp_path / "default.yaml"
    text = cli.ok("policy", "show", "default")["texts"]["default.yaml"]
    policy.write_text(text.replace("expiresAfter: 72h", "expiresAfter: 96h"))
    assert policy.read_text() != text
    assert cli.ok("policy", "activate", policy, "--reason", "longer", "--as", "Ada")["state"] == "done"
    fresh = tmp_path / "fresh"
    fresh.write_text("another passphrase\n")
    lost = cli.ok("operator", "list")[0]["keys"][0]
    cli.ok("operator", "rekey", "Ada", "--key", spare, "--new-passphrase-file", fresh)
    assert f"{lost} (revoked)" in cli.ok("operator", "list")[0]["keys"]
    assert cli("--passphrase-file", fresh, "halt", "--reason", "I am back", "--as", "Ada").status == 0
    assert cli.ok("log", "verify")["ok"]


def test_a_recovery_key_overwrites_nothing_and_decides_nothing(founded, tmp_path):
    spare = tmp_path / "recovery"
    spare.write_text("precious")
    cli = Cli(tmp_path / "workspace", founded("other").capsys)
    assert cli.signed("init", "--operator", "Ada", "--recovery-key", spare).status == 2
    assert spare.read_text() == "precious"
    assert not cli.path.exists()
    assert cli.signed("init", "--recovery-key", tmp_path / "x").status == 2
    made = founded("third", "--recovery-key", tmp_path / "spare")
    assert made.signed("halt", "--reason", "x", "--as", "recovery key").status in (2, 6)


def test_a_log_goes_on_from_one_whose_roots_are_lost(template, tmp_path, founded):
    former = copy_of(template, tmp_path / "former")
    before = (former / "log.db").read_bytes()
    cli = founded("successor", "--successor-of", former)
    with Workspace(former).log.read() as snapshot:
        origin, size, root = snapshot.origin, snapshot.size, snapshot.root
    first = cli.ok("log", "show", "0")["body"]
    assert first["predecessor"] == {"origin": origin, "size": size, "root": root}
    old = Cli(former, cli.capsys)
    assert (
        cli.ok("model", "show", "toy")["champion_digest"] == old.ok("model", "show", "toy")["champion_digest"]
    )
    assert cli.ok("policy", "show", "main")["digest"] == old.ok("policy", "show", "main")["digest"]
    verified = cli.ok("log", "verify")
    assert verified["ok"]
    assert any(origin in note for note in verified["notes"])
    assert (former / "log.db").read_bytes() == before
    assert cli.ok("operator", "list")[0]["name"] == "Ada"
    assert cli.signed("init", "--operator", "Eve", "--successor-of", former).status == 6


def test_what_is_forged_in_the_former_log_after_it_was_verified_is_not_taken_over(template, tmp_path):
    former = Workspace(copy_of(template, tmp_path / "former"))
    inherited = inheritance_of(former)
    champion = inherited.models[0].champion
    evil = former.store.put_bytes(b"evil")
    with sqlite3.connect(former.path / "log.db") as connection:
        change = connection.execute(
            "update projection set body = cast(replace(body, ?, ?) as blob) where \"table\" = 'models'",
            (str(champion), str(evil)),
        )
        assert change.rowcount == 1
    with view_of(former.log) as view:
        assert view.model("toy").champion == evil, "the database believes it"
    new = create_workspace(tmp_path / "new")
    take_over(new, former, inherited, "Ada", "a passphrase", lambda *_: None, rounds=1)
    with view_of(new.log) as view:
        assert view.model("toy").champion == champion


def test_nothing_goes_on_from_a_log_that_does_not_hold(template, tmp_path, founded):
    former = copy_of(template, tmp_path / "former")
    with sqlite3.connect(former / "log.db") as connection:
        connection.execute("delete from projection where \"table\" = 'policies'")
    cli = Cli(tmp_path / "successor", founded("other").capsys)
    ran = cli.signed("init", "--operator", "Ada", "--successor-of", former)
    assert (ran.status, "the former log does not hold" in ran.err) == (7, True)
    assert not cli.path.exists()


def test_a_witness_follows_the_hand_over_and_then_wants_the_new_key(cli, tmp_path):
    place, verifier = tmp_path / "witness", tmp_path / "log.vkey"

    def shown(size: int, name: str):
        growth = tmp_path / name
        cli.ok("log", "proof", "--consistency", size, "--to", growth)
        return cli("log", "witness", "--dir", place, "--once", "--checkpoint", growth)

    verifier.write_text(cli.ok("log", "checkpoint")["log_key"] + "\n")
    made = cli("log", "witness", "--dir", place, "--name", "witness.example/w1", "--add-log", verifier)
    assert made.status == 0, made.err
    assert shown(0, "first").status == 0
    before = cli.entries()
    cli.ok("roster", "rotate-service", "log")
    assert shown(before, "hand-over").status == 0, "both keys signed it, and one of them is known"
    cli.ok("halt", "--reason", "one more record")
    refused_ = shown(before + 1, "after")
    assert refused_.status != 0
    assert "not signed by a known key" in refused_.err + refused_.out
    verifier.write_text(cli.ok("log", "checkpoint")["log_key"] + "\n")
    assert cli("log", "witness", "--dir", place, "--add-log", verifier).status == 0
    assert shown(before + 1, "again").status == 0
