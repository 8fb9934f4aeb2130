"""Work that is killed in the middle: a child process that ends itself right before one of its changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any


def killed_at(step: int, work: Callable[[], object], changes: Iterable[tuple[Any, str]]) -> bool:
    """Run in another process that kills itself before its ``step``-th call of a change; True if it came there.

    ``changes`` names what counts: functions, each as its owner and its name there.
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*words, **options)

            return call

        for owner, name in changes:
            setattr(owner, name, dying(getattr(owner, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
