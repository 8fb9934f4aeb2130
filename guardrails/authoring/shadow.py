"""What shadow policies would have decided: judged and logged beside the binding ones, and binding nobody.

Invariants: read from the recorded findings, never judged again; where a finding alone does not tell how strict
its policy is, ``kind`` is a lower bound and ``at_least`` says so. Never milder than what the engine found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from guardrails.policy import Policy, combine
from guardrails.records import Finding, Outcome, Severity, Verdict, VerdictKind

_TOLD = re.compile(r"policy '([A-Za-z0-9._-]+)' is in shadow, not binding: ")
_BADNESS = (VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED)
_CALM = (Outcome.PASS, Outcome.SKIPPED)
_OF_SEVERITY = {
    Severity.WARN: VerdictKind.ELIGIBLE,
    Severity.REVIEW: VerdictKind.REVIEW,
    Severity.BLOCK: VerdictKind.BLOCKED,
}


@dataclass(frozen=True)
class Shadow:
    """What one shadow policy says of a proposal. Its findings are in the log's order, ``shadow`` set."""

    policy: str
    kind: VerdictKind
    findings: tuple[Finding, ...]
    at_least: bool = False

    @property
    def not_passed(self) -> tuple[Finding, ...]:
        """What did not pass, without what does not apply."""
        return tuple(finding for finding in self.findings if finding.outcome not in _CALM)


def shadows_of(verdict: Verdict, policies: Iterable[Policy] = ()) -> list[Shadow]:
    """The shadow policies of a verdict, by name; ``policies`` are those whose text is known."""
    groups: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        told = _TOLD.match(finding.message) if finding.shadow else None
        if finding.shadow:
            bare = replace(finding, message=finding.message[told.end() :] if told else finding.message)
            groups.setdefault(told[1] if told else "", []).append(bare)
    strictness = {policy.name: VerdictKind(_WORDS[combine([policy]).on_inconclusive]) for policy in policies}
    return [_shadow(name, found, strictness.get(name)) for name, found in sorted(groups.items())]


_WORDS = {"review": "review", "block": "blocked"}


def _shadow(name: str, findings: list[Finding], on_inconclusive: VerdictKind | None) -> Shadow:
    kinds = [_effect(finding, on_inconclusive or VerdictKind.REVIEW) for finding in findings]
    kind = max(kinds, key=_BADNESS.index)
    unsure = any(finding.outcome is Outcome.INCONCLUSIVE for finding in findings)
    at_least = on_inconclusive is None and unsure and kind is VerdictKind.REVIEW
    return Shadow(name, kind, tuple(findings), at_least)


def _effect(finding: Finding, on_inconclusive: VerdictKind) -> VerdictKind:
    if finding.outcome in (*_CALM, Outcome.WARN):
        return VerdictKind.ELIGIBLE
    if finding.outcome is Outcome.ERROR:
        return VerdictKind.BLOCKED
    failing = VerdictKind.REVIEW if finding.waived else _OF_SEVERITY[finding.severity]
    if finding.outcome is Outcome.FAIL:
        return failing
    return max(on_inconclusive, failing if _fails(finding) else on_inconclusive, key=_BADNESS.index)


def _fails(finding: Finding) -> bool:
    """Whether the stated bound misses the limit too; in doubt it does."""
    words = finding.limit.split()
    if finding.observed is None:
        return False  # a check that does not apply: nothing was compared
    bound = {"upper": finding.upper, "lower": finding.lower}.get(words[0] if words else "", finding.observed)
    try:
        limit, op = float(words[-1]), words[-2]
    except (ValueError, IndexError):
        return True
    if bound is None:
        return True
    return not {"<": bound < limit, "<=": bound <= limit, ">": bound > limit, ">=": bound >= limit}.get(
        op, False
    )
