"""One job, from its first process to its last.

Invariants:
- When ``run`` returns or raises, no process of the job is left, at any level that confines them.
- The program never started unless the guard said that every restriction is in place, and is in its
  control group before its first instruction, where one can be had.
- A request to stop is heard at every moment, also while the job is being set up.
- Output is read through a pipe by the supervisor: the job never holds a descriptor of a host file.
- The thread that starts the job is the one that waits for it: the kernel ends the job when the
  thread that started it ends.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from guardrails.errors import InterlockError, IsolationUnavailableError, JobFailedError, UsageError
from guardrails.records import Compute
from sandbox.isolation import cgroup, controllers, guard, profile
from sandbox.isolation.folders import private_folder
from sandbox.isolation.joblog import JobLog
from sandbox.isolation.meter import Watchdog, children, group_lives
from sandbox.isolation.notify import Refusals
from sandbox.isolation.profile import Plan
from sandbox.isolation.spec import Denial, JobOutcome, JobSpec

NOT_STARTED = "give a program that the job can see and execute"
_TICK_S = 0.05
_STEP_S = 0.02
_START_S = 30.0
_END_S = 10.0


def run(
    spec: JobSpec, level: str, should_stop: Callable[[], str], *, cache: Path | None = None
) -> JobOutcome:
    """Run a job at a level, without asking whether that level holds here (``levels`` does).

    ``cache`` is a folder that remembers what this machine's control groups can do.
    """
    _prepare_out(spec.out)
    staging = private_folder("interlock-job-")
    try:
        with JobLog(spec.log) as log, contextlib.ExitStack() as stack:
            group = _group(spec, level, cache, stack)
            job = _start(spec, level, staging, log, group, stack)
            try:
                try:
                    _set_up(job, should_stop)
                except StopError as stopped:
                    return _outcome(job, str(stopped))
                return _outcome(job, _supervise(job, should_stop))
            finally:
                _end(job)
                job.refusals.close()
                if job.plan.uid:
                    os.chown(spec.out, os.geteuid(), os.getegid())
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass
class _Job:
    """The process we started, and the one whose end ends all others.

    The started process is not reaped before the end: as long as it is not, nobody else can be
    given its number, which is also the number of its group.
    """

    spec: JobSpec
    level: str
    plan: Plan
    log: JobLog
    control: socket.socket  # to the guard
    info: int  # from bwrap
    refusals: Refusals
    group: cgroup.Group | None
    watchdog: Watchdog
    process: subprocess.Popen[bytes]
    ended: int  # process descriptor of the started process
    init: int = -1  # process descriptor of the first process in the job's own process namespace
    status: int | None = None
    cpu_s: float = 0.0

    def is_over(self) -> bool:
        """Whether the started process has ended."""
        return self.status is not None or _readable(self.ended, 0)

    def reap(self) -> None:
        """Collect status and CPU time of the started process, which has ended."""
        _, status, used = os.wait4(self.process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        self.status = 128 - code if code < 0 else code
        self.cpu_s = used.ru_utime + used.ru_stime
        os.close(self.ended)


class StopError(Exception):
    """Asked to stop before the program began; carries the reason."""


def never_began(level: str, reason: str) -> JobOutcome:
    """The outcome of a job that was asked to stop before any of it existed."""
    return JobOutcome(None, reason, level, Compute(0.0, 0.0, 0, 0, "unmeasured"), (), "")


def _prepare_out(out: Path) -> None:
    try:
        out.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be a job's output directory: {error.strerror}") from None
    if not stat.S_ISDIR(out.lstat().st_mode):
        raise UsageError(f"{out} is not a directory; a job's output needs one of its own")
    if any(out.iterdir()):
        raise UsageError(f"{out} is not empty; what lies there could pass for the job's work")


def _group(spec: JobSpec, level: str, cache: Path | None, stack: contextlib.ExitStack) -> cgroup.Group | None:
    """The job's control group, removed with ``stack``; None at a level whose program nobody holds back."""
    where = controllers.available(cache) if level != profile.NONE else cgroup.NOTHING
    if not where.bases:
        return None
    try:
        group = cgroup.Group(where, spec.limits)
    except OSError as error:
        raise IsolationUnavailableError(level, [f"no control group could be made: {error}"]) from None
    stack.callback(group.remove)
    return group


