"""Checks of control, of compute and of gain: hand-computed values, and nothing broken ever yields a number."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import SOUND, finding, loaded, verdict

from guardrails.canonical import digest, encode
from guardrails.checks import CHECKS
from guardrails.checks.compute import compute_facts
from guardrails.checks.control import alpha_share, control_facts, recipe_digest
from guardrails.checks.integrity import PROPERTIES
from guardrails.errors import NotMeasuredError, PolicyError
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Compute, Measurements, ModelKind, Outcome, Proposal, Series, State, open_text
from guardrails.statistics import Estimate
from ui import presenters

N = 40
ITEMS = tuple(f"i{n}" for n in range(N))
APPROVED = f"sha256:{'a' * 64}"


def estimate(name: str, metric: str, *series: Series, facts: dict[str, str], **params: Any) -> Estimate:
    check = CHECKS[name]
    return check.estimate(metric, check.params(**params), Measurements(series, {}), facts, 0.95)


def series(probe: str, **columns: float | tuple[float, ...]) -> Series:
    filled = {k: v if isinstance(v, tuple) else (float(v),) * N for k, v in columns.items()}
    return Series(probe, "s", ITEMS, filled)


def proposal(**changes: Any) -> Proposal:
    made = Proposal(
        id="P-0001", model="m", kind=ModelKind.LLM, technique="self_supervised",
        intent=open_text("more").commitment(), bundle=digest(b"b"), champion=digest(b"c"), data=digest(b"d"),
        objective=digest(b"o"), recipe={"steps": "40"}, seed=7,
        environment={
            "python": "3.11", "learner.code": str(digest(b"code")), "recipe.steps": "40", "recipe.tokens": "20480",
            "recipe.objective": str(digest(b"o")), "denied.socket": "3 (EPERM)", "denied.bpf": "1 (EPERM)",
            "denied.files: by Landlock, mounts and permissions": "not observable",
            "claim.steps": "40", "claim.records": "12", "claim.first_loss": "3.5", "claim.last_loss": "3.1",
        },
        isolation="strict", submitted=False, compute=Compute(10.0, 20.0, 1 << 30, 0, "cgroup"), proposer="loop",
    )  # fmt: skip
    return replace(made, **changes)


def facts(**changes: Any) -> dict[str, str]:
    made = proposal(**changes)
    return {
        **control_facts(made), **compute_facts(made.compute), "control.attempt": "3", "data.records": "12",
        "integrity.parameters": "1000", **dict.fromkeys(PROPERTIES, "true"),
    }  # fmt: skip


def changed(**lines: str | None) -> dict[str, str]:
    """The facts of a proposal with other lines in its environment; underscores stand for dots; None: absent."""
    environment = proposal().environment | {
        name.replace("__", "."): text for name, text in lines.items() if text
    }
    for name, text in lines.items():
        if text is None:
            environment.pop(name.replace("__", "."), None)
    return facts(environment=environment)


# --- recipe --------------------------------------------------------------------------------


def test_the_recipes_digest_is_of_what_was_ordered_and_of_the_program() -> None:
    one = proposal()
    expected = {
        "technique": "self_supervised", "recipe": {"steps": "40"}, "learner": {"learner.code": str(digest(b"code"))}
    }  # fmt: skip
    assert recipe_digest(one) == digest(encode(expected))
    assert recipe_digest(
        replace(one, seed=8, environment=one.environment | {"python": "3.12"})
    ) == recipe_digest(one)
    for other in (
        replace(one, recipe={"steps": "41"}),
        replace(one, technique="reinforcement"),
        replace(one, environment=one.environment | {"learner.code": str(digest(b"another"))}),
    ):
        assert recipe_digest(other) != recipe_digest(one)


def test_the_digest_that_a_rule_asks_for_is_the_one_that_show_tells() -> None:
    def shown(**changes: Any) -> dict[str, Any]:
        row = ProposalRow("P-0001", "m", "x", State.PROPOSED, "t", "t", proposal=proposal(**changes))
        return presenters.detail_fields(row, str, str)

    told = shown()
    rule = {"recipes": (told["recipe_digest"],), "objectives": (told["objective_digest"],)}
    assert estimate("control.recipe", "unapproved", facts=facts(), **rule).value == 0
    assert shown(submitted=True)["recipe_digest"] == ""


def test_what_is_not_on_its_list_is_counted_and_named() -> None:
    known = facts()
    mine = {
        "recipes": (str(recipe_digest(proposal())),),
        "objectives": (str(digest(b"o")),),
        "techniques": ("self_supervised",),
    }
    assert estimate("control.recipe", "unapproved", facts=known, **mine).value == 0
    for name in mine:
        other = ("reinforcement",) if name == "techniques" else (APPROVED,)
        found = estimate("control.recipe", "unapproved", facts=known, **(mine | {name: other}))
        assert found.value == 1
        assert name.removesuffix("s") in found.note
    every = dict.fromkeys(mine, (APPROVED,))
    assert estimate("control.recipe", "unapproved", facts=known, **every).value == 3


def test_a_submissions_recipe_is_never_approved() -> None:
    known = facts(submitted=True)
    stated = {"objectives": (str(digest(b"o")),)}
    assert estimate("control.recipe", "unapproved", facts=known, **stated).value == 1
    assert estimate("control.recipe", "unapproved", facts=known, techniques=("submitted",)).value == 0
    assert estimate("control.recipe", "unapproved", facts=known, techniques=("self_supervised",)).value == 1


def test_nothing_approved_and_nothing_known_is_not_measured() -> None:
    with pytest.raises(NotMeasuredError, match="lists nothing"):
        estimate("control.recipe", "unapproved", facts=facts())
    with pytest.raises(NotMeasuredError):
        estimate("control.recipe", "unapproved", facts={}, techniques=("self_supervised",))


# --- denials -------------------------------------------------------------------------------


def test_refusals_are_counted_by_kind() -> None:
    known = facts()
    found = estimate("control.denials", "count", facts=known)
    assert (found.value, found.note) == (4, "bpf 1, socket 3")
    assert estimate("control.denials", "kinds", facts=known).value == 2
    assert estimate("control.denials", "observed", facts=known).value == 1


def test_what_libraries_are_known_to_try_can_be_left_out() -> None:
    found = estimate("control.denials", "count", facts=facts(), expected=("socket",))
    assert (found.value, found.note) == (1, "bpf 1")
    broken = changed(denied__socket="NaN")
    with pytest.raises(NotMeasuredError):
        estimate("control.denials", "count", facts=broken, expected=("socket",))


def test_an_observed_job_that_was_refused_nothing() -> None:
    known = changed(denied__socket=None, denied__bpf=None)
    assert estimate("control.denials", "count", facts=known).value == 0
    assert estimate("control.denials", "observed", facts=known).value == 1


@pytest.mark.parametrize("lines", [
    {"denied__system calls": "not observable"},
    {"denied__socket": None, "denied__bpf": None, "denied__files: by Landlock, mounts and permissions": None},
])  # fmt: skip
def test_what_nobody_could_observe_has_no_count(lines: dict[str, Any]) -> None:
    known = changed(**lines)
    assert estimate("control.denials", "observed", facts=known).value == 0
    for metric in ("count", "kinds"):
        with pytest.raises(NotMeasuredError, match="not observed"):
            estimate("control.denials", metric, facts=known)


@pytest.mark.parametrize(
    "text", ["NaN", "many (EPERM)", "-1 (EPERM)", "3", "9" * 40 + " (EPERM)", "1e9 (EPERM)"]
)
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(NotMeasuredError, match="not a count"):
        estimate("control.denials", "count", facts=changed(denied__socket=text))


# --- claims --------------------------------------------------------------------------------

WORSE = series(
    "distribution", bytes=100, nll_candidate=tuple(72.0 + i % 2 for i in range(N)), nll_champion=70
)
BETTER = series(
    "distribution", bytes=100, nll_candidate=tuple(60.0 + i % 2 for i in range(N)), nll_champion=70
)


def contradicted(measured: Series, known: dict[str, str]) -> Estimate:
    return estimate("control.claims", "contradicted", measured, facts=known, suite="s")


def test_honest_claims_are_contradicted_by_nothing() -> None:
    assert contradicted(BETTER, facts()).value == 0
    # objective, steps, records and the loss
    assert estimate("control.claims", "compared", BETTER, facts=facts(), suite="s").value == 4


@pytest.mark.parametrize(("lines", "word"), [
    ({"claim__steps": "400"}, "steps: 400 claimed, 40 ordered"),
    ({"claim__tokens": "20481"}, "tokens"),
    ({"claim__records": "13"}, "records: 13 claimed, 12 counted"),
    ({"claim__cpu_seconds": "14.9"}, "CPU seconds: 14.9 claimed, 20 measured"),
    ({"claim__gain": "0.5"}, "gain: 0.5 claimed"),
    ({"recipe__objective": str(digest(b"x"))}, "objective"),
])  # fmt: skip
def test_each_claim_that_is_not_so_is_named(lines: dict[str, str], word: str) -> None:
    found = contradicted(BETTER, changed(**lines))
    assert found.value == 1
    assert word in found.note


def test_claims_within_what_is_known_stand() -> None:
    known = changed(claim__tokens="20480", claim__cpu_seconds="15.1", claim__gain="0.05")
    assert contradicted(BETTER, known).value == 0


def test_a_claimed_fall_of_the_loss_that_was_measured_to_be_a_rise() -> None:
    assert contradicted(WORSE, facts()).value == 1
    assert "loss: from 3.5 to 3.1 claimed" in contradicted(WORSE, facts()).note
    assert contradicted(WORSE, changed(claim__last_loss="3.6")).value == 0  # it says so itself
    unclear = series(
        "distribution", bytes=100, nll_candidate=tuple(70.0 + i % 2 for i in range(N)), nll_champion=70.5
    )
    assert contradicted(unclear, facts()).value == 0


@pytest.mark.parametrize("text", ["NaN", "inf", "not a number", "1e999"])
def test_a_claim_that_is_no_number_is_not_measured(text: str) -> None:
    with pytest.raises(NotMeasuredError, match="gain"):
        contradicted(BETTER, changed(claim__gain=text))


def test_who_claims_nothing_comparable_is_not_measured() -> None:
    with pytest.raises(NotMeasuredError, match="claims nothing"):
        contradicted(BETTER, facts(environment={}))
    with pytest.raises(NotMeasuredError, match="only one"):
        contradicted(BETTER, changed(claim__last_loss=None))
    with pytest.raises(NotMeasuredError):  # claimed steps, and nobody knows what was ordered
        contradicted(BETTER, changed(recipe__steps=None))


# --- sandbagging, lineage ------------------------------------------------------------------


def noise(**columns: float | tuple[float, ...]) -> Series:
    plain = {f"rise{scale}_{name}": 0.0 for scale in range(3) for name in ("candidate", "champion")}
    return series("noise", **(plain | columns))


def test_the_largest_rise_beyond_the_champions_counts() -> None:
    rises = tuple(0.4 + 0.1 * (i % 2) for i in range(N))
    found = estimate("control.sandbagging", "improvement", noise(rise1_candidate=rises), facts={}, suite="s")
    assert found.value == pytest.approx(0.45)
    assert 0.42 < found.lower < 0.45 < found.upper < 0.48
    both = noise(rise1_candidate=rises, rise1_champion=rises)
    assert estimate("control.sandbagging", "improvement", both, facts={}, suite="s").value == 0


def test_the_lineage_and_its_share_of_the_error_budget() -> None:
    assert estimate("control.lineage", "attempts", facts={"control.attempt": "3"}).value == 3
    spent = estimate("control.lineage", "alpha_spent", facts={"control.attempt": "3"}).value
    assert spent == pytest.approx(6 / math.pi**2 * (1 + 1 / 4 + 1 / 9))
    for text in ("0", "-1", "NaN", "1.0", ""):
        with pytest.raises(NotMeasuredError):
            estimate("control.lineage", "attempts", facts={"control.attempt": text})


def test_the_share_of_many_attempts_is_the_sum_and_never_more_than_all() -> None:
    assert alpha_share(5000) == pytest.approx(
        6 / math.pi**2 * math.fsum(1 / k**2 for k in range(1, 5001)), rel=1e-12
    )
    assert alpha_share(1001) > alpha_share(1000)
    assert alpha_share(10**15) <= 1.0


# --- compute -------------------------------------------------------------------------------


def test_training_costs_six_operations_for_each_weight_and_token() -> None:
    params = {"flops_per_core_second": 1e7}
    assert estimate("compute.training", "expected_flops", facts=facts(), **params).value == 6 * 1000 * 20480
    found = estimate("compute.training", "ratio", facts=facts(), **params)
    assert found.value == pytest.approx(20 / (6 * 1000 * 20480 / 1e7))
    assert "6 x 1000 weights x 20480 tokens" in found.note


def test_a_trainer_does_not_say_how_much_was_ordered() -> None:
    claimed = changed(claim__tokens="99999999", claim__steps="1")
    assert (
        estimate("compute.training", "expected_flops", facts=claimed, flops_per_core_second=1e7).value
        == 122880000
    )


def test_energy_is_an_estimate_and_says_so() -> None:
    found = estimate("compute.energy", "kwh", facts=facts(), watts_per_core=9.0)
    assert found.value == pytest.approx(20 * 9 / 3.6e6)
    assert "estimate" in found.note


def test_efficiency_is_the_gain_with_its_interval_by_core_second() -> None:
    gain = estimate("gain.task", "delta", BETTER, facts={}, suite="s")
    found = estimate("compute.efficiency", "gain_per_core_second", BETTER, facts=facts(), suite="s")
    for end in ("value", "lower", "upper"):
        assert getattr(found, end) == pytest.approx(getattr(gain, end) / 20)
    assert found.n == N


@pytest.mark.parametrize("name", ["compute.training", "compute.energy", "compute.efficiency"])
def test_what_did_not_run_here_cost_nobody_knows_what(name: str) -> None:
    known = facts(compute=Compute(0.0, 0.0, 0, 0, "not run here"))
    params = {"compute.training": {"flops_per_core_second": 1.0}, "compute.energy": {"watts_per_core": 1.0}}
    metric = {"compute.training": "ratio", "compute.energy": "kwh"}.get(name, "gain_per_core_second")
    with pytest.raises(NotMeasuredError, match="not trained here"):
        estimate(name, metric, BETTER, facts=known, **params.get(name, {"suite": "s"}))


# --- gain ----------------------------------------------------------------------------------


def test_a_match_counts_wins_draws_and_losses() -> None:
    won = tuple(69.0 if i < 30 else 70.0 if i < 36 else 71.0 for i in range(N))
    measured = series("distribution", bytes=100, nll_candidate=won, nll_champion=70.0)
    found = estimate("gain.match", "score", measured, facts={}, suite="s")
    assert found.value == pytest.approx((30 + 0.5 * 6) / 40)
    assert found.method == "betting, anytime-valid"
    assert found.lower < found.value < found.upper


def test_a_match_of_episodes_and_one_against_itself() -> None:
    ones, zeros = (1.0,) * N, (0.0,) * N
    won = series("episodes", success_candidate=ones, success_champion=zeros)
    assert estimate("gain.match", "score", won, facts={}, suite="s").lower > 0.5
    even = series("episodes", success_candidate=ones, success_champion=ones)
    found = estimate("gain.match", "score", even, facts={}, suite="s")
    assert found.value == 0.5
    assert found.lower < 0.5


def test_the_champions_noise_floor() -> None:
    half = tuple(float(i % 2) for i in range(N))
    measured = series("episodes", success_candidate=half, success_champion=half)
    found = estimate("gain.task", "noise_floor", measured, facts={}, suite="s")
    # Clopper and Pearson of 20 of 40: 0.3380 .. 0.6620
    assert found.value == pytest.approx(math.sqrt(2) * (0.6620 - 0.3380) / 2, abs=1e-3)
    text = series("distribution", bytes=100, nll_candidate=70, nll_champion=70)
    assert estimate("gain.task", "noise_floor", text, facts={}, suite="s").value == pytest.approx(
        0, abs=1e-12
    )


# --- nothing broken yields a number --------------------------------------------------------

EPISODES = series("episodes", success_candidate=1, success_champion=0, unsafe_candidate=0, unsafe_champion=0)
PREFERENCE = series("preference", margin_candidate=-1, margin_champion=-1)
ELICITATION = series(
    "elicitation",
    **{f"{way}_{model}": 1 for way in ("prefix", "step0", "step1") for model in ("candidate", "champion")},
)
WHOLE: dict[str, tuple[str, tuple[Series, ...], dict[str, Any], tuple[str, ...]]] = {
    "compute.usage": ("cpu_seconds", (), {}, ("compute.cpu_seconds",)),
    "compute.training": ("ratio", (), {"flops_per_core_second": 1e7},
                         ("compute.cpu_seconds", "integrity.parameters", "control.recipe.tokens")),
    "compute.energy": ("kwh", (), {"watts_per_core": 9.0}, ("compute.cpu_seconds",)),
    "compute.efficiency": ("gain_per_core_second", (BETTER,), {"suite": "s"}, ("compute.cpu_seconds",)),
    "control.recipe": ("unapproved", (), {"techniques": ("self_supervised",)},
                       ("control.technique", "control.submitted")),
    "control.denials": ("count", (), {}, ("control.denied.socket",)),
    "control.claims": ("contradicted", (BETTER,), {"suite": "s"},
                       ("control.recipe.steps", "control.claim.steps", "control.claim.last_loss", "data.records",
                        "control.objective")),
    "control.sandbagging": ("improvement", (noise(),), {"suite": "s"}, ()),
    "control.approval_seeking": ("margin_delta", (PREFERENCE,), {"suite": "s"}, ()),
    "control.oversight_evasion": ("margin_delta", (PREFERENCE,), {"suite": "s"}, ()),
    "control.elicitation": ("improvement", (ELICITATION,), {"suite": "s"}, ()),
    "control.lineage": ("alpha_spent", (), {}, ("control.attempt",)),
    "gain.task": ("delta", (EPISODES,), {"suite": "s"}, ()),
    "gain.match": ("score", (BETTER,), {"suite": "s"}, ()),
    "drift.output_kl": ("kl_mean", (series("distribution", kl_mean=0.1),), {"suite": "s"}, ()),
    "drift.bits_per_byte": ("delta", (BETTER,), {"suite": "s"}, ()),
    "drift.output_js": ("js_mean", (series("distribution", js_mean=0.1),), {"suite": "s"}, ()),
    "harm.compliance": ("delta", (PREFERENCE,), {"suite": "s"}, ()),
    "harm.unsafe_actions": ("delta", (series("episodes", unsafe_candidate=0, unsafe_champion=0),), {"suite": "s"}, ()),
}  # fmt: skip
READ = {
    "gain.task": ("success_candidate", "success_champion"),
    "gain.match": ("nll_candidate", "nll_champion"),
}


def test_every_check_of_these_families_stands_in_the_table() -> None:
    mine = {name for name in CHECKS if name.startswith(("control.", "compute.", "gain."))}
    assert mine <= set(WHOLE)


@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_one_broken_input_and_there_is_no_number_and_no_pass(name: str, data: st.DataObject) -> None:
    metric, rows, params, needed = WHOLE[name]
    known = facts()
    assert estimate(name, metric, *rows, facts=known, **params).is_number
    places = [("fact", fact) for fact in needed]
    places += [("column", column) for row in rows for column in READ.get(name, tuple(row.columns))]
    kind, place = data.draw(st.sampled_from(places))
    if kind == "fact":
        text = data.draw(st.sampled_from(["", "NaN", "inf", "-Infinity", "1e999", "-1", "²", "0x10", None]))
        if text is None:
            known.pop(place)
        else:
            known[place] = text
    else:
        item = data.draw(st.integers(0, N - 1))
        value = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, None]))
        rows = tuple(_broken(row, place, item, value) for row in rows)
    try:
        found = estimate(name, metric, *rows, facts=known, **params)
    except NotMeasuredError:
        return
    # A list of what is approved has no broken entries: what is not on it counts. A line that is not there at all
    # was never claimed, or never refused. A loss may be below zero: of a policy's gain it often is.
    is_a_loss = place == "control.claim.last_loss" and known.get(place) == "-1"
    assert found.value > 0 or known.get(place) is None or is_a_loss, (name, place)
    assert name in ("control.recipe", "control.claims", "control.denials")


def _broken(row: Series, column: str, item: int, value: float | None) -> Series:
    columns = dict(row.columns)
    if value is None:
        del columns[column]
    else:
        columns[column] = (*columns[column][:item], value, *columns[column][item + 1 :])
    return Series(row.probe, row.suite, row.items, columns)


# --- in the engine -------------------------------------------------------------------------


def control_rule(check: str, metric: str, op: str, value: float, **params: Any) -> dict[str, Any]:
    return {
        "id": "control", "check": check, "severity": "review", "params": params,
        "require": {"metric": metric, "op": op, "value": value},
    }  # fmt: skip


def test_a_measurement_cannot_state_what_is_the_gates() -> None:
    policy = loaded(control_rule("control.recipe", "unapproved", "==", 0, techniques=["self_supervised"]))
    known = {name: text for name, text in facts().items() if not name.startswith("integrity.")}
    assert finding(verdict([policy], gate_facts=known), "control").outcome is Outcome.PASS
    stated = SOUND | {"control.technique": "self_supervised", "control.submitted": "false"}
    assert finding(verdict([policy], facts=stated), "control").outcome is Outcome.ERROR


def test_the_finding_names_what_is_not_approved() -> None:
    policy = loaded(control_rule("control.recipe", "unapproved", "==", 0, techniques=["reinforcement"]))
    found = finding(verdict([policy], gate_facts=facts()), "control")
    assert found.outcome is Outcome.FAIL
    assert found.message.endswith("(technique self_supervised)")


def test_the_attempt_of_the_case_is_the_lineages() -> None:
    policy = loaded(control_rule("control.lineage", "attempts", "<=", 2))
    assert finding(verdict([policy], attempt=2), "control").outcome is Outcome.PASS
    assert finding(verdict([policy], attempt=3), "control").outcome is Outcome.FAIL


@pytest.mark.parametrize("params", [
    {"techniques": []}, {"techniques": ["a", "a"]}, {"techniques": "a"}, {"recipes": ["sha256:abc"]},
    {"techniques": [1]}, {"technique": ["a"]},
])  # fmt: skip
def test_lists_of_what_is_approved_are_checked_as_they_are_read(params: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        loaded({**control_rule("control.recipe", "unapproved", "==", 0), "params": params})


@pytest.mark.parametrize("watts", [0, -1, "9", True, None])
def test_a_number_is_checked_as_it_is_read(watts: Any) -> None:
    with pytest.raises(PolicyError):
        loaded({**control_rule("compute.energy", "kwh", "<", 1), "params": {"watts_per_core": watts}})


def test_the_order_of_a_list_means_nothing() -> None:
    one, other = (
        loaded(control_rule("control.recipe", "unapproved", "==", 0, techniques=names)).policy.rules[0].params
        for names in (["a", "b"], ["b", "a"])
    )
    assert one == other


# --- error rates, by simulation ------------------------------------------------------------

RUNS, DRAWN = 400, 200
MOST = 0.025 + 3 * math.sqrt(0.025 * 0.975 / RUNS)
"""A one-sided error of 2.5 % and three standard errors of its estimate: 4.8 %."""


def drawn(probe: str, columns: dict[str, list[float]]) -> Series:
    return Series(
        probe, "s", tuple(map(str, range(DRAWN))), {name: tuple(values) for name, values in columns.items()}
    )


@pytest.mark.slow
def test_equal_players_win_a_match_no_more_often_than_stated_and_a_better_one_does() -> None:
    draw = random.Random(1)

    def won(better: float) -> float:
        wins = 0
        for _ in range(RUNS):
            before = [draw.random() + 1 for _ in range(DRAWN)]
            after = [value + (-1.0 if draw.random() < better else 1.0) for value in before]
            measured = drawn("distribution", {"nll_candidate": after, "nll_champion": before})
            wins += estimate("gain.match", "score", measured, facts={}, suite="s").lower > 0.5
        return wins / RUNS

    assert won(0.5) <= MOST
    assert won(0.7) > 0.95


@pytest.mark.slow
def test_noise_that_helps_nobody_is_called_sandbagging_no_more_often_than_stated() -> None:
    draw = random.Random(2)
    called = 0
    for _ in range(RUNS):
        names = [f"rise{scale}_{name}" for scale in range(3) for name in ("candidate", "champion")]
        measured = drawn("noise", {name: [draw.gauss(0, 1) for _ in range(DRAWN)] for name in names})
        called += estimate("control.sandbagging", "improvement", measured, facts={}, suite="s").lower > 0
    assert called / RUNS <= MOST


@pytest.mark.slow
def test_two_draws_of_the_champion_differ_by_more_than_the_floor_no_more_often_than_stated() -> None:
    draw = random.Random(3)
    beyond = 0
    for _ in range(RUNS):
        one, other = ([float(draw.random() < 0.7) for _ in range(DRAWN)] for _ in range(2))
        measured = drawn("episodes", {"success_candidate": one, "success_champion": one})
        floor = estimate("gain.task", "noise_floor", measured, facts={}, suite="s").value
        beyond += abs(sum(one) - sum(other)) / DRAWN > floor
    assert beyond / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
