"""How a state looks: glyph, word and tone, the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from guardrails.records import (
    Finding,
    Outcome,
    Severity,
    State,
    Verdict,
    VerdictKind,
)


@dataclass(frozen=True)
class Mark:
    """How a state looks: a glyph, a word, and a tone (``bad``, ``caution``, ``good``, ``muted``)."""

    glyph: str
    word: str
    tone: str

    def __str__(self) -> str:
        return f"{self.glyph} {self.word}"


VERDICT_MARKS = {
    VerdictKind.BLOCKED: Mark("✕", "Blocked", "bad"),
    VerdictKind.REVIEW: Mark("▲", "Review", "caution"),
    VerdictKind.ELIGIBLE: Mark("✓", "Eligible", "good"),
}
NO_VERDICT = Mark("·", "No verdict", "muted")

STATE_MARKS = {
    State.PROPOSED: Mark("·", "Proposed", "muted"),
    State.MEASURING: Mark("◌", "Measuring", "muted"),
    State.JUDGED: Mark("·", "Measured", "muted"),
    State.AWAITING_APPROVAL: Mark("▲", "Awaiting approval", "caution"),
    State.BLOCKED: Mark("✕", "Blocked", "bad"),
    State.APPROVED: Mark("✓", "Approved", "good"),
    State.PROMOTED: Mark("✓", "Promoted", "good"),
    State.REJECTED: Mark("✕", "Rejected", "bad"),
    State.WITHDRAWN: Mark("·", "Withdrawn", "muted"),
    State.EXPIRED: Mark("·", "Expired", "muted"),
    State.FAILED: Mark("✕", "Failed", "bad"),
    State.STALE: Mark("▲", "Stale", "caution"),
    State.SUPERSEDED: Mark("·", "Superseded", "muted"),
    State.ROLLED_BACK: Mark("✕", "Rolled back", "bad"),
    State.QUARANTINED: Mark("✕", "Quarantined", "bad"),
}


def verdict_mark(verdict: Verdict | VerdictKind | None) -> Mark:
    """The mark of a verdict; of its absence where there is none."""
    if verdict is None:
        return NO_VERDICT
    return VERDICT_MARKS[verdict.kind if isinstance(verdict, Verdict) else verdict]


def finding_mark(finding: Finding) -> Mark:
    """The mark of one rule's outcome: what it did to the verdict."""
    if finding.shadow:
        return Mark("·", f"Not binding: {finding.outcome.value}", "muted")
    if finding.outcome is Outcome.PASS:
        return Mark("✓", "Pass", "good")
    if finding.outcome is Outcome.SKIPPED:
        return Mark("·", "Does not apply", "muted")
    if finding.outcome is Outcome.WARN:
        return Mark("▲", "Warning", "caution")
    if finding.waived:
        return Mark("▲", "Waived, would fail", "caution")
    if finding.outcome is Outcome.FAIL:
        return (
            Mark("✕", "Fail", "bad") if finding.severity is Severity.BLOCK else Mark("▲", "Review", "caution")
        )
    if finding.outcome is Outcome.INCONCLUSIVE:
        return Mark("▲", "Inconclusive", "caution")
    return Mark("✕", "Error", "bad")
