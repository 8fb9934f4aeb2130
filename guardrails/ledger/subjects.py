"""What a statement is about follows from what it says. Pure.

Invariant: tools that read in-toto statements look at the subjects, people and this ledger at the body; a record
whose subjects are not those that its body implies says two things, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError
from guardrails.ledger.rows import ProposalRow, RequestRow, read
from guardrails.records import (
    Action,
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
)

Subjects = dict[str, Digest]

_VOTES = (Action.APPROVE, Action.REJECT, Action.WITHDRAW, Action.REQUEST_CHANGES)
_FORMER_REQUEST = (
    "id", "action", "target", "created_at", "done", "votes", "digest", "policy", "waiver", "model",
)  # fmt: skip
_FORMER_VOTE = (
    "action", "person", "role", "at", "surface", "viewed", "reason", "record", "seq", "roster", "binding",
)  # fmt: skip


def digest_of(record: Any) -> Digest:
    """The digest of a record's canonical bytes."""
    return canonical.digest(canonical.encode(encode_record(record)))


def content_digest(request: RequestRow) -> Digest:
    """The digest of what a request asks for, under its id: the same for everybody who signs it."""
    content = {
        name: value for name, value in encode_record(request).items()
        if name in ("id", "action", "target", "digest", "policy", "waiver", "terms")
    }  # fmt: skip
    return canonical.digest(canonical.encode(content))


def subjects_of(tables: Reader, record: Any, entry: Entry | None = None) -> Subjects:
    """What a record is about, in the state before it. ``entry``: where it stands, if it is in the log already."""

    def own() -> Digest:
        return digest_of(record) if entry is None else entry.body_digest

    find = _SUBJECTS.get(type(record))
    return {} if find is None else find(tables, record, own)


def allowed(tables: Reader, entry: Entry, record: Any) -> tuple[Subjects, ...]:
    """The subjects that an entry may have, in the state before it: one, but for requests of former logs."""
    if isinstance(record, Decision) and record.terms is None and record.action not in _VOTES:
        request = read(tables, RequestRow, record.request)
        if request is not None and request.terms is None:
            # Former versions named the request as its row was when the draft was made: any row since.
            rows = [replace(request, votes=request.votes[:count]) for count in range(len(request.votes) + 1)]
            return tuple({"request": _former_digest(row)} for row in rows)
    return (subjects_of(tables, record, entry),)


def require_fitting(entry: Entry, among: tuple[Subjects, ...]) -> None:
    """Refuse an entry whose subjects are none of those that its body allows."""
    if dict(entry.statement.subjects) not in among:
        raise DeniedError(f"{entry.statement.record}: its subjects do not follow from what it says")


def _of_decision(tables: Reader, decision: Decision, own: Callable[[], Digest]) -> Subjects:
    request = read(tables, RequestRow, decision.request) if decision.request.startswith("R-") else None
    if decision.action is Action.COMMENT:
        return {"comment": own()}
    if request is not None:
        return {"request": content_digest(request)}
    if decision.action in _VOTES:
        if decision.binding is not None:
            return {"bundle": decision.binding.bundle, "verdict": decision.binding.verdict}
        return _bundle_of(tables, decision.target)
    if decision.action is Action.ADOPT:
        return {"bundle": decision.digest} if decision.digest is not None else {}
    subject = decision.digest or (decision.policy.digest if decision.policy else None)
    return {decision.action.value: subject or own()}


def _bundle_of(tables: Reader, proposal_id: str) -> Subjects:
    row = read(tables, ProposalRow, proposal_id)
    return {"bundle": row.proposal.bundle} if row is not None and row.proposal is not None else {}


def _former_digest(request: RequestRow) -> Digest:
    """The digest of a request's row with the fields that rows had when former versions took it."""
    row = encode_record(request)
    kept = {name: value for name, value in row.items() if name in _FORMER_REQUEST}
    kept["votes"] = [
        {name: value for name, value in vote.items() if name in _FORMER_VOTE} for vote in row["votes"]
    ]
    return canonical.digest(canonical.encode(kept))


Find = Callable[[Reader, Any, Callable[[], Digest]], Subjects]
"""From the tables, a record and what gives the digest of the record itself."""

_SUBJECTS: dict[type[Any], Find] = {
    Roster: lambda _tables, _record, own: {"roster": own()},
    Proposal: lambda _tables, record, _own: {
        "bundle": record.bundle, "champion": record.champion, "data": record.data,
    },
    Failure: lambda _tables, _record, own: {"failure": own()},
    Transition: lambda tables, record, _own: _bundle_of(tables, record.proposal),
    Evidence: lambda _tables, record, _own: {
        "bundle": record.bundle, "champion": record.champion, "measurements": record.measurements,
    },
    Verdict: lambda _tables, record, own: {"evidence": record.evidence, "verdict": own()},
    Removal: lambda _tables, record, _own: {"bundle": record.bundle},
    Answers: lambda _tables, record, _own: {"statement": record.statement},
    Promotion: lambda _tables, record, _own: {"bundle": record.bundle, "previous": record.previous},
    Rollback: lambda _tables, record, _own: {"bundle": record.bundle, "previous": record.previous},
    Decision: _of_decision,
}  # fmt: skip
