"""Processes that read records, and what happens when one of them does not answer.

Invariants:
- An answer is what a process sent in full; everything else (an early end, silence) is an error, in bounded time.
- Work that no process has begun can be taken back, and is then done by whoever took it.
- The processes hold nothing that anybody needs: they are ended at once when the work is over, or is given up.

Each process has a thread here that hands it one piece of work and waits for the answer, so that whoever asks never
waits on a pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self

from guardrails.errors import InterlockError

PATIENCE_S = 60
"""So long a process may be at one piece of work, which takes it some tenths of a second where nothing else runs."""

_END_S = 10
"""So long is waited for the end of a process that was killed."""
# Nothing else of the program is imported there; nor anything from the folder that it was started in.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from guardrails.decision_log import crew; crew.serve(sys.argv[2])"
)


class Work:
    """One piece of work; ``answer`` is None until somebody has done it."""

    def __init__(self, *order: Any) -> None:
        self.order = order
        self.answer: bytes | None = None


class Crew:
    """So many processes that call one function, found by its name in its module; a context manager."""

    def __init__(self, count: int, function: Callable[..., bytes]) -> None:
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._flaw = ""
        self._over = False
        order = [sys.executable, "-I", "-c", _START, json.dumps(sys.path)]
        order.append(f"{function.__module__}:{function.__name__}")
        self._hands: list[tuple[subprocess.Popen[bytes], threading.Thread]] = []
        try:
            for _ in range(count):
                process = subprocess.Popen(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                thread = threading.Thread(target=self._talk, args=(process,), daemon=True)
                self._hands.append((process, thread))
                thread.start()
        except (OSError, RuntimeError) as error:  # so many processes, or threads, may not be
            self._end()
            raise InterlockError(
                f"a process that reads records cannot be started: {error}", hint="try again with fewer --jobs"
            ) from None

    def submit(self, work: Work) -> None:
        """Have it done, by whichever process is free first."""
        with self._changed:
            self._waiting.append(work)
            self._changed.notify_all()

    def take_back(self, work: Work) -> bool:
        """Whether it is the caller's to do now: no process has begun with it, and none will."""
        with self._changed:
            if work not in self._waiting:
                return False
            self._waiting.remove(work)
            return True

    def answer(self, work: Work) -> bytes:
        """Wait for an answer.

        Raises:
            InterlockError: a process ended early, or is silent for too long.
        """
        with self._changed:
            # By the second, not by the clock: if all of this is suspended for an hour, nobody was silent.
            for _ in range(PATIENCE_S):
                if self._changed.wait_for(lambda: work.answer is not None or self._flaw, timeout=1):
                    break
            if work.answer is not None:
                return work.answer
            flaw = self._flaw or f"a process that reads records has not answered for {PATIENCE_S} s"
        raise InterlockError(
            f"{flaw}; nothing is known of the log",
            hint="was it stopped, or out of memory? try again with fewer --jobs",
        )

    def _talk(self, process: subprocess.Popen[bytes]) -> None:
        try:
            while (work := self._next()) is not None:
                _send(process.stdin, pickle.dumps(work.order, pickle.HIGHEST_PROTOCOL))
                answer = _receive(process.stdout)
                with self._changed:
                    work.answer = answer
                    self._changed.notify_all()
        except (EOFError, OSError):
            with self._changed:
                self._flaw = "a process that reads records ended early"
                self._changed.notify_all()

    def _next(self) -> Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            return None if self._over else self._waiting.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for process, _ in self._hands:
            process.kill()  # also where it is stopped, and would hear nothing else
        for process, thread in self._hands:
            if thread.ident is not None:  # it could be started
                thread.join(_END_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what could not be sent any more
                    pipe.close()  # type: ignore[union-attr]


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None  # noqa: S101 - for the type checker
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    assert pipe is not None  # noqa: S101 - for the type checker
    size = int.from_bytes(_exactly(pipe, 8), "big")
    return _exactly(pipe, size)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


def serve(name: str) -> None:
    """In a process of its own: do what comes by a function ``module:name``, until nothing can come any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever started this one ends it
    pipe, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever is printed is no answer
    module, _, function = name.partition(":")
    work = getattr(importlib.import_module(module), function)
    with contextlib.suppress(EOFError, OSError):
        while True:
            _send(pipe, work(*pickle.loads(_receive(sys.stdin.buffer))))  # noqa: S301 - from whoever started this one
