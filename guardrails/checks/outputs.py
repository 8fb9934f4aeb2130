"""Drift of what a model puts out as a whole: two samples for each prompt or level, by effect size, never by p-value.

Invariants: the unit is the prompt, or the level; a difference is a distance, so it has no sign and its expectation is 0
where both models do the same; a larger sample makes it more certain and not larger.

What it cannot see: prompts and levels that no suite holds, and what the vectors take for the same.
"""

from __future__ import annotations

from guardrails.checks.check import Check, Evidence, Metric, SuiteParams, column, distinct
from guardrails.errors import NotMeasuredError
from guardrails.statistics import Estimate, mean_interval, ratio_interval


def _outputs(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    found = evidence.measurements.find("outputs", params.suite)
    if found is None or not found.items:
        raise NotMeasuredError(
            f"what both models put out on suite '{params.suite}' was not compared",
            hint="set `outputs = 4` in [models.NAME] of interlock.toml, for a language model `continuations = 220` too; "
            "action models are compared in levels only: elsewhere drift.output_kl compares them state by state",
        )
    series = distinct(found)
    energy = column(series, "energy", low=-4.0, high=4.0)
    if metric == "energy":
        return mean_interval(energy, confidence)
    spread = column(series, "spread", low=0.0, high=2.0)
    if not sum(spread) > 0:
        raise NotMeasuredError(
            "the champion puts out one and the same each time: there is no spread to measure by"
        )
    return ratio_interval(energy, spread, confidence)


CHECKS = (
    Check(
        name="drift.outputs",
        doc=(
            "How far the texts that the candidate writes lie from the champion's in meaning, prompt by prompt: the energy "
            "distance (Székely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018), without bias, of their vectors under one "
            "frozen model (all-MiniLM-L6-v2); the interval is of prompts. An effect size: more prompts make it surer, not "
            "larger. Needs `continuations` and `outputs` in the model's configuration. Cannot see what that model takes "
            "for the same: names, numbers, a \"not\". Of an action model in levels: the same distance of drawn ways "
            "through each held-out level (suite `trajectories`, `outputs = 4`), a way being where the agent stood, what it "
            "did there and how it ended, as square roots of shares. Cannot see the order of its steps. Not for Connect Four "
            "and tools, which have no levels: `drift.output_kl` compares those state by state."
        ),
        params=SuiteParams,
        metrics={
            "relative": Metric(
                "energy distance over the mean distance between two of the champion's own texts or ways", "ratio"
            ),
            "energy": Metric("energy distance between the models' texts or ways; 0 where these are the same", "distance"),
        },
        measure=_outputs,
    ),
)  # fmt: skip
