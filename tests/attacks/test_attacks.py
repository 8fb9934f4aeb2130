"""Every attack is stopped where jobs run, and gets through where nothing guards: else it proves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
def suite(readable_python: Path | None) -> Suite:
    """The suite, with an interpreter that an ordinary user can read."""
    return Suite(readable_python)


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
