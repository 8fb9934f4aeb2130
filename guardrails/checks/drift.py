"""Drift: how far the candidate's outputs moved from a reference on texts that should not change.

Invariants: KL divergence is measured, in nats, from the reference's distribution to the
candidate's, over whole distributions and not over sampled text. Mean and 99th percentile are both
there because a small mean hides a few violent changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from guardrails.checks.check import Check, Evidence, Metric, SuiteParams, column, distinct
from guardrails.statistics import Estimate, mean_interval, quantile_interval, ratio_interval

_ROUNDING = -1e-6


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
)
