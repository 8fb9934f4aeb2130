"""Records and rows as JSON fields and as sentences: the same words on the command line and in the console.

Invariants:
- Pure: no clock, no terminal, no browser; every function can be tested by calling it.
- Nothing is decided here. What a rule came to was decided by the engine; this only says it.
- Every text that a person or a model wrote passes ``plain`` before it is shown: no control characters,
  no terminal escapes, no invisible reordering of text.
- JSON holds only finite numbers; what is not finite is absent, and the sentence says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.snapshot import Entry
from guardrails.errors import RecordError
from guardrails.ledger.people import SERVICE_OF
from guardrails.ledger.rows import ModelRow, PolicyRow, ProposalRow, RequestRow, Vote, WaiverRow
from guardrails.records import (
    Compute,
    Decision,
    Evidence,
    Failure,
    Finding,
    Outcome,
    Promotion,
    Proposal,
    Rollback,
    Roster,
    Sample,
    Severity,
    State,
    Transition,
    Verdict,
    VerdictKind,
    decode_record,
)

Json = dict[str, Any]


# --- marks: glyph, word, tone ----------------------------------------------------------------


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


# --- texts and numbers -----------------------------------------------------------------------


def plain(text: str, limit: int = 0) -> str:
    """Text from anywhere, safe to show: what cannot be printed becomes ``·``; new lines stay.

    With a ``limit``, longer text is cut and says how much there was.
    """
    clean = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.replace("\r\n", "\n"))
    if 0 < limit < len(clean):
        return f"{clean[:limit]}… ({limit} of {len(clean)} characters)"
    return clean


def one_line(text: str, limit: int = 0) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()), limit)


def number(value: float | None) -> str:
    """A measured number in three significant digits; a count in full."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def interval(lower: float | None, upper: float | None) -> str:
    """``[0.171, 0.198]``, or an empty text where nothing was estimated."""
    if lower is None or upper is None:
        return ""
    return f"[{number(lower)}, {number(upper)}]"


def size(count: int) -> str:
    """Bytes for people: ``1.4 GiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: ``48 s``, ``5 min``, ``3 h``, ``2 d``."""
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} d"


def age(since: str, now: str) -> str:
    """How long ago a record's time was; a clock that ran ahead reads ``just now``."""
    if not since:
        return "–"
    seconds = (parse_time(now) - parse_time(since)).total_seconds()
    return "just now" if seconds < 10 else duration(seconds)


def moment(time: str) -> str:
    """A record's time to the second, in UTC."""
    parsed: datetime = parse_time(time)
    return parsed.strftime("%Y-%m-%d %H:%M:%S UTC")


