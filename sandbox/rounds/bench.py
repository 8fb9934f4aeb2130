"""What a round works with: the bench, and a locked folder for each step.

Invariants:
- A folder below ``jobs/`` belongs to one living process, by its lock; a folder without one is left over and may go.
- One process at a time measures a proposal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guardrails.canonical import digest
from guardrails.errors import DeniedError
from guardrails.gate import Gate
from guardrails.policy.facts import adopted_task
from guardrails.view import proven_view_of
from sandbox import tasks
from sandbox.answers.desk import Desk
from sandbox.config import ModelConfig
from sandbox.runner import Runner

Report = Callable[[str, float], None]
"""Takes the stage's name and the share done, for people to watch."""


@dataclass(frozen=True)
class Bench:
    """What a round works with. ``level`` is the isolation level that every job without a GPU must have."""

    gate: Gate
    runner: Runner
    workspace: Path
    secret: bytes
    level: str


@contextmanager
def job_folder(bench: Bench) -> Iterator[Path]:
    """A folder of its own for one step, locked while it lives, so that left-over ones can be told apart."""
    parent = bench.workspace / "jobs"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(workspace: Path) -> None:
    """Remove the job folders that a killed process left behind."""
    for folder in (workspace / "jobs").glob("job-*"):
        with contextlib.suppress(BlockingIOError, OSError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_being_measured(bench: Bench, proposal_id: str) -> bool:
    """True while a living process measures this proposal."""
    try:
        with measuring(bench, proposal_id):
            return False
    except DeniedError:
        return True


@contextmanager
def measuring(bench: Bench, proposal_id: str) -> Iterator[None]:
    """One process at a time measures a proposal; the lock goes with its process."""
    folder = bench.workspace / "jobs" / f"measuring-{digest(proposal_id.encode()).short}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            yield
    except BlockingIOError:
        raise DeniedError(f"{proposal_id} is being measured by another process", hint="wait for it") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def require_own_task(bench: Bench, model: ModelConfig) -> None:
    """Refuse a model that is configured for another kind or task than it was adopted for, which the rules go by.

    Its suites would be another task's, made by whoever writes the configuration, under the names that rules know.
    """
    with proven_view_of(bench.gate.log) as view:
        row = view.model(model.name)
    if row.kind != model.kind.value:
        raise DeniedError(
            f"{model.name} was adopted as {row.kind}, interlock.toml says {model.kind.value}",
            hint="change kind back, or add the model under another name",
        )
    signed = row.labels
    here = tasks.labels_of(model)
    adopted, configured = adopted_task(model.kind, signed), adopted_task(model.kind, here)
    if configured != adopted:
        raise DeniedError(
            f"{model.name} was adopted for the task {adopted}, interlock.toml says {configured}",
            hint="change task or levels back, or add the model for this task under another name",
        )
    wanted, found = signed.get(tasks.ADAPT_LABEL), here.get(tasks.ADAPT_LABEL, "")
    if wanted is not None and found != wanted:
        raise DeniedError(
            f"{model.name} was adopted to be quick to learn {wanted!r:.80}, interlock.toml says {found!r:.80}",
            hint="change adapt back, or add the model under another name",
        )


def desk_of(bench: Bench, model: str) -> Desk:
    """Where the questions about a model lie, with the roster and the hand-ins that the signed records make."""
    return Desk(bench.workspace, model, bench.gate.store, bench.gate.log.read_proven)
