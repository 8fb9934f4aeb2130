"""Findings as sentences: which rule, what was observed, in which interval, against which limit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from guardrails.checks import CHECKS
from guardrails.checks.integrity import PROPERTIES, violations
from guardrails.checks.outcomes import GAMES, PROBES
from guardrails.ledger.rows import ProposalRow
from guardrails.policy import Policy
from guardrails.records import (
    Finding,
    Outcome,
    Severity,
    Verdict,
    VerdictKind,
)
from ui.presenters.texts import counted, finite, interval, number, one_line, plain, positive_zero, size

_CONDITION = re.compile(r"(?:(?P<bound>upper|lower) )?(?P<op><=|>=|==|<|>) (?P<value>[-+0-9.eE]+)")
_INTEGRITY = "integrity.weights"
_HOLDING = {"<": "is below", "<=": "is within", ">": "is above", ">=": "reaches", "==": "is"}
_MISSING = {"<": "exceeds", "<=": "exceeds", ">": "is not above", ">=": "does not reach", "==": "is not"}
_UNCLEAR = {"<": "is not clearly below", "<=": "is not clearly within"} | dict.fromkeys(
    (">", ">="), "is not clearly above"
)


def limit_value(condition: str) -> float | None:
    """The number in a pass condition such as ``upper < 0.15``; None where it has none."""
    match = _CONDITION.fullmatch(condition.strip())
    try:
        return finite(float(match["value"])) if match else None
    except ValueError:
        return None


def condition(text: str) -> str:
    """A pass condition with its number written for people; any other text as it is."""
    value = limit_value(text)
    match = _CONDITION.fullmatch(text.strip())
    if value is None or match is None:
        return plain(text)
    return " ".join(part for part in (match["bound"], match["op"], number(value)) if part)


def unit_of(finding: Finding) -> str:
    """The unit of what a rule looked at; empty for what is no metric of a check that ships."""
    check = CHECKS.get(finding.check)
    metric = check.metrics.get(finding.metric) if check else None
    return metric.unit if metric else ""


def message_of(finding: Finding, limit: int = 0) -> str:
    """What a rule says of itself, on one line; a zero that came out negative is written as the zero it is.

    The record keeps the sentence as the engine wrote it: it is made again to the byte when a log is verified.
    """
    return one_line(positive_zero(finding.message), limit)


def gain_finding(verdict: Verdict | None) -> Finding | None:
    """The measured gain over the champion, where a rule asked for one."""
    findings = verdict.findings if verdict else ()
    return next((f for f in findings if f.check == "gain.task" and f.outcome is not Outcome.SKIPPED), None)


def gain_unit(row: ProposalRow, policies: Iterable[Policy]) -> str:
    """What its gain counts: ``share`` of tries won, or ``bits/byte`` saved on texts; both where that is not known.

    That follows from the series on the suite that its rule reads, in the policies in force.
    """
    gain, counts = gain_finding(row.verdict), row.evidence.counts if row.evidence else {}
    rules = [
        rule for policy in policies for rule in policy.rules if gain is not None and rule.id == gain.rule
    ]
    suites = {getattr(rule.params, "suite", "") for rule in rules}
    probes = {probe for probe, _, suite in (name.partition("/") for name in counts) if suite in suites}
    if probes & {*PROBES, GAMES}:
        return "share"
    return "bits/byte" if "distribution" in probes else "bits/byte or share"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def amount(finding: Finding, value: float | None) -> str:
    """A value of the rule's metric for people: bytes and seconds with their unit, else the number alone."""
    unit = unit_of(finding) if value is not None else ""
    if value is not None and unit == "bytes" and 0 <= value < 1e18:
        return size(int(value))
    return f"{number(value)} s" if unit == "s" else number(value)


def limit_of(finding: Finding) -> str:
    """The pass condition, its number written as the observed one is; any other text as it is."""
    value = limit_value(finding.limit)
    match = _CONDITION.fullmatch(finding.limit.strip())
    if value is None or match is None:
        return plain(finding.limit)
    return " ".join(part for part in (match["bound"], match["op"], amount(finding, value)) if part)


def finding_sentence(finding: Finding, confidence: float | None = None) -> str:
    """What one rule saw, in one line.

    Like ``drift.output 0.184 [0.171, 0.198] exceeds 0.15 (review) · 95 % · n = 220 · default.yaml:31``.
    """
    parts = [_observation(finding)]
    if confidence is not None and finding.lower is not None:
        parts.append(f"{100 * confidence:.4g} %")
    if finding.n is not None:
        parts.append(f"n = {finding.n:,}{_too_few(finding)}")
    if finding.source:
        parts.append(finding.source)
    return " · ".join(parts)