def counted(count: int, singular: str, plural: str = "") -> str:
    """``1 rule``, ``2 rules``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


# --- findings --------------------------------------------------------------------------------

_CONDITION = re.compile(r"(?:(?P<bound>upper|lower) )?(?P<op><=|>=|==|<|>) (?P<value>[-+0-9.eE]+)")
_HOLDING = {"<": "is below", "<=": "is within", ">": "is above", ">=": "reaches", "==": "is"}
_MISSING = {"<": "exceeds", "<=": "exceeds", ">": "is not above", ">=": "does not reach", "==": "is not"}
_UNCLEAR = {"<": "is not clearly below", "<=": "is not clearly within"} | dict.fromkeys(
    (">", ">="), "is not clearly above"
)


def limit_value(condition: str) -> float | None:
    """The number in a pass condition such as ``upper < 0.15``; None where it has none."""
    match = _CONDITION.fullmatch(condition.strip())
    try:
        return _finite(float(match["value"])) if match else None
    except ValueError:
        return None


def condition(text: str) -> str:
    """A pass condition with its number written for people; any other text as it is."""
    value = limit_value(text)
    match = _CONDITION.fullmatch(text.strip())
    if value is None or match is None:
        return plain(text)
    return " ".join(part for part in (match["bound"], match["op"], number(value)) if part)


def finding_sentence(finding: Finding, confidence: float | None = None) -> str:
    """What one rule saw, in one line.

    Like ``drift.output 0.184 [0.171, 0.198] exceeds 0.15 (review) · 95 % · n = 220 · default.yaml:31``.
    """
    parts = [_observation(finding)]
    if confidence is not None and finding.lower is not None:
        parts.append(f"{100 * confidence:.4g} %")
    if finding.n is not None:
        parts.append(f"n = {finding.n:,}")
    if finding.source:
        parts.append(finding.source)
    return " · ".join(parts)


def _observation(finding: Finding) -> str:
    rule = plain(finding.rule)
    match = _CONDITION.fullmatch(finding.limit.strip())
    if finding.observed is None or match is None or finding.outcome in (Outcome.SKIPPED, Outcome.ERROR):
        return f"{rule}: {one_line(finding.message) or finding.outcome.value}"
    seen = " ".join(
        part for part in (number(finding.observed), interval(finding.lower, finding.upper)) if part
    )
    limit = number(float(match["value"]))
    if finding.outcome is Outcome.PASS:
        return f"{rule} {seen} {_HOLDING[match['op']]} {limit}"
    effect = "waived, would fail" if finding.waived else finding.severity.value
    if finding.outcome is Outcome.INCONCLUSIVE:
        return f"{rule} {seen} against {limit}: inconclusive, {one_line(finding.message)} ({effect})"
    return (
        f"{rule} {seen} {_failing(match['op'], finding.observed, float(match['value']))} {limit} ({effect})"
    )


def _failing(op: str, observed: float, limit: float) -> str:
    """The value itself misses the limit, or only the end of its interval does: these are not the same."""
    met = {"<": observed < limit, "<=": observed <= limit, ">": observed > limit, ">=": observed >= limit}
    return _UNCLEAR[op] if met.get(op) else _MISSING[op]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by what they do to the verdict: blocking, review, warnings, passes, skipped, not binding."""
    rank = {Outcome.ERROR: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 2, Outcome.WARN: 4, Outcome.PASS: 5}

    def order(finding: Finding) -> tuple[int, int, int]:
        softer = finding.severity is not Severity.BLOCK or finding.waived
        return int(finding.shadow), rank.get(finding.outcome, 6), int(softer)

    return sorted(findings, key=order)


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


_HARMLESS = (Outcome.PASS, Outcome.SKIPPED, Outcome.WARN)


# --- JSON fields of the contract -------------------------------------------------------------


def proposal_fields(row: ProposalRow) -> Json:
    """One element of ``list``."""
    proposal = row.proposal
    return {
        "id": row.id,
        "model": row.model,
        "technique": row.technique,
        "state": row.state.value,
        "verdict": row.verdict.kind.value if row.verdict else None,
        "bundle_digest": str(proposal.bundle) if proposal else None,
        "champion_digest": str(proposal.champion) if proposal else None,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "approvals": sum(vote.action.value == "approve" for vote in row.votes),
        "note": row.note,
    }


def finding_fields(finding: Finding) -> Json:
    """One element of ``findings``. ``limit`` is the number; ``condition`` the whole pass condition."""
    return {
        "rule": finding.rule,
        "check": finding.check,
        "metric": finding.metric,
        "outcome": finding.outcome.value,
        "severity": finding.severity.value,
        "observed": _finite(finding.observed),
        "lower": _finite(finding.lower),
        "upper": _finite(finding.upper),
        "limit": limit_value(finding.limit),
        "condition": finding.limit,
        "n": finding.n,
        "waived": finding.waived,
        "source": finding.source,
        "message": finding.message,
        "shadow": finding.shadow,
    }


def verdict_fields(proposal_id: str, verdict: Verdict | None, state: str = "") -> Json:
    """``verdict``, ``explain``, ``submit --wait`` and ``measure``. Without a verdict, no findings either."""
    policies = dict(verdict.policies) if verdict else {}
    return {
        "id": proposal_id,
        "verdict": verdict.kind.value if verdict else None,
        "state": state,
        "policy": ", ".join(policies) or None,
        "policy_digest": ", ".join(policies.values()) or None,
        "policies": policies,
        "coverage": list(verdict.coverage) if verdict else [],
        "confidence": verdict.confidence if verdict else None,
        "attempt": verdict.attempt if verdict else None,
        "evidence_digest": str(verdict.evidence) if verdict else None,
        "engine": verdict.engine if verdict else None,
        "findings": [finding_fields(finding) for finding in verdict.findings] if verdict else [],
        "summary": headline(verdict),
    }


def model_fields(row: ModelRow) -> Json:
    """``model show``, and one element of ``model list``."""
    return {
        "name": row.name,
        "kind": row.kind,
        "champion_digest": str(row.champion),
        "original_digest": str(row.original),
        "labels": dict(row.labels),
        "attempts": row.attempts,
        "history": [
            {
                "digest": str(reign.digest),
                "promoted_at": reign.promoted_at,
                "proposal": reign.proposal or None,
                "quarantined": reign.quarantined,
            }
            for reign in row.history
        ],
    }


