"""What is valid but surely not meant: limits that the sample cannot resolve, rules that can never fire,
never pass or never apply, and limits that contradict each other (``together`` does the same for several files).

Invariants: warnings only, never a refusal; each at the rule's own line, with what would help.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from difflib import get_close_matches

from guardrails.checks.brought import check_of
from guardrails.errors import Problem
from guardrails.policy.effective import Effective, combine
from guardrails.policy.facts import TASK_FACT
from guardrails.policy.model import ENFORCE, Policy, Rule
from guardrails.policy.together import contradictions
from guardrails.policy.when import facts_read, holds
from guardrails.records import ModelKind
from guardrails.statistics import Estimate, attempt_alpha

_MOST_ATTEMPTS = 1_000
_ALIKE = 0.8


def lint(policy: Policy, tasks: Collection[str] = (), suites: Collection[str] = ()) -> list[Problem]:
    """Warnings on a valid policy, in file order.

    Args:
        policy: The policy.
        tasks: Those that a model can be adopted for; empty: not known.
        suites: Names of suites that somebody is known to use; empty: not known. Any other name may be right, so only
            one that is nearly such a name is warned of.
    """
    effective = combine([policy])
    found = [p for rule in (*policy.rules, *effective.cumulative_drift) for p in _rule(rule, effective)]
    for rule in policy.rules:
        found.extend(_reach(rule, policy.scope.kinds))
        if tasks:
            found.extend(_task(rule, policy.scope.kinds, tasks))
    found.extend(p for rule in (*policy.rules, *effective.cumulative_drift) for p in _suite(rule, suites))
    found.extend(contradictions([replace(policy, mode=ENFORCE)]))
    if not policy.rules:
        found.append(policy.places["rules"].problem("no rules: everything is blocked", "add rules"))
    return sorted(found, key=lambda p: (p.file, p.line, p.column))


def _rule(rule: Rule, effective: Effective) -> Iterator[Problem]:
    require = rule.require
    metric = check_of(rule.check).metrics[require.metric]
    if (require.bound, require.op[0]) in {("upper", ">"), ("lower", "<")}:
        yield rule.place.problem(
            f"rule '{rule.id}': '{require}' passes more easily the less was measured",
            "use the upper bound for < and the lower bound for >",
        )
    if _always(rule, metric.low, metric.high):
        yield rule.place.problem(
            f"rule '{rule.id}': '{require}' always holds: the metric lies in {metric.low:g}..{metric.high:g}",
            "set a limit inside the range",
        )
    if _never(rule, metric.low, metric.high):
        yield rule.place.problem(
            f"rule '{rule.id}': '{require}' can never hold: the metric lies in {metric.low:g}..{metric.high:g}",
            "set a limit inside the range",
        )
    if not rule.rationale:
        yield rule.place.problem(f"rule '{rule.id}' has no rationale", "say why this number")
    yield from _resolution(rule, effective)


def _always(rule: Rule, low: float, high: float) -> bool:
    ends = [Estimate(end, end, end, 1, "") for end in (low, high)]
    return rule.require.op != "==" and all(rule.require.holds(end) for end in ends)


def _never(rule: Rule, low: float, high: float) -> bool:
    """Whether not even the best value of the range passes."""
    require = rule.require
    if require.op == "==":
        return not low <= require.value <= high
    best = low if require.op[0] == "<" else high
    return not require.holds(Estimate(best, best, best, 1, ""))


def _reach(rule: Rule, kinds: frozenset[ModelKind]) -> Iterator[Problem]:
    """Which models a rule can speak of, where ``when`` depends on nothing but the kind."""
    reads = facts_read(rule.when) if rule.when else ()
    if set(reads) - {"model.kind"}:
        return
    reached = {kind for kind in kinds if not rule.when or holds(rule.when, {"model": {"kind": kind.value}})}
    if not reached:
        spoken = ", ".join(sorted(kinds))
        yield rule.place.problem(
            f"rule '{rule.id}' can never apply: '{rule.when}' is false for kind {spoken}",
            "mend 'when', or widen 'appliesTo'",
        )
    check = check_of(rule.check)
    for kind in sorted(reached - check.kinds):
        why = f"; {check.elsewhere}" if check.elsewhere else ""
        yield rule.place.problem(
            f"rule '{rule.id}': '{rule.check}' does not exist for kind '{kind.value}', so it can never pass there{why}",
            f"""limit it: when: 'model.kind == "{min(check.kinds).value}"'""",
        )


def _task(rule: Rule, kinds: frozenset[ModelKind], tasks: Collection[str]) -> Iterator[Problem]:
    """A task that does not exist: its rule never applies, and beside rules that do nothing would say so."""
    reads = set(facts_read(rule.when)) if rule.when else set()
    if TASK_FACT not in reads or reads - {TASK_FACT, "model.kind"}:
        return
    if not any(
        holds(rule.when, {"model": {"kind": kind.value, "task": task}}) for kind in kinds for task in tasks
    ):
        yield rule.place.problem(
            f"rule '{rule.id}' can never apply: '{rule.when}' is false for every task",
            f"tasks: {', '.join(sorted(tasks))}",
        )


def _suite(rule: Rule, suites: Collection[str]) -> Iterator[Problem]:
    """A suite that nobody measures is an error at every judgement; here it may still be a slip of the pen."""
    for name in suites_of(rule):
        close = get_close_matches(name, suites, n=1, cutoff=_ALIKE) if name not in suites else []
        if close:
            yield rule.place.problem(
                f"rule '{rule.id}': no policy in force, none that ships and no model here has a suite '{name:.80}'",
                f"did you mean '{close[0]}'?",
            )


def suites_of(rule: Rule) -> list[str]:
    """The suites that a rule's check reads, by the parameters that name one."""
    named = [getattr(rule.params, key, None) for key in ("suite", "there", "away")]
    return [name for name in named if isinstance(name, str) and name]


def _resolution(rule: Rule, effective: Effective) -> Iterator[Problem]:
    """A limit that even the best possible sample of the least size cannot meet."""
    n = effective.min_samples
    if not _resolvable(rule, effective, n, 1):
        enough = next((m for m in _sizes(n) if _resolvable(rule, effective, m, 1)), None)
        confidence = 1.0 - attempt_alpha(effective.confidence, effective.error_alpha, 1)
        yield rule.place.problem(
            f"rule '{rule.id}': {n} samples cannot resolve '{rule.require}' at confidence {confidence:.4g}",
            f"about {enough} samples can" if enough else "no sample size can",
        )


def resolvable_attempts(rule: Rule, effective: Effective) -> int:
    """Up to which attempt since the last promotion the least sample size can resolve a limit."""
    k = 0
    while k < _MOST_ATTEMPTS and _resolvable(rule, effective, effective.min_samples, k + 1):
        k += 1
    return k


def _sizes(n: int) -> Iterator[int]:
    while n < 10_000_000:
        n = n + max(1, n // 20)
        yield n


def _resolvable(rule: Rule, effective: Effective, n: int, attempt: int) -> bool:
    best = check_of(rule.check).metrics[rule.require.metric].best
    if best is None:
        return True
    confidence = 1.0 - attempt_alpha(effective.confidence, effective.error_alpha, attempt)
    upper, lower = best(n, confidence)
    return rule.require.holds(Estimate(0.0, lower, upper, n, ""))
