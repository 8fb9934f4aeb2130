"""A job's processes while they exist: what the supervisor holds of them, and how they are ended.

Invariants:
- ``end`` returns only when no process of the job is left, whatever they do.
- The first process is not reaped before the others are gone: until then nobody else gets its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import NoReturn

from guardrails.errors import InterlockError, IsolationUnavailableError
from sandbox.isolation import cgroup
from sandbox.isolation.joblog import JobLog
from sandbox.isolation.meter import Watchdog, group_lives
from sandbox.isolation.notify import Refusals
from sandbox.isolation.profile import Plan
from sandbox.isolation.spec import JobSpec

_END_S = 10.0


@dataclass
class Job:
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
        return self.status is not None or readable(self.ended, 0)

    def reap(self) -> None:
        """Collect status and CPU time of the started process, which has ended."""
        _, status, used = os.wait4(self.process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        self.status = 128 - code if code < 0 else code
        self.cpu_s = used.ru_utime + used.ru_stime
        os.close(self.ended)

    def end(self) -> None:
        """Kill whatever is left, and return only when it is gone. Safe to call again."""
        if self.status is not None:
            return
        deadline = time.monotonic() + _END_S
        if self.group is not None:
            self.group.kill()
        if self.init >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init, signal.SIGKILL)
            # Readable once init has ended, and the kernel ends init only after everything below it.
            if not readable(self.init, _END_S):
                _stuck()
            os.close(self.init)
            self.init = -1
        while True:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            if self.is_over() and not self._others_live():
                self.reap()
                return
            if time.monotonic() > deadline:
                _stuck()
            time.sleep(0.002)

    def _others_live(self) -> bool:
        inside = set(self.group.members()) if self.group else set()
        # Older kernels list who has ended and was not reaped yet.
        return bool(inside - {self.process.pid}) or group_lives(self.process.pid)

    def never_ran(self, what: str) -> NoReturn:
        """End it, and say which step of the set-up failed.

        Raises:
            IsolationUnavailableError: always.
        """
        self.end()
        self.log.drain()
        said = self.log.tail().strip()
        raise IsolationUnavailableError(self.level, [f"{what}: {said}" if said else what])


def _stuck() -> NoReturn:
    raise InterlockError("a job's processes did not end when killed; the machine may need a restart")


def readable(descriptor: int, timeout_s: float) -> bool:
    """Whether a descriptor can be read from, or has an end to tell of, within a time."""
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(timeout_s * 1000))