def vote_fields(vote: Vote, name: str, reason: str) -> Json:
    """One signature on a proposal or a request."""
    return {
        "action": vote.action.value,
        "person": vote.person,
        "name": name,
        "role": vote.role.value,
        "at": vote.at,
        "surface": vote.surface.value,
        "viewed": list(vote.viewed),
        "reason": reason,
        "record": str(vote.record),
        "seq": vote.seq,
    }


def request_fields(row: RequestRow, votes: Iterable[Json] = ()) -> Json:
    """One action that people sign together."""
    fields: Json = {
        "id": row.id,
        "action": row.action.value,
        "target": row.target,
        "created_at": row.created_at,
        "done": row.done,
        "digest": str(row.digest) if row.digest else None,
        "votes": list(votes),
    }
    if row.policy:
        fields["policy"] = {
            "name": row.policy.name,
            "digest": str(row.policy.digest),
            "files": list(row.policy.order),
        }
    if row.waiver:
        fields["waiver"] = {
            "rule": row.waiver.rule,
            "bundle": str(row.waiver.bundle),
            "owner": row.waiver.owner,
            "expires_at": row.waiver.expires_at,
        }
    return fields


def waiver_fields(row: WaiverRow, now: str) -> Json:
    """One element of ``waiver list``. ``in_force`` is about the time alone."""
    return {
        "id": row.id,
        "rule": row.waiver.rule,
        "bundle": str(row.waiver.bundle),
        "owner": row.waiver.owner,
        "granted_at": row.granted_at,
        "expires_at": row.waiver.expires_at,
        "revoked": row.revoked,
        "in_force": not row.revoked and now < row.waiver.expires_at,
    }


def policy_fields(row: PolicyRow) -> Json:
    """One policy in force."""
    return {
        "name": row.name,
        "digest": str(row.source.digest),
        "files": list(row.source.order),
        "activated_at": row.activated_at,
        "request": row.request,
    }


def sample_fields(sample: Sample) -> Json:
    """One pair of outputs. The texts are as the models wrote them; show them through ``plain``."""
    return {
        "suite": sample.suite,
        "prompt": sample.prompt,
        "champion": sample.champion,
        "candidate": sample.candidate,
        "differs": sample.champion != sample.candidate,
    }


def compute_fields(compute: Compute) -> Json:
    """Resources, as the supervisor measured them."""
    return {
        "wall_s": round(compute.wall_s, 3),
        "cpu_s": round(compute.cpu_s, 3),
        "memory_bytes": compute.memory_bytes,
        "disk_bytes": compute.disk_bytes,
    }


