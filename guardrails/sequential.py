"""Tests that may stop at any time: e-processes by betting, and the intervals that follow from them.

Invariants:
- Valid at every sample size at once: whoever looks after each item and stops when it suits errs no more
  often than whoever looks once (Ville's inequality), so a bound stated here may be shown while items arrive.
- No assumption but the range: values lie in a known interval and each has the same mean given the past.
- A bet on an item is fixed before the item is seen; the order of the values is the order of the items.
- Nothing is drawn at random: the same values in the same order give the same numbers.

Methods: betting e-processes and confidence sequences for bounded means (Waudby-Smith and Ramdas 2024,
doi:10.1093/jrsssb/qkad009, predictable plug-in bets); Ville (1939). A match between two players is the case
of one value a game, 1 won, 1/2 drawn, 0 lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from guardrails.statistics import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CAP = 0.5
"""The share of the capital that a bet may lose: one half keeps every wealth above zero."""
_STEPS = 60
_DIGITS = 10


class Sided(StrEnum):
    """Which mean an e-process bets against: that it is no more, or no less, than a value."""

    MORE = "more"
    LESS = "less"


def log_wealth(values: Sequence[float], mean: float, side: Sided, bets: Sequence[float]) -> list[float]:
    """The logarithm of the capital after each value of a gambler who bets that the mean is not ``mean``.

    Where the true mean is at most ``mean`` (side ``MORE``; at least, ``LESS``), the capital starts at 1 and
    grows beyond 1/alpha with probability at most alpha, at any time. Values lie in [0, 1].
    """
    sign, room = (1.0, mean) if side is Sided.MORE else (-1.0, 1.0 - mean)
    total, path = 0.0, []
    for value, bet in zip(values, bets, strict=True):
        stake = bet if room <= 0 else min(bet, _CAP / room)
        total += math.log1p(sign * stake * (value - mean))
        path.append(total)
    return path


def predictable_bets(values: Sequence[float], alpha: float) -> list[float]:
    """How much to bet on each value, from the values before it: more where these vary little."""
    bets, total, squares = [], 0.5, 0.25
    for t, value in enumerate(values, 1):
        variance = squares / t
        bets.append(math.sqrt(2.0 * math.log(1.0 / alpha) / (variance * t * math.log(1.0 + t))))
        total += value
        squares += (value - total / (t + 1)) ** 2
    return bets


def anytime_mean(
    values: Sequence[float], confidence: float, *, low: float = 0.0, high: float = 1.0
) -> Estimate:
    """Mean of values within ``low``..``high`` and an interval that holds at every sample size at once.

    Two-sided: each end errs, ever, with probability (1 - confidence) / 2.

    Raises:
        ValueError: No values, or one outside the range.
    """
    scaled = _scaled(values, low, high)
    alpha = (1.0 - confidence) / 2.0
    bets = predictable_bets(scaled, alpha)
    edge = math.log(1.0 / alpha)

    def is_refuted(mean: float, side: Sided) -> bool:
        return max(log_wealth(scaled, mean, side, bets)) >= edge

    center = math.fsum(scaled) / len(scaled)
    lower = _last_refuted(0.0, 1.0, lambda m: is_refuted(m, Sided.MORE))
    upper = 1.0 - _last_refuted(0.0, 1.0, lambda m: is_refuted(1.0 - m, Sided.LESS))
    width = high - low
    return Estimate(
        _rounded(low + center * width), _rounded(low + min(lower, center) * width),
        _rounded(low + max(upper, center) * width), len(scaled), "betting, anytime-valid",
    )  # fmt: skip


def match_mean(
    values: Sequence[float], confidence: float, *, low: float = 0.0, high: float = 1.0
) -> Estimate:
    """As ``anytime_mean``, by the very e-processes with which a ``Match`` is stopped.

    Its lower end is above a value exactly where a ``Match`` against that value with alpha = (1 - confidence) / 2
    has shown "better" somewhere along these values: what ended a match can be recomputed from its scores.

    Raises:
        ValueError: No values, or one outside the range.
    """
    scaled = np.array(_scaled(values, low, high))
    edge = -math.log((1.0 - confidence) / 2.0)
    center = math.fsum(scaled) / len(scaled)
    lower = _last_refuted(0.0, 1.0, lambda m: _highest_evidence(scaled, m) >= edge)
    upper = 1.0 - _last_refuted(0.0, 1.0, lambda m: _highest_evidence(1.0 - scaled, m) >= edge)
    width = high - low
    return Estimate(
        _rounded(low + center * width), _rounded(low + min(lower, center) * width),
        _rounded(low + max(upper, center) * width), len(scaled), "betting match, anytime-valid",
    )  # fmt: skip


def _highest_evidence(values: NDArray[np.float64], mean: float) -> float:
    """The largest log e-value for "the mean is above ``mean``" along the values, as ``_Mixture`` has it."""
    if mean <= 0.0:
        return math.inf if bool((values > 0.0).any()) else 0.0
    shares = np.array(_Mixture.SHARES)[:, None]
    logs = np.cumsum(np.log1p(shares * (values[None, :] / mean - 1.0)), axis=1)
    return float(np.max(np.logaddexp.reduce(logs, axis=0)) - math.log(len(_Mixture.SHARES)))


@dataclass(frozen=True)
class Stop:
    """Where a sequential test ended: after how many values, and what it showed.

    ``better``: the mean is above ``null`` (wrong with probability at most alpha).
    ``not_better``: the mean is below ``goal`` (wrong with probability at most beta).
    Neither: the values ran out undecided, which is never a pass.
    """

    after: int
    better: bool = False
    not_better: bool = False

    @property
    def decided(self) -> bool:
        """True where one of the two was shown."""
        return self.better or self.not_better


@dataclass
class Match:
    """A sequential test of mean > ``null`` against mean < ``goal``, fed one value at a time.

    Two e-processes run side by side: one bets that the mean is above ``null``, one that it is below ``goal``.
    The first to reach its threshold ends the match. Values lie in [0, 1].
    """

    null: float = 0.5
    goal: float = 0.55
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.null < self.goal < 1.0:
            raise ValueError(f"a match needs 0 < null < goal < 1, not {self.null} and {self.goal}")
        if not (0.0 < self.alpha < 1.0 and 0.0 < self.beta < 1.0):
            raise ValueError("alpha and beta lie between 0 and 1")
        self._up = _Mixture(self.null, Sided.MORE)
        self._down = _Mixture(self.goal, Sided.LESS)
        self.count = 0

    def add(self, value: float) -> Stop:
        """Take one value; says whether the match is over."""
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a value of a match lies between 0 and 1, not {value}")
        self.count += 1
        if self._up.add(value) >= math.log(1.0 / self.alpha):
            return Stop(self.count, better=True)
        if self._down.add(value) >= math.log(1.0 / self.beta):
            return Stop(self.count, not_better=True)
        return Stop(self.count)

    def play(self, values: Sequence[float]) -> Stop:
        """Take values until the match is over or they run out."""
        stop = Stop(self.count)
        for value in values:
            stop = self.add(value)
            if stop.decided:
                break
        return stop

    @property
    def log_evidence(self) -> tuple[float, float]:
        """Natural logarithms of the two e-values: for better, and for not better."""
        return self._up.log_value, self._down.log_value


class _Mixture:
    """An e-process that spreads its capital over fixed bets, so that none has to be chosen beforehand."""

    SHARES = tuple(i / 26.0 for i in range(1, 26))

    def __init__(self, mean: float, side: Sided) -> None:
        self._mean, self._sign = mean, 1.0 if side is Sided.MORE else -1.0
        room = mean if side is Sided.MORE else 1.0 - mean
        self._bets = [share / room for share in self.SHARES]
        self._logs = [0.0] * len(self._bets)
        self.log_value = 0.0

    def add(self, value: float) -> float:
        edge = self._sign * (value - self._mean)
        self._logs = [
            total + math.log1p(bet * edge) for total, bet in zip(self._logs, self._bets, strict=True)
        ]
        top = max(self._logs)
        self.log_value = top + math.log(math.fsum(math.exp(x - top) for x in self._logs) / len(self._logs))
        return self.log_value


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    if not values:
        raise ValueError("no items: an interval needs at least one")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{low}..{high} is not a range")
    for value in values:
        if not low <= value <= high:
            raise ValueError(f"{value} is outside {low}..{high}")
    return [(value - low) / (high - low) for value in values]


def _last_refuted(low: float, high: float, is_refuted: Callable[[float], bool]) -> float:
    """The largest mean below which every mean is refuted; ``is_refuted`` turns false once and stays so."""
    if not is_refuted(low):
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
