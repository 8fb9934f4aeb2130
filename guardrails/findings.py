"""Findings: one rule's outcome in numbers and in a sentence, and what it means for the verdict.

Invariants: every finding names its rule, its file and line, its limit and what was seen; its text is
printable and short enough for a log entry; an error always means ``blocked``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from guardrails.policy.facts import Subject
from guardrails.policy.model import Policy, Rule
from guardrails.records import Finding, Measurements, Outcome, Severity, VerdictKind
from guardrails.statistics import Estimate

_LONGEST = 300


@dataclass(frozen=True)
class Judged:
    """A finding and its effect on the verdict."""

    finding: Finding
    effect: VerdictKind


def finding_of(rule: Rule, outcome: Outcome, message: str, estimate: Estimate | None = None) -> Finding:
    """A rule's finding; with an estimate its numbers, and its interval where there is one."""
    require = rule.require
    sampled = None if estimate is None or rule.is_exact else estimate
    return Finding(
        rule=rule.id,
        check=rule.check,
        outcome=outcome,
        severity=rule.severity,
        limit=_limit(require.bound, require.op, require.value),
        source=str(rule.place),
        message=_printable(message),
        metric=require.metric,
        observed=estimate.value if estimate else None,
        lower=sampled.lower if sampled else None,
        upper=sampled.upper if sampled else None,
        n=sampled.n if sampled else None,
    )


@lru_cache(maxsize=1024)
def _limit(bound: str, op: str, value: float) -> str:
    return f"{bound} {op} {value:.10g}" if bound else f"{op} {value:.10g}"


def error_of(rule: Rule, message: str, estimate: Estimate | None = None) -> Judged:
    """What could not be known is never a pass, whatever the rule's severity."""
    return Judged(finding_of(rule, Outcome.ERROR, message, estimate), VerdictKind.BLOCKED)


def _printable(text: str) -> str:
    """Names of items and suites may hold anything; a finding is read on terminals and kept as UTF-8."""
    clean = text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)
    return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}…"


def sentence(rule: Rule, estimate: Estimate, passes: bool) -> str:
    """What was seen against the limit, for people."""
    require, word = rule.require, "holds" if passes else "does not hold"
    note = f" ({estimate.note})" if estimate.note else ""
    if rule.is_exact:
        return f"{require.metric} is {estimate.value:.6g}: {require.op} {require.value:.10g} {word}{note}"
    return (
        f"{require.metric} is {estimate.value:.4g} [{estimate.lower:.4g}, {estimate.upper:.4g}], "
        f"n = {estimate.n}: {require.bound} bound {require.op} {require.value:.10g} {word}{note}"
    )


def no_policy(subject: Subject, shadows: Sequence[Policy]) -> Judged:
    """Nothing binding speaks of this model."""
    only = "only shadow policies speak" if shadows else "no policy in force speaks"
    message = f"{only} of model '{subject.model}' ({subject.kind.value}): blocked"
    finding = Finding("policy.none", "policy", Outcome.ERROR, Severity.BLOCK, "", "", message)
    return Judged(finding, VerdictKind.BLOCKED)


def empty_policy(policy: Policy, why: str) -> Judged:
    """A policy that looked at nothing: without rules, or with every rule skipped."""
    source = str(policy.places.get("rules", policy.places[""]))
    message = f"policy '{policy.name}': {why}: blocked"
    finding = Finding("policy.empty", "policy", Outcome.ERROR, Severity.BLOCK, "", source, message)
    return Judged(finding, VerdictKind.BLOCKED)


def coverage_of(findings: Sequence[Finding], measurements: Measurements | None) -> tuple[str, ...]:
    """What was looked at, and no more than that: never a claim that the rest is fine."""
    if measurements is None:
        return ()
    looked = {Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.INCONCLUSIVE}
    checks = {f.check for f in findings if f.outcome in looked and f.observed is not None}
    series = {f"{s.probe}/{s.suite}: {len(set(s.items))} items" for s in measurements.series}
    return (*sorted(checks), *sorted(series), *sorted(_searched(measurements)))


def _searched(measurements: Measurements) -> Iterator[str]:
    """How far each search for triggers went: what was not tried may still be there."""
    for single in measurements.series:
        none = measurements.find("triggers_none", single.suite)
        pairs = measurements.find("trigger_pairs", single.suite)
        if single.probe == "triggers" and none and pairs and none.columns.get("vocabulary"):
            total = none.columns["vocabulary"][0]
            yield (
                f"triggers searched: {len(single.items)} of {total:.0f} single tokens, {len(pairs.items)} pairs "
                f"of those that did most, in {len(none.items)} requests; none longer than two tokens"
            )
