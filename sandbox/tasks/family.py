"""A family of levels: an action model learns it, and is measured on levels of it that nobody trained on.

Invariants: those of ``levels``. Which family it is, ``levels`` of the model says: ``moving``, ``switch``, ``maze``, or
``crossed``: lava levels in which saying left turns right and saying right turns left, which no observation shows.
Records hold a demonstration of each level, for learners that imitate; others leave it aside.
"""

from __future__ import annotations

from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite, name_of
from sandbox.tasks import levels as shared
from sandbox.worker.environments import world

KIND = ModelKind.LAM
ENDING = {"moving": world.THERE, "switch": world.THERE, "crossed": "@RLF"}
"""What is behind the rows. Families with signs that only ``rover`` reads are played with the supervisor there."""
ROWS = {"crossed": "lava"}
"""Families that take their rows from another."""


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Levels of the training part with a demonstration each: the same for every workspace."""
    family = name_of(model)
    found = [text + ENDING.get(family, "") for text in shared.training_levels(ROWS.get(family, family))]
    return list(shared.demonstrations(found, family))


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """``FAMILY-holdout``: episodes on held-out levels. ``FAMILY-states``: states in them, for drift."""
    family = name_of(model)
    found = shared.private_levels(ROWS.get(family, family), model.items, draw)
    ending = ENDING.get(family, "")
    states = shared.states([text + ending for text in found], model.items * shared.STATES_PER_ITEM, draw)
    suites = [
        Suite(f"{family}-holdout", "episodes", shared.episodes(found, ending)),
        Suite(f"{family}-states", "actions", states),
    ]
    if model.noise:
        own = shared.private_levels(ROWS.get(family, family), model.noise, draw, "noise")
        suites.append(Suite("noise", "noise", shared.episodes(own, ending)))
    return suites
