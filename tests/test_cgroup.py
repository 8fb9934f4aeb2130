"""Control groups: found only where they hold, entered before the program, gone after it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import cgroup, controllers, levels
from sandbox.isolation.spec import MIB, JobOutcome, JobSpec, Limits, Mount

HERE = controllers.available()
needs_all = pytest.mark.skipif(bool(HERE.missing), reason=f"no control groups here: {dict(HERE.missing)}")


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "_found", [])


def job(folder: Path, source: str, level: str = "strict", **limits: float) -> JobOutcome:
    spec = JobSpec(("python", "-c", source), (), folder / "out", folder / "log", Limits(**limits))
    return levels.run_job(spec, level)


def ours() -> list[Path]:
    """The groups that this process has made and that still are."""
    mine = f"-{os.getpid()}-"
    return [
        folder
        for base in set(HERE.bases.values())
        for folder in base.glob("interlock-*")
        if mine in folder.name
    ]


# --- a job and its group ----------------------------------------------------------------------


@needs_all
def test_totals_are_the_groups_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    # Two generations that nobody waits for: no watchdog could know what they used.
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        while time.process_time() < 0.4: pass\n"
        "        os._exit(0)\n"
        "    os._exit(0)\n"
        "block = bytearray(b'x') * (40 << 20)\n"
        "time.sleep(1.2)"
    )
    outcome = job(tmp_path, source)
    assert outcome.ok, outcome.log_tail
    assert outcome.compute.measured_by == "cgroup"
    assert 0.4 < outcome.compute.cpu_s < 2
    assert 40 * MIB < outcome.compute.memory_bytes < 90 * MIB
    assert ours() == []


@needs_all
def test_the_program_is_inside_from_its_first_instruction(tmp_path: Path) -> None:
    outcome = job(tmp_path, "print(open('/proc/self/cgroup').read())")
    assert "/interlock-" in outcome.log_tail
    assert (
        "/interlock-"
        not in job(tmp_path / "none", "print(open('/proc/self/cgroup').read())", "none").log_tail
    )


@needs_all
def test_memory_that_the_kernel_refuses_is_reported_as_the_limit(tmp_path: Path) -> None:
    # Each alone is allowed to have this much; and the program itself would end well.
    source = (
        "import os\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        block = bytearray(b'x') * (60 << 20)\n"
        "        __import__('time').sleep(3)\n"
        "        os._exit(0)\n"
        "for _ in range(3): os.wait()\n"
    )
    outcome = job(tmp_path, source, memory_bytes=120 * MIB)
    assert outcome.killed.startswith("memory_bytes: "), outcome
    assert outcome.exit is None
    assert job(tmp_path / "control", source, memory_bytes=400 * MIB).ok


@needs_all
def test_a_program_that_the_kernel_ended_did_not_merely_exit_with_137(tmp_path: Path) -> None:
    source = (
        "open('/scratch/a', 'wb').write(bytes(100 << 20))\nopen('/dev/shm/b', 'wb').write(bytes(100 << 20))"
    )
    outcome = job(tmp_path, source, memory_bytes=128 * MIB)
    assert outcome.exit is None
    assert outcome.killed.startswith("memory_bytes: ")
    assert job(tmp_path / "control", "import os; os.kill(os.getpid(), 9)").exit == 137


@needs_all
def test_refused_processes_are_counted(tmp_path: Path) -> None:
    source = (
        "import os, time\nmade = 0\ntry:\n    while True:\n"
        "        if os.fork() == 0:\n            time.sleep(5); os._exit(0)\n"
        "        made += 1\nexcept OSError:\n    print(made)"
    )
    outcome = job(tmp_path, source, processes=16)
    assert outcome.log_tail == "15\n"
    assert {denial.what: denial.count for denial in outcome.denied}["processes beyond the limit"] == 1


@needs_all
def test_a_job_that_is_over_before_the_first_look_is_measured(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(64 << 20))
    quick = job(tmp_path / "a", "block = bytearray(b'x') * (50 << 20)")
    assert 50 * MIB < quick.compute.memory_bytes < 80 * MIB
    # What a job merely reads and writes, the kernel can take back: it is not the job's memory.
    spec = JobSpec(
        (
            "python",
            "-c",
            "s = open('/in/big', 'rb', 0)\no = open('/out/o', 'wb', 0)\nwhile b := s.read(65536): o.write(b)",
        ),
        (Mount(big, "/in/big"),),
        tmp_path / "b",
        tmp_path / "log",
    )
    reading = levels.run_job(spec, "strict")
    assert reading.ok
    assert reading.compute.memory_bytes < 40 * MIB


@needs_all
def test_cpu_time_of_a_relay_counts(tmp_path: Path) -> None:
    """Each process lives shortly and nobody waits for it."""
    source = (
        "import os, time\nwhile True:\n    if os.fork():\n        os._exit(0)\n"
        "    while time.process_time() < 0.02: pass\n"
    )
    holder = f"import os, time\nif os.fork() == 0:\n    exec({source!r})\ntime.sleep(30)"
    started = time.monotonic()
    outcome = job(tmp_path, holder, cpu_s=1.0)
    assert outcome.killed.startswith("cpu_s: "), outcome
    assert time.monotonic() - started < 15


@pytest.mark.usefixtures("unknown")
def test_without_control_groups_the_watchdog_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "candidates", lambda *_: {})
    outcome = job(tmp_path, "print('x')")
    assert outcome.compute.measured_by == "watchdog"


@needs_all
@pytest.mark.usefixtures("unknown")
def test_with_some_of_them_both_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = dict(HERE.bases)
    monkeypatch.setattr(controllers, "candidates", lambda *_: {"processes": bases["processes"]})
    outcome = job(tmp_path, "block = bytearray(b'x') * (40 << 20)\nimport time; time.sleep(1)")
    assert outcome.compute.measured_by == "cgroup: processes; watchdog: memory, cpu"
    assert outcome.compute.memory_bytes > 40 * MIB
    assert outcome.compute.cpu_s > 0
    killed = job(tmp_path / "2", "while True: pass", cpu_s=1)
    assert killed.killed.startswith("cpu_s: ")


@needs_all
def test_a_group_that_cannot_be_made_is_no_job_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels.require("strict")
    monkeypatch.setattr(cgroup.Group, "_limit", _refuse)
    with pytest.raises(IsolationUnavailableError, match="no control group could be made"):
        job(tmp_path, "print('ran')")
    assert ours() == []


def _refuse(*_: object) -> None:
    raise PermissionError("planted")


# --- whether they hold -------------------------------------------------------------------------


@needs_all
@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("kind", ["memory", "processes"])
def test_a_limit_that_does_nothing_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cgroup.Group._limit

    def limit(group: cgroup.Group, which: str, value: int) -> None:
        if which != kind:
            real(group, which, value)

    monkeypatch.setattr(cgroup.Group, "_limit", limit)
    found = controllers.available()
    assert list(found.missing) == [kind]
    assert found.missing[kind].startswith("a limit of ")
    assert kind in found.measured_by.partition("watchdog: ")[2]


@needs_all
@pytest.mark.usefixtures("unknown")
def test_a_clock_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup.Group, "cpu_s", lambda _: 0.0)
    assert list(controllers.available().missing) == ["cpu"]


@pytest.mark.usefixtures("unknown")
def test_folders_that_only_look_like_control_groups_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "candidates", lambda *_: dict.fromkeys(cgroup.KINDS, tmp_path))
    found = controllers.available()
    assert found.bases == {}
    assert found.measured_by == "watchdog"


@needs_all
@pytest.mark.usefixtures("unknown")
def test_what_was_seen_to_hold_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert controllers.available(tmp_path).measured_by == "cgroup"
    monkeypatch.setattr(controllers, "_found", [])
    monkeypatch.setattr(controllers, "_failures", lambda _: pytest.fail("tried again"))
    assert controllers.available(tmp_path).measured_by == "cgroup"


# --- what a killed supervisor leaves -----------------------------------------------------------


@needs_all
def test_groups_of_killed_programs_are_removed_and_no_others() -> None:
    source = (
        "import os, sys\nfrom sandbox.isolation import cgroup, controllers\nfrom sandbox.isolation.spec import Limits\n"
        "group = cgroup.Group(controllers.available(), Limits())\n"
        "print(*{str(f) for f in group._folders.values()}, flush=True)\nsys.stdin.read()"
    )
    alive = cgroup.Group(HERE, Limits())
    other = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    left = [Path(word) for word in other.stdout.readline().split()]
    stray = subprocess.Popen(["sleep", "60"])
    try:
        (left[0] / "cgroup.procs").write_text(str(stray.pid))
        for base in set(HERE.bases.values()):
            cgroup.remove_abandoned(base)
        assert all(folder.exists() for folder in left), "its maker still runs"
        other.kill()
        other.wait()
        for base in set(HERE.bases.values()):
            cgroup.remove_abandoned(base)
        assert not any(folder.exists() for folder in left)
        assert stray.wait(5) == -9, "what ran inside is ended"
        assert ours(), "the group of a living program stays"
    finally:
        stray.kill()
        other.kill()
        alive.remove()
    assert ours() == []


# --- where they are looked for -----------------------------------------------------------------

MOUNT = "36 25 0:31 {root} {point} rw,nosuid - {kind} cgroup rw,{options}\n"


def files(tmp_path: Path, membership: str, mounts: str) -> dict[str, Path]:
    (tmp_path / "cgroup").write_text(membership)
    (tmp_path / "mountinfo").write_text(mounts)
    return controllers.candidates(tmp_path / "cgroup", tmp_path / "mountinfo")


def group(folder: Path, handed_out: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").touch()
    (folder / "cgroup.subtree_control").write_text(handed_out)
    return folder


def test_version_one_is_looked_for_where_we_are(tmp_path: Path) -> None:
    own = group(tmp_path / "memory" / "a")
    mounts = MOUNT.format(root="/", point=tmp_path / "memory", kind="cgroup", options="memory")
    assert files(tmp_path, "4:memory:/a\n0::/\n", mounts) == {"memory": own}
    shown = MOUNT.format(root="/a", point=tmp_path / "memory" / "a", kind="cgroup", options="memory")
    assert files(tmp_path, "4:memory:/a\n0::/\n", shown) == {"memory": own}
    elsewhere = MOUNT.format(root="/b", point=tmp_path / "memory", kind="cgroup", options="memory")
    assert files(tmp_path, "4:memory:/a\n0::/\n", elsewhere) == {}


def test_version_two_is_looked_for_from_where_we_are_upwards(tmp_path: Path) -> None:
    top = group(tmp_path / "top", "cpu memory pids")
    slice_ = group(top / "user" / "app.slice", "memory pids")
    group(slice_ / "me.scope")
    mounts = MOUNT.format(root="/", point=top, kind="cgroup2", options="nsdelegate")
    found = files(tmp_path, "0::/user/app.slice/me.scope\n", mounts)
    assert found == dict.fromkeys(("memory", "processes", "cpu"), slice_)
    (slice_ / "cgroup.subtree_control").write_text("pids")
    assert set(files(tmp_path, "0::/user/app.slice/me.scope\n", mounts).values()) == {top}
    (top / "cgroup.subtree_control").write_text("cpu")
    assert files(tmp_path, "0::/user/app.slice/me.scope\n", mounts) == {}


def test_unreadable_descriptions_are_no_control_groups(tmp_path: Path) -> None:
    assert files(tmp_path, "nonsense\n", "more nonsense\n") == {}
    assert controllers.candidates(tmp_path / "absent", tmp_path / "absent") == {}


def test_version_two_files_are_understood(tmp_path: Path) -> None:
    """Its names for limits and totals, on files that stand for the kernel's."""
    name = cgroup._name
    where = cgroup.Available(dict.fromkeys(cgroup.KINDS, tmp_path), {})
    folder = tmp_path / "group"

    class Fake(cgroup.Group):
        def __init__(self) -> None:
            self.where = where
            self._folders = dict.fromkeys(cgroup.KINDS, folder)

    folder.mkdir()
    for file in ("memory.max", "memory.swap.max", "pids.max"):
        (folder / file).write_text("max")
    (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (folder / "memory.stat").write_text("anon 100\nfile 1020\nshmem 20\n")
    (folder / "memory.peak").write_text("5000\n")
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (folder / "pids.events").write_text("max 7\n")
    fake = Fake()
    fake._limit("memory", 123)
    fake._limit("processes", 45)
    fake._forbid_swap(123)
    assert [(folder / f).read_text() for f in ("memory.max", "pids.max", "memory.swap.max")] == [
        "123",
        "45",
        "0",
    ]
    assert (fake.cpu_s(), fake.memory_bytes(), fake.peak_bytes()) == (2.5, 120, 4000)
    assert fake.ran_out_of_memory()
    assert fake.refused_processes() == 7
    assert name().startswith("interlock-")


def _second_version() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, system = line.partition(" - ")
        if system.startswith("cgroup2 ") and os.access(fields.split()[4], os.W_OK):
            return Path(fields.split()[4])
    return None


@pytest.mark.skipif(os.geteuid() != 0 or _second_version() is None, reason="needs root and cgroup version 2")
def test_version_two_counts_time_and_kills_at_once() -> None:
    """The kernel's own version 2, as far as it can be had beside version 1."""
    base = _second_version()
    assert base is not None
    made = cgroup.Group(cgroup.Available({"cpu": base}, {}), Limits())
    # It waits until it is in its group: what it forked before would stay outside, and go on.
    code = "import os, sys\nsys.stdin.read(1)\nos.fork(); os.fork()\nwhile True: pass"
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        made.add(program.pid)
        assert program.stdin is not None
        with program.stdin:
            program.stdin.write(b"x")
        deadline = time.monotonic() + 20
        while made.cpu_s() < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert program.pid in made.members()
        made.kill()
        assert program.wait(5) == -9
        deadline = time.monotonic() + 5
        while made.members():
            assert time.monotonic() < deadline
    finally:
        program.kill()
        made.remove()
    assert not (base / made._folders["cpu"].name).exists()
