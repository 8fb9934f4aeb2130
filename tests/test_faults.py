"""Every change that the gate makes to a disk, met by a kill, a torn write, a full disk and a failing disk.

A small library, loaded before libc in the process under test (``faults.c``), counts the calls that change files of
the workspace: SQLite's and the artifact store's alike. One run without a fault says how many there are; then each
is met, one process each. In the default suite a sample of them; with ``-m slow`` every one.

A loss of power, where also what the system had cached is gone: ``test_power_loss``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from crash_child import FAILING, FULL
from test_crash import Starter, check, workspace  # noqa: F401 - the fixture

from guardrails.canonical import digest

KILL, TORN = 1, 2
NAMES = {KILL: "kill", TORN: "torn", FULL: "full", FAILING: "failing"}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The process that starts what meets faults."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library that makes the disk fail")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    made = Starter(LD_PRELOAD=str(library))
    yield made
    made.close()


class Run:
    """One walk that met one fault, on a copy of a workspace."""

    def __init__(self, faulty, template: Path, folder: Path, at: int, mode: int) -> None:
        self.path = folder / f"{NAMES[mode]}-{at}"
        shutil.copytree(template, self.path)
        output = folder / f"{NAMES[mode]}-{at}.txt"
        output.touch()
        self.pid = faulty.ask("start", self.path, "t", output, at, mode)
        self.status = faulty.ask("bury", self.pid)
        self.lines = output.read_text().splitlines()
        assert self.lines[:1] == ["ready"], self.lines
        self.acknowledged = {
            int(words[0]): words[1] for words in map(str.split, self.lines[1:]) if words[0].isdigit()
        }

    def told(self, what: str) -> str:
        """What follows a word in its output; empty if it never said it."""
        return next((line[len(what) + 1 :] for line in self.lines if line.startswith(what)), "")

    def require_whole(self) -> None:
        """Nothing acknowledged is gone, the log holds, there is one champion, and every blob is its digest."""
        check(self.path, self.acknowledged)
        for path in (self.path / "artifacts" / "blobs").rglob("*"):
            if path.is_file():
                assert digest(path.read_bytes()).hex == path.name
        shutil.rmtree(self.path)


@pytest.fixture
def template(workspace, folder):  # noqa: F811
    """A workspace that nobody has open."""
    workspace.log.close()
    workspace.gate.log.close()
    return workspace.path


def changes(faulty, template: Path, folder: Path) -> int:
    """How often a walk changes the disk."""
    run = Run(faulty, template, folder, 1 << 40, KILL)
    assert run.status == 0, run.lines
    run.require_whole()
    return int(run.told("changes"))


def meet_faults(faulty, template: Path, folder: Path, mode: int, sample: int) -> None:
    total = changes(faulty, template, folder)
    assert total > 100, "too few changes: is the library loaded?"
    step = max(1, total // sample) if sample else 1
    begun = 0
    for at in range(1, total + 1, step):
        run = Run(faulty, template, folder, at, mode)
        if mode in (KILL, TORN):
            assert run.status == -9, (at, run.lines)
        else:
            assert run.status == 0, (at, run.lines)
            # A fault while files that nobody needs are cleaned up need not be heard of.
            begun += bool(run.told("refused"))
        run.require_whole()
    if mode in (FULL, FAILING):
        assert begun > 0.8 * len(range(1, total + 1, step))


@pytest.mark.parametrize("mode", NAMES, ids=NAMES.get)
def test_some_changes(faulty, template, folder, mode):
    meet_faults(faulty, template, folder, mode, sample=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", NAMES, ids=NAMES.get)
def test_every_change(faulty, template, folder, mode):
    meet_faults(faulty, template, folder, mode, sample=0)
