"""The isolation levels, and the only way to run a job at one of them.

Invariants:
- ``run_job`` refuses a level whose behavioural probe has not passed here; it never falls back on a
  lower one.
- ``none`` isolates nothing. It exists for tests and for trying; no policy makes a round run at it, and what
  it made can never be approved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guardrails.errors import IsolationUnavailableError, UsageError
from sandbox.isolation import job, probe, profile
from sandbox.isolation.spec import JobOutcome, JobSpec
from sandbox.isolation.startup import StopError

LEVELS = profile.LEVELS


def at_least(level: str, minimum: str) -> bool:
    """Whether ``level`` isolates no less than ``minimum``."""
    return LEVELS.index(_known(level)) >= LEVELS.index(_known(minimum))


def require(level: str, *, cache: Path | None = None) -> None:
    """Return if the level holds on this machine.

    Args:
        level: one of ``LEVELS``.
        cache: a folder that keeps a passed probe until the next boot or change of what was probed.

    Raises:
        IsolationUnavailableError: with each failed probe and its remedy.
    """
    if _known(level) != profile.NONE:
        probe.require(level, cache)


def strictest(minimum: str, *, cache: Path | None = None) -> str:
    """The strictest level that holds here, and that isolates no less than ``minimum``; never ``none``.

    Raises:
        IsolationUnavailableError: no such level holds; with each failed probe of each, and its remedy.
    """
    failures: list[str] = []
    for level in reversed(LEVELS):
        # A level with a device is chosen by a job that has one, never as a substitute.
        if level in (profile.NONE, profile.STRICT_GPU) or not at_least(level, minimum):
            continue
        try:
            require(level, cache=cache)
        except IsolationUnavailableError as error:
            failures += [f"{level}: {failure}" for failure in error.failures]
        else:
            return level
    raise IsolationUnavailableError(minimum, failures)


def examine(level: str) -> probe.Report:
    """Every probe of a confining level, run here and now, with the remedy of each that failed."""
    return probe.examine(_known(level))


def run_job(
    spec: JobSpec, level: str, should_stop: Callable[[], str] = lambda: "", *, cache: Path | None = None
) -> JobOutcome:
    """Run a job to its end and say how it ended. Blocks; call it from a thread that stays.

    Args:
        spec: what to run.
        level: one of ``LEVELS``.
        should_stop: asked at least ten times a second; a reason to kill the job, or "".
        cache: as for ``require``.

    Raises:
        IsolationUnavailableError: the level does not hold here, or could not be set up.
        JobFailedError: the program could not be started.
        UsageError: the job cannot be run as described.
    """
    try:
        if _known(level) != profile.NONE:
            probe.require(level, cache, should_stop)
    except StopError as stopped:
        return job.never_began(level, str(stopped))
    return job.run(spec, level, should_stop, cache=cache)


def _known(level: str) -> str:
    if level not in LEVELS:
        raise UsageError(f"isolation level {level!r} is not one of {', '.join(LEVELS)}")
    return level
