"""One proposal told in full: what was proposed, measured and decided, by whom, and what came after.

Invariants: every statement names the record that it stands in; numbers carry interval, limit and count; texts
that were erased say by which record; nothing here is decided or computed anew.
"""

from __future__ import annotations

from typing import Any

from guardrails.codec import decode_record
from guardrails.decision_log.snapshot import Entry
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Decision
from guardrails.view import View
from ui.presenters.fields import Json, detail_fields, finding_fields, verdict_fields
from ui.presenters.findings import condition, finding_sentence, worst_first
from ui.presenters.log_entries import log_fields

SCHEMA = "interlock/report/v1"


def report_fields(view: View, proposal_id: str) -> Json:
    """Everything that the log says of one proposal; raises UnknownNameError."""
    row = view.proposal(proposal_id)
    entries = _about(view, row)
    last = max((entry.seq for entry in entries), default=view.snapshot.size - 1)
    covering = [size for size in view.snapshot.sizes() if size > last]
    verdict = row.verdict
    return {
        "schema": SCHEMA,
        "log": view.snapshot.origin,
        "entries": view.snapshot.size,
        "proposal": detail_fields(row, view.name_of, view.text),
        "verdict": verdict_fields(row.id, verdict, row.state.value),
        "findings": [
            {
                **finding_fields(finding),
                "condition": condition(finding.limit),
                "sentence": finding_sentence(finding, verdict.confidence if verdict else None),
            }
            for finding in worst_first(verdict.findings if verdict else ())
        ],
        "decisions": [told for entry in entries if (told := _decision(entry, view))],
        "records": [_record(entry, view) for entry in entries],
        "checkpoint": view.snapshot.cosigned(covering[0]) if covering else "",
    }


def _about(view: View, row: ProposalRow) -> list[Entry]:
    """The records about a proposal, in order.

    They are its own, decisions on it, the answers that it could learn from, and what moved the champion after it, with
    who asked for that.
    """
    found = []
    bundle = str(row.proposal.bundle) if row.proposal else ""
    asked: dict[str, list[Entry]] = {}
    for entry in view.snapshot.entries():
        body = entry.statement.body
        if entry.statement.record == "decision" and body.get("action") == "rollback":
            asked.setdefault(str(body.get("request")), []).append(entry)
        named = {body.get("proposal"), body.get("id"), body.get("target"), body.get("request")}
        quarantines = row.id in (body.get("quarantined") or ())
        taught = (
            row.proposal is not None
            and entry.statement.record == "answers"
            and entry.seq < row.proposal_seq
            and (body.get("model"), body.get("asker")) == (row.model, row.proposal.asker)
        )
        moves = (
            entry.statement.record == "rollback"
            and bundle
            and bundle in (body.get("bundle"), body.get("previous"))
        )
        adopts = entry.statement.record == "roster"
        if not adopts and (row.id in named or quarantines or moves or taught):
            found.append(entry)
            if entry.statement.record == "rollback":
                found.extend(asked.get(str(body.get("request")), ()))
    return sorted({entry.seq: entry for entry in found}.values(), key=lambda entry: entry.seq)


def _decision(entry: Entry, view: View) -> Json | None:
    if entry.statement.record != "decision":
        return None
    decision = decode_record(Decision, dict(entry.statement.body))
    return {
        "seq": entry.seq,
        "time": entry.statement.time,
        "action": decision.action.value,
        "person": decision.person,
        "name": view.name_of(decision.person),
        "role": decision.role.value,
        "surface": decision.surface.value,
        "viewed": list(decision.viewed),
        "reason": view.text(decision.reason),
        "key": entry.signatures[0].keyid,
        "roster": decision.roster,
    }


def _record(entry: Entry, view: View) -> dict[str, Any]:
    fields = log_fields(entry, view.name_of, view.text)
    return {**fields, "keys": [signature.keyid for signature in entry.signatures]}
