"""Entries of the decision log as rows and as sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guardrails.codec import decode_record
from guardrails.decision_log import sshsig
from guardrails.decision_log.envelope import Signature
from guardrails.decision_log.snapshot import Entry
from guardrails.errors import RecordError
from guardrails.ledger.people import SERVICE_OF
from guardrails.records import (
    Answers,
    Decision,
    Evidence,
    Failure,
    Promotion,
    Proposal,
    Removal,
    Rollback,
    Roster,
    Transition,
    Verdict,
    VerdictKind,
)
from ui.presenters.findings import headline
from ui.presenters.marks import verdict_mark
from ui.presenters.texts import counted, one_line

Json = dict[str, Any]

_RECORDS: dict[str, type[Any]] = {
    "roster": Roster, "proposal": Proposal, "failure": Failure, "transition": Transition, "evidence": Evidence,
    "verdict": Verdict, "decision": Decision, "promotion": Promotion, "rollback": Rollback,
    "removal": Removal, "answers": Answers,
}  # fmt: skip
_VERBS = {
    "approve": "approves", "reject": "rejects", "withdraw": "withdraws", "rollback": "asks to roll back",
    "halt": "halts", "resume": "resumes", "waive": "waives a rule for", "activate": "activates policy",
    "comment": "comments on", "request-changes": "asks for a change of", "revoke": "revokes waiver",
    "set-clock": "sets the time of", "deactivate": "deactivates policy", "adopt": "adopts a base for",
    "erase": "erases texts in",
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
    if isinstance(record, Decision | Answers):
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
        "signed": [_signed(signature) for signature in entry.signatures],
        "surface": str(statement.body.get("surface", "")),
        "body": dict(statement.body),
    }


def _signed(signature: Signature) -> Json:
    """What a signature says of itself: its key, and of hardware keys whether somebody touched the token (None: no token).

    That it holds, and that the token's word is true, is for ``log verify`` to find.
    """
    fields: Json = {
        "key": signature.keyid,
        "type": "service",
        "touched": None,
        "verified": None,
        "counter": None,
    }
    try:
        claims = sshsig.read(signature.signature)
    except RecordError:
        return fields
    return {
        **fields, "type": claims.key.kind, "touched": claims.present, "verified": claims.verified,
        "counter": claims.counter,
    }  # fmt: skip


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
    if isinstance(record, Answers):
        skipped = f", {record.skipped} of them skipped" if record.skipped else ""
        return (
            record.model,
            f"hands in {counted(record.answers, 'answer')} to {one_line(record.asker, 80)}{skipped}",
        )
    if isinstance(record, Removal):
        return record.proposal, f"bundle {record.bundle.short} removed: kept for {record.days} days"
    return record.id, f"{record.stage} failed: {one_line(record.reason, 160)}"


def _decision_told(record: Decision, text_of: Callable[[Any], str]) -> str:
    count = f" ({counted(len(record.erase), 'text')})" if record.erase else ""
    target = count or (f" to {record.digest.short}" if record.digest else "")
    reason = one_line(text_of(record.reason), 120)
    return f"{_VERBS[record.action.value]} {record.target}{target} as {record.role.value}: {reason}"
