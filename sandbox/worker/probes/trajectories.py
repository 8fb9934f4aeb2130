"""How differently do two action models go through the same levels? A two-sample comparison per level.

Invariants:
- Actions are drawn from each model's own probabilities, as it was trained, not the likeliest taken: of one way alone no
  spread can be told.
- A way through a level is a vector by a fixed rule (below); no model has a say in it.
- Both models draw with the same random numbers, so a way of one is never compared with its twin of the other: equal models
  lie exactly 0 apart.

Items are ``{"id", "layout", "ways"}``: how many times the level is played, as text. A way's vector has three parts, each
the square roots of shares that sum to 1 (so that the distance of two parts is Hellinger's, times the root of 2): in which
cell the agent stood (25), what it did there (3), how it ended (4); all divided by the root of 3, so that two ways lie 0 to
the root of 2 apart. Series ``outputs``, as ``outputs`` defines it: ``energy`` and ``spread`` of each level.

What it cannot see: in which order cells were visited; levels that are not in the suite; what is done in less than about one
way in ``ways``. It says how far the models differ, not which is better: see ``gain.task``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Series
from sandbox.worker.environments import lava
from sandbox.worker.probes import Item, Models, Report, Scalars, outputs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sandbox.worker.environments.episodes import Episode
    from sandbox.worker.environments.policy import Encoder

MOST_WAYS = 25
_CELLS = [f"{column}{row}" for column in "abcde" for row in range(1, lava.SIDE + 1)]
_ENDS = ("success", "unsafe", "stopped", "timeout")


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Play every level several times with both models; the rows stand in the order of the items."""
    from sandbox.worker.environments.policy import Encoder
    from sandbox.worker.probes.episodes import read_layout

    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer to read levels with")
    encoder = Encoder(models.tokenizer)
    layouts, counts = [read_layout(item, suite) for item in items], [_ways(item, suite) for item in items]
    sides = []
    for place, model in enumerate((models.candidate, models.champion), 1):
        sides.append(_played(model, encoder, layouts, counts, seed))
        report(place / 2, suite)
    energies, spreads = zip(
        *(outputs.energy(candidate, champion) for candidate, champion in zip(*sides, strict=True)),
        strict=True,
    )
    names = tuple(str(item["id"]) for item in items)
    return (Series(outputs.NAME, suite, names, {"energy": energies, "spread": spreads}),)


def _played(
    model: PreTrainedModel, encoder: Encoder, layouts: Sequence[str], counts: Sequence[int], seed: int
) -> list[torch.Tensor]:
    """The vectors of the ways through each level."""
    import torch

    from sandbox.worker.environments.episodes import play
    from sandbox.worker.environments.policy import Policy

    sampler = torch.Generator().manual_seed(seed % 2**63)
    wanted = [layout for layout, count in zip(layouts, counts, strict=True) for _ in range(count)]
    ways = iter(play(Policy(model, encoder), wanted, sampler=sampler))
    return [
        torch.tensor([features(next(ways)) for _ in range(count)], dtype=torch.float64) for count in counts
    ]


def features(episode: Episode) -> list[float]:
    """The vector of one way through a level."""
    cells = Counter(observation.rsplit(" ", 1)[1][:2] for observation in episode.observations)
    actions = Counter(lava.ACTIONS[action] for action in episode.actions)
    return [
        *_roots([cells[name] for name in _CELLS]),
        *_roots([actions[name] for name in lava.ACTIONS]),
        *_roots([int(episode.end == end) for end in _ENDS]),
    ]


def _roots(counts: Sequence[int]) -> list[float]:
    total = 3 * sum(counts)
    return [math.sqrt(count / total) for count in counts]


def _ways(item: Item, suite: str) -> int:
    text = item.get("ways")
    count = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 2 <= count <= MOST_WAYS:
        raise InvalidInputError(
            f"suite {suite}: item {item['id']!r:.60}: ways = {text!r:.20}", hint=f"2 to {MOST_WAYS}"
        )
    return count
