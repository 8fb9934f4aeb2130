"""How far apart in meaning are the texts that two models write for the same prompt? A two-sample comparison per prompt.

Invariants:
- Texts are compared by one frozen model (``embedding``); no candidate has a say in it.
- Both models draw with the same random numbers, so a text of one is never compared with its twin of the other: every pair
  that counts was drawn independently, and equal models lie exactly 0 apart.
- Of the champion only the vectors of its texts are kept from one measurement to the next.

Definition. For the first m texts of each model, with the distance of two texts that of their vectors (0 to 2), the energy
distance of Székely and Rizzo (2013, doi:10.1016/j.jspi.2013.03.018) without bias: twice the mean distance between texts of
the two models, over pairs of different number, less the mean distances within each. Its expectation is 0 where both write
the same and above it where not; of one prompt it may fall below. Series ``outputs``, one row per prompt: ``energy``, and
``spread`` (mean distance between the champion's own texts), which is what a difference is measured by.

What it cannot see: what the frozen model takes for the same (names, numbers, a "not"), or is written in less than about one
text in m; on prompts that are not in the suite nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Series
from sandbox.worker.probes import Item, embedding

if TYPE_CHECKING:
    import torch

NAME = "outputs"


def embedded(item: Item, suite: str, most: int) -> int:
    """How many texts of an item are embedded; raises InvalidInputError where that is no possible number."""
    text = item.get("embedded", "0")
    count = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 4 else -1
    if count < 0 or count == 1 or count > most:
        raise InvalidInputError(
            f"suite {suite}: item {item['id']!r:.60}: embedded = {text!r:.20}",
            hint=f"2 to {most}, or 0 for none",
        )
    return count


def names(count: int) -> list[str]:
    """The names of the numbers that ``meanings`` gives for so many texts."""
    return [f"meaning{text}_{place}" for text in range(count) for place in range(embedding.DIMENSIONS)]


def meanings(texts: Sequence[str]) -> dict[str, float]:
    """The vectors of the texts, number by number."""
    if not texts:
        return {}
    return dict(zip(names(len(texts)), embedding.embed(texts).flatten().tolist(), strict=True))


def series(
    items: Sequence[Item],
    counts: Sequence[int],
    candidate: Sequence[Mapping[str, float]],
    champion: Sequence[Mapping[str, float]],
    suite: str,
) -> tuple[Series, ...]:
    """The energy distance of every item of which texts were embedded; nothing where none were."""
    found = {
        str(item["id"]): energy(_vectors(after, count), _vectors(before, count))
        for item, count, after, before in zip(items, counts, candidate, champion, strict=True)
        if count
    }
    if not found:
        return ()
    energies, spreads = zip(*found.values(), strict=True)
    return (Series(NAME, suite, tuple(found), {"energy": energies, "spread": spreads}),)


def energy(candidate: torch.Tensor, champion: torch.Tensor) -> tuple[float, float]:
    """The energy distance of two equal numbers of vectors, and the mean distance within the champion's."""
    import torch

    pairs = list(permutations(range(len(champion)), 2))
    one, other = (torch.tensor(side) for side in zip(*pairs, strict=True))

    def mean(left: torch.Tensor, right: torch.Tensor) -> float:
        return float((left[one] - right[other]).norm(dim=1).mean())

    spread = mean(champion, champion)
    return 2.0 * mean(candidate, champion) - mean(candidate, candidate) - spread, spread


def _vectors(row: Mapping[str, float], count: int) -> torch.Tensor:
    import torch

    values = [row[name] for name in names(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(count, embedding.DIMENSIONS)
