"""How good a judge is: the area under its ROC curve, with DeLong's interval.

E. DeLong, D. DeLong, D. Clarke-Pearson 1988, doi:10.2307/2531595; the interval is taken on the logit scale, so that it
stays within 0 and 1. Where every case is in the right order there is no variance to go by: then the lower end is that of a
share of which none of the smaller sort failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, variance

from guardrails.checks.judges import Quality
from guardrails.statistics import clopper_pearson


def quality(scores: Sequence[float], truths: Sequence[bool], confidence: float = 0.95) -> Quality:
    """What a judge's scores are worth on labelled cases, rounded to two decimals; of too few, only how many there were."""
    bad = [score for score, truth in zip(scores, truths, strict=True) if truth]
    good = [score for score, truth in zip(scores, truths, strict=True) if not truth]
    if min(len(bad), len(good)) < Quality.LEAST:
        return Quality(len(bad), len(good))
    value, lower, upper = interval(bad, good, confidence)
    return Quality(len(bad), len(good), round(value, 2), round(lower, 2), round(upper, 2))


def interval(bad: Sequence[float], good: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The chance that a bad case scores above a good one, and its interval."""
    placed = [mean((b > g) + 0.5 * (b == g) for g in good) for b in bad]
    passed = [mean((b > g) + 0.5 * (b == g) for b in bad) for g in good]
    value = mean(placed)
    spread = math.sqrt(variance(placed) / len(bad) + variance(passed) / len(good))
    if spread == 0.0:
        lower, upper = clopper_pearson(
            round(value) * min(len(bad), len(good)), min(len(bad), len(good)), (1 - confidence) / 2
        )
        return value, lower, upper
    middle = math.log(value / (1 - value))
    far = NormalDist().inv_cdf((1 + confidence) / 2) * spread / (value * (1 - value))
    return value, _share(middle - far), _share(middle + far)


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
