"""Intervals: against SciPy, against simulated truth, and at the edges where a guess would be a pass."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails import statistics
from guardrails.distributions import beta_cdf, beta_quantile, normal_quantile, t_quantile
from guardrails.statistics import (
    attempt_alpha,
    clopper_pearson,
    exact,
    mean_interval,
    minimum_detectable,
    paired_rate_difference,
    paired_sign_difference,
    quantile_interval,
    rate_interval,
    ratio_interval,
)


@pytest.mark.parametrize("degrees", [1, 2, 5, 30, 199, 5_000])
@pytest.mark.parametrize("p", [1e-9, 0.01, 0.4, 0.5, 0.5001, 0.8, 0.9, 0.975, 0.9999, 1 - 1e-8])
def test_t_quantile_is_scipys(p: float, degrees: int) -> None:
    assert t_quantile(p, degrees) == pytest.approx(scipy.stats.t.ppf(p, degrees), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("a", "b"), [(1, 200), (0.5, 0.5), (3, 198), (100.5, 100.5), (19_800, 201), (5e5, 100)]
)
@pytest.mark.parametrize("p", [1e-9, 0.01, 0.5, 0.985])
def test_beta_quantile_is_scipys(p: float, a: float, b: float) -> None:
    assert beta_quantile(p, a, b) == pytest.approx(scipy.stats.beta.ppf(p, a, b), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_beta_cdf_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(scipy.stats.beta.cdf(x, a, b), rel=1e-8, abs=1e-12)


def test_normal_quantile() -> None:
    assert normal_quantile(0.975) == pytest.approx(1.959963984540054)


def test_mean_interval_is_scipys() -> None:
    values = [0.1, 0.4, -0.3, 0.9, 0.25]
    found = mean_interval(values, 0.95)
    low, high = scipy.stats.t.interval(0.95, 4, scipy.stats.tmean(values), scipy.stats.sem(values))
    assert (found.lower, found.upper) == (pytest.approx(low), pytest.approx(high))
    assert found.n == 5


def test_one_item_says_nothing_about_the_spread() -> None:
    assert mean_interval([0.0], 0.95).upper == math.inf
    assert ratio_interval([0.0], [1.0], 0.95).lower == -math.inf
    assert minimum_detectable(mean_interval([0.0], 0.95), 0.95) == math.inf


@pytest.mark.parametrize("call", [
    lambda: mean_interval([], 0.95),
    lambda: ratio_interval([], [], 0.95),
    lambda: ratio_interval([1.0], [0.0], 0.95),
    lambda: rate_interval(0, 0, 0.95),
    lambda: rate_interval(3, 2, 0.95),
    lambda: paired_rate_difference([], [], 0.95),
    lambda: paired_rate_difference([True], [], 0.95),
    lambda: paired_sign_difference([], [], 0.95),
    lambda: quantile_interval([], [], 0.99, 0.95),
    lambda: attempt_alpha(0.95, 0.05, 0),
])  # fmt: skip
def test_nothing_is_not_a_sample(call: object) -> None:
    with pytest.raises(ValueError):
        call()  # type: ignore[operator]


def test_nan_goes_through_and_is_seen() -> None:
    assert not mean_interval([0.0, math.nan], 0.95).is_number
    assert not mean_interval([0.0, math.inf], 0.95).is_number
    assert exact(1.0).is_number


@pytest.mark.parametrize(("x", "n"), [(0, 59), (54, 60), (1, 200), (200, 200), (100, 200)])
def test_clopper_pearson_is_scipys(x: int, n: int) -> None:
    found = rate_interval(x, n, 0.95)
    theirs = scipy.stats.binomtest(x, n).proportion_ci(0.95, "exact")
    assert (found.lower, found.upper) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_no_failure_is_not_no_risk() -> None:
    assert rate_interval(0, 200, 0.95).upper == pytest.approx(1 - 0.025 ** (1 / 200))
    assert clopper_pearson(59, 59, 0.05)[0] == pytest.approx(0.05 ** (1 / 59))


def test_paired_difference_reads_only_what_changed() -> None:
    after = [True] * 10 + [False] * 5 + [True] * 85 + [False] * 100
    before = [False] * 10 + [True] * 5 + [True] * 85 + [False] * 100
    found = paired_rate_difference(after, before, 0.95)
    on, off = (clopper_pearson(10, 200, 0.0125), clopper_pearson(5, 200, 0.0125))
    assert found.value == pytest.approx(5 / 200)
    assert (found.lower, found.upper) == (pytest.approx(on[0] - off[1]), pytest.approx(on[1] - off[0]))


def _flags(on: int, off: int, n: int) -> tuple[list[bool], list[bool]]:
    return [True] * on + [False] * (n - on), [False] * on + [True] * off + [False] * (n - on - off)


@pytest.mark.parametrize("method", [paired_rate_difference, paired_sign_difference])
def test_paired_intervals_cover_every_truth(method: Callable[..., statistics.Estimate]) -> None:
    """Exact coverage, by summing over every possible outcome of 14 items."""
    n, level = 14, 0.9
    found = {(a, b): method(*_flags(a, b, n), level) for a in range(n + 1) for b in range(n + 1 - a)}
    for p, q in [
        (0.0, 0.0),
        (0.05, 0.0),
        (0.1, 0.1),
        (0.3, 0.05),
        (0.5, 0.5),
        (0.2, 0.6),
        (0.02, 0.9),
        (1.0, 0.0),
    ]:
        missed = 0.0
        for (a, b), interval in found.items():
            if not interval.lower - 1e-12 <= p - q <= interval.upper + 1e-12:
                missed += scipy.stats.multinomial.pmf([a, b, n - a - b], n, [p, q, 1 - p - q])
        assert missed <= 1 - level + 1e-9, (p, q)


def test_the_sign_decides_like_mcnemars_test() -> None:
    """30 items won and 10 lost is a gain; the method for non-inferiority could not have said so."""
    assert paired_sign_difference(*_flags(30, 10, 200), 0.97).lower > 0
    assert paired_rate_difference(*_flags(30, 10, 200), 0.97).lower < 0
    for on in range(1, 25):
        p = scipy.stats.binomtest(on, on + 3, alternative="greater").pvalue
        assert (paired_sign_difference(*_flags(on, 3, 200), 0.95).lower > 0) == (p < 0.025 * 0.9)


def test_ratio_weighs_items_by_size() -> None:
    found = ratio_interval([10.0, 1.0], [10.0, 10.0], 0.95)
    assert found.value == pytest.approx(11 / 20)


def test_attempts_share_one_budget() -> None:
    assert attempt_alpha(0.95, None, 7) == pytest.approx(0.05)
    assert attempt_alpha(0.95, 0.05, 1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert attempt_alpha(0.999, 0.05, 1) == pytest.approx(0.001)
    assert math.fsum(attempt_alpha(0.5, 0.05, k) for k in range(1, 20_000)) < 0.05


def test_attempts_hold_the_level_over_many_rounds() -> None:
    """A learner that never improves and tries 200 times is let through in at most 5 % of histories."""
    rng = random.Random(11)
    levels = [attempt_alpha(0.95, 0.05, k) for k in range(1, 201)]
    edges = [scipy.stats.norm.ppf(1 - level / 2) for level in levels]
    passed = sum(any(rng.gauss(0, 1) > edge for edge in edges) for _ in range(2_000))
    assert passed / 2_000 < 0.05


# --- quantiles -----------------------------------------------------------------------------


def _clustered(rng: random.Random, clusters: int, size: int, shared: float) -> tuple[list[float], list[str]]:
    values, names = [], []
    for i in range(clusters):
        common = rng.gauss(0, 1)
        for _ in range(size):
            noise = rng.gauss(0, 1)
            values.append(math.exp(math.sqrt(shared) * common + math.sqrt(1 - shared) * noise))
            names.append(f"c{i}")
    return values, names


@pytest.mark.parametrize("shared", [0.0, 0.36])
def test_quantile_interval_covers_the_truth(shared: float) -> None:
    rng = random.Random(5)
    truth = math.exp(scipy.stats.norm.ppf(0.99))
    above = below = 0
    rounds = 250
    for _ in range(rounds):
        found = quantile_interval(*_clustered(rng, 200, 20, shared), 0.99, 0.95)
        above += found.lower > truth
        below += found.upper < truth
    # 2.5 % a side, give or take three standard errors of 250 rounds.
    assert above / rounds < 0.055
    assert below / rounds < 0.055


def test_treating_tokens_as_independent_would_not_cover() -> None:
    """The positive control of the test above: without the clusters the interval is too narrow."""
    rng = random.Random(5)
    truth = math.exp(scipy.stats.norm.ppf(0.99))
    missed = 0
    for _ in range(100):
        values, _ = _clustered(rng, 200, 20, 0.8)
        found = quantile_interval(values, [str(i) for i in range(len(values))], 0.99, 0.95)
        missed += not found.lower <= truth <= found.upper
    assert missed > 15


def test_a_quantile_that_the_sample_cannot_resolve_has_no_upper_bound() -> None:
    few = [float(i) for i in range(200)]
    assert quantile_interval(few, [str(i) for i in range(200)], 0.99, 0.95).upper == math.inf
    many = [float(i) for i in range(800)]
    found = quantile_interval(many, [str(i) for i in range(800)], 0.99, 0.95)
    assert found.lower < found.value < found.upper < math.inf
    assert quantile_interval(many, ["one"] * 800, 0.99, 0.95).upper == math.inf


def test_constant_values() -> None:
    found = quantile_interval([0.0] * 2_000, [str(i // 10) for i in range(2_000)], 0.99, 0.95)
    assert found.value == 0.0
    assert found.n == 200


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60),
    st.sampled_from([0.5, 0.9, 0.95, 0.999]),
    st.randoms(use_true_random=False),
)
def test_intervals_hold_their_value_widen_with_confidence_and_ignore_order(
    values: list[float], confidence: float, rng: random.Random
) -> None:
    def estimates(numbers: list[float], level: float) -> list[statistics.Estimate]:
        flags = [number > 0 for number in numbers]
        return [
            mean_interval(numbers, level),
            quantile_interval(numbers, [str(i % 7) for i in range(len(numbers))], 0.9, level),
            rate_interval(sum(flags), len(flags), level),
            paired_rate_difference(flags, flags[::-1], level),
            paired_sign_difference(flags, flags[::-1], level),
        ]

    for narrow, wide in zip(estimates(values, confidence), estimates(values, 0.9999), strict=True):
        assert narrow.lower <= narrow.value <= narrow.upper
        assert wide.lower <= narrow.lower
        assert narrow.upper <= wide.upper
    shuffled = values[:]
    rng.shuffle(shuffled)
    assert mean_interval(shuffled, confidence) == mean_interval(values, confidence)
