"""The shipped policy: each of its rules passes on good evidence and fails on bad, and nothing is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from policy_cases import DEFAULT, SOUND, finding, subject, verdict

from guardrails.policy import combine, lint, load_policy
from guardrails.policy.lint import resolvable_attempts
from guardrails.records import ModelKind, Outcome, Series, Verdict, VerdictKind

LOADED = load_policy(DEFAULT)
POLICY = LOADED.policy
N = 200
ITEMS = tuple(f"i{n}" for n in range(N))
TOKENS = tuple(f"i{n // 60}" for n in range(60 * N))


def spread(mean: float) -> tuple[float, ...]:
    """Values around a mean, as uneven as measured ones."""
    return tuple(mean * (0.5 if i % 2 else 1.5) for i in range(N))


def some(count: int) -> tuple[float, ...]:
    """So many ones among zeros."""
    return tuple(1.0 if i < count else 0.0 for i in range(N))


def text_series(
    suite: str, kl: float = 0.03, tail: float = 0.4, change: float = 0.0
) -> tuple[Series, Series]:
    """A control text: mean KL, 99th percentile of KL, bits a byte worse than the champion."""
    nll = tuple(70.0 + i % 5 for i in range(N))
    worse = tuple(value + change * 100 * math.log(2) for value in nll)
    columns = {
        "bytes": (100.0,) * N, "nll_candidate": worse, "nll_champion": nll,
        "kl_mean": spread(kl), "kl_original_mean": spread(2 * kl),
    }  # fmt: skip
    tokens = tuple(tail if n % 20 == 0 else kl for n in range(60 * N))
    return (
        Series("distribution", suite, ITEMS, columns),
        Series("distribution_tokens", suite, TOKENS, {"kl": tokens}),
    )


def assistant(**changes: object) -> list[Series]:
    """Evidence on an update of a language model that improves its task a little."""
    series = {
        "kjv": text_series("control-kjv"),
        "austen": text_series("control-austen"),
        "task": text_series("task", change=-0.03)[:1],
        "harm": (Series("preference", "harmful-requests", ITEMS, {
            "margin_candidate": (-0.4,) * N, "margin_champion": (-0.5,) * N,
        }),),
    }  # fmt: skip
    return [one for group in (series | changes).values() for one in group]  # type: ignore[attr-defined]


def navigator(
    unsafe: int = 20, unsafe_before: int = 40, won: int = 150, before: int = 110, **kl: float
) -> list[Series]:
    """Evidence on an update of an action model that wins more and steps into lava less."""
    episodes = {
        "unsafe_candidate": some(unsafe), "unsafe_champion": some(unsafe_before),
        "success_candidate": some(won), "success_champion": some(before),
    }  # fmt: skip
    return [Series("episodes", "lava-holdout", ITEMS, episodes), *text_series("lava-states", **kl)]


CENSUS = {"data.records": "100"} | {
    f"data.{name}": "0" for name in ("near_duplicates", "pii", "secrets", "language", "overlap")
}
GATE = {"compute.cpu_seconds": "240.0", "compute.wall_seconds": "130.0", "compute.memory_bytes": "2000000000"}
LAM = replace(subject(), model="navigator", kind=ModelKind.LAM, technique="reinforcement")


def llm_verdict(
    facts: dict[str, str] | None = None, gate: dict[str, str] | None = None, **changes: object
) -> Verdict:
    return verdict(
        [LOADED], *assistant(**changes), facts=SOUND | CENSUS | (facts or {}), gate_facts=GATE | (gate or {})
    )


def lam_verdict(facts: dict[str, str] | None = None, **changes: float) -> Verdict:
    series = navigator(**changes)  # type: ignore[arg-type]
    return verdict([LOADED], *series, facts=SOUND | CENSUS | (facts or {}), gate_facts=GATE, about=LAM)


def pupil(won: int = 150, lost: int = 0, **control: float) -> Verdict:
    """The verdict on an update of a language model that answers more puzzles right, and copies as before."""
    series = (
        Series("written", "skills", ITEMS, {"success_candidate": some(won), "success_champion": some(110)}),
        Series("written", "control-copy-answers", ITEMS, {
            "success_candidate": some(N - lost), "success_champion": some(N),
        }),
        *text_series("control-copy", **control),
    )  # fmt: skip
    about = replace(subject(), model="pupil", technique="reinforcement", labels={"task": "skills"})
    return verdict([LOADED], *series, facts=SOUND | CENSUS, gate_facts=GATE, about=about)


def quick(after: int) -> Verdict:
    """The verdict on an update of one adopted to be quick to learn, which answers so many puzzles after examples."""
    columns = {"success_candidate": some(after), "success_champion": some(110)}
    series = (
        Series("adaptation", "adapt", ITEMS, columns),
        Series("written", "skills", ITEMS, {name: some(110) for name in columns}),
        Series("written", "control-copy-answers", ITEMS, {name: some(N) for name in columns}),
        *text_series("control-copy"),
    )
    labels = {"task": "skills", "adapt": "rotate4:?"}
    about = replace(subject(), model="pupil", technique="meta", labels=labels)
    return verdict([LOADED], *series, facts=SOUND | CENSUS, gate_facts=GATE, about=about)


def harm(rises: int) -> tuple[Series]:
    """So many harmful requests that the candidate would now comply with."""
    after = tuple(0.1 if i < rises else -0.5 for i in range(N))
    columns = {"margin_candidate": after, "margin_champion": (-0.5,) * N}
    return (Series("preference", "harmful-requests", ITEMS, columns),)


def test_an_honest_small_improvement_is_eligible_for_every_task() -> None:
    for result in (llm_verdict(), lam_verdict(), pupil(), quick(150)):
        bad = [
            (f.rule, f.message) for f in result.findings if f.outcome not in (Outcome.PASS, Outcome.SKIPPED)
        ]
        assert (result.kind, bad) == (VerdictKind.ELIGIBLE, [])


def test_nothing_measured_is_blocked() -> None:
    assert verdict([LOADED], measured=False).kind is VerdictKind.BLOCKED
    assert verdict([LOADED], facts=SOUND | CENSUS, gate_facts=GATE).kind is VerdictKind.BLOCKED


@pytest.mark.parametrize("kind", list(ModelKind))
def test_a_task_that_no_rule_is_for_is_blocked_whatever_was_measured(kind: ModelKind) -> None:
    about = replace(subject(), kind=kind, labels={"task": "chess"})
    series = assistant() if kind is ModelKind.LLM else navigator()
    result = verdict([LOADED], *series, facts=SOUND | CENSUS, gate_facts=GATE, about=about)
    assert result.kind is VerdictKind.BLOCKED
    assert "no rule of it is for the task 'chess'" in finding(result, "policy.empty").message
    # The same evidence on a model of the task that it is evidence of is cleared.
    assert verdict(
        [LOADED], *series, facts=SOUND | CENSUS, gate_facts=GATE, about=replace(about, labels={})
    ).kind is VerdictKind.ELIGIBLE  # fmt: skip


def test_evidence_of_another_task_clears_nothing() -> None:
    about = replace(subject(), labels={"task": "skills"})
    assert verdict([LOADED], *assistant(), facts=SOUND | CENSUS, gate_facts=GATE, about=about).kind is (
        VerdictKind.BLOCKED
    )


# rule, a failing case, what it means
REVIEW, BLOCKED, ELIGIBLE = VerdictKind.REVIEW, VerdictKind.BLOCKED, VerdictKind.ELIGIBLE
FAILING = {
    "drift.output.kjv": (lambda: llm_verdict(kjv=text_series("control-kjv", kl=0.16)), REVIEW),
    "drift.output.austen": (lambda: llm_verdict(austen=text_series("control-austen", kl=0.16)), REVIEW),
    "drift.tail.kjv": (lambda: llm_verdict(kjv=text_series("control-kjv", tail=2.5)), REVIEW),
    "drift.tail.austen": (lambda: llm_verdict(austen=text_series("control-austen", tail=2.5)), REVIEW),
    "drift.forgetting.kjv": (lambda: llm_verdict(kjv=text_series("control-kjv", change=0.06)), REVIEW),
    "drift.forgetting.austen": (
        lambda: llm_verdict(austen=text_series("control-austen", change=0.06)),
        REVIEW,
    ),
    "drift.output.states": (lambda: lam_verdict(kl=0.7), REVIEW),
    "drift.tail.states": (lambda: lam_verdict(tail=9.0), ELIGIBLE),
    "harm.compliance": (lambda: llm_verdict(harm=harm(4)), BLOCKED),
    "harm.unsafe_actions.rise": (lambda: lam_verdict(unsafe=30, unsafe_before=20), BLOCKED),
    "harm.unsafe_actions.rate": (lambda: lam_verdict(unsafe=80, unsafe_before=80), REVIEW),
    "data.near_duplicates": (lambda: llm_verdict({"data.near_duplicates": "5"}), REVIEW),
    "data.pii": (lambda: llm_verdict({"data.pii": "1"}), BLOCKED),
    "data.secrets": (lambda: llm_verdict({"data.secrets": "1"}), BLOCKED),
    "data.language": (lambda: llm_verdict({"data.language": "5"}), REVIEW),
    "data.overlap": (lambda: lam_verdict({"data.overlap": "1"}), BLOCKED),
    "compute.memory": (lambda: llm_verdict(gate={"compute.memory_bytes": str(2**33)}), ELIGIBLE),
    "integrity.weights": (lambda: lam_verdict({"integrity.finite": "false"}), BLOCKED),
    "gain.text": (lambda: llm_verdict(task=text_series("task")[:1]), REVIEW),
    "gain.actions": (lambda: lam_verdict(won=110), REVIEW),
    "drift.output.copy": (lambda: pupil(kl=0.16), REVIEW),
    "drift.tail.copy": (lambda: pupil(tail=2.5), REVIEW),
    "drift.forgetting.copy": (lambda: pupil(lost=12), REVIEW),
    "gain.adapt": (lambda: quick(after=110), REVIEW),
    "gain.skills": (lambda: pupil(won=110), REVIEW),
    "gain.skills.collapse": (lambda: pupil(won=60), BLOCKED),
}


LEVELS = {"moving", "switch", "maze", "crossed", "supervised", "rewired", "few"}
"""Tasks whose rules the cases beside the policy try, each both ways (``policies/cases/default``)."""


GAMES_AND_TOOLS = ("connect-four", "tools")


def test_rules_for_games_and_tools_are_tried_by_the_cases_beside_the_policy() -> None:
    folder = Path(__file__).parents[1] / "policies" / "cases" / "default"
    for task, count in zip(GAMES_AND_TOOLS, (2, 3), strict=True):
        said = (folder / f"{task}.yaml").read_text("utf-8")
        rules = [rule for rule in POLICY.rules if f'model.task == "{task}"' in rule.when]
        assert len(rules) == count
        assert all(f"findings: {{{rule.id}: fail}}" in said for rule in rules)


def test_every_rule_has_a_failing_case() -> None:
    apart = (*LEVELS, *GAMES_AND_TOOLS)
    assert set(FAILING) == {
        rule.id for rule in POLICY.rules if not any(f'model.task == "{task}"' in rule.when for task in apart)
    }


def test_rules_for_levels_are_tried_by_the_cases_beside_the_policy() -> None:
    tried = (Path(__file__).parents[1] / "policies" / "cases" / "default").glob("*.yaml")
    said = "".join(path.read_text("utf-8") for path in tried if path.stem in LEVELS)
    rules = [rule for rule in POLICY.rules if any(f'model.task == "{task}"' in rule.when for task in LEVELS)]
    assert len(rules) == 15
    for rule in rules:
        assert f"findings: {{{rule.id}: fail}}" in said


@pytest.mark.parametrize("rule_id", FAILING)
def test_a_rule_passes_on_good_evidence_and_fails_on_bad(rule_id: str) -> None:
    case, kind = FAILING[rule_id]
    good = [llm_verdict(), lam_verdict(), pupil(), quick(150)]
    assert Outcome.PASS in {finding(result, rule_id).outcome for result in good}
    result = case()
    failed = [f.rule for f in result.findings if f.outcome not in (Outcome.PASS, Outcome.SKIPPED)]
    # Whoever may have lost a fifth has not gained either.
    assert failed == (["gain.skills", rule_id] if rule_id == "gain.skills.collapse" else [rule_id])
    assert finding(result, rule_id).outcome in (Outcome.FAIL, Outcome.WARN)
    assert result.kind is kind


def test_budgets_of_the_shipped_policy() -> None:
    over = llm_verdict(gate={"compute.cpu_seconds": "901.0"})
    assert (over.kind, finding(over, "budget.cpu_seconds").outcome) == (BLOCKED, Outcome.ERROR)
    far = text_series("control-kjv")[0]
    far = replace(far, columns=far.columns | {"kl_original_mean": spread(0.7)})
    result = llm_verdict(kjv=(far, text_series("control-kjv")[1]))
    drifts = [f for f in result.findings if f.rule == "budget.cumulative_drift"]
    assert [f.outcome for f in drifts] == [Outcome.ERROR] + [Outcome.SKIPPED] * (len(drifts) - 1)
    assert result.kind is BLOCKED


def test_harm_and_integrity_cannot_be_waived() -> None:
    fixed = {rule.id for rule in POLICY.rules if not rule.waivable}
    assert {"harm.compliance", "harm.unsafe_actions.rise", "integrity.weights"} <= fixed


def test_every_rule_says_why_and_every_limit_can_be_resolved() -> None:
    assert lint(POLICY) == []
    effective = combine([POLICY])
    for rule in POLICY.rules:
        assert len(rule.rationale) > 40
        # A run of failures must not make a harm limit unreachable before a person looks.
        assert resolvable_attempts(rule, effective) >= 10, rule.id


def test_the_shipped_file_states_every_setting() -> None:
    from guardrails.policy.settings import SETTINGS

    assert {one.path for one in SETTINGS} <= set(POLICY.settings)
    text = DEFAULT.read_text()
    for key in ("replay:", "seededChecks:", "deadMan:", "blindSamples:"):
        assert key in text


def test_the_shipped_file_leaves_room_for_policies_that_extend_it() -> None:
    assert DEFAULT.stat().st_size < 20_000
