"""Intervals for what was measured: how sure a number is, from the items that it was measured on.

Invariants:
- An interval at ``confidence`` is two-sided: each end errs with probability (1 - confidence) / 2.
- The unit that counts is the item (one text, one layout), never the token: tokens of one text are
  not independent, so every method here clusters by item.
- Intervals for shares and for quantiles never use a normal approximation at the edge: no failure
  in *n* items still leaves an upper bound above zero, and a quantile that *n* cannot resolve has
  an infinite bound.
- The sample size is fixed before measuring and nothing stops early, so the bounds hold as shown.
- Sums are exactly rounded (``math.fsum``) and quantiles rounded to twelve digits, so the same
  numbers give the same interval on every machine. Nothing here draws random numbers.

Methods: one-sample *t*; ratio estimator with linearised variance; Clopper and Pearson (1934);
Woodruff (1952) quantile intervals with the effective sample size of Korn and Graubard (1998).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_

from guardrails.distributions import beta_quantile, normal_quantile, t_quantile

_POWER = 0.8
_SIGN_SHARE = 0.9


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval; ``n`` independent items, 0 where nothing was sampled.

    ``note``: what the number is made of, in words, where the number alone would leave people guessing.
    """

    value: float
    lower: float
    upper: float
    n: int
    method: str
    note: str = ""

    @property
    def is_number(self) -> bool:
        """False where any part is NaN or the value itself is not finite: an error, never a pass."""
        return math.isfinite(self.value) and not math.isnan(self.lower) and not math.isnan(self.upper)


def exact(value: float, note: str = "") -> Estimate:
    """A value with no sampling in it: a census, a count, a reading."""
    return Estimate(value, value, value, 0, "exact", note)


def attempt_alpha(confidence: float, budget: float | None, attempt: int) -> float:
    """The error level that the ``attempt``-th proposal since the last promotion may use.

    The shares ``6 / (pi² k²)`` sum to 1 over all k, so a learner that keeps trying never gets more
    than ``budget`` in total, however often it tries. Without a budget: ``1 - confidence``.
    """
    if attempt < 1:
        raise ValueError(f"attempts count from 1, not {attempt}")
    level = 1.0 - confidence
    return level if budget is None else min(level, budget * 6.0 / (math.pi**2 * attempt**2))


# --- means ---------------------------------------------------------------------------------


def mean_interval(values: Sequence[float], confidence: float) -> Estimate:
    """Mean of one number per item, Student's *t*. Give differences for a paired comparison."""
    n = _count(values)
    mean = math.fsum(values) / n
    spread = _standard_error(values, mean)
    return _around(mean, spread, n, confidence, "t")


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], confidence: float) -> Estimate:
    """Ratio of two totals over the same items (bits per byte), linearised, Student's *t*."""
    n = _count(numerators)
    total = math.fsum(denominators)
    if not total > 0:
        raise ValueError("a ratio needs a denominator above zero")
    ratio = math.fsum(numerators) / total
    scale = total / n
    residuals = [(a - ratio * b) / scale for a, b in zip(numerators, denominators, strict=True)]
    return _around(ratio, _standard_error(residuals, 0.0), n, confidence, "ratio, t")


def minimum_detectable(estimate: Estimate, confidence: float) -> float:
    """The smallest true difference that such a sample would show with 80 % power."""
    if estimate.n < 2:
        return math.inf
    half = (estimate.upper - estimate.lower) / 2.0
    edge = t_quantile(1.0 - (1.0 - confidence) / 2.0, estimate.n - 1)
    return half * (1.0 + t_quantile(_POWER, estimate.n - 1) / edge)


def _around(value: float, spread: float, n: int, confidence: float, method: str) -> Estimate:
    if n < 2:
        return Estimate(value, -math.inf, math.inf, n, method)
    half = t_quantile(1.0 - (1.0 - confidence) / 2.0, n - 1) * spread
    return Estimate(value, value - half, value + half, n, method)


def _standard_error(values: Sequence[float], mean: float) -> float:
    n = len(values)
    if n < 2:
        return math.inf
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


# --- shares --------------------------------------------------------------------------------