def _start(
    spec: JobSpec,
    level: str,
    staging: Path,
    log: JobLog,
    group: cgroup.Group | None,
    stack: contextlib.ExitStack,
) -> _Job:
    """Start the job's first process; what ``stack`` holds stays open until the job is over."""
    info_read, info_write = os.pipe()
    stack.callback(os.close, info_read)
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    try:
        plan = profile.plan(spec, level, staging, control_fd=theirs.fileno(), info_fd=info_write)
        if plan.uid:
            os.chown(spec.out, plan.uid, plan.uid)
        process = subprocess.Popen(
            plan.argv,
            env=plan.env,
            cwd=plan.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log.write_end,
            stderr=log.write_end,
            close_fds=True,
            pass_fds=(theirs.fileno(), info_write) if plan.guard else (),
            start_new_session=True,
        )
    except OSError as error:
        raise JobFailedError(f"{spec.argv[0]} could not be started: {error}", hint=NOT_STARTED) from None
    finally:
        os.close(info_write)
        theirs.close()
        log.close_write_end()
    refusals = Refusals(os.uname().machine)
    watchdog = Watchdog(process.pid, spec.out, plan.scratch, spec.limits, group)
    ended = os.pidfd_open(process.pid)
    return _Job(spec, level, plan, log, ours, info_read, refusals, group, watchdog, process, ended)


def _set_up(job: _Job, should_stop: Callable[[], str]) -> None:
    """Bring the job to its first instruction.

    Raises:
        StopError: asked to stop on the way.
        IsolationUnavailableError: a step failed; the program never ran.
    """
    if job.level in profile.WITH_NAMESPACES:
        job.watchdog.first = _first_process(job, should_stop)
    if job.plan.guard is not None:
        _enter_group(job, should_stop)
        _instruct(job, should_stop)


def _supervise(job: _Job, should_stop: Callable[[], str]) -> str:
    """Watch until the job is over or has to be ended; why it has to be, or an empty string."""
    killed = ""
    while not job.is_over() and not killed:
        job.log.pump(_TICK_S, job.ended)
        killed = should_stop() or job.watchdog.sample()
    return killed


def _outcome(job: _Job, killed: str) -> JobOutcome:
    """End what still runs, and say what came of it."""
    _end(job)
    job.log.drain()
    if not killed:
        _complain_if_not_started(job)
    watchdog = job.watchdog
    broken = watchdog.sample_end(job.cpu_s)
    killed = killed or broken
    usage = watchdog.usage
    measured_by = job.group.where.measured_by if job.group else "watchdog"
    compute = Compute(watchdog.wall_s, usage.cpu_s, usage.memory_bytes, usage.disk_bytes, measured_by)
    status = None if killed else job.status
    job.refusals.close()
    return JobOutcome(status, killed, job.level, compute, _denied(job, status), job.log.tail())


def _denied(job: _Job, status: int | None) -> tuple[Denial, ...]:
    if job.plan.guard is None:
        return ()
    refused = job.group.refused_processes() if job.group else 0
    beyond = (Denial("processes beyond the limit", refused, "EAGAIN"),) if refused else ()
    return (*beyond, *job.refusals.denied(status))


def _first_process(job: _Job, should_stop: Callable[[], str]) -> int:
    """The init process that bwrap made, on the host: its end is the end of all."""
    data = b""
    wait = _Wait(job, should_stop)
    while b"}" not in data:
        job.log.pump(_STEP_S, job.info)
        block = os.read(job.info, 4096) if _readable(job.info, 0) else b""
        data += block
        if not block and wait.is_in_vain():
            _never_ran(job, "bwrap did not set up the namespaces")
    pid = int(json.loads(data)["child-pid"])
    try:
        job.init = os.pidfd_open(pid)
    except OSError:
        _never_ran(job, "bwrap ended while it set up the mounts")
    return pid


