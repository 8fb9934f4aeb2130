"""Drift of what a model puts out as a whole, prompt by prompt: two samples compared by effect size, never by p-value.

Invariants: the unit is the prompt; a difference is a distance, so it has no sign and its expectation is 0 where both models
write the same; a larger sample makes it more certain and not larger.

What it cannot see: prompts that no suite holds, and what the frozen model that embeds the texts takes for the same.
"""

from __future__ import annotations

from guardrails.checks.check import Check, Evidence, Metric, SuiteParams, column, distinct
from guardrails.errors import NotMeasuredError
from guardrails.records import ModelKind
from guardrails.statistics import Estimate, mean_interval, ratio_interval


def _outputs(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    found = evidence.measurements.find("outputs", params.suite)
    if found is None or not found.items:
        raise NotMeasuredError(
            f"the texts written on suite '{params.suite}' were not compared by meaning",
            hint="set `continuations = 220` and `outputs = 4` in [models.NAME] of interlock.toml",
        )
    series = distinct(found)
    energy = column(series, "energy", low=-4.0, high=4.0)
    if metric == "energy":
        return mean_interval(energy, confidence)
    spread = column(series, "spread", low=0.0, high=2.0)
    if not sum(spread) > 0:
        raise NotMeasuredError("the champion writes one text per prompt: there is no spread to measure by")
    return ratio_interval(energy, spread, confidence)


CHECKS = (
    Check(
        name="drift.outputs",
        doc=(
            "How far the texts that the candidate writes lie from the champion's in meaning, prompt by prompt: the energy "
            "distance (Székely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), without bias, of their vectors under one "
            "frozen model (all-MiniLM-L6-v2); the interval is of prompts. An effect size: more prompts make it surer, not "
            "larger. Needs `continuations` and `outputs` in the model's configuration. Cannot see what that model takes "
            "for the same: names, numbers, a \"not\"."
        ),
        params=SuiteParams,
        metrics={
            "relative": Metric(
                "energy distance over the mean distance between two of the champion's own texts", "ratio"
            ),
            "energy": Metric("energy distance between the models' texts; 0 where they write the same", "distance"),
        },
        measure=_outputs,
        kinds=frozenset({ModelKind.LLM}),
    ),
)  # fmt: skip
