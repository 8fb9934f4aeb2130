"""Who runs jobs: a protocol, and a runner that uses threads of this process.

Invariants:
- A handle's outcome appears once the job's last process is gone, and never changes afterwards.
- ``cancel`` may be called at any time and any number of times; the first reason counts.
- A job is started once: no runner repeats a job, whatever became of it.
- Importing this module imports neither ray nor torch.
"""

from __future__ import annotations

import atexit
import threading
import time
from pathlib import Path
from typing import Protocol

from guardrails.errors import InterlockError, JobFailedError
from sandbox.isolation import levels
from sandbox.isolation.spec import JobOutcome, JobSpec

_MAX_LINE = 64 << 10


class JobHandle(Protocol):
    """One started job."""

    def poll(self) -> JobOutcome | None:
        """The outcome, or None while the job runs.

        Raises:
            InterlockError: the job never ran, or could not be ended.
        """

    def cancel(self, reason: str) -> None:
        """Kill the job; ``reason`` becomes the outcome's ``killed``. Returns at once."""

    def lines(self) -> list[str]:
        """Complete lines that the job has printed since the last call."""


class Runner(Protocol):
    """Starts jobs and hands out handles."""

    def start(self, spec: JobSpec, level: str) -> JobHandle:
        """Start a job at an isolation level and return at once."""

    def shutdown(self) -> None:
        """Kill what still runs, and give back what the runner holds."""


def wait(handle: JobHandle, timeout_s: float | None = None) -> JobOutcome:
    """Block until a job has ended.

    Raises:
        JobFailedError: it has not ended after ``timeout_s``; it was told to stop.
        InterlockError: the job never ran, or could not be ended.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        outcome = handle.poll()
        if outcome is not None:
            return outcome
        if deadline is not None and time.monotonic() > deadline:
            handle.cancel("nobody waits for it any more")
            raise JobFailedError(f"the job has not ended after {timeout_s} s")
        time.sleep(0.02)


class LogLines:
    """Reads a growing log by complete lines. A line without an end is cut at a length.

    What lies at ``path`` from before is removed: an earlier job's lines are never taken for this one's.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._position = 0
        self._rest = b""

    def new(self) -> list[str]:
        """Complete lines since the last call, without their ends."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read(4 << 20)
        except FileNotFoundError:
            return []
        self._position += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            complete.append(self._rest)
            self._rest = b""
        return [line[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r") for line in complete]


class LocalRunner:
    """Runs each job under a thread of this process, which supervises it to its end."""

    def __init__(self, *, cache: Path | None = None) -> None:
        self._cache = cache
        self._handles: list[_LocalHandle] = []
        atexit.register(self.shutdown)

    def start(self, spec: JobSpec, level: str) -> JobHandle:
        """Start a job at an isolation level and return at once."""
        handle = _LocalHandle(spec, level, self._cache)
        self._handles = [known for known in self._handles if not known.finished()] + [handle]
        return handle

    def shutdown(self) -> None:
        """Kill what still runs; return when it is gone."""
        for handle in self._handles:
            handle.cancel("the runner shuts down")
        for handle in self._handles:
            handle.join()
        self._handles = []


class _LocalHandle:
    """A job and the thread that supervises it; the thread ends only after the job."""

    def __init__(self, spec: JobSpec, level: str, cache: Path | None) -> None:
        self._spec = spec
        self._level = level
        self._cache = cache
        self._reason = ""
        self._outcome: JobOutcome | None = None
        self._error: InterlockError | None = None
        self._log = LogLines(spec.log)
        # A daemon: at exit the runner cancels its jobs, which it could not while Python waits for threads.
        self._thread = threading.Thread(target=self._run, name="interlock-job", daemon=True)
        self._thread.start()

    def poll(self) -> JobOutcome | None:
        """The outcome, or None while the job runs."""
        if self._thread.is_alive():
            return None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome

    def cancel(self, reason: str) -> None:
        """Kill the job; the supervising thread looks at least ten times a second."""
        self._reason = self._reason or reason or "cancelled"

    def lines(self) -> list[str]:
        """Complete lines that the job has printed since the last call."""
        return self._log.new()

    def finished(self) -> bool:
        """Whether the job has ended."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the job's end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._outcome = levels.run_job(self._spec, self._level, lambda: self._reason, cache=self._cache)
        except InterlockError as error:
            self._error = error
        except Exception as error:
            # Whatever went wrong, the job has no outcome: whoever asks must hear of it.
            self._error = JobFailedError(f"the job could not be supervised: {error}")