def detail_fields(row: ProposalRow, name_of: Callable[[str], str], text_of: Callable[[Any], str]) -> Json:
    """``show``: everything that the log says of one proposal."""
    fields = proposal_fields(row)
    proposal, evidence, failure = row.proposal, row.evidence, row.failure
    if proposal:
        fields |= {
            "kind": proposal.kind.value,
            "intent": text_of(proposal.intent),
            "proposer": name_of(proposal.proposer),
            "submitted": proposal.submitted,
            "data_digest": str(proposal.data),
            "objective_digest": str(proposal.objective),
            "recipe": dict(proposal.recipe),
            "seed": proposal.seed,
            "environment": dict(proposal.environment),
            "isolation": proposal.isolation,
            "compute": compute_fields(proposal.compute),
            "record": str(row.proposal_record),
        }
    if evidence:
        fields["evidence"] = {
            "measurements": str(evidence.measurements),
            "counts": dict(evidence.counts),
            "evaluator": evidence.evaluator,
            "nonce": evidence.nonce,
            "seed": evidence.seed,
            "isolation": evidence.isolation,
            "champion_digest": str(evidence.champion),
            "compute": compute_fields(evidence.compute),
            "record": str(row.evidence_record),
        }
    if failure:
        fields["failure"] = {"stage": failure.stage, "reason": failure.reason, "log_tail": failure.log_tail}
    fields["summary"] = headline(row.verdict)
    fields["votes"] = [vote_fields(vote, name_of(vote.person), text_of(vote.reason)) for vote in row.votes]
    return fields


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    """The keys whose values differ between two flat settings, sorted."""
    keys = sorted(set(before) | set(after))
    return [
        {"key": key, "before": before.get(key), "after": after.get(key)}
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --- the decision log ------------------------------------------------------------------------

_RECORDS: dict[str, type[Any]] = {
    "roster": Roster, "proposal": Proposal, "failure": Failure, "transition": Transition, "evidence": Evidence,
    "verdict": Verdict, "decision": Decision, "promotion": Promotion, "rollback": Rollback,
}  # fmt: skip
_VERBS = {
    "approve": "approves", "reject": "rejects", "withdraw": "withdraws", "rollback": "asks to roll back",
    "halt": "halts", "resume": "resumes", "waive": "waives a rule for", "activate": "activates policy",
    "deactivate": "deactivates policy", "adopt": "adopts a base for",
}  # fmt: skip


def log_fields(entry: Entry, name_of: Callable[[str], str], text_of: Callable[[Any], str]) -> Json:
    """One record of the log: position, time, kind, whom or what it is about, who signed, one sentence."""
    statement = entry.statement
    fields: Json = {
        "seq": entry.seq,
        "time": statement.time,
        "record": statement.record,
        "about": "",
        "by": SERVICE_OF.get(statement.record, "root"),
        "summary": "",
        "leaf": entry.leaf,
    }
    cls = _RECORDS.get(statement.record)
    if cls is None:
        return {**fields, "summary": f"a record of unknown kind {statement.record}"}
    try:
        record = decode_record(cls, dict(statement.body))
    except RecordError as error:
        return {**fields, "summary": f"unreadable: {error.message}"}
    if isinstance(record, Decision):
        fields["by"] = name_of(record.person)
    about, summary = _told(record, text_of)
    return {**fields, "about": about, "summary": summary}


def record_fields(entry: Entry) -> Json:
    """One record in full."""
    statement = entry.statement
    return {
        "seq": entry.seq,
        "leaf": entry.leaf,
        "record": statement.record,
        "time": statement.time,
        "log": statement.log,
        "subjects": {name: str(digest) for name, digest in statement.subjects.items()},
        "references": [{"seq": item.seq, "sha256": item.sha256} for item in statement.references],
        "signatures": [signature.keyid for signature in entry.signatures],
        "body": dict(statement.body),
    }


def _told(record: Any, text_of: Callable[[Any], str]) -> tuple[str, str]:
    """Whom or what a record is about, and what it says, in a few words."""
    if isinstance(record, Roster):
        roles = sorted({role.value for person in record.people for role in person.roles})
        people = counted(len(record.people), "person", "people")
        return "workspace", f"version {record.version}: {people} ({', '.join(roles)})"
    if isinstance(record, Decision):
        return record.request or record.target, _decision_told(record, text_of)
    if isinstance(record, Promotion):
        alone = ", sole person" if record.sole_person else ""
        return record.proposal, f"champion of {record.model} is now {record.bundle.short}{alone}"
    if isinstance(record, Rollback):
        barred = f", quarantined: {', '.join(record.quarantined)}" if record.quarantined else ""
        return record.request, f"champion of {record.model} is {record.bundle.short} again{barred}"
    if isinstance(record, Verdict):
        mark = verdict_mark(record)
        why = "" if record.kind is VerdictKind.ELIGIBLE else f": {headline(record)}"
        return record.proposal, f"{mark.word.lower()} by {', '.join(record.policies) or 'no policy'}{why}"
    return _machine_told(record, text_of)


def _machine_told(record: Any, text_of: Callable[[Any], str]) -> tuple[str, str]:
    if isinstance(record, Proposal):
        intent = one_line(text_of(record.intent), 120)
        return record.id, f"{record.model} by {record.technique} from {record.champion.short}: {intent}"
    if isinstance(record, Evidence):
        return (
            record.proposal,
            f"measured {counted(len(record.counts), 'series', 'series')} against champion {record.champion.short}",
        )
    if isinstance(record, Transition):
        return record.proposal, f"{record.state.value.replace('_', ' ')}: {one_line(record.reason, 120)}"
    return record.id, f"{record.stage} failed: {one_line(record.reason, 160)}"


def _decision_told(record: Decision, text_of: Callable[[Any], str]) -> str:
    target = f" to {record.digest.short}" if record.digest else ""
    reason = one_line(text_of(record.reason), 120)
    return f"{_VERBS[record.action.value]} {record.target}{target} as {record.role.value}: {reason}"
