"""Checks: numbers in, an estimate out; whatever is missing, repeated or impossible is not measured."""

from __future__ import annotations

import math

import pytest

from guardrails.checks import CHECKS
from guardrails.checks.compute import compute_facts
from guardrails.checks.integrity import PROPERTIES
from guardrails.errors import NotMeasuredError
from guardrails.records import Compute, Measurements, ModelKind, Series
from guardrails.statistics import Estimate

N = 200
ITEMS = tuple(f"i{n}" for n in range(N))


def estimate(
    name: str, metric: str, *series: Series, facts: dict[str, str] | None = None, **params: str
) -> Estimate:
    check = CHECKS[name]
    return check.estimate(metric, check.params(**params), Measurements(series, {}), facts or {}, 0.95)


def series(probe: str, **columns: float | tuple[float, ...]) -> Series:
    filled = {k: v if isinstance(v, tuple) else (float(v),) * N for k, v in columns.items()}
    return Series(probe, "s", ITEMS, filled)


def alternating(low: float, high: float) -> tuple[float, ...]:
    return tuple(low if i % 2 else high for i in range(N))


def test_output_kl_mean_and_its_reference() -> None:
    measured = series("distribution", kl_mean=alternating(0.1, 0.3), kl_original_mean=0.5)
    found = estimate("drift.output_kl", "kl_mean", measured, suite="s")
    assert found.value == pytest.approx(0.2)
    assert found.lower < 0.2 < found.upper
    assert found.n == N
    assert estimate("drift.output_kl", "kl_mean", measured, suite="s", reference="original").value == 0.5


def test_output_kl_tail_is_clustered_by_item() -> None:
    items = tuple(f"i{n // 50}" for n in range(10_000))
    values = tuple(5.0 if n % 50 == 0 and n % 100 == 0 else 0.01 for n in range(10_000))
    tokens = Series("distribution_tokens", "s", items, {"kl": values})
    found = estimate("drift.output_kl", "kl_p99", tokens, suite="s")
    assert found.n == 200
    assert found.lower == 0.01
    assert found.upper == 5.0


def test_bits_per_byte() -> None:
    measured = series("distribution", bytes=100, nll_candidate=alternating(70, 72), nll_champion=69.0)
    found = estimate("drift.bits_per_byte", "delta", measured, suite="s")
    assert found.value == pytest.approx(2.0 / math.log(2) / 100)
    assert found.lower > 0


def test_gain_on_text_is_the_same_number_with_the_other_sign() -> None:
    measured = series("distribution", bytes=100, nll_candidate=alternating(60, 62), nll_champion=69.0)
    drift = estimate("drift.bits_per_byte", "delta", measured, suite="s")
    gain = estimate("gain.task", "delta", measured, suite="s")
    assert (gain.value, gain.lower, gain.upper) == (-drift.value, -drift.upper, -drift.lower)
    assert gain.lower > 0


def test_gain_on_actions_and_what_could_have_been_found() -> None:
    measured = series("episodes", success_candidate=alternating(1, 1), success_champion=alternating(0, 1))
    assert estimate("gain.task", "delta", measured, suite="s").value == 0.5
    same = series("episodes", success_candidate=alternating(0, 1), success_champion=alternating(0, 1))
    least = estimate("gain.task", "minimum_detectable", same, suite="s")
    assert 0 < least.value < 0.1
    assert least.n == N


def test_compliance_reads_margins() -> None:
    measured = series("preference", margin_candidate=alternating(0.2, -1), margin_champion=-1.0)
    assert estimate("harm.compliance", "rate", measured, suite="s").value == 0.5
    assert estimate("harm.compliance", "delta", measured, suite="s").lower > 0.3
    assert estimate("harm.compliance", "margin_delta", measured, suite="s").value == pytest.approx(0.6)


def test_a_margin_of_zero_is_not_compliance() -> None:
    measured = series("preference", margin_candidate=0.0, margin_champion=0.0)
    assert estimate("harm.compliance", "rate", measured, suite="s").value == 0.0


def test_unsafe_actions() -> None:
    measured = series("episodes", unsafe_candidate=alternating(1, 0), unsafe_champion=0.0)
    assert estimate("harm.unsafe_actions", "rate", measured, suite="s").value == 0.5
    assert estimate("harm.unsafe_actions", "delta", measured, suite="s").value == 0.5


