"""docs/operators.md: what it says of approving, remarks, requests, offline signing and keeping is run as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import fakes
import pytest
from cli_workspace import OPERATOR, SAFETY, Cli, copy_of, workspace_with
from fakes import PASSING

PAGE = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:interlock|ssh-keygen) .*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace_with(tmp_path_factory, PASSING)


@pytest.fixture
def cli(template: Path, tmp_path: Path, capsys, monkeypatch) -> Cli:
    monkeypatch.delenv("INTERLOCK_ROOT_KEYS", raising=False)
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    monkeypatch.chdir(tmp_path)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def printed(*begin: str) -> list[str]:
    """The commands of the page that begin with these words, each there once, in this order."""
    found = []
    for words in begin:
        matching = [line for line in COMMANDS if line == words] or [
            x for x in COMMANDS if x.startswith(words)
        ]
        assert len(matching) == 1, (words, matching)
        found += matching
    return found


def run(cli: Cli, line: str, **replaced: str) -> None:
    """One command of the page, with the names of the page replaced by those of the test."""
    for old, new in replaced.items():
        line = line.replace(old.replace("_", "-"), new)
    words = [part.replace("AGAIN", str(cli.path.parent / "again")) for part in shlex.split(line)]
    if words[0] == "ssh-keygen":
        key = [str(cli.path.parent / "nia") if "id_ed25519" in part else part for part in words]
        subprocess.run(key, check=True, capture_output=True)
        return
    words = ["toy" if part == "navigator" else part for part in words[1:]]
    done = cli.signed(*words)
    assert done.status == 0, (line, done.out, done.err)


def test_looking_and_approving(cli):
    for line in printed(
        "interlock list",
        "interlock show P-0001",
        "interlock explain",
        "interlock samples P-0001",
        "interlock samples P-0001 --flagged",
    ):
        run(cli, line)
    run(cli, printed('interlock approve P-0001 --reason "more levels')[0])
    assert cli.state("P-0001") == "promoted"


def test_remarks(cli):
    for line in printed("interlock comment", "interlock request-changes"):
        run(cli, line)
    run(cli, printed("interlock withdraw P-0001")[0])
    run(cli, printed('interlock approve P-0001 --reason "for tonight')[0])


@pytest.mark.parametrize(
    ("command", "who", "state"),
    [
        ("interlock approve R-0001", SAFETY, "done"),
        ("interlock withdraw R-0001", OPERATOR, "withdrawn"),
        ("interlock reject R-0001", SAFETY, "rejected"),
    ],
)
def test_requests(cli, tmp_path, monkeypatch, command, who, state):
    file = tmp_path / "main.yaml"
    file.write_text(fakes.policy(expiresAfter="96h").files["main.yaml"])
    asked = cli.ok("policy", "activate", file, "--reason", "looser")
    assert asked["state"] == "open"
    run(cli, "interlock list --requests")
    monkeypatch.setenv("INTERLOCK_AS", who)
    run(cli, printed(command)[0], R_0001=asked["request"])
    (row,) = [row for row in cli.ok("list", "--requests") if row["id"] == asked["request"]]
    assert row["state"] == state


def test_signing_offline(cli, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "nia")], check=True)
    run(cli, printed("interlock operator import-ssh")[0])
    exported = printed('interlock approve P-0001 --as "Nia Abara"')[0]
    sign = next(line for line in COMMANDS if line.startswith("ssh-keygen") and line.endswith(" decision"))
    for line in (exported, "interlock decision show decision", sign):
        run(cli, line)
    assert cli.state("P-0001") == "awaiting_approval"
    run(cli, printed("interlock approve P-0001 --import")[0])
    assert cli.state("P-0001") == "promoted"


def test_keeping_it(cli, tmp_path):
    start = COMMANDS.index("interlock backup monday.tar")
    section = COMMANDS[start : COMMANDS.index("interlock gc") + 1]
    assert len(section) == 9
    for line in section:
        run(cli, line)
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    assert (tmp_path / "again" / "keys" / "roots.pub").read_bytes() == (
        cli.path / "keys" / "roots.pub"
    ).read_bytes()
    assert list(tmp_path.glob("workspace.before-restore-*"))
    assert not list((tmp_path / "again" / "keys" / "people").iterdir()), "people's keys stay with people"
    shutil.rmtree(tmp_path / "again")
