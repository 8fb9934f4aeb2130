"""What was in force at a time: the state after the last record that the log had by then.

Invariants:
- The answer is a replay of the records by the same function that the gate runs; no table is asked.
- A record was in the log by a time if no record up to it, itself included, says a later time. People's
  statements may be dated earlier than their neighbours (signed offline); they count from their place.
- Where the roots have set the log's clock, what went before was in the log by the time that they set, whatever it
  says itself. If the clock was set back, one time has been there twice: the later state is the answer.
- The times are the log's own. What a witness cosigned bounds them from outside (``log verify --witness-key``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from guardrails.decision_log.envelope import Reference, format_time
from guardrails.decision_log.snapshot import Entry, Snapshot
from guardrails.decision_log.store import Project
from guardrails.decision_log.tables import MemoryTables, Reader
from guardrails.errors import UsageError
from guardrails.ledger.answers import standing
from guardrails.ledger.rows import (
    AnswersRow,
    ModelRow,
    PolicyRow,
    RequestRow,
    RosterRow,
    WaiverRow,
    Workspace,
    read,
    read_all,
)
from guardrails.records import Action


@dataclass(frozen=True)
class AsOf:
    """The state of a log at a time. ``size`` records were there; ``last`` is the newest of them.

    ``checkpoint`` is the first signed checkpoint that covers ``last``, cosignatures included.
    """

    time: str
    size: int
    last: Reference | None
    last_time: str
    last_record: str
    checkpoint: str
    tables: Reader

    @property
    def models(self) -> list[ModelRow]:
        """Every model with the champion that it had."""
        return list(read_all(self.tables, ModelRow))

    @property
    def policies(self) -> list[PolicyRow]:
        """The policies in force."""
        return list(read_all(self.tables, PolicyRow))

    @property
    def roster(self) -> RosterRow | None:
        """The roster in force; None before set-up."""
        return read(self.tables, RosterRow)

    @property
    def waivers(self) -> list[WaiverRow]:
        """The waivers in force: granted, not revoked, not expired at the time."""
        return [row for row in read_all(self.tables, WaiverRow) if not row.revoked and self._holds(row)]

    @property
    def answers(self) -> list[tuple[AnswersRow, str]]:
        """What people had handed in, oldest first; with why it did not count, empty where it did."""
        if self.roster is None:
            return []
        return standing(self.tables, self.roster.roster)

    @property
    def halted_by(self) -> str:
        """The request that halted everything, or an empty text."""
        workspace = read(self.tables, Workspace)
        return workspace.halted_by if workspace else ""

    def _holds(self, row: WaiverRow) -> bool:
        return parse_moment(self.time) < parse_moment(row.waiver.expires_at)


def parse_moment(text: str) -> datetime:
    """A time as people write it: ISO 8601, UTC where it names no zone; raises UsageError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"not a time: {text!r:.60}", hint="like 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _settled(snapshot: Snapshot, project: Project, limit: str) -> int:
    """How many records were in the log by a time because the roots said so: they set its clock after them."""
    asked = [
        entry.seq for entry in snapshot.entries()
        if entry.statement.body.get("action") == Action.SET_CLOCK.value and entry.statement.time <= limit
    ]  # fmt: skip
    if not asked:
        return 0
    tables, settled = MemoryTables(), 0
    for entry in snapshot.entries(0, asked[-1] + 1):
        project(tables, entry)
        request = read(tables, RequestRow, str(entry.statement.body.get("request", "")))
        if entry.seq in asked and request is not None and request.done:
            settled = entry.seq + 1
    return settled


def as_of(snapshot: Snapshot, project: Project, moment: datetime) -> AsOf:
    """The state at a time.

    Raises:
        InterlockError: a record up to then cannot be read or replayed.
    """
    limit, tables = format_time(moment), MemoryTables()
    settled = _settled(snapshot, project, limit)
    last: Entry | None = None
    for entry in snapshot.entries():
        if entry.seq >= settled and entry.statement.time > limit:
            break
        project(tables, entry)
        last = entry
    size = 0 if last is None else last.seq + 1
    covering = [known for known in snapshot.sizes() if known >= size]
    return AsOf(
        limit, size, last.reference if last else None, last.statement.time if last else "",
        last.statement.record if last else "", snapshot.cosigned(covering[0]) if covering else "", tables,
    )  # fmt: skip
