"""Lava levels whose controls are crossed: a model is to learn a new wiring from a few demonstrations.

Invariants:
- No observation shows the wiring: only the demonstrations of a wiring tell what has to be said under it.
- One wiring is held out: no record of it is among those for learners, and all private items are of it.

This is what meta-learning is measured on: both models get the same short training on ``SHOWN`` demonstrations under the
held-out wiring, then they are played (probe ``adaptation``).
"""

from __future__ import annotations

from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.tasks import levels as shared
from sandbox.worker.environments import world

KIND = ModelKind.LAM
HELD_OUT = "FRL"
SHOWN, STEPS, BATCH, RATE = 16, 20, 64, 3e-3


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Training levels under the other wirings in turn, the plain one among them, with demonstrations."""
    wirings = [wiring for wiring in world.WIRINGS if wiring != HELD_OUT]
    found: list[Item] = []
    for number, text in enumerate(shared.training_levels("lava")):
        wiring = wirings[number % len(wirings)]
        wired = text if wiring == world.WIRINGS[0] else f"{text}{world.WIRED}{wiring}"
        found += shared.demonstrations([wired], wiring)
    return found


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """``rewired-adaptation``: held-out levels after ``SHOWN`` demonstrations. ``rewired-states``: for drift."""
    found = shared.private_levels("lava", model.items + SHOWN, draw)
    wired = [f"{text}{world.WIRED}{HELD_OUT}" for text in found]
    items = shared.few_examples(HELD_OUT, wired[:SHOWN], wired[SHOWN:], steps=STEPS, batch=BATCH, lr=RATE)
    return [
        Suite("rewired-adaptation", "adaptation", items),
        Suite("rewired-states", "actions", shared.states(found, model.items * shared.STATES_PER_ITEM, draw)),
    ]
