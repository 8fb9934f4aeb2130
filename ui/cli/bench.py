"""What jobs need, for as long as a command runs them.

``INTERLOCK_RUNNER`` chooses who supervises jobs: ``ray`` (default) or ``local`` (a thread of this process;
the same isolation, nothing to start up).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from guardrails.errors import IsolationUnavailableError, UsageError

if TYPE_CHECKING:
    from sandbox.rounds import Bench
    from sandbox.runner import Runner
    from ui.cli.session import Session

RUNNER = "INTERLOCK_RUNNER"


@contextmanager
def runner_of(session: Session, *, local: bool = False) -> Iterator[Runner]:
    """A runner, shut down afterwards whatever happens: no job outlives the command."""
    from ui import wiring

    chosen = "local" if local else os.environ.get(RUNNER, "ray")
    if chosen not in ("ray", "local"):
        raise UsageError(f"{RUNNER}={chosen:.40} is not known", hint="ray or local")
    runner: Runner
    if chosen == "ray":
        runner = wiring.ray_runner(session.workspace, session.output.note)
    else:
        from sandbox.runner import LocalRunner

        runner = LocalRunner(cache=session.workspace.path / "cache")
    try:
        yield runner
    finally:
        runner.shutdown()


@contextmanager
def open_bench(session: Session) -> Iterator[Bench]:
    """What a round works with. Raises IsolationUnavailableError before anything starts."""
    from ui import wiring

    with runner_of(session) as runner:
        try:
            bench = wiring.open_bench(session.workspace, runner)
        except IsolationUnavailableError as error:
            error.hint = "interlock sandbox doctor"
            raise
        yield bench
