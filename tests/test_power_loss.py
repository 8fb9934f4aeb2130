"""The power goes at any change to the disk: nothing that was acknowledged is lost, nothing half-written is believed.

A process walks the whole line on a real workspace while each change it makes to the disk is kept (``faults.c``), and is
killed at one of them. From what was written and what was synced until then, disks are made as a loss of power may leave
them (``power``): writes that were not synced are lost, torn or in disorder at random. Each is opened, verified, and
compared with what had been acknowledged. SQLite writes here as it does in use: write-ahead log, ``synchronous=FULL``.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from fakes import verify
from power import MKDIR, RENAME, SYNC, WRITE, Disk, changes
from test_crash import check, workspace  # noqa: F401 - the fixture
from test_faults import KILL, NAMES, faulty, template  # noqa: F401 - the fixtures

from guardrails.canonical import digest
from guardrails.errors import InterlockError
from guardrails.registry import ArtifactStore

NEVER = 1 << 40


class Cut:
    """One walk, kept and killed at its n-th change, and the disk under it."""

    def __init__(self, starter, template: Path, folder: Path, at: int) -> None:  # noqa: F811
        self.path, self.journal = folder / f"{NAMES[KILL]}-{at}", folder / f"journal-{at}"
        shutil.copytree(template, self.path)
        self.before = folder / f"before-{at}"
        shutil.copytree(template, self.before)
        output = folder / f"cut-{at}.txt"
        output.touch()
        pid = starter.ask("start", self.path, "t", output, at, KILL, self.journal)
        self.status = starter.ask("bury", pid)
        lines = output.read_text().splitlines()
        assert lines[:1] == ["ready"], lines
        self.lines = lines
        self.acknowledged = {int(w[0]): w[1] for w in map(str.split, lines[1:]) if w[0].isdigit()}

    def disk(self, *, syncs: bool = True) -> Disk:
        """The disk as it was when the power went."""
        shutil.rmtree(self.path)
        shutil.copytree(self.before, self.path)  # under the name that the journal knows
        disk = Disk(self.path)
        disk.replay(changes(self.journal), syncs=syncs)
        return disk


def require_whole(path: Path, acknowledged: dict[int, str]) -> None:
    """As after a kill; and every artifact that a record names is there, and no blob is anything but its name."""
    check(path, acknowledged)
    found = verify(f"sqlite:///{path / 'log.db'}", ArtifactStore(path / "artifacts"), recompute=None)
    assert found.ok, found
    for blob in (path / "artifacts" / "blobs").rglob("*"):
        if blob.is_file():
            assert digest(blob.read_bytes()).hex == blob.name


def cut_often(starter, template, folder, cuts: int, images: int, seed: int) -> int:  # noqa: F811
    whole = Cut(starter, template, folder, NEVER)
    assert whole.status == 0, whole.lines
    total = int(next(line for line in whole.lines if line.startswith("changes")).split()[1])
    kinds = {change.kind for change in changes(whole.journal)}
    assert {WRITE, SYNC, RENAME, MKDIR} <= kinds, kinds
    chance, acknowledged = random.Random(seed), 0
    for at in sorted(chance.sample(range(1, total + 1), min(cuts, total))):
        cut = Cut(starter, template, folder, at)
        assert cut.status == -9, cut.lines
        acknowledged += len(cut.acknowledged)
        disk = cut.disk()
        for image in range(images):
            found = folder / f"found-{at}-{image}"
            disk.after(random.Random(f"{seed}-{at}-{image}"), found)
            require_whole(found, cut.acknowledged)
            shutil.rmtree(found)
        shutil.rmtree(cut.path)
        shutil.rmtree(cut.before)
    return acknowledged


def test_the_power_goes_at_some_changes(faulty, template, folder):  # noqa: F811
    assert cut_often(faulty, template, folder, cuts=6, images=3, seed=1) > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_the_power_goes_at_many_changes(faulty, template, folder, seed):  # noqa: F811
    assert cut_often(faulty, template, folder, cuts=60, images=8, seed=100 + seed) > 60


def test_a_disk_that_only_says_that_it_has_synced_loses_what_was_acknowledged(faulty, template, folder):  # noqa: F811
    """The control: without the syncs the same images do lose records, and it is noticed."""
    cut = Cut(faulty, template, folder, NEVER)
    assert len(cut.acknowledged) > 5
    disk, lost = cut.disk(syncs=False), 0
    for image in range(8):
        found = folder / f"found-{image}"
        disk.after(random.Random(image), found)
        try:
            require_whole(found, cut.acknowledged)
        except (AssertionError, InterlockError):
            lost += 1
    assert lost >= 6
    disk = cut.disk()
    disk.after(random.Random(0), folder / "synced")
    require_whole(folder / "synced", cut.acknowledged)
