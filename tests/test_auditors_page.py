"""docs/auditors.md: every command on it is run, in the order of the page, in a workspace as it says."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path

from cli_workspace import OPERATOR, SAFETY, Cli, Made

from guardrails.decision_log.texts import commitments
from ui.wiring import Workspace

PAGE = Path(__file__).parent.parent / "docs" / "auditors.md"


def test_every_command_on_the_page_does_what_it_says(tmp_path, capsys, monkeypatch):
    made = Made(tmp_path / "workspace")
    for _ in range(4):  # the page names record 17
        made.proposed()
    made.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    cli = Cli(tmp_path / "workspace", capsys)
    cli.ok("approve", "P-0001", "--reason", "seen")
    (tmp_path / "root.pub").write_text(cli.ok("roster", "show")["people"][0]["public_keys"][0])
    (tmp_path / "recovery.pub").write_text((tmp_path / "root.pub").read_text())
    (tmp_path / "log.vkey").write_text(cli.ok("log", "checkpoint")["log_key"])
    origin = cli.ok("log", "checkpoint")["checkpoint"].splitlines()[0]
    lines = re.findall(r"^    (interlock .*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(lines) >= 20
    for printed in lines:
        if "--listen" in printed:
            continue  # serves until it is stopped: ``test_witnessed_log`` runs it
        line = printed.replace("17 23", numbers(tmp_path / "workspace")) if "erase 17" in printed else printed
        words, _, to = line.partition(" > ")
        words = shlex.split(words.replace("COPY", str(tmp_path / "workspace")).replace("ORIGIN", origin))[1:]
        done = cli.signed(*words)
        assert done.status == 0, (line, done.out, done.err)
        if to:
            (tmp_path / to).write_text(done.out, encoding="utf-8")
        if "--name" in words:
            key = re.search(r"witness\.example/w1\+\S+", done.out)[0]
            (tmp_path / "witness.vkey").write_text(key)
        if "--once" in words:  # what the page leaves to the reader: the answer is carried back
            (tmp_path / "answer").write_text(done.out, encoding="utf-8")
            key = (tmp_path / "witness.vkey").read_text()
            cli.ok("log", "checkpoint", "--add", tmp_path / "answer", "--witness-key", key)
    assert json.loads(cli("log", "show", "P-0001", "--report", "--format", "json").out)["schema"]
    assert SAFETY not in cli("roster", "show").out


def numbers(path: Path) -> str:
    """Two records that have a text."""
    workspace = Workspace(path)
    with contextlib.closing(workspace.log) as log, log.read() as snapshot:
        found = [
            str(entry.seq) for entry in snapshot.entries()
            if entry.statement.record == "decision"
            and any(snapshot.opening(item) for item in commitments(entry.statement.body))
        ]  # fmt: skip
    return " ".join(found[:2])