def _too_few(finding: Finding) -> str:
    """Why an interval has no end: the level follows from the attempts since the last promotion, not from the update."""
    if finding.outcome is Outcome.PASS or not {finding.lower, finding.upper} & {math.inf, -math.inf}:
        return ""
    return ", too few for a bound at this level, which rises with each attempt until a promotion"


def _observation(finding: Finding) -> str:
    rule = plain(finding.rule)
    match = _CONDITION.fullmatch(finding.limit.strip())
    if finding.observed is None or match is None or finding.outcome in (Outcome.SKIPPED, Outcome.ERROR):
        return f"{rule}: {message_of(finding) or finding.outcome.value}"
    seen = " ".join(
        part for part in (amount(finding, finding.observed), interval(finding.lower, finding.upper)) if part
    )
    limit = amount(finding, float(match["value"]))
    if finding.outcome is Outcome.PASS:
        return f"{rule} {seen} {_HOLDING[match['op']]} {limit}"
    effect = "waived, would fail" if finding.waived else finding.severity.value
    if finding.outcome is Outcome.INCONCLUSIVE:
        return f"{rule} {seen} against {limit}: inconclusive, {message_of(finding)} ({effect})"
    return (
        f"{rule} {seen} {_failing(match['op'], finding.observed, float(match['value']))} {limit} ({effect})"
    )


def _failing(op: str, observed: float, limit: float) -> str:
    """The value itself misses the limit, or only the end of its interval does: these are not the same."""
    met = {"<": observed < limit, "<=": observed <= limit, ">": observed > limit, ">=": observed >= limit}
    return _UNCLEAR[op] if met.get(op) else _MISSING[op]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by what they do to the verdict: blocking, review, warnings, passes, skipped, not binding.

    Unsound files come before everything: what is then not measured follows from them.
    """
    rank = {Outcome.ERROR: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 2, Outcome.WARN: 4, Outcome.PASS: 5}

    def order(finding: Finding) -> tuple[int, int, int]:
        softer = finding.severity is not Severity.BLOCK or finding.waived
        unsound = finding.check == _INTEGRITY and finding.outcome is Outcome.FAIL
        return int(finding.shadow), -1 if unsound else rank.get(finding.outcome, 6), int(softer)

    return sorted(findings, key=order)


def unsound(findings: Iterable[Finding], facts: Mapping[str, str]) -> str:
    """Which properties of its files an update lacks, where a rule failed on that; ``facts`` are its measurements'."""
    if not any(finding.check == _INTEGRITY and finding.outcome is Outcome.FAIL for finding in findings):
        return ""
    lacking = [PROPERTIES[name] for name in violations(dict(facts))]
    return (
        f"It does not hold that {', or that '.join(lacking)}; so nothing else was measured."
        if lacking
        else ""
    )


def headline(verdict: Verdict | None) -> str:
    """One sentence: why the verdict is what it is."""
    if verdict is None:
        return "Not judged yet."
    if verdict.kind is VerdictKind.ELIGIBLE:
        binding = [finding for finding in verdict.findings if not finding.shadow]
        applied = [finding for finding in binding if finding.outcome is not Outcome.SKIPPED]
        warnings = sum(finding.outcome is Outcome.WARN for finding in applied)
        extra = f", {counted(warnings, 'warning')}" if warnings else ""
        return f"{counted(len(applied) - warnings, 'rule')} passed{extra}."
    decisive = worst_first(finding for finding in verdict.findings if not finding.shadow)
    if not decisive:
        return "No rule was applied."
    more = sum(1 for finding in decisive[1:] if finding.outcome not in _HARMLESS)
    tail = f", and {counted(more, 'further finding')}" if more else ""
    return finding_sentence(decisive[0], verdict.confidence) + tail


def brief(verdict: Verdict | None) -> str:
    """The same for a line of a list: the deciding rule with value and limit, and how many others did not pass."""
    if verdict is None or verdict.kind is VerdictKind.ELIGIBLE:
        return headline(verdict)
    decisive = worst_first(finding for finding in verdict.findings if not finding.shadow)
    if not decisive:
        return headline(verdict)
    more = sum(1 for finding in decisive[1:] if finding.outcome not in _HARMLESS)
    return _observation(decisive[0]) + (f", and {more} more" if more else "")


_HARMLESS = (Outcome.PASS, Outcome.SKIPPED, Outcome.WARN)
