"""Refused system calls are heard of, whoever in the job makes them, and hearing changes nothing else.

Positive controls: at ``none`` the same programs succeed; a filter without a listener refuses the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.isolation import guard, job, notify, profile, refused, syscalls
from sandbox.isolation.spec import Denial, JobOutcome, JobSpec, Limits, outcome_from_json, outcome_to_json

Run = Callable[..., JobOutcome]
machine = os.uname().machine
CTYPES = "import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"


def _spec(source: str, folder: Path, **limits: float) -> JobSpec:
    return JobSpec(("python", "-c", source), (), folder / "out", folder / "log", Limits(**limits))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    count = iter(range(100))

    def start(source: str, level: str = "strict", **limits: float) -> JobOutcome:
        folder = tmp_path / str(next(count))
        return job.run(_spec(source, folder, **limits), level, lambda: "")

    return start


def counts(outcome: JobOutcome) -> dict[str, int | None]:
    return {denial.what: denial.count for denial in outcome.denied}


def call(name: str) -> int:
    found = syscalls.number(refused.NEVER[name], machine)
    assert found is not None
    return found


def test_a_refused_call_is_counted_and_gets_the_filters_own_answer(run: Run) -> None:
    source = """
import errno, os, socket
for attempt in range(3):
    try: socket.socket()
    except OSError as error: print(error.errno == errno.EPERM)
try: os.getxattr("/", "user.x")
except OSError as error: print(error.errno == errno.ENOTSUP)
"""
    outcome = run(source)
    assert outcome.log_tail.split() == ["True"] * 4
    assert Denial("socket", 3, "EPERM") in outcome.denied
    assert Denial("getxattr", 1, "ENOTSUP") in outcome.denied
    assert run("import socket; socket.socket()", "none").ok


def test_what_was_not_refused_is_not_reported_and_what_cannot_be_seen_is_not_called_none(run: Run) -> None:
    outcome = run("print(sum(range(10)))")
    assert [denial.what for denial in outcome.denied if denial.count is not None] == []
    assert notify.CALLS not in counts(outcome)
    assert counts(outcome)[notify.FILES] is None
    assert run("pass", "none").denied == ()


def test_children_and_threads_are_covered(run: Run) -> None:
    source = """
import os, socket, subprocess, sys, threading
def attempt():
    try: socket.socket()
    except OSError: pass
