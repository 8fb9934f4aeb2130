"""When the bundle of a proposal may be removed: what the log still needs is never let go.

Invariants:
- Only a proposal that is over is removed, and only after it has been kept for as long as the policies for its
  model ask (``retention.rejectedDays``, of several the longest).
- A bundle that was ever champion stays: a rollback may want it, whatever became of the proposal it came from.
- A proposal whose bundle was removed is not measured, judged or approved again. Its records and its evidence
  stay, so every verdict can still be recomputed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from guardrails.decision_log.envelope import format_time, parse_time
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader, Tables
from guardrails.errors import DeniedError
from guardrails.ledger.in_force import effective_for
from guardrails.ledger.rows import ModelRow, ProposalRow, read_all, require_model, require_proposal, write
from guardrails.records import Removal, State

REMOVABLE = (
    State.BLOCKED, State.REJECTED, State.WITHDRAWN, State.EXPIRED, State.FAILED, State.STALE, State.SUPERSEDED,
)  # fmt: skip
"""States in which a proposal waits for nobody and never was champion."""


def kept_days(tables: Reader, row: ProposalRow) -> int:
    """For how many days a proposal that is over is kept."""
    return effective_for(tables, require_model(tables, row.model)).rejected_days


def obstacle(tables: Reader, row: ProposalRow, now: str) -> str:
    """Why the bundle of a proposal may not be removed now; empty if it may."""
    if row.proposal is None:
        return f"{row.id} has no bundle"
    if row.removed_at:
        return f"the bundle of {row.id} was removed already"
    if row.state not in REMOVABLE:
        return f"{row.id} is {row.state}"
    for model in read_all(tables, ModelRow):
        if row.proposal.bundle in {model.champion, model.original, *(r.digest for r in model.history)}:
            return f"the bundle of {row.id} is, or was, champion of {model.name}"
    end = format_time(parse_time(row.changed_at) + timedelta(days=kept_days(tables, row)))
    return f"{row.id} is kept until {end}" if now < end else ""


def require_kept(row: ProposalRow) -> None:
    """Raise DeniedError if the bundle of a proposal was removed."""
    if row.removed_at:
        raise DeniedError(
            f"{row.id}: its bundle was removed on {row.removed_at[:10]}, its time was over",
            hint="propose it anew",
        )


def remove(tables: Tables, entry: Entry, removal: Removal) -> None:
    """Apply a removal, or refuse it."""
    row = require_proposal(tables, removal.proposal)
    why = obstacle(tables, row, entry.statement.time)
    if why:
        raise DeniedError(f"it cannot be removed: {why}")
    if row.proposal is None or removal.bundle != row.proposal.bundle:
        raise DeniedError(f"{row.id}: the removal names another bundle")
    if removal.days != kept_days(tables, row):
        raise DeniedError(f"{row.id}: the policies ask for {kept_days(tables, row)} days, not {removal.days}")
    write(tables, replace(row, removed_at=entry.statement.time), row.id)
