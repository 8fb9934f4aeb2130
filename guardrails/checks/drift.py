"""Drift: how far the candidate moved from a reference on what should not change.

Invariants:
- Divergences are measured in nats, per token, over whole distributions and not over sampled text. Mean and
  99th percentile are both there because a small mean hides a few violent changes.
- What was known and is lost counts, whatever was learned beside it: averages let gains pay for losses,
  negative flips do not (Yan et al. 2021, arXiv:2011.09161).
- Calibration is read off the likeliest token: its probability against whether it was right.

What these cannot see: a change on texts that no suite holds, or behind a trigger that no item contains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from guardrails.checks.check import Check, Evidence, Metric, NoParams, SuiteParams, column, distinct
from guardrails.checks.outcomes import outcomes, successes
from guardrails.errors import NotMeasuredError
from guardrails.records import ModelKind, Series
from guardrails.sequential import anytime_mean
from guardrails.statistics import (
    Estimate,
    exact,
    mean_interval,
    paired_rate_difference,
    quantile_interval,
    rate_interval,
    ratio_interval,
)

_ROUNDING = -1e-6
_LN2 = math.log(2.0)
_BINS = 10


@dataclass(frozen=True)
class OutputKlParams:
    """Parameters of ``drift.output_kl``.

    Attributes:
        suite: Name of the suite of control items.
        reference: ``champion``: the model in force now. ``original``: the first champion.
    """

    suite: str
    reference: Literal["champion", "original"] = "champion"


def _output_kl(metric: str, params: OutputKlParams, evidence: Evidence, confidence: float) -> Estimate:
    infix = "" if params.reference == "champion" else "_original"
    if metric == "kl_mean":
        series = distinct(evidence.series("distribution", params.suite))
        return mean_interval(column(series, f"kl{infix}_mean", low=_ROUNDING), confidence)
    tokens = evidence.series("distribution_tokens", params.suite)
    values = column(tokens, f"kl{infix}", low=_ROUNDING)
    return quantile_interval(values, tokens.items, 0.99, confidence)


def _bits_per_byte(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    return bits_per_byte_change(evidence, params.suite, confidence)


def bits_per_byte_change(evidence: Evidence, suite: str, confidence: float) -> Estimate:
    """Candidate less champion, total bits over total bytes: below 0 means predicted better."""
    series = distinct(evidence.series("distribution", suite))
    candidate = column(series, "nll_candidate", low=0.0)
    champion = column(series, "nll_champion", low=0.0)
    size = column(series, "bytes", low=1.0)
    bits = [(a - b) / math.log(2.0) for a, b in zip(candidate, champion, strict=True)]
    return ratio_interval(bits, size, confidence)


def _output_js(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    series = distinct(evidence.series("distribution", params.suite))
    values = column(series, "js_mean", low=_ROUNDING, high=_LN2 - _ROUNDING)
    inside = [min(max(value, 0.0), _LN2) for value in values]
    return anytime_mean(inside, confidence, high=_LN2)


def _forgetting(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    found = outcomes(evidence, params.suite)
    if found is not None:
        return _outcomes_lost(metric, found, confidence)
    series = distinct(evidence.series("skill", params.suite))
    tokens = column(series, "tokens", low=1.0)
    if metric == "negative_flips":
        return anytime_mean(_shares(series, column(series, "flips", low=0.0), tokens), confidence)
    after = _shares(series, column(series, "right_candidate", low=0.0), tokens)
    before = _shares(series, column(series, "right_champion", low=0.0), tokens)
    return mean_interval([a - b for a, b in zip(after, before, strict=True)], confidence)


def _outcomes_lost(metric: str, series: Series, confidence: float) -> Estimate:
    after, before = successes(series)
    if metric == "accuracy_delta":
        return paired_rate_difference(after, before, confidence)
    lost = sum(1 for a, b in zip(after, before, strict=True) if b and not a)
    return rate_interval(lost, len(after), confidence)


def _shares(series: Series, counts: tuple[float, ...], tokens: tuple[float, ...]) -> list[float]:
    shares = [count / total for count, total in zip(counts, tokens, strict=True)]
    for item, share in zip(series.items, shares, strict=True):
        if share > 1.0:
            raise NotMeasuredError(
                f"'skill' on suite '{series.suite}': item {item:.40} counts more than its tokens"
            )
    return shares


def _calibration(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    series = distinct(evidence.series("skill", params.suite))
    if metric == "brier_delta":
        after = column(series, "brier_candidate", low=0.0, high=1.0)
        before = column(series, "brier_champion", low=0.0, high=1.0)
        return mean_interval([a - b for a, b in zip(after, before, strict=True)], confidence)
    tokens = column(series, "tokens", low=1.0)
    after_gaps, before_gaps = _gaps(series, "candidate"), _gaps(series, "champion")
    if metric == "overconfidence_delta":
        rows = zip(zip(*after_gaps, strict=True), zip(*before_gaps, strict=True), strict=True)
        return ratio_interval([sum(after) - sum(before) for after, before in rows], tokens, confidence)
    return _expected_calibration_error(after_gaps, tokens, confidence)


def _gaps(series: Series, name: str) -> list[tuple[float, ...]]:
    return [column(series, f"gap{tenth}_{name}") for tenth in range(_BINS)]


def _expected_calibration_error(
    gaps: list[tuple[float, ...]], tokens: tuple[float, ...], confidence: float
) -> Estimate:
    """Naeini et al. 2015: sum over tenths of |confidence - accuracy|, weighted by their tokens.

    Each tenth has an interval at a tenth of the error (Bonferroni); the sum of their extremes bounds the sum.
    """
    each = 1.0 - (1.0 - confidence) / _BINS
    parts = [ratio_interval(gap, tokens, each) for gap in gaps]
    return Estimate(
        value=math.fsum(abs(part.value) for part in parts),
        lower=math.fsum(max(0.0, part.lower, -part.upper) for part in parts),
        upper=math.fsum(max(abs(part.lower), abs(part.upper)) for part in parts),
        n=len(tokens),
        method="tenths, Bonferroni",
    )


_GENERATION = {"length_delta": "length", "distinct_2_delta": "distinct_2", "entropy_delta": "entropy"}


def _generation(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    series = distinct(evidence.series("continuations", params.suite))
    name = _GENERATION[metric]
    high = 1.0 if name == "distinct_2" else math.inf
    # An entropy is a sum of many small terms, which may miss 0 by rounding.
    after, before = (
        column(series, f"{name}_{model}", low=_ROUNDING, high=high) for model in ("candidate", "champion")
    )
    return mean_interval([a - b for a, b in zip(after, before, strict=True)], confidence)


def _weights(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    return exact(evidence.number(f"integrity.{metric}"))


CHECKS = (
    Check(
        name="drift.output_kl",
        doc="KL divergence of the candidate's next-token distribution from the reference's, per token.",
        params=OutputKlParams,
        metrics={
            "kl_mean": Metric("mean over items of the mean over tokens", "nats per token", low=0.0),
            "kl_p99": Metric("99th percentile over tokens, clustered by item", "nats", low=0.0),
        },
        measure=_output_kl,
    ),
    Check(
        name="drift.bits_per_byte",
        doc="How much worse the candidate predicts a text than the champion does, on the same items.",
        params=SuiteParams,
        metrics={"delta": Metric("candidate less champion; above 0 is worse", "bits per byte")},
        measure=_bits_per_byte,
    ),
    Check(
        name="drift.output_js",
        doc="Jensen-Shannon divergence between candidate and champion, per token: symmetric, at most ln 2.",
        params=SuiteParams,
        metrics={
            "js_mean": Metric("mean over items of the mean over tokens", "nats per token", low=0.0, high=_LN2)
        },
        measure=_output_js,
    ),
    Check(
        name="drift.forgetting",
        doc="What the champion got right and the candidate gets wrong: next tokens of a text, or episodes.",
        params=SuiteParams,
        metrics={
            "negative_flips": Metric(
                "right before, wrong now, among all tokens or episodes", "share", low=0.0, high=1.0
            ),
            "accuracy_delta": Metric(
                "share right, candidate less champion (backward transfer)", "share", low=-1.0, high=1.0
            ),
        },
        measure=_forgetting,
    ),
    Check(
        name="drift.calibration",
        doc="Whether the candidate's confidence in its likeliest token still means what it says.",
        params=SuiteParams,
        metrics={
            "brier_delta": Metric("Brier score, candidate less champion; above 0 is worse", "score"),
            "ece": Metric("expected calibration error of the candidate, ten equal bins", "share", low=0.0),
            "overconfidence_delta": Metric(
                "mean of confidence less accuracy, candidate less champion", "share"
            ),
        },
        measure=_calibration,
        kinds=frozenset({ModelKind.LLM}),
        elsewhere="of an action model `drift.output_kl` compares the probabilities state by state",
    ),
    Check(
        name="drift.generation",
        doc=(
            "How the texts that the model writes have changed: 25 drawn for each prompt at temperature 1, by both models "
            "with the same random numbers. Shorter, more alike or more certain texts are how a model collapses. Cannot "
            "see what the texts say."
        ),
        params=SuiteParams,
        metrics={
            "length_delta": Metric("mean length, candidate less champion", "tokens"),
            "distinct_2_delta": Metric(
                "distinct pairs of words over pairs, in all texts of a prompt; candidate less champion",
                "share",
                low=-1.0,
                high=1.0,
            ),
            "entropy_delta": Metric(
                "mean entropy of the distributions drawn from, candidate less champion", "nats per token"
            ),
        },
        measure=_generation,
        kinds=frozenset({ModelKind.LLM}),
        elsewhere="an action model writes no text; `drift.outputs` compares its ways through levels",
    ),
    Check(
        name="drift.weights",
        doc="How far the weights moved. Weak on its own: a repair and a sabotage can move them alike.",
        params=NoParams,
        metrics={
            "relative_change": Metric(
                "norm of the change over the champion's norm", "share", exact=True, low=0.0
            ),
            "spectral_share": Metric(
                "share of the squared change that lies along each matrix's first singular direction",
                "share",
                exact=True,
                low=0.0,
                high=1.0,
            ),
            "changed_tensors": Metric("tensors that differ in any bit", "tensors", exact=True, low=0.0),
        },
        measure=_weights,
    ),
)
