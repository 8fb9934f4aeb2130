"""Signing offline through the console, in a real browser: download, the real ssh-keygen, paste."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console_browser import Server, act_as, browser, look_at_everything, visit
from console_fixture import Made, make, navigator

from guardrails.records import Role, State, Surface
from guardrails.view import view_of
from ui.setup import person_with

__all__ = ["browser", "visit"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="OpenSSH is not installed"),
]

NIA = "Nia Abara"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A workspace whose second operator has no private key in it, and a proposal that waits."""
    built = make(tmp_path / "workspace")
    key = tmp_path / "nia"
    done = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=False)
    assert done.returncode == 0
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    person, opening = person_with(NIA, (Role.OPERATOR,), public)
    with view_of(built.workspace.log) as view:
        roster = view.roster
    assert roster is not None
    grown = replace(roster, version=roster.version + 1, people=(*roster.people, person))
    built.workspace.gate.record_roster(grown, built.key, [opening])
    built.propose(tmp_path / "candidate", "navigator", 7, navigator(7))
    return built


def ssh_sign(key: Path, statement: Path, namespace: str = "interlock-decision") -> Path:
    """Sign a file as the dialog says; returns the signature's path."""
    statement.with_name(statement.name + ".sig").unlink(missing_ok=True)
    done = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key), str(statement)], check=False
    )
    assert done.returncode == 0
    return statement.with_name(statement.name + ".sig")


def test_a_person_without_a_key_here_approves_in_the_browser(
    made: Made, tmp_path: Path, visit: Callable[..., Any]
) -> None:
    server = Server(made.workspace.path)
    try:
        page = visit(f"{server.url}/proposal?id=P-0001")
        act_as(page, NIA)
        look_at_everything(page)
        page.get_by_role("button", name="Approve…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Your key is not in this workspace.").wait_for()
        dialog.get_by_label("Reason, for the decision log").fill("read on a train")
        dialog.get_by_role("button", name="Prepare the statement").click()
        with page.expect_download() as download:
            dialog.get_by_role("button", name="Download the statement").click()
        statement = tmp_path / download.value.suggested_filename
        download.value.save_as(statement)
        assert statement.name == "approve-P-0001"
        dialog.get_by_text("ssh-keygen -Y sign -n interlock-decision").wait_for()

        pasted = dialog.get_by_label("The signature")
        pasted.fill(ssh_sign(tmp_path / "nia", statement, "file").read_text())
        dialog.get_by_role("button", name="Hand in").click()
        dialog.get_by_text("namespace 'file'").wait_for()
        with view_of(made.workspace.log) as view:
            assert view.proposal("P-0001").state is State.AWAITING_APPROVAL

        pasted.fill(ssh_sign(tmp_path / "nia", statement).read_text())
        page.screenshot(path=tmp_path / "dialog.png")
        dialog.get_by_role("button", name="Hand in").click()
        page.get_by_text("Approval of P-0001 recorded.").wait_for()
    finally:
        server.stop()
    with view_of(made.workspace.log) as view:
        row = view.proposal("P-0001")
        assert view.text(row.votes[0].reason) == "read on a train"
    assert (row.state, row.votes[0].surface) == (State.PROMOTED, Surface.OFFLINE)