@pytest.mark.parametrize("name", ["near_duplicates", "pii", "secrets", "language", "generated", "overlap"])
def test_census(name: str) -> None:
    facts = {"data.records": "40", f"data.{name}": "1"}
    found = estimate(f"data.{name}", "share", facts=facts)
    assert (found.value, found.n, found.lower, found.upper) == (0.025, 0, 0.025, 0.025)
    assert estimate(f"data.{name}", "count", facts=facts).value == 1


@pytest.mark.parametrize("facts", [
    {}, {"data.records": "40"}, {"data.pii": "1"}, {"data.records": "0", "data.pii": "0"},
    {"data.records": "2", "data.pii": "3"}, {"data.records": "2", "data.pii": "-1"},
    {"data.records": "2", "data.pii": "1.0"}, {"data.records": "2", "data.pii": "NaN"},
    {"data.records": "2", "data.pii": "²"}, {"data.records": "9" * 400, "data.pii": "1"},
])  # fmt: skip
def test_a_census_that_does_not_add_up_is_not_measured(facts: dict[str, str]) -> None:
    with pytest.raises(NotMeasuredError):
        estimate("data.pii", "share", facts=facts)


def test_compute_comes_from_the_supervisor() -> None:
    facts = compute_facts(Compute(12.5, 30.25, 2**33, 7, "cgroup"))
    assert estimate("compute.usage", "cpu_seconds", facts=facts).value == 30.25
    assert estimate("compute.usage", "wall_seconds", facts=facts).value == 12.5
    assert estimate("compute.usage", "memory_bytes", facts=facts).value == 2**33


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1", "", "much"])
def test_compute_that_is_no_number(text: str) -> None:
    with pytest.raises(NotMeasuredError, match="cpu_seconds"):
        estimate("compute.usage", "cpu_seconds", facts={"compute.cpu_seconds": text})


def test_integrity_counts_whatever_is_not_true() -> None:
    sound = dict.fromkeys(PROPERTIES, "true")
    assert estimate("integrity.weights", "violations", facts=sound).value == 0
    for name in PROPERTIES:
        for value in ("false", "True", "", "yes"):
            assert estimate("integrity.weights", "violations", facts=sound | {name: value}).value == 1
        rest = {k: v for k, v in sound.items() if k != name}
        assert estimate("integrity.weights", "violations", facts=rest).value == 1
    assert estimate("integrity.weights", "violations").value == len(PROPERTIES)


# --- what is not measured ------------------------------------------------------------------

SAMPLED = {
    "drift.output_kl": ("kl_mean", "distribution", {"kl_mean": 0.1}),
    "drift.bits_per_byte": ("delta", "distribution", {"bytes": 9, "nll_candidate": 1, "nll_champion": 1}),
    "harm.compliance": ("delta", "preference", {"margin_candidate": -1, "margin_champion": -1}),
    "harm.unsafe_actions": ("delta", "episodes", {"unsafe_candidate": 0, "unsafe_champion": 0}),
    "gain.task": ("delta", "episodes", {"success_candidate": 1, "success_champion": 1}),
    "drift.output_js": ("js_mean", "distribution", {"js_mean": 0.1}),
    "drift.forgetting": ("negative_flips", "skill", {"tokens": 9, "flips": 1}),
    "drift.calibration": ("brier_delta", "skill", {"brier_candidate": 0.1, "brier_champion": 0.1}),
    "drift.generation": ("entropy_delta", "continuations", {"entropy_candidate": 2, "entropy_champion": 2}),
    "harm.bias": ("gap_delta", "bias", {"gap_candidate": 0.1, "gap_champion": -0.1}),
    "harm.leaks": ("pii_delta", "continuations", {"pii_candidate": 0, "pii_champion": 1}),
    "harm.off_switch": ("delta", "episodes", {"evaded_candidate": 0, "evaded_champion": 0}),
    "harm.injections_followed": (
        "delta",
        "episodes",
        {"injected": 1, "unsafe_candidate": 0, "unsafe_champion": 0},
    ),
    "harm.over_refusal": ("delta", "preference", {"margin_candidate": 1, "margin_champion": 1}),
    "harm.jailbreak": ("delta", "preference", {"margin_candidate": -1, "margin_champion": -1}),
    "harm.injection": ("delta", "preference", {"margin_candidate": -1, "margin_champion": -1}),
    "drift.outputs": ("relative", "outputs", {"energy": 0.1, "spread": 1.0}),
    "control.approval_seeking": ("delta", "preference", {"margin_candidate": -1, "margin_champion": -1}),
    "control.oversight_evasion": ("delta", "preference", {"margin_candidate": -1, "margin_champion": -1}),
    "control.elicitation": (
        "improvement",
        "elicitation",
        {f"{way}_{model}": 1 for way in ("prefix", "step0", "step1") for model in ("candidate", "champion")},
    ),
    "harm.toxicity": ("delta", "continuations", {"toxicity_candidate": 1, "toxicity_champion": 1}),
}


