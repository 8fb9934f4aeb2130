"""The verdict table, row by row, and the promise that nothing unmeasured is ever eligible."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import (
    BUNDLE,
    NOW,
    SOUND,
    drift,
    finding,
    integrity_rule,
    loaded,
    rule,
    subject,
    verdict,
)

from guardrails import canonical
from guardrails.codec import decode_record, encode_record
from guardrails.policy import LoadedPolicy, Require, Rule
from guardrails.policy.model import Stated
from guardrails.records import ModelKind, Outcome, Series, Severity, Verdict, VerdictKind, Waiver
from guardrails.statistics import Estimate

ELIGIBLE, REVIEW, BLOCKED = VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED
GOOD, BAD = [0.05, 0.07] * 100, [0.2, 0.3] * 100


def waiver(**changes: object) -> Waiver:
    values = {
        "rule": "drift.output",
        "bundle": BUNDLE,
        "owner": "p1",
        "expires_at": (NOW + timedelta(days=30)).isoformat(),
    }
    return Waiver(**(values | changes))  # type: ignore[arg-type]


# --- the table -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "values", "outcome", "kind"),
    [
        ("warn", GOOD, Outcome.PASS, ELIGIBLE),
        ("review", GOOD, Outcome.PASS, ELIGIBLE),
        ("block", GOOD, Outcome.PASS, ELIGIBLE),
        ("warn", BAD, Outcome.WARN, ELIGIBLE),
        ("review", BAD, Outcome.FAIL, REVIEW),
        ("block", BAD, Outcome.FAIL, BLOCKED),
    ],
)
def test_pass_warn_and_fail(severity: str, values: list[float], outcome: Outcome, kind: VerdictKind) -> None:
    result = verdict([loaded(rule(severity=severity))], drift(values))
    found = finding(result, "drift.output")
    assert (found.outcome, result.kind) == (outcome, kind)
    assert found.severity is Severity(severity)
    assert found.observed == pytest.approx(sum(values) / 200)
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < found.observed < found.upper
    assert (found.n, found.metric, found.limit) == (200, "kl_mean", "upper < 0.15")
    assert found.source.startswith("p.yaml:")


@pytest.mark.parametrize(
    ("severity", "values", "word", "kind"),
    [
        ("warn", GOOD, "review", REVIEW),
        ("review", GOOD, "review", REVIEW),
        ("block", GOOD, "review", REVIEW),
        ("warn", GOOD, "block", BLOCKED),
        ("warn", BAD, "review", REVIEW),
        ("review", BAD, "review", REVIEW),
        ("block", BAD, "review", BLOCKED),
        ("review", BAD, "block", BLOCKED),
    ],
)
def test_too_few_samples(severity: str, values: list[float], word: str, kind: VerdictKind) -> None:
    """Inconclusive, never eligible; where the stated bound fails as well, the worse effect holds."""
    policy = loaded(rule(severity=severity), defaults={"onInconclusive": word})
    result = verdict([policy], drift(values[:150]))
    assert finding(result, "drift.output").outcome is Outcome.INCONCLUSIVE
    assert "only 150 of at least 200" in finding(result, "drift.output").message
    assert result.kind is kind


def test_exact_checks_need_no_samples_and_show_no_interval() -> None:
    policy = loaded(integrity_rule(), defaults={"minSamples": 1_000_000})
    result = verdict([policy])
    found = finding(result, "integrity.weights")
    assert result.kind is ELIGIBLE
    assert (found.observed, found.lower, found.upper, found.n, found.limit) == (0.0, None, None, None, "== 0")
    assert verdict([policy], facts=SOUND | {"integrity.finite": "false"}).kind is BLOCKED


@pytest.mark.parametrize(
    "broken",
    [
        [],
        [drift([math.nan, *GOOD[1:]])],
        [drift([math.inf, *GOOD[1:]])],
        [drift(GOOD, suite="other")],
        [Series("distribution", "control", (), {"kl_mean": ()})],
        [Series("distribution", "control", ("i",), {"other": (0.0,)})],
        [Series("distribution", "control", ("i",) * 200, {"kl_mean": tuple(GOOD)})],
    ],
)
@pytest.mark.parametrize("severity", ["warn", "review", "block"])
def test_error_blocks_whatever_the_severity(broken: list[Series], severity: str) -> None:
    result = verdict([loaded(rule(severity=severity), integrity_rule())], *broken)
    assert finding(result, "drift.output").outcome is Outcome.ERROR
    assert finding(result, "integrity.weights").outcome is Outcome.PASS
    assert result.kind is BLOCKED


def test_no_evidence_at_all() -> None:
    result = verdict([loaded(rule(), integrity_rule(severity="warn"))], measured=False)
    assert {f.outcome for f in result.findings if not f.rule.startswith("isolation")} == {Outcome.ERROR}
    assert result.kind is BLOCKED
    assert result.coverage == ()


def test_a_check_that_crashes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrails.checks import CHECKS

    def crash(*_: object) -> None:
        raise RuntimeError("boom\x1b[31m")

    monkeypatch.setitem(CHECKS, "drift.output_kl", replace(CHECKS["drift.output_kl"], measure=crash))
    found = finding(verdict([loaded(rule())], drift(GOOD)), "drift.output")
    assert found.outcome is Outcome.ERROR
    assert "RuntimeError: boom" in found.message
    assert found.message.isprintable()


@pytest.mark.parametrize(
    "numbers",
    [
        (math.nan, 0.0, 0.0),
        (0.0, math.nan, 0.0),
        (0.0, 0.0, math.nan),
        (math.inf, 0.0, 0.0),
        (-math.inf, -1.0, 0.0),
    ],
)
@pytest.mark.parametrize("op", ["<", ">"])
def test_nan_anywhere_is_an_error_even_where_the_limit_would_hold(
    numbers: tuple[float, float, float], op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrails.checks import CHECKS

    check = replace(CHECKS["drift.output_kl"], measure=lambda *_: Estimate(*numbers, 500, "test"))
    monkeypatch.setitem(CHECKS, "drift.output_kl", check)
    require = {"metric": "kl_mean", "bound": "upper", "op": op, "value": 0.5 if op == "<" else -0.5}
    result = verdict([loaded(rule(severity="warn", require=require))])
    assert (finding(result, "drift.output").outcome, result.kind) == (Outcome.ERROR, BLOCKED)


def test_a_demanded_check_that_does_not_apply_is_inconclusive() -> None:
    lam = subject(kind=ModelKind.LAM)
    one = rule(check="harm.compliance", require={"metric": "rate", "bound": "upper", "op": "<", "value": 1.0})
    result = verdict([loaded(one)], about=lam)
    assert finding(result, "drift.output").outcome is Outcome.INCONCLUSIVE
    assert result.kind is REVIEW
    assert verdict([loaded(one, defaults={"onInconclusive": "block"})], about=lam).kind is BLOCKED


@pytest.mark.parametrize(
    ("op", "limit", "passes"),
    [("<", 0.06, False), ("<", 0.07, True), ("<=", 0.07, True), (">", 0.06, True), (">=", 0.07, False)],
)
def test_operators(op: str, limit: float, passes: bool) -> None:
    require = {"metric": "kl_mean", "bound": "upper", "op": op, "value": limit}
    found = finding(verdict([loaded(rule(require=require))], drift(GOOD)), "drift.output")
    assert (found.outcome is Outcome.PASS) is passes


def test_the_stated_bound_decides_and_not_the_mean() -> None:
    wide = [0.0, 0.28] * 100  # mean 0.14, upper bound above 0.15
    assert verdict([loaded(rule())], drift(wide)).kind is REVIEW
    lower = {"metric": "kl_mean", "bound": "lower", "op": ">", "value": 0.15}
    assert verdict([loaded(rule(require=lower))], drift([0.02, 0.30] * 100)).kind is REVIEW
    assert verdict([loaded(rule(require=lower))], drift([0.19, 0.21] * 100)).kind is ELIGIBLE


# --- waivers -------------------------------------------------------------------------------


def test_a_waiver_gives_review_and_is_shown() -> None:
    result = verdict([loaded(rule(severity="block"))], drift(BAD), waivers=[waiver()])
    found = finding(result, "drift.output")
    assert (result.kind, found.outcome, found.waived) == (REVIEW, Outcome.FAIL, True)
    assert "waived, would fail" in found.message


@pytest.mark.parametrize(
    ("given_waiver", "said"),
    [
        (waiver(rule="other"), ""),
        (waiver(bundle=canonical.digest(b"other")), ""),
        (waiver(expires_at=NOW.isoformat()), "is not in force"),
        (waiver(expires_at=(NOW - timedelta(days=1)).isoformat()), "is not in force"),
        (waiver(expires_at="2999-01-01"), "is not in force"),
        (waiver(expires_at="never"), "is not in force"),
    ],
)
def test_a_waiver_for_something_else_or_from_the_past_does_nothing(given_waiver: Waiver, said: str) -> None:
    result = verdict([loaded(rule(severity="block"))], drift(BAD), waivers=[given_waiver])
    found = finding(result, "drift.output")
    assert (result.kind, found.waived) == (BLOCKED, False)
    assert said in found.message


def test_what_cannot_be_waived_is_not() -> None:
    result = verdict([loaded(rule(severity="block", waivable=False))], drift(BAD), waivers=[waiver()])
    assert result.kind is BLOCKED
    assert "cannot be waived" in finding(result, "drift.output").message


def test_a_waiver_never_helps_beyond_review() -> None:
    assert verdict([loaded(rule())], drift(BAD), waivers=[waiver()]).kind is REVIEW
    assert verdict([loaded(rule())], waivers=[waiver()]).kind is BLOCKED, "an error cannot be waived"
    good = verdict([loaded(rule())], drift(GOOD), waivers=[waiver()])
    assert (good.kind, finding(good, "drift.output").waived) == (ELIGIBLE, False)


def test_too_few_samples_and_a_waiver() -> None:
    short = drift(BAD[:100])
    assert verdict([loaded(rule(severity="block"))], short, waivers=[waiver()]).kind is REVIEW
    strict = loaded(rule(severity="block"), defaults={"onInconclusive": "block"})
    assert verdict([strict], short, waivers=[waiver()]).kind is BLOCKED


def test_a_waiver_that_ends_soon_says_so() -> None:
    soon = waiver(expires_at=(NOW + timedelta(days=3)).isoformat())
    result = verdict([loaded(rule(severity="block"))], drift(BAD), waivers=[soon])
    assert "ends within 7 days" in finding(result, "drift.output").message


# --- selectors and several policies --------------------------------------------------------


def test_when_skips_and_says_so() -> None:
    one = rule(id="only.lam", when='model.kind == "lam"')
    result = verdict([loaded(one, integrity_rule())])
    assert finding(result, "only.lam").outcome is Outcome.SKIPPED
    assert result.kind is ELIGIBLE


@pytest.mark.parametrize("when", ['model.labels.nosuch == "x"', "model.kind", "1 / 0 == 1", "proposal.seed"])
def test_when_without_an_answer_is_an_error(when: str) -> None:
    result = verdict([loaded(rule(when=when), integrity_rule())], drift(GOOD))
    assert finding(result, "drift.output").outcome is Outcome.ERROR
    assert result.kind is BLOCKED


def test_a_submission_is_submitted_whatever_it_claims() -> None:
    one = rule(when='proposal.technique == "submitted"', severity="block")
    claimed = subject(submitted=True, technique="self_supervised", isolation="none")
    assert finding(verdict([loaded(one)], drift(BAD), about=claimed), "drift.output").outcome is Outcome.FAIL


def test_no_policy_no_rules_and_nothing_but_skipped_rules_are_blocked() -> None:
    none = verdict([])
    assert (none.kind, none.policies) == (BLOCKED, {})
    assert "no policy in force" in finding(none, "policy.none").message
    elsewhere = verdict([loaded(rule(), appliesTo={"name": ["nav*"]})], drift(GOOD))
    assert (elsewhere.kind, len(elsewhere.findings)) == (BLOCKED, 1)
    empty = verdict([loaded()], drift(GOOD))
    assert empty.kind is BLOCKED
    assert "has no rules" in finding(empty, "policy.empty").message
    skipped = verdict([loaded(rule(when='model.kind == "lam"'))], drift(GOOD))
    assert skipped.kind is BLOCKED
    assert "nothing was looked at" in finding(skipped, "policy.empty").message


@pytest.mark.parametrize(
    ("applies", "matches"),
    [
        ({}, True),
        ({"kind": ["llm"]}, True),
        ({"kind": ["lam"]}, False),
        ({"name": ["assist*"]}, True),
        ({"name": ["x", "assistant"]}, True),
        ({"name": ["Assistant"]}, False),
        ({"labels": {"tier": "prod"}}, True),
        ({"labels": {"tier": "dev"}}, False),
        ({"labels": {"tier": "prod", "team": "a"}}, False),
        ({"kind": ["llm"], "name": ["nav*"]}, False),
    ],
)
def test_applies_to(applies: dict[str, object], matches: bool) -> None:
    result = verdict([loaded(rule(), appliesTo=applies)], drift(GOOD))
    assert (result.kind is ELIGIBLE) is matches


def test_of_several_policies_the_worst_wins_and_all_are_named() -> None:
    lax, hard = loaded(rule(), name="lax"), loaded(rule(severity="block"), name="hard")
    result = verdict([lax, hard], drift(BAD))
    assert result.kind is BLOCKED
    assert result.policies == {"lax": str(lax.source.digest), "hard": str(hard.source.digest)}
    assert sorted(f.source for f in result.findings if f.rule == "drift.output") == [
        "hard.yaml:7",
        "lax.yaml:7",
    ]


def test_of_several_policies_the_strictest_defaults_bind_all_rules() -> None:
    lax = loaded(rule(), name="lax", defaults={"minSamples": 100, "confidence": 0.9})
    hard = loaded(integrity_rule(), name="hard", defaults={"minSamples": 400, "confidence": 0.99})
    assert verdict([lax], drift(GOOD)).kind is ELIGIBLE
    both = verdict([lax, hard], drift(GOOD))
    assert finding(both, "drift.output").outcome is Outcome.INCONCLUSIVE
    assert both.confidence == pytest.approx(0.99)


def test_shadow_policies_are_judged_and_do_not_count() -> None:
    shadow = loaded(rule(severity="block"), name="trial", mode="shadow", defaults={"minSamples": 10_000})
    result = verdict([loaded(integrity_rule()), shadow], drift(BAD))
    assert result.kind is ELIGIBLE
    assert list(result.policies) == ["p"]
    seen = finding(result, "drift.output")
    assert (seen.shadow, seen.outcome) == (True, Outcome.INCONCLUSIVE)
    assert "not binding" in seen.message
    assert not finding(result, "integrity.weights").shadow
    alone = verdict([shadow], drift(GOOD))
    assert alone.kind is BLOCKED
    assert "only shadow policies" in finding(alone, "policy.none").message


# --- budgets and isolation -----------------------------------------------------------------


def test_cpu_budget() -> None:
    policy = loaded(integrity_rule(), budgets={"compute": {"cpuSecondsPerProposal": 900}})
    within = verdict([policy], gate_facts={"compute.cpu_seconds": "900.0"})
    assert (within.kind, finding(within, "budget.cpu_seconds").outcome) == (ELIGIBLE, Outcome.PASS)
    over = verdict([policy], gate_facts={"compute.cpu_seconds": "900.5"})
    assert (over.kind, finding(over, "budget.cpu_seconds").outcome) == (BLOCKED, Outcome.ERROR)
    assert "out of budget" in finding(over, "budget.cpu_seconds").message
    assert verdict([policy], gate_facts={"other": "1"}).kind is BLOCKED


def test_the_measurement_cannot_state_what_the_supervisor_measures() -> None:
    policy = loaded(integrity_rule(), budgets={"compute": {"cpuSecondsPerProposal": 900}})
    claimed = SOUND | {"compute.cpu_seconds": "1.0"}
    assert verdict([policy], facts=claimed, gate_facts={"other": "1"}).kind is BLOCKED
    assert verdict([policy], facts=claimed, gate_facts={"compute.cpu_seconds": "901.0"}).kind is BLOCKED


def test_the_gates_facts_go_first() -> None:
    damaged = {"integrity.digest_matches": "false", "compute.cpu_seconds": "1.0"}
    assert verdict([loaded(integrity_rule())], gate_facts=damaged).kind is BLOCKED


def test_cumulative_drift() -> None:
    budget = {
        "check": "drift.output_kl",
        "suite": "control",
        "reference": "original",
        "metric": "kl_mean",
        "max": 0.6,
    }
    policy = loaded(integrity_rule(), budgets={"cumulativeDrift": budget})

    def since_original(value: float, n: int = 200) -> Verdict:
        items = tuple(str(i) for i in range(n))
        columns = {"kl_mean": (0.0,) * n, "kl_original_mean": (value,) * n}
        return verdict([policy], Series("distribution", "control", items, columns))

    assert since_original(0.6).kind is ELIGIBLE
    over = since_original(0.61)
    assert (over.kind, finding(over, "budget.cumulative_drift").outcome) == (BLOCKED, Outcome.ERROR)
    assert since_original(0.1, n=50).kind is REVIEW
    assert since_original(0.9, n=50).kind is BLOCKED
    assert verdict([policy], drift(GOOD)).kind is BLOCKED, "not measured"


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        ({}, ELIGIBLE),
        ({"isolation": "landlock"}, BLOCKED),
        ({"isolation": "none"}, BLOCKED),
        ({"isolation": "stricter"}, BLOCKED),
        ({"measured_at": "landlock"}, BLOCKED),
        ({"measured_at": ""}, BLOCKED),
        ({"isolation": "none", "submitted": True}, ELIGIBLE),
        ({"isolation": "none", "submitted": True, "measured_at": "none"}, BLOCKED),
    ],
)
def test_isolation_minimum(about: dict[str, object], kind: VerdictKind) -> None:
    assert verdict([loaded(integrity_rule())], about=subject(**about)).kind is kind


def test_isolation_minimum_is_the_policys() -> None:
    policy = loaded(integrity_rule(), isolation={"minimum": "landlock"})
    weak = subject(isolation="landlock", measured_at="strict")
    assert verdict([policy], about=weak).kind is ELIGIBLE
    assert verdict([policy, loaded(integrity_rule(), name="q")], about=weak).kind is ELIGIBLE
    hard = loaded(integrity_rule(), name="q", isolation={"minimum": "strict"})
    assert verdict([policy, hard], about=weak).kind is BLOCKED


@pytest.mark.parametrize("about", [{"isolation": "none"}, {"measured_at": "none"}, {"measured_at": ""}])
def test_nothing_made_or_measured_without_isolation_passes_under_any_policy(about: dict[str, object]) -> None:
    policy = loaded(integrity_rule(), isolation={"minimum": "none"})
    result = verdict([policy], about=subject(**about))
    assert result.kind is BLOCKED
    assert "landlock is needed" in finding(result, "isolation.minimum").message
    assert verdict([policy], about=subject(isolation="landlock", measured_at="landlock")).kind is ELIGIBLE


def test_attempts_tighten_the_interval() -> None:
    policy = loaded(rule(), budgets={"errorBudget": {"alpha": 0.05}})
    first, tenth = (verdict([policy], drift(GOOD), attempt=k) for k in (1, 10))
    assert first.confidence == pytest.approx(1 - 0.05 * 6 / math.pi**2)
    assert tenth.confidence == pytest.approx(1 - 0.0005 * 6 / math.pi**2)
    assert (finding(first, "drift.output").upper or 1) < (finding(tenth, "drift.output").upper or 0)
    assert tenth.attempt == 10


# --- promises ------------------------------------------------------------------------------


def test_a_verdict_is_a_record_and_the_same_every_time() -> None:
    one = verdict([loaded(rule(), integrity_rule())], drift(BAD))
    again = verdict([loaded(rule(), integrity_rule())], drift(BAD))
    data = canonical.encode(encode_record(one))
    assert data == canonical.encode(encode_record(again))
    assert decode_record(Verdict, canonical.parse(data)) == one


def test_infinite_bounds_can_be_recorded() -> None:
    result = verdict([loaded(rule())], drift([0.1]))
    assert finding(result, "drift.output").upper == math.inf
    canonical.encode(encode_record(result))


VALUES = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 0.3))
LIMITS = st.one_of(st.floats(-1, 1), st.integers(-2, 2))
BASE = loaded(rule())
RULES = st.builds(
    lambda severity, op, bound, limit, waivable: replace(
        BASE.policy.rules[0],
        severity=Severity(severity),
        waivable=waivable,
        require=Require("kl_mean", bound, op, float(limit)),
    ),
    st.sampled_from(["warn", "review", "block"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.sampled_from(["upper", "lower"]),
    LIMITS,
    st.booleans(),
)


def with_rule(one: Rule, name: str, least: int) -> LoadedPolicy:
    """A policy of one rule, without the detour over its text."""
    base = BASE.policy
    samples = Stated(least, base.places[""])
    metadata = replace(base.metadata, name=name)
    made = replace(base, metadata=metadata, rules=(one,), settings={"defaults.minSamples": samples})
    return LoadedPolicy(made, BASE.source)


@settings(max_examples=200, deadline=None)
@given(RULES, st.lists(VALUES, max_size=40), st.integers(1, 60), st.booleans(), st.integers(1, 50))
def test_never_eligible_without_enough_finite_numbers(
    one: Rule, values: list[float], least: int, with_waiver: bool, attempt: int
) -> None:
    policy = with_rule(one, "p", least)
    result = verdict([policy], drift(values), waivers=[waiver()] if with_waiver else [], attempt=attempt)
    found = finding(result, "drift.output")
    finite = bool(values) and all(math.isfinite(v) and v >= -1e-6 for v in values)
    if not finite:
        assert (found.outcome, result.kind) == (Outcome.ERROR, BLOCKED)
    elif len(values) < least:
        overflows = max(values) > 1e100  # whose squares no float holds
        assert found.outcome is Outcome.INCONCLUSIVE or (overflows and found.outcome is Outcome.ERROR)
        assert result.kind is not ELIGIBLE
    if result.kind is ELIGIBLE:
        assert found.outcome in (Outcome.PASS, Outcome.WARN)
    assert {f.rule for f in result.findings} == {"drift.output", "isolation.minimum"}


@settings(max_examples=60, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=3), st.lists(st.floats(0, 0.4), min_size=30, max_size=60))
def test_another_policy_never_makes_a_verdict_better(rules: list[Rule], values: list[float]) -> None:
    order = [ELIGIBLE, REVIEW, BLOCKED]
    policies: list[LoadedPolicy] = []
    worst = 0
    for i, one in enumerate(rules):
        policies.append(with_rule(one, f"p{i}", 30 + i))
        now = order.index(verdict(policies, drift(values)).kind)
        assert now >= worst
        worst = now
    random.Random(1).shuffle(policies)
    assert order.index(verdict(policies, drift(values)).kind) == worst
