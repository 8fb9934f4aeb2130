"""How many pairs of games a sequential match takes, next to a test of fixed size. Prints; asserts nothing.

The test of fixed size is the normal one for the same error, with the power of 0.8 at the smallest score worth finding
(0.6); whoever fixes the size beforehand has to play that many whatever the truth is. The last columns ask more: a
fixed test that knew the true score beforehand, with the power that the match has there.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from test_techniques_self_play import ATTEMPT

from guardrails.sequential import Match
from sandbox.worker.probes.games import BETA, MARGIN

pytestmark = pytest.mark.benchmark
MOST, RUNS = 400, 300
DRAWS = 0.3  # share of pairs that end even
WORTH = 0.6
NORMAL = NormalDist()


def fixed_size(score: float, power: float) -> float:
    """Pairs that a one-sided test of fixed size needs for this score, where ``DRAWS`` of them are even."""
    spread = math.sqrt((1 - DRAWS) / 4)
    return ((NORMAL.inv_cdf(1 - ATTEMPT.alpha) + NORMAL.inv_cdf(power)) * spread / (score - 0.5)) ** 2


def play(score: float, draw: random.Random) -> tuple[int, bool]:
    """One match: pairs played, and whether it was won."""
    match = Match(ATTEMPT.null, ATTEMPT.null + MARGIN, ATTEMPT.alpha, BETA)
    win = score - DRAWS / 2
    stop, played = match.play([]), 0
    while played < MOST and not (stop.decided and played >= ATTEMPT.least):
        played += 1
        value = draw.choices((1.0, 0.5, 0.0), weights=(win, DRAWS, 1 - DRAWS - win))[0]
        stop = stop if stop.decided else match.add(value)
    return played, stop.better


def test_pairs_of_a_match() -> None:
    planned = fixed_size(WORTH, 0.8)
    print(f"\nalpha {ATTEMPT.alpha:.4f}; fixed size for {WORTH} at power 0.8: {planned:.0f} pairs")
    for score in (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8):
        draw = random.Random(f"pairs {score}")
        played, won = zip(*(play(score, draw) for _ in range(RUNS)), strict=True)
        mean, power = sum(played) / RUNS, sum(won) / RUNS
        known = ""
        if score > 0.5 and 0 < power < 1:
            own = fixed_size(score, power)
            known = f"  knowing it: {own:.0f} ({mean / own:.2f})"
        elif score > 0.5:
            own = fixed_size(score, 1 - 1 / RUNS)
            known = f"  knowing it: at least {own:.0f} (at most {mean / own:.2f})"
        print(
            f"score {score}: {mean:5.1f} pairs, won {power:.3f}, {mean / planned:.2f} of the fixed size{known}"
        )
