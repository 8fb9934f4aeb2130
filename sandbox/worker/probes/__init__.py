"""Probes: what the measurement job measures, one module each.

Invariants:
- A probe sees items, loaded models and a seed, and returns numbers per item: no opinion, no limits.
- A probe draws nothing at random except from ``seed`` or from the item itself: the same inputs yield the same series.
- Candidate and champion run on the same items in the same batches, so that two equal models
  measure as exactly equal.
- Only what depends on the champion and the item alone may come from ``Scalars``.

A probe module has one function ``run`` of the shape ``Probe``. It is imported when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from guardrails.canonical import digest, encode
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind, Series

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Item = Mapping[str, Any]
"""One line of an item file: at least ``id``; the rest is the probe's business."""

Report = Callable[[float, str], None]
"""Takes the share done of this probe (0..1) and a word for what is going on."""


@dataclass(frozen=True)
class Models:
    """The models side by side, in evaluation mode, with gradients off.

    ``original`` is the model that the workspace began with; None where it is not asked for. It may be
    the same object as ``champion``. ``tokenizer`` is the champion's, None where the model has none.
    """

    candidate: PreTrainedModel
    champion: PreTrainedModel
    original: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase | None
    kind: ModelKind


@dataclass
class Scalars:
    """What the champion scored on items, by probe and by the item's content.

    ``known`` comes from an earlier measurement; ``fresh`` collects everything used now, known or new,
    and is what the next measurement gets. Never holds anything of a candidate.
    """

    known: dict[str, dict[str, float]] = field(default_factory=dict)
    fresh: dict[str, dict[str, float]] = field(default_factory=dict)

    @staticmethod
    def key(probe: str, item: Item) -> str:
        """The name of an item's scalars: the probe and a digest of everything in the item."""
        return f"{probe}/{digest(encode(dict(item))).hex}"

    def get(self, probe: str, item: Item) -> dict[str, float] | None:
        """The champion's scalars on an item, or None where they have to be measured."""
        key = self.key(probe, item)
        found = self.known.get(key, self.fresh.get(key))
        if found is not None:
            self.fresh[key] = found
        return found

    def put(self, probe: str, item: Item, values: dict[str, float]) -> None:
        """Keep what the champion scored on an item."""
        self.fresh[self.key(probe, item)] = dict(values)


class Probe(Protocol):
    """The one function of a probe module."""

    def __call__(
        self,
        items: Sequence[Item],
        models: Models,
        seed: int,
        *,
        suite: str,
        scalars: Scalars,
        report: Report,
    ) -> tuple[Series, ...]:
        """Measure ``items`` (never empty, ids distinct) and return series named after ``suite``."""


PROBES: dict[str, str] = {
    "distribution": "sandbox.worker.probes.distribution",
    "preference": "sandbox.worker.probes.preference",
    "episodes": "sandbox.worker.probes.episodes",
    "adaptation": "sandbox.worker.probes.adaptation",
    "actions": "sandbox.worker.probes.actions",
    "triggers": "sandbox.worker.probes.triggers",
    "continuations": "sandbox.worker.probes.continuations",
    "bias": "sandbox.worker.probes.bias",
    "elicitation": "sandbox.worker.probes.elicitation",
    "demonstrations": "sandbox.worker.probes.demonstrations",
    "trajectories": "sandbox.worker.probes.trajectories",
    "choice": "sandbox.worker.probes.choice",
    "written": "sandbox.worker.probes.written",
    "games": "sandbox.worker.probes.games",
    "tools": "sandbox.worker.probes.tools",
    "noise": "sandbox.worker.probes.noise",
}
"""Probe name in a request → module whose ``run`` measures it."""


def load_probe(name: str) -> Probe:
    """The probe of that name; raises InvalidInputError where there is none."""
    if name not in PROBES:
        raise InvalidInputError(
            f"no probe is called {name!r:.40}", hint=f"known: {', '.join(sorted(PROBES))}"
        )
    probe: Probe = importlib.import_module(PROBES[name]).run
    return probe
