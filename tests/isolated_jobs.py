"""Jobs run at a level of isolation by the tests, and ways to break what isolates them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.isolation import bubblewrap, levels, probe
from sandbox.isolation.spec import JobOutcome, JobSpec, Limits, Mount

Run = Callable[..., JobOutcome]


def runner(tmp_path: Path) -> Run:
    """What runs Python source at a level."""
    count = iter(range(1000))

    def start(
        source: str,
        *,
        level: str = "strict",
        inputs: tuple[Mount, ...] = (),
        should_stop: Callable[[], str] = lambda: "",
        env: dict[str, str] | None = None,
        **limits: float,
    ) -> JobOutcome:
        folder = tmp_path / f"run{next(count)}"
        folder.mkdir()
        program = folder / "program.py"
        program.write_text(source)
        mounts = (Mount(program, "/in/program.py"), *inputs)
        spec = JobSpec(
            ("python", "/in/program.py"), mounts, folder / "out", folder / "log", Limits(**limits), env or {}
        )
        return levels.run_job(spec, level, should_stop)

    return start


def forget_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that were tried before are tried again."""
    monkeypatch.setattr(probe, "_passed", set())


def with_bwrap(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    """Let another program stand where bwrap is found; None: let there be none."""
    monkeypatch.setattr(bubblewrap, "find_bwrap", lambda: path)


def script(path: Path, text: str) -> Path:
    """A program of this Python."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def read_if_there(path: Path) -> bytes:
    """What a file holds; nothing where its process has just ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def processes_named(marker: str) -> list[str]:
    """The processes with this text in their command line."""
    return [
        str(path) for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in read_if_there(path)
    ]
