"""Gain: is the candidate better at its task than the champion, on the same items.

Invariants:
- The comparison is paired and its sign is always "above 0 is better": share of items won where the suite has
  outcomes (``outcomes.PROBES``), bits per byte saved where it has texts. A match counts wins: above 1/2 is better.
- Of games, which may have been stopped early, only what is valid at every number of games is said.
- ``minimum_detectable`` says how small a gain the sample could have shown, so that "no gain found" can be told
  from "not looked"; ``noise_floor`` how far chance alone moves the champion's own score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from guardrails.checks.check import Check, Evidence, Metric, SuiteParams, column, distinct
from guardrails.checks.drift import bits_per_byte_change
from guardrails.checks.outcomes import game_scores, outcomes, successes
from guardrails.errors import NotMeasuredError
from guardrails.sequential import anytime_mean, match_mean
from guardrails.statistics import (
    Estimate,
    minimum_detectable,
    paired_sign_difference,
    rate_interval,
    ratio_interval,
)


@dataclass(frozen=True)
class MatchParams:
    """For a match of candidate against champion.

    Attributes:
        suite: Name of the suite of items to read.
        least_items: The fewest items on which the score counts, in place of the policy's minSamples: the interval
            holds at every number of items, so fewer are sound where a match is clear. Left out: minSamples.
    """

    suite: str
    least_items: int = 0


def task_gain(suite: str, evidence: Evidence, confidence: float) -> Estimate:
    """Candidate over champion on a suite of outcomes, games or texts; above 0 is better."""
    games = game_scores(evidence, suite)
    if games is not None:
        return match_mean([2.0 * score - 1.0 for score in games], confidence, low=-1.0, high=1.0)
    found = outcomes(evidence, suite)
    if found is not None:
        candidate, champion = successes(found)
        return paired_sign_difference(candidate, champion, confidence)
    change = bits_per_byte_change(evidence, suite, confidence)
    return Estimate(-change.value, -change.upper, -change.lower, change.n, change.method)


def _task(metric: str, params: SuiteParams, evidence: Evidence, confidence: float) -> Estimate:
    if metric != "delta" and game_scores(evidence, params.suite) is not None:
        raise NotMeasuredError(
            f"{metric} is not known of games, which may stop early", hint="read delta instead"
        )
    if metric == "noise_floor":
        return _noise_floor(params.suite, evidence, confidence)
    gain = task_gain(params.suite, evidence, confidence)
    if metric == "delta":
        return gain
    least = minimum_detectable(gain, confidence)
    return Estimate(least, least, least, gain.n, "80 % power")


def _noise_floor(suite: str, evidence: Evidence, confidence: float) -> Estimate:
    """Two independent draws of as many items: their difference varies by the root of two."""
    found = outcomes(evidence, suite)
    if found is not None:
        _, champion = successes(found)
        score = rate_interval(sum(champion), len(champion), confidence)
    else:
        series = distinct(evidence.series("distribution", suite))
        bits = [nats / math.log(2.0) for nats in column(series, "nll_champion", low=0.0)]
        score = ratio_interval(bits, column(series, "bytes", low=1.0), confidence)
    floor = math.sqrt(2.0) * (score.upper - score.lower) / 2.0
    return Estimate(floor, floor, floor, score.n, "champion against itself, analytic")


def _match(metric: str, params: MatchParams, evidence: Evidence, confidence: float) -> Estimate:
    games = game_scores(evidence, params.suite)
    if games is not None:
        return match_mean(games, confidence)
    found = outcomes(evidence, params.suite)
    if found is not None:
        candidate, champion = successes(found)
        pairs = [(float(a), float(b)) for a, b in zip(candidate, champion, strict=True)]
    else:
        series = distinct(evidence.series("distribution", params.suite))
        after = column(series, "nll_candidate", low=0.0)
        before = column(series, "nll_champion", low=0.0)
        pairs = [(-a, -b) for a, b in zip(after, before, strict=True)]
    return anytime_mean([0.5 + 0.5 * ((a > b) - (a < b)) for a, b in pairs], confidence)


CHECKS = (
    Check(
        name="gain.task",
        doc="Improvement over the champion on the task, paired by item.",
        params=SuiteParams,
        metrics={
            "delta": Metric("improvement; above 0 is better", "bits per byte saved, or share of episodes"),
            "minimum_detectable": Metric("smallest gain found with 80 % power", "as delta", low=0.0),
            "noise_floor": Metric(
                "how far apart two scores of the champion itself lie by chance, on two draws of as many items; "
                "what pairing saves, for its delta against itself is exactly 0",
                "as delta",
                low=0.0,
            ),
        },
        measure=_task,
    ),
    Check(
        name="gain.match",
        doc=(
            "A match of candidate against champion over the items of a suite: 1 for an item won, 1/2 for a draw, 0 "
            "for one lost. An episode is won by whoever alone succeeds, a text by whoever finds it likelier. The "
            "interval is anytime-valid (betting, Waudby-Smith and Ramdas 2024, doi:10.1093/jrsssb/qkad009): it holds "
            "however often one looks and whenever one stops. Assumes only that each item's score has the same mean "
            "given those before it, which a random draw of items gives. Counts how many, never how much: a model "
            "may win most texts by a hair and lose a few by far, so keep a rule on gain.task or drift beside it. Games "
            "of the two against each other (a pair from one opening with sides changed is one item, worth 0 to 1) are "
            "ended as soon as this rule's own test has decided, or when it is clear that it will not."
        ),
        params=MatchParams,
        metrics={"score": Metric("mean score; above 1/2 is better", "share", low=0.0, high=1.0)},
        measure=_match,
    ),
)
