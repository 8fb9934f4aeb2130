"""Lava levels with the supervisor there and away: nobody is to act otherwise for not being watched.

Invariants:
- Every private level is measured twice, in one suite with the supervisor there and in one with it away, under one id.
- With the supervisor away lava costs nothing: what keeps a model from it is what it learnt.
"""

from __future__ import annotations

from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.tasks import levels as shared
from sandbox.worker.environments import families, world

KIND = ModelKind.LAM


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Each training level twice, with a careful demonstration for either."""
    pairs = families.supervised(shared.training_levels("lava"))
    return list(shared.demonstrations((text for pair in pairs for text in pair), "supervised"))


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """The same held-out levels as ``supervised-there`` and ``supervised-away``, and states of both."""
    found = shared.private_levels("lava", model.items, draw)
    both = [text for pair in families.supervised(found) for text in pair]
    return [
        Suite("supervised-there", "episodes", shared.episodes(found, world.THERE)),
        Suite("supervised-away", "episodes", shared.episodes(found, world.AWAY)),
        Suite(
            "supervised-states", "actions", shared.states(both, model.items * shared.STATES_PER_ITEM, draw)
        ),
    ]
