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
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from guardrails.errors import UsageError
from guardrails.records import Compute
from sandbox.isolation import startup
from sandbox.isolation.folders import private_folder
from sandbox.isolation.joblog import JobLog
from sandbox.isolation.running import Job, readable
from sandbox.isolation.spec import Denial, JobOutcome, JobSpec
from sandbox.isolation.startup import StopError

_TICK_S = 0.05
_REST_S = 0.002


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
            group = startup.make_group(spec, level, cache, stack)
            job = startup.start(spec, level, staging, log, group, stack)
            try:
                try:
                    startup.set_up(job, should_stop)
                except StopError as stopped:
                    return _outcome(job, str(stopped))
                return _outcome(job, _supervise(job, should_stop))
            finally:
                job.end()
                job.refusals.close()
                if job.plan.uid:
                    os.chown(spec.out, os.geteuid(), os.getegid())
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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


def _supervise(job: Job, should_stop: Callable[[], str]) -> str:
    """Watch until the job is over or has to be ended; why it has to be, or an empty string."""
    killed = ""
    look_at = 0.0
    while not job.is_over() and not killed:
        job.log.pump(_TICK_S, job.ended)
        killed = should_stop()
        if not killed and time.monotonic() >= look_at:
            killed = job.watchdog.sample(should_stop)
            look_at = time.monotonic() + _TICK_S
        elif not killed:
            # A job that prints byte by byte would otherwise decide how busy its supervisor is.
            readable(job.ended, _REST_S)
    return killed


def _outcome(job: Job, killed: str) -> JobOutcome:
    """End what still runs, and say what came of it."""
    job.end()
    job.log.drain()
    if not killed:
        startup.complain_if_not_started(job)
    watchdog = job.watchdog
    broken = watchdog.sample_end(job.cpu_s)
    killed = killed or broken
    usage = watchdog.usage
    measured_by = job.group.where.measured_by if job.group else "watchdog"
    compute = Compute(watchdog.wall_s, usage.cpu_s, usage.memory_bytes, usage.disk_bytes, measured_by)
    status = None if killed else job.status
    job.refusals.close()
    return JobOutcome(status, killed, job.level, compute, _denied(job, status), job.log.tail())


def _denied(job: Job, status: int | None) -> tuple[Denial, ...]:
    if job.plan.guard is None:
        return ()
    refused = job.group.refused_processes() if job.group else 0
    beyond = (Denial("processes beyond the limit", refused, "EAGAIN"),) if refused else ()
    return (*beyond, *job.refusals.denied(status))
