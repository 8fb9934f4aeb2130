"""Every attack is stopped where jobs run, and gets through where nothing guards: else it proves nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.__main__ import load
from hostile.registry import MAY_BE_ABSENT, NEEDS_ROOT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ORDINARY = 1234  # a user number that owns nothing

# What ``landlock`` alone does not stop, by design: the deployment page says so.
OPEN_AT_LANDLOCK = {"stat_registry"}
USERS = ("root", "ordinary") if os.geteuid() == 0 else ("ordinary",)

load()


def _anyone_reaches(path: Path) -> bool:
    """Whether a user who owns nothing can read a file or folder and enter all folders above it."""
    mode = path.stat().st_mode
    return bool(mode & stat.S_IROTH) and all(
        above.stat().st_mode & stat.S_IXOTH for above in (*path.parents, path) if above.is_dir()
    )


class Suite:
    """Runs all attacks once for each user and level, with an interpreter that the user can read."""

    def __init__(self, python: Path | None) -> None:
        self._python = python
        self._done: dict[tuple[str, str], dict[str, str]] = {}

    def outcomes(self, user: str, level: str) -> dict[str, str]:
        """Attack → ``open``, or ``blocked`` and why."""
        if (user, level) not in self._done:
            self._done[user, level] = self._run(user, level)
        return self._done[user, level]

    def _run(self, user: str, level: str) -> dict[str, str]:
        another = user == "ordinary" and os.geteuid() == 0
        python = self._python
        if python is None:
            if another or level == "landlock":
                pytest.skip("no Python of this version that an ordinary user can read")
            python = Path(sys.executable)
        if another and not _anyone_reaches(HERE / "victims.py"):
            pytest.skip(f"an ordinary user cannot read {HERE}")
        switch = {"user": ORDINARY, "group": ORDINARY, "extra_groups": ()} if another else {}
        done = subprocess.run(
            [python, HERE / "victims.py", level],
            capture_output=True, text=True, timeout=120, check=False, cwd="/", **switch,
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": "/tmp"},
        )  # fmt: skip
        if done.returncode and level == "landlock" and "IsolationUnavailableError" in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    """The suite with this interpreter, or one of the system's where only root can read this one."""
    if _anyone_reaches(Path(sys.executable).resolve()) and _anyone_reaches(ROOT):
        yield Suite(Path(sys.executable))
        return
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    if not system.exists() or not all(_anyone_reaches(Path(path)) for path in (*packages, ROOT)):
        yield Suite(None)
        return
    folder = Path(tempfile.mkdtemp(prefix="attacks-venv-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        subprocess.run([system, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        site = next((folder / "venv" / "lib").glob("python3*/site-packages"))
        (site / "here.pth").write_text("\n".join([str(ROOT), *packages]) + "\n")
        yield Suite(folder / "venv" / "bin" / "python")
    finally:
        shutil.rmtree(folder)


def _gets_through_unguarded(suite: Suite, user: str, name: str) -> bool:
    unguarded = suite.outcomes(user, "none")[name]
    if unguarded == "open":
        return True
    excused = name in MAY_BE_ABSENT or (name in NEEDS_ROOT and user == "ordinary")
    assert excused, f"the control failed, so the attack proves nothing: {unguarded}"
    return False


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", sorted(load()))
def test_strict_stops(suite: Suite, name: str, user: str) -> None:
    assert suite.outcomes(user, "strict")[name] != "open"
    if not _gets_through_unguarded(suite, user, name):
        pytest.skip("this kernel or user cannot do it even without isolation")


@pytest.mark.parametrize("user", USERS)
def test_landlock_stops_all_but_what_is_documented(suite: Suite, user: str) -> None:
    found = {name for name, outcome in suite.outcomes(user, "landlock").items() if outcome == "open"}
    assert found == OPEN_AT_LANDLOCK


def test_the_list_is_long_and_its_controls_are_too(suite: Suite) -> None:
    """A change that broke the driver rather than the attacks would show here."""
    unguarded = suite.outcomes(USERS[0], "none")
    assert set(unguarded) == set(load())
    assert sum(outcome == "open" for outcome in unguarded.values()) >= (200 if USERS[0] == "root" else 120)
