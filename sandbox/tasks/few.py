"""Crossed controls after a few demonstrations: how much a model makes of little, having seen others walk.

Invariants:
- Records are recordings of a walker who is clumsy: three of ten actions are chosen at random, and nobody says which, nor
  whether a walk ended well. No record says what would have been right.
- Both models get the same short training on ``SHOWN`` careful demonstrations of private levels, then play others (probe
  ``adaptation``). The demonstrations are drawn anew for each measurement, so that nobody can train on them.
"""

from __future__ import annotations

import random
from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.tasks import levels as shared
from sandbox.worker.environments import lava, world

KIND = ModelKind.LAM
CROSSED = "@RLF"
CLUMSY = 0.3
SHOWN, STEPS, BATCH, RATE = 12, 15, 32, 3e-4


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Training levels with a clumsy walk through each: the same for every workspace."""
    found = [text + CROSSED for text in shared.training_levels("lava")]
    return [
        {"id": world.level_id(text), "layout": text, "actions": clumsy_walk(text), "family": "crossed"}
        for text in found
    ]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """``few-adaptation``: held-out levels after the demonstrations. ``few-states``: states in them, for drift."""
    found = [text + CROSSED for text in shared.private_levels("lava", model.items + SHOWN, draw)]
    items = shared.few_examples("crossed", found[:SHOWN], found[SHOWN:], steps=STEPS, batch=BATCH, lr=RATE)
    states = shared.states(found[SHOWN:], model.items * shared.STATES_PER_ITEM, draw)
    return [Suite("few-adaptation", "adaptation", items), Suite("few-states", "actions", states)]


def clumsy_walk(text: str) -> str:
    """What a walker says who means well and errs at random, to the end of the episode."""
    draw = random.Random(f"clumsy:{text}")  # noqa: S311 - a reproducible draw, not a secret
    level = world.parse_level(text)
    now, said, way = level.start, "", ""
    while len(said) < lava.MAX_STEPS:
        way = way or world.plan(level, start=now) or ""
        done = way[:1] or "L"
        if draw.random() < CLUMSY:
            done = draw.choice(lava.ACTIONS)
        way = way[1:] if way[:1] == done else ""
        now, event = world.advance(level, now, done)
        said += level.says(done)
        if event == "goal" or world.ends(level, event):
            break
    return said
