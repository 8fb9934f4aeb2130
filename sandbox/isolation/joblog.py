"""A job's output: from a pipe to a capped file, and a tail for people.

Invariants:
- The job holds a pipe, never a descriptor of a host file.
- Reading never waits for whoever still holds the other end of the pipe.
- The file stops growing at its cap; a job that floods it is slowed down, not served.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

LOG_CAP_BYTES = 16 << 20
TAIL_BYTES = 8 << 10
_BLOCK = 1 << 16


class JobLog:
    """The job's output, copied from a pipe to a file up to a cap; the end of it is kept in memory."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._written = 0
        self._recent = b""
        self._open = True

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_write_end()
        os.close(self._read_end)
        os.close(self._file)

    def close_write_end(self) -> None:
        """After this only the job holds the writing end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def pump(self, timeout_s: float, *others: int) -> None:
        """Wait for output, or for one of ``others`` to become readable; take one round of output."""
        watched = select.poll()
        for descriptor in others:
            watched.register(descriptor, select.POLLIN)
        if self._open:
            watched.register(self._read_end, select.POLLIN)
        ready = [descriptor for descriptor, _ in watched.poll(timeout_s * 1000)]
        if self._read_end in ready:
            self._take()

    def drain(self) -> None:
        """What is still in the pipe, without waiting for whoever may hold its other end."""
        for _ in range(64):
            if not self._open or not self._take():
                return

    def tail(self) -> str:
        """The last lines, with control characters made visible, so that no terminal obeys them."""
        text = self._recent.decode("utf-8", "replace")
        return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)

    def _take(self) -> bool:
        try:
            block = os.read(self._read_end, _BLOCK)
        except BlockingIOError:
            return False
        if not block:
            self._open = False
            return False
        self._recent = (self._recent + block)[-TAIL_BYTES:]
        room = LOG_CAP_BYTES - self._written
        if room > 0:
            os.write(self._file, block[:room])
            if len(block) >= room:
                os.write(self._file, b"\n[the log ends here: it reached its cap]\n")
        self._written += len(block)
        return True
