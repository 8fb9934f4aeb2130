"""Two processes want the same promotion: one gets it, the other ends with 6; on SQLite and on PostgreSQL.

And what a command says where the disk is read-only or the clock was set back.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_workspace import OPERATOR, PASSPHRASE, REPOSITORY, Made, command

from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.store import Log
from guardrails.errors import DeniedError, StorageError
from guardrails.gate import Gate
from guardrails.ledger.rows import Workspace as State
from guardrails.ledger.rows import read
from guardrails.view import view_of
from ui.wiring import open_workspace

RACERS = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        monkeypatch.setenv("INTERLOCK_DATABASE_URL", server.fresh())
    else:
        monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    made = Made(tmp_path / "ws")
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    yield made
    made.close()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    url = os.environ.get("INTERLOCK_DATABASE_URL", "")
    return {**kept, "PYTHONPATH": str(REPOSITORY), **({"INTERLOCK_DATABASE_URL": url} if url else {})}


def approve(made: Made, proposal: str) -> subprocess.Popen[str]:
    words = [
        "--workspace", str(made.workspace.path), "--passphrase-file",
        str(made.workspace.path.parent / "passphrase"), "--as", OPERATOR, "approve", proposal, "--reason", "go",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "ui.cli", *words], env=environment(), cwd=REPOSITORY, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def promotions(made: Made) -> int:
    with made.workspace.log.read() as snapshot:
        return sum(entry.statement.record == "promotion" for entry in snapshot.entries())


def test_two_processes_one_promotion(made: Made):
    proposal = made.proposed()
    made.workspace.gate.log.close()
    racing = [approve(made, proposal) for _ in range(RACERS)]
    ended = [(one.wait(120), *one.communicate()) for one in racing]
    assert sorted(status for status, _, _ in ended) == [0] + [6] * (RACERS - 1), ended
    assert all("Traceback" not in err for _, _, err in ended)
    assert promotions(made) == 1
    with view_of(made.workspace.log) as view:
        assert view.proposal(proposal).state.value == "promoted"
        assert view.model("toy").champion == view.proposal(proposal).proposal.bundle


def test_two_proposals_for_one_champion_one_promotion(made: Made):
    """Both were trained from the champion that the first of them replaces."""
    proposals = [made.proposed(), made.proposed()]
    made.workspace.gate.log.close()
    racing = [approve(made, proposal) for proposal in proposals]
    ended = [(one.wait(120), *one.communicate()) for one in racing]
    assert sorted(status for status, _, _ in ended) == [0, 6], ended
    assert promotions(made) == 1


def test_a_clock_that_was_set_back_is_refused_and_nothing_is_lost(made: Made):
    proposal = made.proposed()
    gate = made.workspace.gate
    with made.workspace.log.read() as snapshot:
        size, last = snapshot.size, read(snapshot.tables, State).time
    earlier = Log.open(made.workspace.database_url, gate.log._signer, gate.log._project)
    behind = Gate(
        earlier,
        gate.store,
        gate._clerk.services,
        gate._secret,
        lambda: parse_time("2026-01-01T00:00:00.000000Z"),
    )
    with pytest.raises(DeniedError, match="clock went backwards") as caught:
        behind.begin_measurement(proposal)
    assert caught.value.hint.startswith("set the clock right")
    with made.workspace.log.read() as snapshot:
        assert (snapshot.size, read(snapshot.tables, State).time) == (size, last)
    gate.begin_measurement(proposal)  # the control: with the right clock it goes on
    earlier.close()


def test_a_read_only_disk_is_said_and_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A read-only mount where the tests may make one; a folder without write permission elsewhere."""
    monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    made = Made(tmp_path / "ws")
    proposal = made.proposed()
    made.close()
    path = made.workspace.path
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", path, path], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no read-only mount can be made here: {mounted.stderr.decode()[:100]}")
    try:
        with Log.open(f"sqlite:///{path / 'log.db'}") as log, log.read() as snapshot:
            size = snapshot.size
        listed = command("--workspace", path, "list", "--json")
        assert listed.status == 0, listed.err
        (tmp_path / "passphrase").write_text(PASSPHRASE)
        for words in (("gc",), ("--as", OPERATOR, "reject", proposal, "--reason", "no")):
            ran = command("--workspace", path, "--passphrase-file", tmp_path / "passphrase", *words)
            assert ran.status == StorageError.exit_status, ran.out + ran.err
            assert "read-only" in ran.err.lower() or "cannot" in ran.err, ran.err
        assert command("--workspace", path, "backup", tmp_path / "b.tar").status == 0
    finally:
        subprocess.run(["umount", path], check=True)
    with open_workspace(path).log.read() as snapshot:
        assert snapshot.size == size
