"""Records of machines: stated, dated, signed by the service that answers for them, and appended.

Invariants:
- A record is signed by the one service that ``ledger.people`` names for its kind.
- The clock is read once per record. No record is written whose time is far ahead of the log's, but a rollback's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Reference, Signer, Statement, format_time, parse_time, seal
from guardrails.decision_log.store import Entry, Snapshot, Transaction
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError
from guardrails.ledger import subjects
from guardrails.ledger.people import SERVICE_OF
from guardrails.ledger.rows import Workspace, read, workspace_time
from guardrails.records import Opening, Rollback

MAX_JUMP = timedelta(days=366)
"""How far the gate's clock may be ahead of the log before a root has to say that it is right."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Clerk:
    """Holds the services' keys and the gate's clock. ``services`` maps a service's name to what signs for it."""

    def __init__(self, services: Mapping[str, Signer], clock: Callable[[], datetime]) -> None:
        self.services = services
        self._clock = clock

    def now(self) -> str:
        """The time by the gate's clock, as records write it."""
        return format_time(self._clock())

    def now_or_later(self, tables: Reader) -> str:
        """The time by the gate's clock, or that of the newest machine record where this one is later."""
        return max(self.now(), workspace_time(tables))

    def next_id(self, snapshot: Snapshot, prefix: str) -> str:
        """The id that the next proposal (``P``) or request (``R``) gets."""
        workspace = read(snapshot.tables, Workspace)
        if workspace is None:
            raise DeniedError("nobody has been set up yet", hint="run `interlock init --operator NAME`")
        return workspace.next_id(prefix)

    def state(
        self, snapshot: Snapshot, record: Any, references: Iterable[Reference] = (), now: str = ""
    ) -> Statement:
        """A record as a statement about its subjects, at ``now`` (empty: the time by the clock)."""
        kind = type(record).__name__.lower()
        time = now or self.now()
        about = subjects.subjects_of(snapshot.tables, record)
        return Statement(kind, about, encode_record(record), snapshot.origin, time, tuple(references))

    def append(
        self, tx: Transaction, record: Any, references: Iterable[Reference] = (),
        openings: Iterable[Opening] = (), now: str = "",
    ) -> Entry:  # fmt: skip
        """Sign a machine record with its service's key and append it."""
        statement = self.state(tx, record, references, now)
        if not isinstance(record, Rollback):
            # A way back is never held up by a doubt about the clock.
            _require_plausible(tx, statement.time)
        return tx.append(seal(statement.encode(), self.services[SERVICE_OF[statement.record]]), openings)


def _require_plausible(tx: Transaction, time: str) -> None:
    """Refuse a record whose time is far ahead of the log's: it could not be taken back, and would block others."""
    workspace = read(tx.tables, Workspace)
    if workspace is None or parse_time(time) - parse_time(workspace.time) <= MAX_JUMP:
        return
    raise DeniedError(
        f"the clock says {time}, the newest record is of {workspace.time}: more than {MAX_JUMP.days} days before",
        hint="if the clock is right: interlock clock confirm --reason …; if not, set it right",
    )
