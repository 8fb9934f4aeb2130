"""Bad input at every boundary of the command line: a clear error, the right status, nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil

import fakes
import pytest
from cli_workspace import Cli, copy_of, workspace_with
from fakes import PASSING
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    monkeypatch.setenv("INTERLOCK_RUNNER", "local")
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def fingerprint(path):
    """Every file that matters: all but SQLite's own side files, what was probed, and empty folders."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if (
            file.is_file()
            and not name.startswith(("cache/", "jobs/"))
            and not name.endswith(("-shm", "-wal"))
        ):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def refused(cli, status, *words):
    """Run a command that must be refused with a status, say why in words, and change nothing."""
    before = fingerprint(cli.path)
    head = cli.json("log", "checkpoint").data
    ran = cli.signed(*words)
    assert ran.status == status, (words, ran.out, ran.err)
    assert "error: " in ran.err or ran.out, words
    assert len(ran.err.strip().splitlines()) < 60
    assert cli.json("log", "checkpoint").data == head
    assert fingerprint(cli.path) == before
    return ran


# --- command lines -----------------------------------------------------------------------------

LINES = [
    (2, "list", "extra"),
    (2, "list", "--limit", "-1"),
    (2, "list", "--limit", "many"),
    (2, "list", "--model"),
    (2, "show"),
    (2, "show", ""),
    (2, "show", "P-"),
    (2, "show", "P-0001", "P-0002"),
    (2, "show", "R-0999"),
    (2, "show", "../../etc/passwd"),
    (2, "show", "P-0001\x00"),
    (2, "show", "é" * 5000),
    (2, "explain", "nothing"),
    (2, "samples", "P-7777"),
    (2, "verdict", "P-7777"),
    (3, "verdict", "P-0001", "--policy", "/no/such/file.yaml"),
    (2, "approve", "P-0001"),
    (2, "approve", "P-7777", "--reason", "x"),
    (2, "approve", "R-7777", "--reason", "x"),
    (2, "approve", "P-0001", "--reason", "x", "--role", "king"),
    (2, "reject", "P-0001", "--reason", "x", "--as", "Nobody"),
    (2, "reject", "P-0001", "--reason", "x", "--passphrase-fd", "99"),
    (2, "reject", "P-0001", "--reason", "x", "--passphrase-fd", "-1"),
    (2, "reject", "P-0001", "--reason", "x", "--passphrase-fd", "zero"),
    (6, "reject", "R-0001", "--reason", "x"),  # carried out already
    (2, "reject", "R-9999", "--reason", "x"),
    (2, "rollback", "nothing", "--reason", "x"),
    (2, "rollback", "toy", "--reason", "x"),
    (2, "rollback", "toy", "--to", "sha256:", "--reason", "x"),
    (2, "rollback", "toy", "--to", "not hex", "--reason", "x"),
    (2, "halt"),
    (6, "resume", "--reason", "nothing is halted"),
    (2, "model", "show", "nothing"),
    (2, "model", "add", "Bad Name", "--base", "."),
    (2, "model", "add", "fine", "--base", ".", "--label", "novalue"),
    (2, "model", "add", "fine", "--base", ".", "--kind", "vision"),
    (3, "model", "add", "fine", "--base", "/no/such/model"),
    (3, "model", "add", "fine", "--base", "shipped:nothing"),
    (3, "model", "add", "fine", "--base", "shipped:tiny", "--control", "x=/no/such/text"),
    (2, "model", "add", "fine", "--base", "shipped:tiny", "--technique", "magic"),
    (3, "model", "add", "fine", "--base", "shipped:pupil", "--task", "juggling"),
    (3, "model", "add", "fine", "--base", "shipped:pupil", "--task", "skills"),
    (3, "model", "add", "fine", "--base", "shipped:pupil", "--task", "skills", "--train", "juggle"),
    (6, "model", "add", "toy", "--base", "shipped:tiny"),
    (6, "model", "add", "fine", "--base", "shipped:tiny", "--as", "Maya Osei"),
    (2, "propose", "nothing"),
    (2, "propose", "toy", "-n", "0"),
    (2, "propose", "toy", "--seed", "-1"),
    (2, "propose", "toy", "--technique", "magic"),
    (2, "propose", "toy", "--set", "steps"),
    (2, "propose", "toy", "--budget", "gold=1"),
    (2, "propose", "toy", "--budget", "cpu_s=-1"),
    (2, "propose", "toy", "--budget", "cpu_s=nan"),
    (2, "submit", "toy", "/no/such/bundle"),
    (2, "submit", "nothing", "."),
    (2, "measure", "P-7777"),
    (2, "loop", "run", "--rounds", "0"),
    (2, "loop", "run", "--model", "nothing"),
    (2, "up", "--no-console", "--model", "nothing"),
    (2, "up", "--port", "99999"),
    (2, "waiver", "add", "P-0001"),
    (2, "policy", "check"),
    (3, "policy", "check", "/no/such/file.yaml"),
    (3, "policy", "check", "."),
    (3, "policy", "activate", "/no/such/file.yaml", "--reason", "x"),
    (2, "policy", "deactivate", "nothing", "--reason", "x"),
    (2, "operator", "add", "X", "--role", "king"),
    (2, "log", "show", "nothing"),
    (2, "log", "show", "--limit", "0"),
    (2, "log", "proof", "-1"),
    (2, "log", "verify", "--root-key", "/no/such/key"),
    (2, "log", "verify", "--checkpoint", "/no/such/note"),
    (2, "pull", "toy"),
    (2, "pull", "toy", "--to", "/proc/interlock"),
    (2, "sandbox", "run"),
    (2, "sandbox", "run", "--level", "magic", "--", "true"),
    (2, "sandbox", "run", "--in", "/no/such/folder", "--", "true"),
    (2, "sandbox", "run", "--wall", "-1", "--", "true"),
    (2, "sandbox", "run", "--", "no-such-program-anywhere"),
    (2, "completion", "tcsh"),
    (6, "init", "--operator", "Second"),
    (2, "config", "show", "--everything"),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(map(str, line[1:]))[:60])
