"""Limits of a job, and its end: by a limit, by a stop, or with the process that supervises it."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from isolated_jobs import Run, forget_probes, processes_named, read_if_there, runner, script, with_bwrap

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import folders, levels, probe, startup
from sandbox.isolation.spec import MIB


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runner(tmp_path)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_probes(monkeypatch)


def _no_process_left(started: float) -> bool:
    """Whether no process younger than ``started`` seconds ago still runs a test program."""
    deadline = time.monotonic() + started
    while time.monotonic() < deadline:
        found = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"/in/program.py" in read_if_there(path) and b"pytest" not in read_if_there(path)
        ]
        if not found:
            return True
        time.sleep(0.05)
    return False


_FOUR_THAT_FILL_MEMORY = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        block = bytearray(b"x") * (60 << 20)
        time.sleep(60)
time.sleep(60)
"""
_MANY_FILES = """
import os, time
os.chdir(os.environ["INTERLOCK_OUT"])
for i in range(60):
    open(str(i), "wb").write(bytes(range(256)) * 4096)
    time.sleep(0.02)
"""
BREAKERS = {
    "wall_s": ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)", 1.0),
    # Each process stays below the limit; only their sum does not.
    "cpu_s": ("import os\nos.fork(); os.fork()\nend = 0\nwhile True: end += 1", 1.5),
    "memory_bytes": (_FOUR_THAT_FILL_MEMORY, 150 * MIB),
    "output_bytes": (_MANY_FILES, 8 * MIB),
}


@pytest.mark.parametrize("name", BREAKERS)
@pytest.mark.parametrize("level", ["strict", "none"])
def test_totals_over_all_processes_are_kept(run: Run, level: str, name: str) -> None:
    source, limit = BREAKERS[name]
    outcome = run(source, level=level, **{name: limit})
    assert outcome.killed.startswith(f"{name}: "), outcome
    assert outcome.exit is None
    assert _no_process_left(5)


@pytest.mark.parametrize("name", BREAKERS)
def test_the_same_programs_pass_with_room(run: Run, name: str) -> None:
    """The control: it is the limit that ends them, not something else."""
    source, _ = BREAKERS[name]
    outcome = run(source, should_stop=_after(1.5))
    assert outcome.killed in ("enough", ""), outcome


def _after(seconds: float) -> Callable[[], str]:
    end = time.monotonic() + seconds
    return lambda: "enough" if time.monotonic() > end else ""


def test_output_written_in_the_last_moment_counts(run: Run) -> None:
    source = "import os\nos.write(os.open('/out/big', 65), bytes(range(256)) * (4096 * 3))"
    assert run(source, output_bytes=MIB, scratch_bytes=16 * MIB).killed.startswith("output_bytes: ")


def test_too_many_and_too_deep_outputs_end_a_job(run: Run) -> None:
    many = "import os, time\nfor i in range(11000):\n    open(f'/out/{i}', 'w').close()\ntime.sleep(5)"
    assert "files" in run(many).killed
    deep = "import os, time\nos.makedirs('/out/' + '/'.join('d' * 40))\ntime.sleep(5)"
    assert "nested" in run(deep).killed


def test_processes_past_the_limit_cannot_be_started(run: Run) -> None:
    source = (
        "import os, time\ncount = 0\ntry:\n    for _ in range(100):\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n        count += 1\nexcept OSError:\n    pass\nprint(count < 40)"
    )
    outcome = run(source, processes=30)
    assert outcome.log_tail == "True\n"
    assert run(source, processes=300).log_tail == "False\n", "the control failed"
    assert _no_process_left(5)


def test_a_single_large_allocation_fails_inside(run: Run) -> None:
    source = "try:\n    bytearray(400 << 20)\n    print('had it')\nexcept MemoryError:\n    print('refused')"
    assert run(source, memory_bytes=200 * MIB).log_tail == "refused\n"
    assert run(source, memory_bytes=2000 * MIB).log_tail == "had it\n"