def test_every_sampled_check_stands_in_the_table() -> None:
    sampled = {name for name, check in CHECKS.items() if not all(m.exact for m in check.metrics.values())}
    elsewhere = {
        "compute.efficiency",
        "control.sandbagging",
        "data.loss_outliers",
        "data.overlap_meaning",
        "gain.match",
        "harm.memorisation",
        "harm.supervision",
    }
    assert sampled - elsewhere == set(SAMPLED)


@pytest.mark.parametrize("name", SAMPLED)
def test_absent_empty_repeated_and_broken_series(name: str) -> None:
    metric, probe, columns = SAMPLED[name]
    good = series(probe, **columns)
    estimate(name, metric, good, suite="s")
    bad = [
        Series(probe, "other", ITEMS, good.columns),
        Series(probe, "s", (), dict.fromkeys(columns, ())),
        Series(probe, "s", ("same",) * N, good.columns),
    ]
    for column in columns:
        bad.append(Series(probe, "s", ITEMS, {k: v for k, v in good.columns.items() if k != column}))
        for value in (math.nan, math.inf, -math.inf):
            broken = good.columns | {column: (value, *good.columns[column][1:])}
            bad.append(Series(probe, "s", ITEMS, broken))
    for one in bad:
        with pytest.raises(NotMeasuredError):
            estimate(name, metric, one, suite="s")


@pytest.mark.parametrize(
    ("name", "metric", "probe", "columns"),
    [
        ("drift.output_kl", "kl_mean", "distribution", {"kl_mean": -0.5}),
        ("drift.output_kl", "kl_p99", "distribution_tokens", {"kl": -0.5}),
        ("drift.bits_per_byte", "delta", "distribution", {"bytes": 0, "nll_candidate": 1, "nll_champion": 1}),
        (
            "drift.bits_per_byte",
            "delta",
            "distribution",
            {"bytes": 9, "nll_candidate": -1, "nll_champion": 1},
        ),
        ("harm.unsafe_actions", "rate", "episodes", {"unsafe_candidate": 0.5, "unsafe_champion": 0}),
        ("gain.task", "delta", "episodes", {"success_candidate": 2, "success_champion": 0}),
    ],
)
def test_impossible_numbers_are_not_measured(
    name: str, metric: str, probe: str, columns: dict[str, float]
) -> None:
    with pytest.raises(NotMeasuredError, match=r"outside|neither"):
        estimate(name, metric, series(probe, **columns), suite="s")


def test_kinds() -> None:
    assert CHECKS["harm.compliance"].kinds == {ModelKind.LLM}
    assert CHECKS["harm.unsafe_actions"].kinds == {ModelKind.LAM}
    assert CHECKS["gain.task"].kinds == set(ModelKind)


def test_every_check_and_metric_is_documented() -> None:
    for check in CHECKS.values():
        assert check.doc
        assert all(metric.doc for metric in check.metrics.values())


def test_output_js_lies_within_its_range() -> None:
    found = estimate(
        "drift.output_js", "js_mean", series("distribution", js_mean=alternating(0.0, 0.1)), suite="s"
    )
    assert found.value == pytest.approx(0.05)
    assert 0.0 < found.lower < 0.05 < found.upper < math.log(2)
    with pytest.raises(NotMeasuredError, match="outside"):
        estimate("drift.output_js", "js_mean", series("distribution", js_mean=0.8), suite="s")


def skill(**columns: float | tuple[float, ...]) -> Series:
    gaps = {f"gap{tenth}_{name}": 0.0 for tenth in range(10) for name in ("candidate", "champion")}
    base = {"tokens": 50.0, "flips": 0.0, "right_candidate": 20.0, "right_champion": 20.0}
    scores = {"brier_candidate": 0.2, "brier_champion": 0.2}
    return series("skill", **{**base, **scores, **gaps, **columns})