def _enter_group(job: _Job, should_stop: Callable[[], str]) -> None:
    """Put the process that becomes the program into its control group; it waits for instructions."""
    if job.group is None:
        return
    pid = job.process.pid
    if job.level in profile.WITH_NAMESPACES:
        wait = _Wait(job, should_stop)
        while not (pid := _guard_below(job.watchdog.first)):
            if wait.is_in_vain():
                _never_ran(job, "bwrap did not start the guard")
            job.log.pump(_STEP_S / 10, job.ended)
    try:
        job.group.add(pid)
    except OSError as error:
        _never_ran(job, f"the guard could not be put into its control group: {error}")


def _guard_below(init: int) -> int:
    """The guard, or 0 as long as there is none: the one process that init starts, when the mounts are made."""
    below = children(init)
    if below:
        return below[0]
    # Without a process namespace (the probe will tell) it is the process itself.
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{init}/cmdline").read_bytes().split(b"\0")
        return init if words[3:4] == [os.fsencode(profile.GUARD)] else 0
    return 0


def _instruct(job: _Job, should_stop: Callable[[], str]) -> None:
    """Tell the guard what to do, and wait until it says that the job may begin."""
    control = job.control
    message = marshal.dumps(job.plan.guard)
    answer = b""
    wait = _Wait(job, should_stop)
    try:
        control.settimeout(_START_S)
        control.sendall(struct.pack("=I", len(message)) + message)
        while not _readable(control.fileno(), 0) and not wait.is_in_vain():
            job.log.pump(_TICK_S, control.fileno(), job.ended)
        if _readable(control.fileno(), 0):
            answer, listeners, _, _ = socket.recv_fds(control, len(guard.READY), 1, socket.MSG_CMSG_CLOEXEC)
            for listener in listeners:
                job.refusals.watch(listener)
            if answer != guard.READY:
                answer += control.recv(8192)
    except OSError as error:
        answer = str(error).encode()
    if answer != guard.READY:
        _never_ran(job, f"the guard refused: {answer.decode('utf-8', 'replace') or 'it said nothing'}")


class _Wait:
    """Waiting for a step of the set-up, which is not worth more than some time."""

    def __init__(self, job: _Job, should_stop: Callable[[], str]) -> None:
        self._job = job
        self._should_stop = should_stop
        self._deadline = time.monotonic() + _START_S

    def is_in_vain(self) -> bool:
        """Whether the step cannot succeed any more.

        Raises:
            StopError: asked to stop.
        """
        reason = self._should_stop()
        if reason:
            raise StopError(reason)
        return self._job.is_over() or time.monotonic() > self._deadline


def _complain_if_not_started(job: _Job) -> None:
    """After ``READY`` the guard speaks only if the program could not be executed."""
    job.control.setblocking(False)
    with contextlib.suppress(OSError):
        message = job.control.recv(8192).decode("utf-8", "replace")
        if message:
            raise JobFailedError(message, hint=NOT_STARTED)


def _never_ran(job: _Job, what: str) -> NoReturn:
    _end(job)
    job.log.drain()
    said = job.log.tail().strip()
    raise IsolationUnavailableError(job.level, [f"{what}: {said}" if said else what])


def _end(job: _Job) -> None:
    """Kill whatever is left, and return only when it is gone. Safe to call again."""
    if job.status is not None:
        return
    deadline = time.monotonic() + _END_S
    if job.group is not None:
        job.group.kill()
    if job.init >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(job.init, signal.SIGKILL)
        # Readable once init has ended, and the kernel ends init only after everything below it.
        if not _readable(job.init, _END_S):
            _stuck()
        os.close(job.init)
        job.init = -1
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, signal.SIGKILL)
        if job.is_over() and not group_lives(job.process.pid) and not (job.group and job.group.members()):
            job.reap()
            return
        if time.monotonic() > deadline:
            _stuck()
        time.sleep(0.002)


def _stuck() -> NoReturn:
    raise InterlockError("a job's processes did not end when killed; the machine may need a restart")


def _readable(descriptor: int, timeout_s: float) -> bool:
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(timeout_s * 1000))
