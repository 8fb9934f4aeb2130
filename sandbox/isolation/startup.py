"""A job's beginning: from a plan to the first instruction of its program.

Invariants:
- The program never starts unless the guard says that every restriction is in place, and not before
  it is in its control group.
- Each step waits for a bounded time, and hears a request to stop at every moment of it.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from guardrails.errors import IsolationUnavailableError, JobFailedError
from sandbox.isolation import cgroup, controllers, guard, profile
from sandbox.isolation.joblog import JobLog
from sandbox.isolation.meter import Watchdog, children
from sandbox.isolation.notify import Refusals
from sandbox.isolation.running import Job, readable
from sandbox.isolation.spec import JobSpec

NOT_STARTED = "give a program that the job can see and execute"
_TICK_S = 0.05
_STEP_S = 0.02
_START_S = 30.0


class StopError(Exception):
    """Asked to stop before the program began; carries the reason."""


def make_group(
    spec: JobSpec, level: str, cache: Path | None, stack: contextlib.ExitStack
) -> cgroup.Group | None:
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


def start(
    spec: JobSpec,
    level: str,
    staging: Path,
    log: JobLog,
    group: cgroup.Group | None,
    stack: contextlib.ExitStack,
) -> Job:
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
    return Job(spec, level, plan, log, ours, info_read, refusals, group, watchdog, process, ended)


def set_up(job: Job, should_stop: Callable[[], str]) -> None:
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


def _first_process(job: Job, should_stop: Callable[[], str]) -> int:
    """The init process that bwrap made, on the host: its end is the end of all."""
    data = b""
    wait = _Wait(job, should_stop)
    while b"}" not in data:
        job.log.pump(_STEP_S, job.info)
        block = os.read(job.info, 4096) if readable(job.info, 0) else b""
        data += block
        if not block and wait.is_in_vain():
            job.never_ran("bwrap did not set up the namespaces")
    pid = int(json.loads(data)["child-pid"])
    try:
        job.init = os.pidfd_open(pid)
    except OSError:
        job.never_ran("bwrap ended while it set up the mounts")
    return pid


def _enter_group(job: Job, should_stop: Callable[[], str]) -> None:
    """Put the process that becomes the program into its control group; it waits for instructions."""
    if job.group is None:
        return
    pid = job.process.pid
    if job.level in profile.WITH_NAMESPACES:
        wait = _Wait(job, should_stop)
        while not (pid := _guard_below(job.watchdog.first)):
            if wait.is_in_vain():
                job.never_ran("bwrap did not start the guard")
            job.log.pump(_STEP_S / 10, job.ended)
    try:
        job.group.add(pid)
    except OSError as error:
        job.never_ran(f"the guard could not be put into its control group: {error}")


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


def _instruct(job: Job, should_stop: Callable[[], str]) -> None:
    """Tell the guard what to do, and wait until it says that the job may begin."""
    control = job.control
    message = marshal.dumps(job.plan.guard)
    answer = b""
    wait = _Wait(job, should_stop)
    try:
        control.settimeout(_START_S)
        control.sendall(struct.pack("=I", len(message)) + message)
        while not readable(control.fileno(), 0) and not wait.is_in_vain():
            job.log.pump(_TICK_S, control.fileno(), job.ended)
        if readable(control.fileno(), 0):
            answer, listeners, _, _ = socket.recv_fds(control, len(guard.READY), 1, socket.MSG_CMSG_CLOEXEC)
            for listener in listeners:
                job.refusals.watch(listener)
            if answer != guard.READY:
                answer += control.recv(8192)
    except OSError as error:
        answer = str(error).encode()
    if answer != guard.READY:
        job.never_ran(f"the guard refused: {answer.decode('utf-8', 'replace') or 'it said nothing'}")


class _Wait:
    """Waiting for a step of the set-up, which is not worth more than some time."""

    def __init__(self, job: Job, should_stop: Callable[[], str]) -> None:
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


def complain_if_not_started(job: Job) -> None:
    """After ``READY`` the guard speaks only if the program could not be executed."""
    job.control.setblocking(False)
    with contextlib.suppress(OSError):
        message = job.control.recv(8192).decode("utf-8", "replace")
        if message:
            raise JobFailedError(message, hint=NOT_STARTED)
