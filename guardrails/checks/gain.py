"""Gain: is the candidate better at its task than the champion, on the same items.

Invariants: the comparison is paired and its sign is always "above 0 is better": bits per byte saved
where the task is text, share of episodes won where the task is acting. ``minimum_detectable`` says
how small a gain the sample could have shown, so that "no gain found" can be told from "not looked".
"""

from __future__ import annotations

from guardrails.checks.check import Check, Evidence, Metric, SuiteParams, distinct, flags
from guardrails.checks.drift import bits_per_byte_change
from guardrails.statistics import Estimate, minimum_detectable, paired_sign_difference


def _task(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    gain = _gain(params.suite, evidence, confidence)
    if metric == "delta":
        return gain
    least = minimum_detectable(gain, confidence)
    return Estimate(least, least, least, gain.n, "80 % power")


def _gain(suite: str, evidence: Evidence, confidence: float) -> Estimate:
    found = evidence.measurements.find("episodes", suite)
    if found is not None and found.items:
        series = distinct(found)
        candidate, champion = flags(series, "success_candidate"), flags(series, "success_champion")
        return paired_sign_difference(candidate, champion, confidence)
    change = bits_per_byte_change(evidence, suite, confidence)
    return Estimate(-change.value, -change.upper, -change.lower, change.n, change.method)


CHECKS = (
    Check(
        name="gain.task",
        doc="Improvement over the champion on the task, paired by item.",
        params=SuiteParams,
        metrics={
            "delta": Metric("improvement; above 0 is better", "bits per byte saved, or share of episodes"),
            "minimum_detectable": Metric("smallest gain found with 80 % power", "as delta", low=0.0),
        },
        measure=_task,
    ),
)
