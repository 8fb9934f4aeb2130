"""Would the cases notice a looser policy? Each rule is loosened or dropped, one at a time, and they run again.

Invariants:
- Every change tried here loosens (``policy.order`` says so, or the rule is gone).
- Noticed means: some case that runs as expected on the policy as it is does not on the looser one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from guardrails.authoring.case_files import CPU_RULE
from guardrails.authoring.testing import Result, run_case
from guardrails.checks.brought import check_of
from guardrails.policy.model import LoadedPolicy, Policy, Require, Rule, Stated
from guardrails.records import Outcome, Severity

_CPU, _DRIFT = "budgets.compute.cpuSecondsPerProposal", "budgets.cumulativeDrift"
_MILDER = {Severity.BLOCK: Severity.REVIEW, Severity.REVIEW: Severity.WARN}
_SHARE = 0.10
_STEPS = {"share": 0.01}


@dataclass(frozen=True)
class Mutant:
    """One looser version of a policy."""

    rule: str
    change: str
    policy: Policy


def unnoticed(policy: LoadedPolicy, results: Sequence[Result]) -> list[Mutant]:
    """The loosenings that no case notices."""
    sound = [result for result in results if result.ok]
    return [mutant for mutant in mutants(policy.policy) if not _noticed(policy, mutant, sound)]


def _noticed(policy: LoadedPolicy, mutant: Mutant, results: Sequence[Result]) -> bool:
    looser = LoadedPolicy(mutant.policy, policy.source)

    def promise(result: Result) -> bool:
        """Cases in which this rule did not pass come first: they are the ones that notice."""
        return all(
            finding.outcome in (Outcome.PASS, Outcome.SKIPPED)
            for finding in result.verdict.findings
            if finding.rule == mutant.rule
        )

    return any(not run_case(looser, result.case).ok for result in sorted(results, key=promise))


def mutants(policy: Policy) -> Iterator[Mutant]:
    """Every rule dropped, and loosened in each part that can be."""
    for i, rule in enumerate(policy.rules):
        before, after = policy.rules[:i], policy.rules[i + 1 :]
        yield Mutant(rule.id, "dropped", replace(policy, rules=(*before, *after)))
        for change, looser in _looser(rule):
            yield Mutant(rule.id, change, replace(policy, rules=(*before, looser, *after)))
    yield from _budget_mutants(policy)


def _looser(rule: Rule) -> Iterator[tuple[str, Rule]]:
    wider = looser_limit(rule)
    yield f"its limit at '{wider}'", replace(rule, require=wider)
    if rule.severity in _MILDER:
        milder = _MILDER[rule.severity]
        yield f"severity {milder.value}", replace(rule, severity=milder)
    if not rule.waivable and rule.severity is not Severity.WARN:
        yield "waivable: true", replace(rule, waivable=True)


def looser_limit(rule: Rule, share: float = _SHARE) -> Require:
    """The limit a tenth further out; from zero one step: one record, or one in a hundred."""
    require = rule.require
    metric = check_of(rule.check).metrics[require.metric]
    step = abs(require.value) * share
    if step == 0:
        step = _STEPS.get(metric.unit, 1.0 if metric.exact else 0.01)
    if require.op.startswith(">"):
        return replace(require, value=require.value - step)
    return replace(require, op="<=" if require.op == "==" else require.op, value=require.value + step)


def _budget_mutants(policy: Policy) -> Iterator[Mutant]:
    drift = policy.settings.get(_DRIFT)
    for i, rule in enumerate(drift.value if drift else ()):
        assert drift is not None  # noqa: S101 - iterated just now
        without, wider = drift.value[:i] + drift.value[i + 1 :], looser_limit(rule)
        yield Mutant(rule.id, "dropped", _with(policy, _DRIFT, without))
        moved = (*drift.value[:i], replace(rule, require=wider), *drift.value[i + 1 :])
        yield Mutant(rule.id, f"its limit at '{wider}'", _with(policy, _DRIFT, moved))
    cpu = policy.settings.get(_CPU)
    if cpu is not None:
        yield Mutant(CPU_RULE, "dropped", _with(policy, _CPU, None))
        more = cpu.value * (1 + _SHARE)
        yield Mutant(CPU_RULE, f"its limit at '<= {more:g}'", _with(policy, _CPU, more))


def _with(policy: Policy, path: str, value: object) -> Policy:
    settings = dict(policy.settings)
    settings[path] = Stated(value, policy.settings[path].place)
    return replace(policy, settings=settings)
