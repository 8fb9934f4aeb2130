"""Records that say what an evaluation item says, in other words: overlap that runs of equal words cannot see.

Invariants:
- Which records are looked at follows from the measurement's seed, which nobody could know when they were written.
- Texts are compared by one frozen model (``embedding``); no candidate has a say in it.
- A record that is near to everything, or an item that everything is near to, is not near for that reason.

Definition. ``cos`` is the product of two texts' vectors. A record and an item are as near as ``cos`` less the mean of two
numbers: the mean ``cos`` of the item with the ``NEIGHBOURS`` other items that are nearest to it, and the same of the record
with the items nearest to it apart from this one (half of CSLS, Conneau et al. 2018, arXiv:1710.04087). A record overlaps if
it lies above ``NEAR`` with any item.

Measured, on 30 records of the three shipped books put in other words by hand and 1,500 further records of these books, each
against 220 items of its book (``tests/test_records_meaning.py``): ``FOUND`` of the 30 lie above ``NEAR``, and ``ALARMS`` of
the 1,500, most of which do say nearly the same. Plain ``cos`` at as many alarms finds 10 or 11. So a text that was put in
other words with care passes half the time; a set of them does not.

Facts: ``data.meaning_looked`` (records looked at; those of fewer than ``LEAST_WORDS`` words tell nothing and are left out)
and ``data.overlap_meaning``. With fewer than ``NEIGHBOURS`` + 2 items that are texts, neither.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sandbox.worker.data import Line, words
from sandbox.worker.probes import Item, embedding
from sandbox.worker.probes.records_quality import Census

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 5
NEAR = 0.23
FOUND, ALARMS = 15, 11
LEAST_WORDS = 5


def look(lines: Sequence[Line], suites: Sequence[Sequence[Item]], count: int, seed: int) -> Census:
    """Look at ``count`` records at most, drawn by the seed; ``suites`` are the items that they must not repeat."""
    named = {text: str(item["id"]) for items in suites for item in items for text in _texts(item)}
    texts = sorted(named)
    if len(texts) < NEIGHBOURS + 2:
        return Census()
    long_enough = [line for line in lines if len(words(line.text)) >= LEAST_WORDS]
    order = random.Random(f"{seed}/meaning")  # noqa: S311 - a draw, no secret
    drawn = order.sample(long_enough, min(count, len(long_enough)))
    found = Census({"data.meaning_looked": str(len(drawn))})
    near = dict(
        zip((line.place for line in drawn), nearest([line.text for line in drawn], texts), strict=True)
    )

    def why(line: Line) -> str:
        score, item = near[line.place]
        return f"{score:.2f} near item {named[texts[item]]}"

    found.add("overlap_meaning", [line for line in drawn if near[line.place][0] > NEAR], why)
    return found


def nearness(texts: Sequence[str], items: Sequence[str]) -> list[float]:
    """How near each text is to the item that it is nearest to, by the definition above."""
    return [score for score, _ in nearest(texts, items)]


def nearest(texts: Sequence[str], items: Sequence[str]) -> list[tuple[float, int]]:
    """How near each text is to the item that it is nearest to, and which that is, by its place."""
    if not texts:
        return []
    mine, theirs = embedding.embed(texts), embedding.embed(items)
    among = theirs @ theirs.T
    among.fill_diagonal_(-1.0)
    crowd = among.topk(NEIGHBOURS, 1).values.mean(1)
    close = mine @ theirs.T
    best = (close - (crowd[None] + _others(close)) / 2).max(1)
    return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))


def _others(close: torch.Tensor) -> torch.Tensor:
    """For each pair: mean nearness of the record to the items that it is nearest to, this one left out."""
    import torch

    top = close.topk(NEIGHBOURS + 1, 1).values
    total, last = top.sum(1, keepdim=True), top[:, -1:]
    return torch.where(close >= last, total - close, total - last) / NEIGHBOURS


def _texts(item: Item) -> list[str]:
    """What an item says: a text or a request, where it has one."""
    values = (item.get(name) for name in ("text", "prompt"))
    return [value for value in values if isinstance(value, str) and len(words(value)) >= LEAST_WORDS]
