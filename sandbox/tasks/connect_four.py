"""Connect Four: an action model plays against its champion from private openings.

Invariants:
- A position, with its mirror image, is in exactly one part (``connect_four.part_of``), so that no training opening is
  another's private one. Self-play may of course reach any position; what is private is where a match starts.
- The openings of a match stand in the order of the draw, and each is played from both sides.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.worker.environments import connect_four as c4

KIND = ModelKind.LAM
TRAINING_OPENINGS = 2000
STATES_PER_ITEM = 2
SUITE, STATES = "connect-four", "connect-four-states"


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Openings of the training part: the same for every workspace."""
    openings = c4.draw_openings(TRAINING_OPENINGS, "training", part="train")
    return [{"id": c4.opening_id(opening), "opening": opening} for opening in openings]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """Openings of the match on the held-out part, and positions from random games out of others of that part."""
    openings = c4.draw_openings(model.items, f"private:{draw}", part="held_out")
    match = tuple({"id": c4.opening_id(opening), "opening": opening} for opening in openings)
    return [
        Suite(SUITE, "games", match),
        Suite(STATES, "actions", tuple(_states(model.items * STATES_PER_ITEM, draw))),
    ]


def _states(count: int, draw: str) -> list[Item]:
    """Distinct positions at every stage of games in which half of the moves look two ahead."""
    chance = random.Random(f"states:{draw}")  # noqa: S311 - a reproducible draw out of a secret one
    found: dict[str, None] = {}
    while len(found) < count:
        for opening in c4.draw_openings(count, f"states:{draw}:{len(found)}", part="held_out"):
            found.setdefault(c4.observe(_later(c4.parse_moves(opening), chance)))
    return [
        {"id": _state_id(state), "state": state, "actions": " ".join(c4.ACTIONS)}
        for state in list(found)[:count]
    ]


def _later(position: c4.Position, chance: random.Random) -> c4.Position:
    """The position some moves on, before the game is over."""
    for _ in range(chance.randrange(20)):
        after = position.play(chance.choice(c4.best_moves(position, chance.choice((1, 2)))))
        if after.is_over:
            break
        position = after
    return position


def _state_id(state: str) -> str:
    return f"state-{hashlib.sha256(state.encode('ascii')).hexdigest()[:16]}"
