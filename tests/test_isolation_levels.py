"""Levels of isolation and their probe: what does not hold is found out before anything runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from isolated_jobs import Run, forget_probes, runner, script, with_bwrap

from guardrails.errors import IsolationUnavailableError, UsageError
from sandbox.isolation import bubblewrap, canary, interpreter, landlock, levels, probe, profile


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runner(tmp_path)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_probes(monkeypatch)


def test_strict_holds_here() -> None:
    assert probe.failed_attacks("strict") == []


def test_the_canary_gets_through_where_nothing_guards() -> None:
    results = probe.run_canary("none", processes=400)
    blocked = {name for name in canary.ATTACKS if results[name] != "open"}
    # The kernel may forbid everybody but root to make namespaces; everything else must be open.
    assert blocked <= {"enter a new namespace"}


def test_levels_are_ordered() -> None:
    assert levels.LEVELS == ("none", "landlock", "strict+gpu", "strict")
    assert levels.at_least("strict", "landlock")
    assert not levels.at_least("none", "landlock")
    with pytest.raises(UsageError, match="isolation level 'docker'"):
        levels.require("docker")


# A stand-in that sets nothing up: it reports a process, as bwrap does, and starts the command as it is.
_MERELY_EXECUTES = """
import json, os, sys
split = sys.argv.index("--")
info = int(sys.argv[sys.argv.index("--info-fd") + 1])
os.write(info, json.dumps({"child-pid": os.getpid()}).encode())
os.execv(sys.argv[split + 1], sys.argv[split + 1:])
"""


@pytest.mark.usefixtures("unprobed")
def test_a_bwrap_that_merely_executes_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_bwrap(monkeypatch, script(tmp_path / "bwrap", _MERELY_EXECUTES))
    with pytest.raises(IsolationUnavailableError, match="strict") as caught:
        levels.require("strict")
    assert any("remedy" in failure for failure in caught.value.failures)


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(
    ("dropped", "noticed"),
    [("--unshare-net", "see network interfaces"), ("--unshare-pid", "process outside")],
)
def test_a_bwrap_that_leaves_a_namespace_out_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dropped: str, noticed: str
) -> None:
    real = bubblewrap.find_bwrap()
    source = f"import os, sys\nos.execv({str(real)!r}, [word for word in sys.argv if word != {dropped!r}])\n"
    with_bwrap(monkeypatch, script(tmp_path / "bwrap", source))
    with pytest.raises(IsolationUnavailableError, match=noticed):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_bwrap_that_shows_the_host_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = bubblewrap.find_bwrap()
    more = ["--bind", str(tmp_path.parent), str(tmp_path.parent), "--bind", "/tmp", "/tmp"]
    source = (
        "import os, sys\n"
        "words = sys.argv[:]\n"
        "end = words.index('--remount-ro', words.index('/dev/shm'))\n"
        "start = end - 3 * (words[end - 3] == '--symlink')\n"
        f"words[start:end] = {more!r}\n"
        f"os.execv({str(real)!r}, words)\n"
    )
    with_bwrap(monkeypatch, script(tmp_path / "bwrap", source))
    with pytest.raises(IsolationUnavailableError, match="the canary could read a file outside"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_without_bwrap_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    with_bwrap(monkeypatch, None)
    with pytest.raises(IsolationUnavailableError, match="install the package bubblewrap") as caught:
        run("print('ran')")
    assert caught.value.exit_status == 8


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("what", ["filter", "landlock", "rlimits", "uid"])
def test_a_guard_that_fails_makes_the_level_unavailable(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    real = profile._guard
    broken = {
        "filter": b"\x00" * 8,  # not a program that ends in an answer
        "landlock": (("/no/such/folder", landlock.READ),),
        "rlimits": {10_000: 1},
        "uid": -5,
    }

    def guard(*args: object, **kwargs: object) -> dict[str, object]:
        both = {"observed_filter": broken[what]} if what == "filter" else {}
        return {**real(*args, **kwargs), what: broken[what], **both}  # type: ignore[arg-type]

    monkeypatch.setattr(profile, "_guard", guard)
    with pytest.raises(IsolationUnavailableError, match="the guard refused"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_kernel_without_landlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "NEEDED_INSIDE_MOUNTS", landlock.abi() + 1)
    with pytest.raises(IsolationUnavailableError, match="Landlock version"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    elsewhere = os.uname_result((here[0], here[1], here[2], here[3], "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: elsewhere)
    with pytest.raises(IsolationUnavailableError, match="riscv64"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_a_canary_that_reports_nothing_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "canary.py"
    silent.write_text("print('all is well')")
    monkeypatch.setattr(probe, "_CANARY", silent)
    monkeypatch.setattr(interpreter, "SYSTEM_FILES", (*interpreter.SYSTEM_FILES, str(silent)))
    with pytest.raises(IsolationUnavailableError, match="canary did not report"):
        levels.require("strict")


@pytest.mark.usefixtures("unprobed")
def test_only_success_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as broken:
        with_bwrap(broken, None)
        with pytest.raises(IsolationUnavailableError):
            levels.require("strict", cache=cache)
    assert not cache.exists()
    levels.require("strict", cache=cache)
    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setattr(probe, "examine", lambda *_: pytest.fail("the canary ran again"))
    levels.require("strict", cache=cache)


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("spoil", ["contents", "writable by others", "link"])
def test_a_doubtful_note_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spoil: str) -> None:
    levels.require("strict", cache=tmp_path)
    note = tmp_path / "isolation-strict"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    if spoil == "contents":
        note.write_text("passed")
    elif spoil == "writable by others":
        note.chmod(0o666)
    else:
        note.rename(tmp_path / "elsewhere")
        note.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(probe, "_passed", set())
    asked = []
    monkeypatch.setattr(
        probe, "examine", lambda level, _: asked.append(1) or probe.Report(level, (), observes=True)
    )
    levels.require("strict", cache=tmp_path)
    assert asked