threads = [threading.Thread(target=attempt) for _ in range(5)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
for _ in range(3):
    if os.fork() == 0:
        attempt(); os._exit(0)
    os.wait()
subprocess.run([sys.executable, "-c", "import socket\\ntry: socket.socket()\\nexcept OSError: pass"])
"""
    assert counts(run(source))["socket"] == 9


def test_the_job_holds_no_descriptor_of_the_listener(run: Run) -> None:
    source = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2])"
    assert "seccomp" not in run(source).log_tail


def test_names_are_bounded_and_unknown_numbers_shown(run: Run) -> None:
    outcome = run(CTYPES + "[l.syscall(1000 + i) for i in range(500)]; l.syscall(1000)")
    found = {what: count for what, count in counts(outcome).items() if count is not None}
    assert len(found) == notify.MAX_NAMES
    assert found["system call 1000"] == 2
    assert sum(found.values()) == 501


def test_a_flood_costs_the_job_and_not_its_supervisor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "BURST", 500)
    number = call("socket")
    source = CTYPES + (
        "import time; end = time.monotonic() + 2; n = 0\n"
        f"while time.monotonic() < end: n += 1; assert l.syscall({number}, 2, 1, 0) == -1\nprint(n)"
    )
    before = time.process_time()
    outcome = run(source)
    spent = time.process_time() - before
    made = int(outcome.log_tail)
    assert counts(outcome)["socket"] == made
    assert made < 500 + 4 * notify.PER_SECOND
    assert spent < 1.0  # of two seconds and more


def test_a_job_in_a_flood_is_ended_by_its_limit(run: Run) -> None:
    source = CTYPES + f"\nwhile True: l.syscall({call('socket')}, 2, 1, 0)"
    outcome = run(source, wall_s=1.0)
    assert outcome.killed.startswith("wall_s")
    assert counts(outcome)["socket"] > 10
    assert outcome.compute.wall_s < 5


def test_signals_do_not_lose_or_repeat_an_answer(run: Run) -> None:
    source = (
        CTYPES
        + f"""
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)  # an interrupted call is made again, as most programs want
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
print(sum(l.syscall({call("socket")}, 2, 1, 0) == -1 for _ in range(2000)))
"""
    )
    outcome = run(source)
    assert outcome.log_tail == "2000\n"
    # A call that is interrupted before it was heard of, or before Linux 5.19, is counted when it is repeated.
    assert counts(outcome)["socket"] >= 2000


@pytest.mark.skipif(machine != "x86_64", reason="only x86_64 runs other machines' calls")
def test_another_machines_calls_end_the_program_and_say_so(run: Run) -> None:
    x32 = CTYPES + "l.syscall(0x40000000 + 39)"
    outcome = run(x32)
    assert outcome.exit == 128 + signal.SIGSYS
    assert Denial(notify.FOREIGN, 1, "SIGSYS") in outcome.denied
    assert counts(run("pass"))[notify.FOREIGN] is None
    assert run(x32, "none").ok  # the kernel, or its lack of x32, answers: nobody ends the program


def test_without_a_listener_the_same_is_refused_and_said_to_be_unobservable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = profile._guard

    def blind(*args: object, **words: object) -> dict[str, object]:
        # No kernel takes a filter of no instructions: the guard has to fall back on the plain one.
        return {**plan(*args, **words), "observed_filter": b""}  # type: ignore[arg-type]

    monkeypatch.setattr(profile, "_guard", blind)
    outcome = run("import socket\ntry: socket.socket()\nexcept OSError as error: print(error.errno)")
    assert outcome.log_tail == "1\n"
    assert Denial(notify.CALLS, None, "EPERM") in outcome.denied
    assert "socket" not in counts(outcome)


def test_a_listener_that_breaks_leaves_calls_refused_and_is_not_called_silence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_RECEIVE", 0xC0502163)  # no such request
    outcome = run("import socket\ntry: socket.socket()\nexcept OSError as error: print(error.errno > 0)")
    assert outcome.log_tail == "True\n"
    assert counts(outcome)[notify.CALLS] is None


def test_no_thread_or_descriptor_stays_behind(run: Run) -> None:
    run("pass")
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(5):
        run("import socket; socket.socket()")
    assert threading.active_count() == threads
    assert _descriptors() == descriptors


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_job_that_waits_for_an_answer_ends_with_its_supervisor(tmp_path: Path) -> None:
    marker = f"flood-{os.getpid()}"
    number = call("socket")
    source = CTYPES + f"marker = {marker!r}\nwhile True: l.syscall({number}, 2, 1, 0)"
    program = (
        "import sys; from pathlib import Path; from sandbox.isolation import job\n"
        "from sandbox.isolation.spec import JobSpec\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"job.run(JobSpec(('python', '-c', {source!r}), (), folder / 'out', folder / 'log'), 'strict', lambda: '')\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent.parent)
    try:
        assert _until(lambda: _running(marker) > 1), "the job did not begin"
    finally:
        supervisor.kill()
        supervisor.wait()
    assert _until(lambda: _running(marker) == 0), "the job outlived its supervisor"


def _running(marker: str) -> int:
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found += marker.encode() in (folder / "cmdline").read_bytes()
            except OSError:
                continue
    return found


def _until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_an_outcome_survives_json(run: Run) -> None:
    outcome = run("import socket; socket.socket()")
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_the_guard_knows_both_machines() -> None:
    assert set(guard._SECCOMP_CALL) == set(syscalls.MACHINES)
    for known in syscalls.MACHINES:
        assert guard._SECCOMP_CALL[known] == syscalls.number(refused.NEVER["seccomp"], known)