def test_malformed_command_lines(cli, line):
    status, *words = line
    refused(cli, status, *words)


def test_the_same_lines_in_json(cli):
    for status, *words in LINES[::4]:
        ran = cli.json("--passphrase-file", cli.passphrase_file, *words)
        assert ran.status == status, words
        data = ran.answer["data"]
        assert ran.answer["kind"] in ("error", "policy check")
        assert data.get("exit", status) == status


def test_names_that_no_terminal_can_spell(cli):
    ran = refused(cli, 2, "show", os.fsdecode(b"P-\xff\xfe"))
    assert "\\x" in ran.err or "\\u" in ran.err or "·" in ran.err


NOT_HERE = (
    ("list",), ("show", "P-0001"), ("log", "verify"), ("model", "list"), ("approve", "P-0001", "--reason", "x"),
    ("up", "--no-console"), ("loop", "status"), ("config", "show"), ("tick",), ("halt", "--reason", "x"),
)  # fmt: skip


@pytest.mark.parametrize("words", NOT_HERE, ids=lambda words: words[0])
def test_without_a_workspace(tmp_path, capsys, words):
    cli = Cli(tmp_path / "nowhere", capsys)
    ran = cli(*words)
    assert ran.status == 2
    assert "interlock init" in ran.err
    assert not cli.path.exists()


def test_a_workspace_that_is_not_set_up(tmp_path, capsys):
    cli = Cli(tmp_path / "fresh", capsys)
    assert cli("init").status == 0
    assert cli("up", "--no-console").status == 2
    assert cli("propose", "navigator").status in (2, 6)
    assert cli("halt", "--reason", "x").status in (2, 6)
    assert cli("log", "verify").status == 0
    assert cli("model", "list").status == 0


def test_init_checks_what_is_given_before_it_makes_anything(tmp_path, capsys):
    cli = Cli(tmp_path / "fresh", capsys)
    short = tmp_path / "short"
    short.write_text("short", encoding="utf-8")
    for words in (
        ("--operator", "Ada", "--passphrase-file", short),
        ("--operator", "Ada", "--passphrase-file", tmp_path / "absent"),
        ("--operator", "Ada"),
        ("--operator", "  ", "--passphrase-file", cli.passphrase_file),
        ("--operator", "A\x1b[2Jda", "--passphrase-file", cli.passphrase_file),
        ("--operator", "x" * 81, "--passphrase-file", cli.passphrase_file),
    ):
        assert cli("init", *words).status == 2, words
        assert not cli.path.exists()


def test_a_workspace_where_nothing_can_be_made(tmp_path, capsys):
    cli = Cli(tmp_path / "file", capsys)
    cli.path.write_text("x")
    assert cli("init").status == 2
    assert cli.path.read_text() == "x"


# --- interlock.toml ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "not toml [", "[models.toy]\nkind = 'vision'\nbase='x'", "[surprise]\nx = 1", "[models.toy]\nkind='llm'",
        "\x00", "[loop]\npause_s='x'",
    ],
)  # fmt: skip
def test_a_broken_configuration(cli, text):
    (cli.path / "interlock.toml").write_text(text, encoding="utf-8")
    ran = refused(cli, 3, "config", "show")
    assert "interlock.toml" in ran.err
    refused(cli, 3, "propose", "toy")
    assert cli("list").status == 0


