"""How varied the records are, and how far from the model's own pool of training records. Exact numbers.

Invariants:
- Sets of different size are compared fairly: distinct pairs are counted in draws of one size (rarefaction,
  Hurlbert 1971, doi:10.2307/1934145), as an expectation over all draws and not by drawing.
- A set that equals the pool differs from it by exactly 0.
- What is too small to say is left out, so that no policy can pass on it.

Words are lower-case without punctuation, pairs are of neighbouring words within a record.

Facts: ``data.distinct_2`` and ``data.pool_distinct_2`` (expected share of distinct pairs among ``DRAWN`` drawn ones),
``data.entropy`` and ``data.pool_entropy`` (bits per word, Shannon with the correction of Miller and Madow),
``data.shift_js`` (bits, Jensen-Shannon between the word frequencies of the two; words that the pool has fewer than
``COMMON`` times are one class, those that it does not have are another), ``data.shift_new_words`` (share of the
records' words that the pool does not have).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from guardrails.canonical import decimal
from sandbox.worker.data import Line, words

DRAWN = 1000
COMMON = 5
_RARE, _NEW = " rare", " new"  # no word begins with a space


def facts(lines: Sequence[Line], pool: Sequence[Line] | None) -> dict[str, str]:
    """What can be said of the records, and of them against the pool where there is one."""
    spoken = [words(line.text) for line in lines]
    found = _diversity(spoken, "")
    if pool is None:
        return found
    theirs = [words(line.text) for line in pool]
    return found | _diversity(theirs, "pool_") | _shift(spoken, theirs)


def distinct_among(counts: Sequence[int], drawn: int) -> float:
    """Expected number of kinds among ``drawn`` things drawn without replacement; ``counts`` are of each kind."""
    total = sum(counts)
    if drawn > total:
        raise ValueError(f"{drawn} cannot be drawn from {total}")
    return math.fsum(1.0 - _never(total, count, drawn) for count in counts)


def entropy(counts: Sequence[int]) -> float:
    """Bits: Shannon entropy of the frequencies plus (kinds - 1) / 2n nats, for what a sample misses."""
    total = sum(counts)
    plain = -math.fsum(count / total * math.log2(count / total) for count in counts)
    return plain + (len(counts) - 1) / (2 * total * math.log(2.0))


def jensen_shannon(one: Counter[str], other: Counter[str]) -> float:
    """Bits between two sets of frequencies: 0 for equal ones, 1 for disjoint ones."""
    first, second = sum(one.values()), sum(other.values())
    parts = []
    for kind in one.keys() | other.keys():
        p, q = one[kind] / first, other[kind] / second
        middle = (p + q) / 2
        parts += [share / 2 * math.log2(share / middle) for share in (p, q) if share]
    return min(1.0, max(0.0, math.fsum(parts)))


def _diversity(spoken: Sequence[Sequence[str]], whose: str) -> dict[str, str]:
    pairs = Counter(pair for row in spoken for pair in pairwise(row))
    if pairs.total() < DRAWN:
        return {}
    kinds = Counter(word for row in spoken for word in row)
    distinct = distinct_among(sorted(pairs.values()), DRAWN) / DRAWN
    return {
        f"data.{whose}distinct_2": decimal(distinct),
        f"data.{whose}entropy": decimal(entropy(sorted(kinds.values()))),
    }


def _shift(spoken: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> dict[str, str]:
    pool = Counter(word for row in theirs for word in row)
    mine = Counter(word for row in spoken for word in row)
    if min(pool.total(), mine.total()) < DRAWN:
        return {}
    new = sum(count for word, count in mine.items() if word not in pool)
    return {
        "data.shift_js": decimal(jensen_shannon(_classed(mine, pool), _classed(pool, pool))),
        "data.shift_new_words": decimal(new / mine.total()),
    }


def _classed(counts: Counter[str], pool: Counter[str]) -> Counter[str]:
    classed: Counter[str] = Counter()
    for word, count in counts.items():
        classed[word if pool[word] >= COMMON else _RARE if word in pool else _NEW] += count
    return classed


def _never(total: int, count: int, drawn: int) -> float:
    """Probability that a kind is not among the drawn ones: C(total - count, drawn) / C(total, drawn)."""
    if total - count < drawn:
        return 0.0
    if count <= 32:  # the product is exact; factorials of large numbers lose digits to cancellation
        return math.prod((total - drawn - step) / (total - step) for step in range(count))
    return math.exp(
        math.lgamma(total - count + 1) - math.lgamma(total - count - drawn + 1)
        + math.lgamma(total - drawn + 1) - math.lgamma(total + 1)
    )  # fmt: skip
