"""Learners: how a model proposes to change itself, one module each.

Invariants:
- A learner reads the champion and the data it was given and writes below ``Order.out`` only.
- It is untrusted: nothing it writes or claims is believed before it has been measured.
- It is deterministic in (champion, data, recipe, seed) on one machine with one set of wheels.
- Where it cannot train to the end, it raises and leaves no model behind.

A learner module has one function ``learn`` of the shape ``Learner``, imported when it is needed. What its recipe may hold
stands in ``recipes``, so that a recipe is checked before anything that computes is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from guardrails import third_party
from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.worker import devices


class Report(Protocol):
    """Prints one progress line: the share done, a word for the stage, and numbers worth a look."""

    def __call__(self, progress: float, stage: str, **numbers: Any) -> None: ...


@dataclass(frozen=True)
class Order:
    """One order to learn. ``out`` gets ``model/`` and ``data/``; ``champion`` and ``data`` are read-only.

    ``memory_bytes`` is the job's limit as it was declared, or of a GPU what was free there at the start; 0: none is known.
    ``device`` is where to compute, by PyTorch's name: ``cpu``, or ``cuda:0`` where the job was given a GPU.
    """

    kind: ModelKind
    champion: Path
    data: Path
    out: Path
    recipe: Mapping[str, str]
    seed: int
    report: Report
    memory_bytes: int = 0
    device: str = devices.CPU


class Learner(Protocol):
    """The one function of a learner module: trains, writes the bundle's parts, returns its claims."""

    def __call__(self, order: Order) -> dict[str, str]: ...


LEARNERS: dict[str, dict[ModelKind, str]] = {
    "active": {
        ModelKind.LLM: "sandbox.worker.learners.active.texts",
        ModelKind.LAM: "sandbox.worker.learners.active.states",
    },
    "meta": {
        ModelKind.LLM: "sandbox.worker.learners.language.meta",
        ModelKind.LAM: "sandbox.worker.learners.levels.meta",
    },
    "self_supervised": {
        ModelKind.LLM: "sandbox.worker.learners.self_supervised",
        ModelKind.LAM: "sandbox.worker.learners.levels.self_supervised",
    },
    "reinforcement": {
        ModelKind.LLM: "sandbox.worker.learners.language.reinforcement",
        ModelKind.LAM: "sandbox.worker.learners.reinforcement",
    },
    "transfer": {
        ModelKind.LLM: "sandbox.worker.learners.language.transfer",
        ModelKind.LAM: "sandbox.worker.learners.levels.transfer",
    },
}
"""Technique → kind of model → module whose ``learn`` does it."""


def learner_module(technique: str, kind: ModelKind) -> str:
    """The module of a technique for a kind of model; raises InvalidInputError where there is none."""
    if technique not in LEARNERS:
        raise InvalidInputError(
            f"no learner is called {technique!r:.40}", hint=f"known: {', '.join(sorted(LEARNERS))}"
        )
    if kind not in LEARNERS[technique]:
        known = sorted(name for name, modules in LEARNERS.items() if kind in modules)
        raise InvalidInputError(
            f"{technique} has no learner for models of kind {kind.value}", hint=f"known: {', '.join(known)}"
        )
    return LEARNERS[technique][kind]


def load_learner(technique: str, kind: ModelKind) -> Learner:
    """The learner of a technique for a kind of model; raises InvalidInputError where there is none.

    A technique ``DISTRIBUTION:NAME`` is an entry point of the group ``interlock.learners``.
    """
    if third_party.is_reference(technique):
        brought: Learner = third_party.find(third_party.LEARNERS, technique).load()
        if not callable(brought):
            raise InvalidInputError(f"{technique}: a learner is a function that takes an Order")
        return brought
    learner: Learner = importlib.import_module(learner_module(technique, kind)).learn
    return learner


def loss_claims(losses: Sequence[float], records: int) -> dict[str, str]:
    """What a run says of itself where it went down a loss: the first one, the mean of the last quarter, and counts."""
    tail = losses[-max(1, len(losses) // 4) :]
    return {
        "first_loss": decimal(losses[0]),
        "last_loss": decimal(sum(tail) / len(tail)),
        "records": str(records),
        "steps": str(len(losses)),
    }