@pytest.mark.parametrize(
    ("variable", "value"), [("INTERLOCK_DATABASE_URL", "mysql://x"), ("INTERLOCK_DATABASE_URL", "::")]
)
def test_a_broken_environment(cli, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert cli("list").status == 2


def test_an_unknown_runner(cli, monkeypatch):
    monkeypatch.setenv("INTERLOCK_RUNNER", "cloud")
    refused(cli, 2, "measure", "P-0001")


# --- policies ----------------------------------------------------------------------------------

GOOD = fakes.policy().files["main.yaml"]
BAD_POLICIES = {
    "empty": "",
    "binary": "\x00\x01\x02",
    "list": "- a\n- b\n",
    "anchor": "a: &x 1\nb: *x\n",
    "tag": "a: !!python/object/apply:os.system [id]\n",
    "duplicate key": GOOD + "isolation: {minimum: strict}\n",
    "misspelt key": GOOD.replace("severity: review", "severty: review", 1),
    "unknown check": GOOD.replace("drift.output_kl", "drift.everything"),
    "unknown metric": GOOD.replace("kl_mean", "kl_median"),
    "not a number": GOOD.replace("value: 0.15", "value: .nan"),
    "looser than allowed": GOOD.replace("onBlocked: never", "onBlocked: {quorum: 1, roles: [operator]}"),
    "unbuilt feature": GOOD + "replay: {share: 0.5, techniques: [self_supervised]}\n",
    "unknown parent": GOOD + "extends: [parent.yaml]\n",
    "deep": "a: " + "[" * 60 + "]" * 60,
    "huge": GOOD + "# " + "x" * 100_000,
    "two documents": GOOD + "---\n" + GOOD,
}


@pytest.mark.parametrize("name", BAD_POLICIES)
def test_bad_policies(cli, tmp_path, name):
    file = tmp_path / "bad.yaml"
    file.write_text(BAD_POLICIES[name], encoding="utf-8")
    ran = cli.json("policy", "check", file)
    assert ran.status == 3
    assert not ran.data["ok"]
    assert ran.data["errors"]
    for error in ran.data["errors"]:
        assert set(error) == {"file", "line", "column", "message", "hint"}
        assert error["line"] >= 1
        assert error["message"]
    refused(cli, 3, "policy", "activate", file, "--reason", "x")
    refused(cli, 3, "verdict", "P-0001", "--policy", file)


def test_good_and_bad_policies_together(cli, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD, encoding="utf-8")
    bad.write_text("x", encoding="utf-8")
    assert cli("policy", "check", good).status == 0
    data = cli.json("policy", "check", good, bad).data
    assert (data["ok"], len(data["policies"])) == (False, 1)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
@example(data=b"\xff")
def test_no_bytes_make_policy_check_stumble(cli, tmp_path, data):
    file = tmp_path / "fuzz.yaml"
    file.write_bytes(data)
    ran = cli.json("policy", "check", file)
    assert ran.status == 3
    assert ran.data["errors"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    words=st.lists(
        st.sampled_from(
            ["list", "show", "log", "verify", "P-0001", "--json", "--limit", "-1", "--", "policy", "check"]
        )
        | st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=12),
        max_size=5,
    )
)
def test_no_words_make_it_stumble(cli, words):
    assert cli(*words).status in (0, 2, 3)


# --- bundles -----------------------------------------------------------------------------------

MANIFEST = {"schema": "interlock/bundle/v1", "intent": "x", "technique": "elsewhere", "seed": 1}


def bundle(folder):
    from console_fixture import write_safetensors

    (folder / "model").mkdir(parents=True)
    (folder / "data").mkdir()
    write_safetensors(folder / "model" / "model.safetensors", random.Random(3))
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "data" / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (folder / "proposal.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    return folder


def without_manifest(folder):
    (folder / "proposal.json").unlink()


def with_text(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


BAD_BUNDLES = {
    "empty": lambda folder: shutil.rmtree(folder) or folder.mkdir(),
    "no manifest": without_manifest,
    "manifest is not JSON": with_text("proposal.json", "{"),
    "manifest is a list": with_text("proposal.json", "[]"),
    "manifest has a key twice": with_text("proposal.json", '{"intent": "a", "intent": "b"}'),
    "manifest claims another schema": with_text("proposal.json", json.dumps({**MANIFEST, "schema": "x/v9"})),
    "seed is text": with_text("proposal.json", json.dumps({**MANIFEST, "seed": "1"})),
    "pickle": with_text("model/pytorch_model.bin", "x"),
    "code": with_text("model/modeling.py", "print(1)"),
    "unknown file": with_text("notes.md", "x"),
    "link": lambda folder: (folder / "model" / "tokenizer.json").symlink_to("/etc/hostname"),
    "pipe": lambda folder: os.mkfifo(folder / "model" / "tokenizer.json"),
    "no weights": lambda folder: (folder / "model" / "model.safetensors").unlink(),
    "weights cut short": lambda folder: os.truncate(folder / "model" / "model.safetensors", 4),
    "model is a file": lambda folder: shutil.rmtree(folder / "model") or (folder / "model").write_text("x"),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_bad_bundles(cli, tmp_path, name):
    folder = bundle(tmp_path / "bundle")
    BAD_BUNDLES[name](folder)
    refused(cli, 3, "submit", "toy", folder)


def test_a_good_bundle_is_taken(cli, tmp_path):
    """The positive control of the above."""
    data = cli.ok("submit", "toy", bundle(tmp_path / "bundle"), "--intent", "try this")
    assert (data["state"], data["technique"]) == ("proposed", "submitted")
    assert cli.ok("show", data["id"])["intent"] == "try this"
    assert cli.ok("show", data["id"])["proposer"] == "Ada Byron"
