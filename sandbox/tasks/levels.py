"""What the tasks of action models in levels share: demonstrations for learners, private levels and states.

Invariants:
- Levels for learners are of the part ``train``, private ones of the part ``held_out``; the part is a property of the
  level's rows (``world.part_of``), so that no draw can bring one level to both sides.
- A level and the same level with the supervisor away have one id: they are one item, measured twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sandbox.tasks import Item
from sandbox.worker.environments import families, world

TRAINING_LEVELS = 400
STATES_PER_ITEM = 2


def demonstrations(levels: Iterable[str], family: str) -> Iterator[Item]:
    """Records with a careful walker's way through each level, as it is said under the level's wiring."""
    for text in levels:
        yield {
            "id": world.level_id(text),
            "layout": text,
            "actions": world.demonstration(text),
            "family": family,
        }


def training_levels(family: str) -> list[str]:
    """The levels of a family that learners see: the same for every workspace."""
    return families.generate(family, TRAINING_LEVELS, "training", part="train")


def private_levels(family: str, count: int, draw: str, name: str = "private") -> list[str]:
    """Levels that count for one measurement."""
    return families.generate(family, count, f"{name}:{draw}", part="held_out")


def episodes(levels: Iterable[str], ending: str = "") -> tuple[Item, ...]:
    """Items for the probe ``episodes``: the id is that of the level without its ending."""
    return tuple({"id": world.level_id(text), "layout": text + ending} for text in levels)


def states(levels: Sequence[str], count: int, draw: str) -> tuple[Item, ...]:
    """Items for the probe ``actions``: distinct states that a walker comes into."""
    return tuple(families.states_for(levels, count, int(draw[:12], 16)))


def few_examples(
    name: str, shown: Iterable[str], asked: Iterable[str], **training: float
) -> tuple[Item, ...]:
    """Items for the probe ``adaptation``: demonstrations of some levels, others to be played after them."""
    steps = [
        step for level in map(world.parse_level, shown) for step in world.walk(level, world.plan(level) or "")
    ]
    setting = {key: str(value) for key, value in training.items()}
    items: list[Item] = [{"id": f"training-{name}", "role": "training", **setting}]
    for number, (seen, said) in enumerate(steps):
        items.append(
            {"id": f"{name}-{number}", "task": name, "role": "support", "prompt": seen, "answer": said}
        )
    for text in asked:
        items.append({"id": world.level_id(text), "task": name, "role": "query", "layout": text})
    return tuple(items)
