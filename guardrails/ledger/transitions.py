"""What each record does to the state, and when it may not.

Invariants: see ``guardrails.ledger``. Each handler takes the tables, the entry and its decoded body, refuses
or writes rows, and does nothing else: no clock, no files, no randomness. Machine records carry the time of
the gate and never run backwards; a person's statement may be older than the records before it (it was
signed offline), so whatever depends on time is checked again at the promotion, by the gate's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guardrails.codec import decode_record
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, RecordError
from guardrails.ledger import answers, champions, forms, line, removal, requests, roster, subjects, votes
from guardrails.ledger.people import SERVICE_OF, require_service
from guardrails.ledger.rows import Workspace, read, replaced, require_roster, write
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


def project(tables: Tables, entry: Entry) -> None:
    """Apply one record to the state, or refuse it.

    Raises:
        DeniedError: the rules do not allow this record here.
        RecordError: the record is not well formed.
    """
    statement = entry.statement
    workspace = read(tables, Workspace)
    if workspace is None:
        if statement.record != "roster":
            raise DeniedError("the first record of a log is its roster")
        workspace = Workspace(statement.log, statement.time, 0)
    if statement.log != workspace.log:
        raise DeniedError(f"the record belongs to another log: {statement.log:.80}")
    if entry.seq != workspace.size:
        raise DeniedError(f"record {entry.seq} does not follow record {workspace.size - 1}")
    is_machine = statement.record in SERVICE_OF
    if is_machine and statement.time < workspace.time:
        raise DeniedError(
            f"the clock went backwards: {statement.time} after {workspace.time}",
            hint="set the clock right; if it is right, the log was dated ahead: interlock clock confirm --reason …",
        )
    # A person's clock may be wrong, so only machine records move the log's clock.
    time = statement.time if is_machine else workspace.time
    write(tables, replaced(workspace, time=time, size=entry.seq + 1))
    if is_machine:
        require_service(entry, require_roster(tables))
    if statement.record not in _HANDLERS:
        raise RecordError(f"unknown kind of record: {statement.record}")
    cls, handler = _HANDLERS[statement.record]
    record = decode_record(cls, statement.body)
    fitting = subjects.allowed(tables, entry, record)
    handler(tables, entry, record)
    forms.enter(tables, record)
    subjects.require_fitting(entry, fitting)


def _decision(tables: Tables, entry: Entry, decision: Decision) -> None:
    if decision.action is Action.ADOPT:
        champions.adopt(tables, entry, decision)
    elif decision.action is Action.COMMENT:
        votes.comment(tables, entry, decision)
    elif decision.action in forms.REQUESTED:
        requests.sign(tables, entry, decision)
    elif decision.target.startswith("R-"):
        requests.speak(tables, entry, decision)
    else:
        votes.vote(tables, entry, decision)


_HANDLERS: dict[str, tuple[type[Any], Callable[[Tables, Entry, Any], None]]] = {
    "roster": (Roster, roster.enter),
    "proposal": (Proposal, line.proposal),
    "failure": (Failure, line.failure),
    "transition": (Transition, line.transition),
    "evidence": (Evidence, line.evidence),
    "verdict": (Verdict, line.verdict),
    "decision": (Decision, _decision),
    "promotion": (Promotion, champions.promote),
    "rollback": (Rollback, champions.roll_back),
    "removal": (Removal, removal.remove),
    "answers": (Answers, answers.hand_in),
}
