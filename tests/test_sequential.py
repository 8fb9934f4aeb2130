"""Sequential tests: valid whenever one looks, decided early where the case is clear."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.sequential import (
    Match,
    Sided,
    anytime_mean,
    log_wealth,
    match_mean,
    predictable_bets,
)
from guardrails.statistics import clopper_pearson, rate_interval

UNIT = st.floats(min_value=0.0, max_value=1.0, allow_nan=False)


def coin(rng: random.Random, share: float, count: int) -> list[float]:
    return [float(rng.random() < share) for _ in range(count)]


@given(st.lists(UNIT, min_size=1, max_size=60), st.sampled_from([0.8, 0.95, 0.999]))
@settings(max_examples=80, deadline=None)
def test_an_interval_holds_its_mean_and_stays_in_range(values: list[float], confidence: float) -> None:
    found = anytime_mean(values, confidence)
    assert 0.0 <= found.lower <= found.value <= found.upper <= 1.0
    assert found.n == len(values)
    assert found.value == pytest.approx(math.fsum(values) / len(values), abs=1e-9)


@given(st.lists(UNIT, min_size=2, max_size=40), st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_more_confidence_never_gives_a_narrower_interval_and_a_mirror_mirrors(
    values: list[float], confidence: float
) -> None:
    less, more = anytime_mean(values, confidence), anytime_mean(values, 1.0 - (1.0 - confidence) / 100)
    assert more.lower <= less.lower + 1e-9
    assert less.upper <= more.upper + 1e-9
    mirrored = anytime_mean([1.0 - value for value in values], confidence)
    assert mirrored.lower == pytest.approx(1.0 - less.upper, abs=1e-6)
    assert mirrored.upper == pytest.approx(1.0 - less.lower, abs=1e-6)


def test_a_range_is_only_a_scale() -> None:
    values = coin(random.Random(3), 0.3, 100)
    unit = anytime_mean(values, 0.95)
    scaled = anytime_mean([4.0 * value - 2.0 for value in values], 0.95, low=-2.0, high=2.0)
    assert scaled.lower == pytest.approx(4.0 * unit.lower - 2.0, abs=1e-7)
    assert scaled.upper == pytest.approx(4.0 * unit.upper - 2.0, abs=1e-7)


def test_nothing_seen_is_not_nothing_there() -> None:
    found = anytime_mean([0.0] * 200, 0.95)
    assert found.value == found.lower == 0.0
    assert 0.0 < found.upper < 0.06
    # To hold at every time costs something over an interval for one look.
    assert found.upper > rate_interval(0, 200, 0.95).upper


@pytest.mark.parametrize("values", [[], [0.5, 1.1], [-0.1], [math.nan]])
def test_what_is_no_sample_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no items|outside"):
        anytime_mean(values, 0.95)


@given(st.lists(UNIT, min_size=1, max_size=40), st.floats(min_value=0.05, max_value=0.95))
@settings(max_examples=60, deadline=None)
def test_capital_stays_above_zero_and_bets_do_not_look_ahead(values: list[float], mean: float) -> None:
    bets = predictable_bets(values, 0.05)
    assert predictable_bets(values[:-1], 0.05) == bets[:-1]
    for side in Sided:
        assert all(math.isfinite(step) for step in log_wealth(values, mean, side, bets))


def test_a_clear_match_ends_early_either_way() -> None:
    better = Match(null=0.5, goal=0.6).play(coin(random.Random(1), 0.8, 400))
    worse = Match(null=0.5, goal=0.6).play(coin(random.Random(1), 0.3, 400))
    assert better.better
    assert not better.not_better
    assert worse.not_better
    assert not worse.better
    # Few next to what a test of fixed size needs for 0.5 against 0.6 at 5 % and 5 %.
    assert max(better.after, worse.after) < 270 / 4


def test_a_match_that_runs_out_is_undecided() -> None:
    stop = Match(null=0.5, goal=0.6).play([1.0, 0.0] * 5)
    assert not stop.decided
    assert stop.after == 10


def test_draws_move_nothing_towards_better() -> None:
    match = Match(null=0.5, goal=0.6)
    match.play([0.5] * 60)
    up, down = match.log_evidence
    assert up == 0.0
    assert down > 0.0


@pytest.mark.parametrize("limits", [(0.5, 0.5, 0.05, 0.05), (0.0, 0.5, 0.05, 0.05), (0.4, 0.6, 0.0, 0.05)])
def test_a_match_without_a_question_is_refused(limits: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"null < goal|between 0 and 1"):
        Match(*limits)


def test_a_score_outside_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Match().add(1.5)


def _rate_of(hits: int, runs: int) -> tuple[float, float]:
    return clopper_pearson(hits, runs, 0.001)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.4])
def test_an_equal_or_worse_player_is_called_better_no_more_often_than_alpha(share: float) -> None:
    rng, runs = random.Random(f"type one {share}"), 2000
    hits = sum(Match(null=0.5, goal=0.6).play(coin(rng, share, 300)).better for _ in range(runs))
    assert _rate_of(hits, runs)[0] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.6, 0.7])
def test_a_player_at_the_goal_is_turned_away_no_more_often_than_beta(share: float) -> None:
    rng, runs = random.Random(f"type two {share}"), 2000
    hits = sum(Match(null=0.5, goal=0.6).play(coin(rng, share, 300)).not_better for _ in range(runs))
    assert _rate_of(hits, runs)[0] <= 0.05


@pytest.mark.slow
def test_clear_cases_take_less_than_half_of_a_fixed_sample() -> None:
    """A fixed test of 0.5 against 0.6 with 5 % and 5 % needs about 270 games."""
    rng, runs = random.Random("samples"), 400
    for share in (0.35, 0.72):
        games = [Match(null=0.5, goal=0.6).play(coin(rng, share, 400)) for _ in range(runs)]
        assert all(game.decided for game in games)
        assert sum(game.after for game in games) / runs < 270 / 2


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("kind", ["coin", "skewed", "smooth"])
def test_the_interval_covers_at_all_looks_together(kind: str, confidence: float) -> None:
    """Looked at after every tenth value; one miss anywhere is a miss."""
    rng, runs, misses = random.Random(f"{kind} {confidence}"), 300, 0
    draw, mean = {
        "coin": (lambda: float(rng.random() < 0.2), 0.2),
        "skewed": (lambda: rng.random() if rng.random() < 0.04 else 0.0, 0.02),
        "smooth": (lambda: rng.betavariate(2, 3), 0.4),
    }[kind]
    for _ in range(runs):
        values = [draw() for _ in range(120)]
        looks = (anytime_mean(values[:stop], confidence) for stop in range(10, 121, 10))
        misses += any(not look.lower <= mean <= look.upper for look in looks)
    assert _rate_of(misses, runs)[0] <= 1.0 - confidence


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30),
    st.sampled_from([0.8, 0.97]),
    st.sampled_from([0.3, 0.5, 0.62]),
)
@settings(max_examples=25, deadline=None)
def test_what_ends_a_match_is_what_its_scores_show_afterwards(
    values: list[float], confidence: float, null: float
) -> None:
    """The stop and the verdict are one test: whoever recomputes comes to the same end."""
    alpha = (1.0 - confidence) / 2.0
    match, better = Match(null=null, goal=null + 0.1, alpha=alpha, beta=1e-300), False
    for played, value in enumerate(values, 1):
        better = better or match.add(value).better
        found = match_mean(values[:played], confidence)
        assert (found.lower > null) is better
        assert 0.0 <= found.lower <= found.value <= found.upper <= 1.0
    mirrored = match_mean([1.0 - value for value in values], confidence)
    assert mirrored.lower == pytest.approx(1.0 - match_mean(values, confidence).upper, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_match_covers_at_all_looks_together(confidence: float) -> None:
    rng, runs, misses = random.Random(f"match {confidence}"), 300, 0
    for _ in range(runs):
        values = rng.choices([0.0, 0.5, 1.0], weights=[0.2, 0.4, 0.4], k=120)
        looks = (match_mean(values[:stop], confidence) for stop in range(10, 121, 10))
        misses += any(not look.lower <= 0.6 <= look.upper for look in looks)
    assert _rate_of(misses, runs)[0] <= 1.0 - confidence
