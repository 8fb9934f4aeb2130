"""Hearing of the system calls that a job's filter refuses.

Invariants:
- Every call that arrives here is refused, with the answer that the filter alone would give. None is let
  through, looked into or carried out for the job: what a pointer points at is never read.
- What is kept is bounded: at most ``MAX_NAMES`` counters, whatever numbers a job calls.
- A flood costs the job, not the supervisor: after ``BURST`` calls at full speed, ``PER_SECOND`` are
  answered, and whoever made the others waits.
- Without a listener nothing changes for the job: a supervisor that is gone, or one that cannot hear,
  leaves its calls refused (``ENOSYS`` in place of their own answer if it goes in the middle).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
import time
from collections import Counter

from sandbox.isolation import refused
from sandbox.isolation.spec import Denial

MAX_NAMES = 64
BURST = 20_000
PER_SECOND = 1_000

# From the kernel's headers: struct seccomp_notif begins with id, pid, flags, and the call's number.
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION_BYTES = 80
_HEAD = struct.Struct("=QIIi")
_ANSWER = struct.Struct("=QqiI")
_REST_S = 0.05

OTHERS = "other system calls"
CALLS = "system calls"
FOREIGN = "system calls of another machine (i386, x32)"
FILES = "files: by Landlock, mounts and permissions"
_SIGSYS_STATUS = 128 + 31

UNSEEN = (Denial(CALLS, None, refused.ORDINARY), Denial(FILES, None, "EACCES"))
"""What is said of a job whose supervisor could see nothing."""


class Refusals:
    """Counts what one job is refused, from the filter's listener, in a thread of its own."""

    def __init__(self, machine: str) -> None:
        self._answers = refused.answers(machine)
        self._machine = machine
        self._counts: Counter[tuple[str, str]] = Counter()
        self._observed = False
        self._listener = -1
        self._stop = -1
        self._thread: threading.Thread | None = None
        self._tokens = float(BURST)
        self._filled = 0.0

    def watch(self, listener: int) -> None:
        """Answer everything that arrives at a listener, from now until ``close``; takes the descriptor over."""
        self._observed = True
        self._listener = listener
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._filled = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="interlock-refusals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. Safe to call again. The job is over by then, or it is refused without an answer."""
        if self._thread is None:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._thread = None
        os.close(self._stop)

    def denied(self, status: int | None) -> tuple[Denial, ...]:
        """What was refused, most frequent first, then what nobody outside can see.

        Args:
            status: the exit status of the job's program, None where the supervisor ended it.
        """
        seen = sorted(dict(self._counts).items(), key=lambda item: (-item[1], item[0]))
        found = [Denial(name, count, answer) for (name, answer), count in seen]
        if not self._observed:
            found.append(UNSEEN[0])
        if self._machine == "x86_64":
            found.append(Denial(FOREIGN, 1 if status == _SIGSYS_STATUS else None, "SIGSYS"))
        return (*found, UNSEEN[1])

    def _serve(self) -> None:
        try:
            self._observed = self._answer_until_over()
        finally:
            # Nobody answers any more: the kernel refuses by itself what it would have asked.
            os.close(self._listener)

    def _answer_until_over(self) -> bool:
        """Whether it went well to the end."""
        watched = select.poll()
        watched.register(self._listener, select.POLLIN)
        watched.register(self._stop, select.POLLIN)
        stopped = select.poll()
        stopped.register(self._stop, select.POLLIN)
        while True:
            ready = dict(watched.poll())
            # No input but a hang-up: the filter's last process is gone.
            if self._stop in ready or not ready.get(self._listener, 0) & select.POLLIN:
                return True
            while not self._may_answer():
                if stopped.poll(_REST_S * 1000):
                    return True
            if not self._answer_one():
                return False

    def _may_answer(self) -> bool:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * PER_SECOND)
        self._filled = now
        return self._tokens >= 1.0

    def _answer_one(self) -> bool:
        """Refuse the call that waits longest; False where the kernel does not speak as expected."""
        self._tokens -= 1.0
        notification = bytearray(_NOTIFICATION_BYTES)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, notification, True)
            identity, _, _, call = _HEAD.unpack_from(notification)
            name, answer = self._answers.get(call, (f"system call {call}", refused.ORDINARY))
            self._count(name, answer)
            reply = bytearray(_ANSWER.pack(identity, 0, -getattr(errno, answer), 0))
            fcntl.ioctl(self._listener, _SEND, reply, True)
        except OSError as error:
            # The caller is gone; or it was interrupted and will ask again.
            return error.errno in (errno.ENOENT, errno.EINTR)
        return True

    def _count(self, name: str, answer: str) -> None:
        known = (name, answer) in self._counts
        full = len(self._counts) >= MAX_NAMES - 1
        self._counts[(name, answer) if known or not full else (OTHERS, refused.ORDINARY)] += 1
