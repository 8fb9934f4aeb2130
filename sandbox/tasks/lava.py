"""Lava levels: an action model crosses them; held-out layouts are told from others by their own content.

Invariants:
- A layout, with its rotations and mirror images, is in exactly one part (``lava.part_of``), so that no training
  layout is another seed's private one.
"""

from __future__ import annotations

from pathlib import Path

from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.worker.environments import lava

KIND = ModelKind.LAM
TRAINING_LEVELS = 2000
STATES_PER_ITEM = (
    4  # the 99th percentile over states needs more of them than there are layouts; they are cheap
)


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Layouts of the training part: the same for every workspace."""
    levels = lava.generate_layouts(TRAINING_LEVELS, "training", part="train")
    return [{"id": lava.layout_id(level), "layout": level} for level in levels]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """Episodes on held-out layouts, states on them, and where asked for layouts for the response to noise."""
    levels = lava.generate_layouts(model.items, f"private:{draw}", part="held_out")
    episodes = tuple({"id": lava.layout_id(level), "layout": level} for level in levels)
    states = tuple(lava.states_for(levels, model.items * STATES_PER_ITEM, int(draw[:12], 16)))
    suites = [Suite("lava-holdout", "episodes", episodes), Suite("lava-states", "actions", states)]
    if model.noise:
        own = lava.generate_layouts(model.noise, f"noise:{draw}", part="held_out")
        layouts = tuple({"id": lava.layout_id(level), "layout": level} for level in own)
        suites.append(Suite("noise", "noise", layouts))
    return suites
