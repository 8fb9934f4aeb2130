"""What a check is: a named way to read one number with its interval out of the measurements.

Invariants:
- A check has no opinion and no limit: the policy's rule has those.
- A check is a pure function of measurements, facts and a confidence.
- What is absent, not finite, repeated or out of its range raises NotMeasuredError; it is never
  replaced by a default.
- Parameters are a frozen dataclass; the policy's JSON Schema is generated from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guardrails.errors import NotMeasuredError
from guardrails.records import Measurements, ModelKind, Series
from guardrails.statistics import Estimate

Facts = Mapping[str, str]
BothBounds = Callable[[int, float], tuple[float, float]]


@dataclass(frozen=True)
class Metric:
    """One number that a check can yield.

    ``exact``: no sampling, so no *n* and no bound. ``low`` and ``high``: the range it can take.
    ``best``: the lowest upper and the highest lower bound that *n* items can reach at a confidence,
    where that does not depend on the data; None where it does.
    """

    doc: str
    unit: str = ""
    exact: bool = False
    low: float = -math.inf
    high: float = math.inf
    best: BothBounds | None = None


@dataclass(frozen=True)
class Evidence:
    """What a check may read: the numbers, and facts that the gate established."""

    measurements: Measurements
    facts: Facts

    def series(self, probe: str, suite: str) -> Series:
        """One probe's series on a suite; raises NotMeasuredError where it is absent or empty."""
        found = self.measurements.find(probe, suite)
        if found is None or not found.items:
            key = _ASKED_FOR.get(suite)
            how = (
                f"set `{key}` in [models.NAME] of interlock.toml"
                if key
                else "add the suite to the model's configuration"
            )
            raise NotMeasuredError(
                f"'{probe}' was not measured on suite '{suite}'", hint=f"{how} and measure again"
            )
        return found

    def text(self, name: str) -> str:
        """A fact as it was established; raises NotMeasuredError where it was not."""
        text = self.facts.get(name)
        if not text:
            raise NotMeasuredError(f"the fact '{name}' was not established")
        return text

    def count(self, name: str) -> int:
        """A fact that counts something."""
        text = self.text(name)
        if not (text.isascii() and text.isdigit()) or len(text) > 15:
            raise NotMeasuredError(f"the fact '{name}' is not a count: {text!r:.40}")
        return int(text)

    def number(self, name: str) -> float:
        """A fact that is a finite number of at least 0."""
        text = self.text(name)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise NotMeasuredError(f"the fact '{name}' is not a finite number of at least 0: {text!r:.40}")
        return value


# Suites that are measured only where a key of the model's configuration asks for them.
_ASKED_FOR = {
    "triggers": "triggers = 4", "continuations": "continuations = 220", "continuations-harmful": "continuations = 220",
    "harmless-requests": "harmless = 220", "exchanged-groups": "exchanged = 220", "noise": "noise = 40",
}  # fmt: skip


@dataclass(frozen=True)
class NoParams:
    """For checks without parameters."""


@dataclass(frozen=True)
class SuiteParams:
    """For checks on one suite.

    Attributes:
        suite: Name of the suite of items to read.
    """

    suite: str


@dataclass(frozen=True)
class Check:
    """A named check: what it reads, which metrics it yields, for which kinds of model.

    ``measure(metric, params, evidence, confidence)`` yields the estimate. ``elsewhere`` says, where the check is not for
    every kind, what there is for the others, or why there is nothing.
    """

    name: str
    doc: str
    params: type
    metrics: Mapping[str, Metric]
    measure: Callable[[str, Any, Evidence, float], Estimate]
    kinds: frozenset[ModelKind] = frozenset(ModelKind)
    elsewhere: str = ""

    def estimate(
        self, metric: str, params: Any, measurements: Measurements, facts: Facts, confidence: float
    ) -> Estimate:
        """The metric's value and interval at ``confidence``; raises NotMeasuredError."""
        return self.measure(metric, params, Evidence(measurements, facts), confidence)


def column(series: Series, name: str, *, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
    """A column of finite numbers within a range; raises NotMeasuredError naming the first bad item."""
    where = f"column '{name}' of '{series.probe}' on suite '{series.suite}'"
    values = series.columns.get(name)
    if values is None:
        raise NotMeasuredError(f"{where} was not measured")
    # A finite sum has no NaN and no infinity in it, so the least and the largest value say the rest.
    whole = bool(values) and len(values) == len(series.items) and math.isfinite(sum(values))
    if whole and low <= min(values) and max(values) <= high:
        return values
    for item, value in zip(series.items, values, strict=True):
        if not math.isfinite(value):
            raise NotMeasuredError(f"{where}: item {item:.40} is {value}, not a finite number")
        if not low <= value <= high:
            raise NotMeasuredError(f"{where}: item {item:.40} is {value}, outside {low}..{high}")
    return values


def distinct(series: Series) -> Series:
    """The series, if no item stands in it twice: a repeated item would feign a larger *n*."""
    if len(set(series.items)) != len(series.items):
        seen: set[str] = set()
        twice = next(item for item in series.items if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise NotMeasuredError(f"'{series.probe}' on suite '{series.suite}': item {twice:.40} stands twice")
    return series


def flags(series: Series, name: str) -> tuple[bool, ...]:
    """A column of 0 and 1."""
    values = column(series, name, low=0.0, high=1.0)
    for item, value in zip(series.items, values, strict=True):
        if value not in (0.0, 1.0):
            raise NotMeasuredError(
                f"column '{name}' of '{series.probe}' on suite '{series.suite}': "
                f"item {item:.40} is {value}, neither 0 nor 1"
            )
    return tuple(value == 1.0 for value in values)
