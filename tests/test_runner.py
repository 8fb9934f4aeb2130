"""Running jobs under a thread of this process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardrails.errors import JobFailedError, UsageError
from sandbox.isolation import levels
from sandbox.isolation.spec import JobSpec, Limits, Mount
from sandbox.runner import LocalRunner, LogLines, wait


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    made = LocalRunner()
    yield made
    made.shutdown()


def job(folder: Path, source: str, name: str = "job") -> JobSpec:
    program = folder / f"{name}.py"
    program.write_text(source)
    return JobSpec(
        ("python", "/in/program.py"),
        (Mount(program, "/in/program.py"),),
        folder / f"{name}.out",
        folder / f"{name}.log",
        Limits(wall_s=60),
    )


def test_a_job_runs_beside_its_caller(runner: LocalRunner, tmp_path: Path) -> None:
    handle = runner.start(job(tmp_path, "import time; print('one'); time.sleep(0.5); print('two')"), "strict")
    assert handle.poll() is None
    outcome = wait(handle, 30)
    assert outcome.ok
    assert handle.poll() == outcome
    assert handle.lines() == ["one", "two"]
    assert handle.lines() == []


def test_two_jobs_run_at_once(runner: LocalRunner, tmp_path: Path) -> None:
    meet = "import time; time.sleep(1); print(time.time())"
    handles = [runner.start(job(tmp_path, meet, name), "strict") for name in ("a", "b")]
    assert [wait(handle, 30).exit for handle in handles] == [0, 0]
    ends = [float(handle.lines()[0]) for handle in handles]
    assert abs(ends[0] - ends[1]) < 1


def test_cancel_kills_and_the_first_reason_counts(runner: LocalRunner, tmp_path: Path) -> None:
    handle = runner.start(job(tmp_path, "import time; time.sleep(60)"), "strict")
    time.sleep(0.3)
    handle.cancel("halt")
    handle.cancel("something else")
    started = time.monotonic()
    outcome = wait(handle, 30)
    assert (outcome.exit, outcome.killed) == (None, "halt")
    assert time.monotonic() - started < 5
    handle.cancel("too late")
    assert handle.poll() == outcome


def test_shutdown_kills_what_runs(tmp_path: Path) -> None:
    runner = LocalRunner()
    handle = runner.start(job(tmp_path, "import time; time.sleep(60)"), "strict")
    runner.shutdown()
    outcome = handle.poll()
    assert outcome is not None
    assert outcome.killed == "the runner shuts down"


def test_waiting_no_longer_kills(runner: LocalRunner, tmp_path: Path) -> None:
    handle = runner.start(job(tmp_path, "import time; time.sleep(60)"), "strict")
    with pytest.raises(JobFailedError, match="has not ended"):
        wait(handle, 0.3)
    assert wait(handle, 10).killed == "nobody waits for it any more"


def test_an_error_comes_out_of_poll(runner: LocalRunner, tmp_path: Path) -> None:
    handle = runner.start(
        JobSpec(("python",), (Mount(tmp_path / "gone", "/in/x"),), tmp_path / "o", tmp_path / "l"), "strict"
    )
    with pytest.raises(UsageError, match="gone"):
        wait(handle, 10)
    with pytest.raises(UsageError, match="docker"):
        wait(runner.start(job(tmp_path, "0"), "docker"), 10)


def test_a_bug_in_supervision_is_an_error_not_a_silent_end(
    runner: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(levels, "run_job", broken)
    with pytest.raises(JobFailedError, match="planted"):
        wait(runner.start(job(tmp_path, "0"), "strict"), 10)


def test_a_program_that_ends_takes_its_jobs_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "still-here"
    program = tmp_path / "job.py"
    program.write_text(
        "import os, time\nprint('begun', flush=True)\ntime.sleep(2)\nopen('/out/still-here', 'w')"
    )
    source = (
        "from pathlib import Path\nfrom sandbox.isolation.spec import JobSpec, Mount\n"
        "from sandbox.runner import LocalRunner\nimport time\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "inputs = (Mount(folder / 'job.py', '/in/job.py'),)\n"
        "spec = JobSpec(('python', '/in/job.py'), inputs, folder / 'out', folder / 'log')\n"
        "handle = LocalRunner().start(spec, 'strict')\n"
        "while not handle.lines(): time.sleep(0.02)\n"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)
    assert time.monotonic() - started < 30
    time.sleep(2.5)
    assert not marker.exists()
    assert not (tmp_path / "out" / "still-here").exists()


def test_lines_are_complete_and_belong_to_this_job(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"of an earlier job\n")
    lines = LogLines(path)
    assert lines.new() == []
    with path.open("wb") as stream:
        stream.write(b"one\r\ntw")
        stream.flush()
        assert lines.new() == ["one"]
        stream.write(b"o\n\xff\n")
        stream.flush()
        assert lines.new() == ["two", "\ufffd"]
        stream.write(b"x" * 200_000)
        stream.flush()
        assert len(lines.new()[0]) == 64 << 10