def rate_interval(successes: int, n: int, confidence: float) -> Estimate:
    """Share of items, Clopper and Pearson: exact for any n and any share, if anything too wide."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is not a share")
    alpha = (1.0 - confidence) / 2.0
    lower, upper = clopper_pearson(successes, n, alpha)
    return Estimate(successes / n, lower, upper, n, "Clopper-Pearson")


def paired_rate_difference(after: Sequence[bool], before: Sequence[bool], confidence: float) -> Estimate:
    """Share after less share before, on the same items: tight where few items change.

    Only the items that changed carry information. The difference is the share that turned on less
    the share that turned off; each gets a Clopper-Pearson interval, with the error split between
    the two (Bonferroni), so the result is exact-conservative at any n. For non-inferiority.
    """
    on, off, n = _turned(after, before)
    alpha = (1.0 - confidence) / 4.0
    on_lower, on_upper = clopper_pearson(on, n, alpha)
    off_lower, off_upper = clopper_pearson(off, n, alpha)
    value = (on - off) / n
    return Estimate(value, on_lower - off_upper, on_upper - off_lower, n, "paired Clopper-Pearson")


def paired_sign_difference(after: Sequence[bool], before: Sequence[bool], confidence: float) -> Estimate:
    """Share after less share before, on the same items: sharp about the sign. For superiority.

    The difference is the share that changed, times how much more often it changed one way. Given how
    many changed, the direction is the exact sign test (McNemar's), which alone decides the sign, so
    it gets most of the error; exact-conservative at any n.
    """
    on, off, n = _turned(after, before)
    alpha = (1.0 - confidence) / 2.0
    low, high = clopper_pearson(on, on + off, alpha * _SIGN_SHARE) if on + off else (0.0, 1.0)
    few, many = clopper_pearson(on + off, n, alpha * (1.0 - _SIGN_SHARE))
    lean_low, lean_high = 2.0 * low - 1.0, 2.0 * high - 1.0
    lower = lean_low * (few if lean_low > 0 else many)
    upper = lean_high * (many if lean_high > 0 else few)
    return Estimate((on - off) / n, lower, upper, n, "sign test, Clopper-Pearson")


def _turned(after: Sequence[bool], before: Sequence[bool]) -> tuple[int, int, int]:
    """How many items turned on, how many turned off, of how many."""
    on = sum(1 for a, b in zip(after, before, strict=True) if a and not b)
    off = sum(1 for a, b in zip(after, before, strict=True) if b and not a)
    return on, off, _count(after)


def clopper_pearson(successes: float, n: float, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of a share, each erring with probability ``alpha``.

    Takes fractions too: an effective sample size is rarely a whole number.
    """
    lower = 0.0 if successes <= 0 else beta_quantile(alpha, successes, n - successes + 1.0)
    upper = 1.0 if successes >= n else 1.0 - beta_quantile(alpha, n - successes, successes + 1.0)
    return lower, upper


# --- quantiles -----------------------------------------------------------------------------


def quantile_interval(
    values: Sequence[float], clusters: Sequence[str], q: float, confidence: float
) -> Estimate:
    """Quantile of values that come in clusters (tokens in texts).

    The share of values at or below a point is itself a share, so the interval of the quantile is
    read off the order statistics at which that share's exact bounds cross ``q``. The design effect
    of the clusters shrinks the count to the number of independent values that it is worth.
    """
    total = _count(values)
    if len(clusters) != total:
        raise ValueError(f"{total} values in {len(clusters)} clusters: each value needs its own")
    ranked = sorted(values)
    point = ranked[min(total - 1, math.ceil(q * total) - 1)]
    effective, n = _effective_count(values, clusters, point, confidence)
    alpha = (1.0 - confidence) / 2.0
    # Rank i (1-based) is a lower bound when even the upper limit of "share at or below rank i" is
    # under q, and an upper bound when the lower limit of "share strictly below it" exceeds q.
    low = _last_rank(total, lambda i: clopper_pearson(i / total * effective, effective, alpha)[1] <= q)
    below = _last_rank(total, lambda i: clopper_pearson(i / total * effective, effective, alpha)[0] < q)
    lower = ranked[low - 1] if low > 0 else -math.inf
    upper = ranked[below] if below < total else math.inf
    return Estimate(point, min(lower, point), max(upper, point), n, "clustered order statistics")


def _last_rank(total: int, holds: Callable[[int], bool]) -> int:
    """The largest rank in 1..total for which a predicate that turns false once still holds; 0 if none."""
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _effective_count(
    values: Sequence[float], clusters: Sequence[str], point: float, confidence: float
) -> tuple[float, int]:
    """How many independent values the sample is worth at ``point``; and the number of clusters."""
    # Where the largest values tie, "at or below" holds of all of them and "below" has to serve.
    is_inside = [value <= point for value in values]
    if all(is_inside):
        is_inside = [value < point for value in values]
    sizes = Counter(clusters)
    # Few values lie beyond a high quantile, so those are counted and not the many within.
    outside = Counter(compress(clusters, map(not_, is_inside)))
    m, total = len(sizes), float(len(values))
    share = sum(is_inside) / total
    if m < 2:
        return 1.0, m
    if m == len(values):
        return total, m
    if share == 0.0:  # all values are one value, which tells nothing of how tokens of a text agree
        return float(m), m
    residuals = math.fsum((size - outside[name] - share * size) ** 2 for name, size in sizes.items())
    variance = residuals * m / (m - 1) / total**2
    design = max(1.0, variance / (share * (1.0 - share) / total))
    edge = 1.0 - (1.0 - confidence) / 2.0
    few_clusters = (normal_quantile(edge) / t_quantile(edge, m - 1)) ** 2
    return max(1.0, total / design * few_clusters), m


def _count(values: Sequence[object]) -> int:
    n = len(values)
    if n == 0:
        raise ValueError("no items: an interval needs at least one")
    return n