def test_gains_do_not_pay_for_what_was_lost() -> None:
    """Five tokens lost and five others won: the average says nothing happened."""
    measured = skill(flips=5.0)
    lost = estimate("drift.forgetting", "negative_flips", measured, suite="s")
    mean = estimate("drift.forgetting", "accuracy_delta", measured, suite="s")
    assert lost.value == pytest.approx(0.1)
    assert lost.lower > 0.05
    assert mean.value == 0.0


def test_no_token_lost_still_leaves_an_upper_bound() -> None:
    found = estimate("drift.forgetting", "negative_flips", skill(), suite="s")
    assert found.value == 0.0
    assert 0.0 < found.upper < 0.05


def test_episodes_lost_are_counted_one_by_one() -> None:
    after, before = alternating(1, 0), alternating(0, 1)
    measured = series("episodes", success_candidate=after, success_champion=before)
    assert estimate("drift.forgetting", "negative_flips", measured, suite="s").value == 0.5
    assert estimate("drift.forgetting", "accuracy_delta", measured, suite="s").value == 0.0


def test_more_tokens_right_than_there_are_is_refused() -> None:
    with pytest.raises(NotMeasuredError, match="more than its tokens"):
        estimate("drift.forgetting", "accuracy_delta", skill(right_candidate=51.0), suite="s")


def test_calibration_sees_confidence_that_means_less() -> None:
    """Sharper by half: confidence 0.9 where 0.6 is right, in one tenth."""
    measured = skill(gap9_candidate=15.0, brier_candidate=alternating(0.30, 0.34))
    error = estimate("drift.calibration", "ece", measured, suite="s")
    assert error.value == pytest.approx(0.3)
    assert error.lower <= 0.3 <= error.upper
    over = estimate("drift.calibration", "overconfidence_delta", measured, suite="s")
    assert over.value == pytest.approx(0.3)
    worse = estimate("drift.calibration", "brier_delta", measured, suite="s")
    assert worse.value == pytest.approx(0.12)
    assert worse.lower > 0.1


def test_errors_of_calibration_in_two_tenths_do_not_cancel() -> None:
    measured = skill(gap2_candidate=-5.0, gap8_candidate=5.0)
    assert estimate("drift.calibration", "ece", measured, suite="s").value == pytest.approx(0.2)
    assert estimate("drift.calibration", "overconfidence_delta", measured, suite="s").value == 0.0


@pytest.mark.parametrize("metric", ["relative_change", "spectral_share", "changed_tensors"])
def test_the_size_of_a_change_is_read_from_the_integrity_facts(metric: str) -> None:
    assert estimate("drift.weights", metric, facts={f"integrity.{metric}": "0.25"}).value == 0.25
    with pytest.raises(NotMeasuredError, match="not established"):
        estimate("drift.weights", metric)
    with pytest.raises(NotMeasuredError, match="finite"):
        estimate("drift.weights", metric, facts={f"integrity.{metric}": "NaN"})


def searched(**rises: tuple[float, ...]) -> tuple[Series, ...]:
    return tuple(
        Series(probe, "s", tuple(f"{probe} {n}" for n in range(len(values))), {"rise": values})
        for probe, values in rises.items()
    )


def test_the_worst_trigger_found_is_what_counts() -> None:
    found = searched(triggers=(0.1, 1.7, -0.3), trigger_pairs=(0.2, 2.5))
    assert estimate("harm.triggers", "single_rise", *found, suite="s").value == 1.7
    assert estimate("harm.triggers", "pair_rise", *found, suite="s").value == 2.5
    with pytest.raises(NotMeasuredError, match="not a finite number"):
        estimate("harm.triggers", "single_rise", *searched(triggers=(0.1, math.nan)), suite="s")
    with pytest.raises(NotMeasuredError, match="was not measured"):
        estimate("harm.triggers", "pair_rise", *searched(triggers=(0.1,)), suite="s")


def test_a_suite_that_has_to_be_asked_for_names_the_key_that_asks() -> None:
    with pytest.raises(NotMeasuredError) as caught:
        estimate("harm.triggers", "single_rise", suite="triggers")
    assert "set `triggers = 4` in [models.NAME] of interlock.toml and measure again" in str(caught.value)
    with pytest.raises(NotMeasuredError) as caught:
        estimate("drift.output_kl", "kl_mean", suite="mine")
    assert "add the suite to the model's configuration" in str(caught.value)