def test_what_lies_in_scratch_is_memory(run: Run) -> None:
    # In small pieces, so that nothing but what lies in scratch can be over the limit.
    source = (
        "import time\nwith open('/scratch/big', 'wb', buffering=0) as big:\n"
        "    for _ in range(200): big.write(bytes(1 << 20))\ntime.sleep(5)"
    )
    assert run(source, memory_bytes=160 * MIB).killed.startswith("memory_bytes: ")
    assert run(source, memory_bytes=900 * MIB, wall_s=2).killed.startswith("wall_s: ")


def test_should_stop_ends_a_job_at_once_and_says_why(run: Run) -> None:
    started = time.monotonic()
    outcome = run("import time; time.sleep(60)", should_stop=_after(0.3))
    assert (outcome.exit, outcome.killed) == (None, "enough")
    assert time.monotonic() - started < 10
    assert _no_process_left(1)


@pytest.mark.usefixtures("unprobed")
def test_a_stop_is_heard_while_the_level_is_tried(run: Run) -> None:
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.05))
    assert time.monotonic() - started < 3
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not probe._passed, "nothing was found out"
    assert run("print('ran')").log_tail == "ran\n"


def test_a_stop_is_heard_while_the_namespaces_are_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels.require("strict")
    stuck = script(tmp_path / "bwrap", "import time\ntime.sleep(60)")
    monkeypatch.setattr(probe, "_key", lambda _: next(iter(probe._passed)))
    with_bwrap(monkeypatch, stuck)
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.3))
    assert time.monotonic() - started < 3  # of the 30 that a set-up may take
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not processes_named(str(stuck))


def test_a_stop_is_heard_while_the_guard_prepares(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels.require("strict")
    # It is promised more than it gets, and waits.
    longer = SimpleNamespace(pack=lambda form, size: struct.pack(form, size + 1))
    monkeypatch.setattr(startup, "struct", longer)
    started = time.monotonic()
    outcome = run("print('ran')", should_stop=_after(0.5))
    assert time.monotonic() - started < 3  # of the 30 that a set-up may take
    assert (outcome.exit, outcome.killed, outcome.log_tail) == (None, "enough", "")
    assert not processes_named(str(tmp_path)), "the mounts of this job are named on its command line"


def test_no_process_is_left_when_should_stop_raises(run: Run) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(60)", should_stop=interrupted)
    assert _no_process_left(1)


@pytest.mark.parametrize("level", ["strict", "landlock"])
def test_a_job_dies_with_the_process_that_supervises_it(level: str, tmp_path: Path) -> None:
    try:
        levels.require(level)
    except IsolationUnavailableError as error:
        pytest.skip(str(error))
    marker = f"marker-{os.getpid()}-{level}"
    program = tmp_path / "program.py"
    program.write_text(f"import time\nprint('begun', flush=True)\ntime.sleep(100)  # {marker}")
    source = (
        "from pathlib import Path\nfrom sandbox.isolation import levels\n"
        "from sandbox.isolation.spec import JobSpec, Mount\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"spec = JobSpec(('python', '/in/program.py', {marker!r}), (Mount(folder / 'program.py', '/in/program.py'),), "
        "folder / 'out', folder / 'log')\n"
        f"levels.run_job(spec, {level!r})"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", source])
    log = tmp_path / "log"
    deadline = time.monotonic() + 30
    while b"begun" not in (log.read_bytes() if log.exists() else b"") and time.monotonic() < deadline:
        time.sleep(0.02)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    deadline = time.monotonic() + 5
    while processes_named(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes_named(marker)


def test_folders_of_killed_programs_are_removed_and_no_others(tmp_path: Path) -> None:
    alive = folders.private_folder("mine-", tmp_path)
    assert stat.S_IMODE(alive.stat().st_mode) == 0o700
    dead = folders.private_folder("mine-", tmp_path)
    (dead / "owner").write_text(json.dumps({**folders.identity(os.getpid()), "started": "1"}))
    others = tmp_path / "mine-other"
    others.mkdir()
    (others / "owner").write_text("not JSON")
    folders.remove_abandoned("mine-", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, others])
