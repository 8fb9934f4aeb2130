"""The rows of the projection: what is known about each thing, as the log tells it.

Invariants: rows are records too (frozen, encoded canonically), so a stored row can be compared with a
replayed one byte for byte. Nothing stands in a row that is not derived from a log record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, cast

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log.scratch import ReplayTables
from guardrails.decision_log.tables import ANSWERS_TABLE, Reader, Tables
from guardrails.errors import DeniedError, HaltedError, RecordError, StaleError, UnknownNameError
from guardrails.records import (
    Action,
    Binding,
    Commitment,
    Evidence,
    Failure,
    PolicySource,
    Proposal,
    RequestTerms,
    Role,
    Roster,
    State,
    Surface,
    Verdict,
    Waiver,
)


@dataclass(frozen=True)
class Workspace:
    """One row: the log's origin, its clock and length, the halt in force, and how many ids were given.

    ``strict``: the log holds a record of the forms that say more (see ``ledger.forms``); from there on no
    record of the former, laxer forms is taken.
    """

    TABLE = "workspace"
    log: str
    time: str
    size: int
    halted_by: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    strict: bool = False

    def next_id(self, prefix: str) -> str:
        """The id that the next thing of this kind will get: ``P-0001``, ``R-0001`` …"""
        return f"{prefix}-{self.counters.get(prefix, 0) + 1:04d}"


@dataclass(frozen=True)
class RosterRow:
    """The roster in force and the record that made it so."""

    TABLE = "roster"
    roster: Roster
    record: Digest


@dataclass(frozen=True)
class Vote:
    """One signed decision of one person on one proposal or request. ``record`` is its leaf in the log."""

    action: Action
    person: str
    role: Role
    at: str
    surface: Surface
    viewed: tuple[str, ...]
    reason: Commitment
    record: Digest
    seq: int
    roster: int
    binding: Binding | None = None
    expires_at: str = ""


OPEN = (State.PROPOSED, State.MEASURING, State.JUDGED, State.AWAITING_APPROVAL, State.APPROVED)
"""States from which a proposal can still become champion."""

BARRED = (State.ROLLED_BACK, State.QUARANTINED)
"""States of what a rollback left behind."""

_LABELS = {**dict.fromkeys(OPEN, "open"), **dict.fromkeys(BARRED, "barred"), State.PROMOTED: "promoted"}


@dataclass(frozen=True)
class ProposalRow:
    """All that the log says of one proposal, from its first record to its last.

    ``votes`` are the approvals (or the no that ended it); ``changes`` the requests for change that stand;
    ``remarks`` every comment and request for change, in the order of the log. ``measuring`` is the record
    that opened the newest measurement.
    """

    TABLE = "proposals"
    id: str
    model: str
    technique: str
    state: State
    created_at: str
    changed_at: str
    note: str = ""
    proposal: Proposal | None = None
    proposal_record: Digest | None = None
    proposal_seq: int = -1
    failure: Failure | None = None
    evidence: Evidence | None = None
    evidence_record: Digest | None = None
    evidence_seq: int = -1
    verdict: Verdict | None = None
    verdict_record: Digest | None = None
    verdict_seq: int = -1
    judged_at: str = ""
    approved_at: str = ""
    waived: tuple[str, ...] = ()
    attempt: int = 0
    votes: tuple[Vote, ...] = ()
    promoted_at: str = ""
    removed_at: str = ""
    measuring: Digest | None = None
    changes: tuple[Vote, ...] = ()
    remarks: tuple[Vote, ...] = ()

    @property
    def label(self) -> str:
        """By what the row is found: see ``proposals_in``."""
        return _LABELS.get(self.state, "")


@dataclass(frozen=True)
class Reign:
    """One champion: since when, by which proposal (empty: adopted at set-up), and whether it is barred."""

    digest: Digest
    promoted_at: str
    proposal: str
    quarantined: bool = False


@dataclass(frozen=True)
class ModelRow:
    """One model: its champion, and every champion it ever had, oldest first.

    ``attempts`` counts the measurements since the last promotion or rollback: k in the error budget.
    ``promotions`` holds the times of past promotions, for the daily budget.
    """

    TABLE = "models"
    name: str
    kind: str
    champion: Digest
    original: Digest
    history: tuple[Reign, ...]
    labels: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    promotions: tuple[str, ...] = ()


@dataclass(frozen=True)
class PolicyRow:
    """One policy in force: the very bytes that were activated."""

    TABLE = "policies"
    name: str
    source: PolicySource
    activated_at: str
    request: str


@dataclass(frozen=True)
class RequestRow:
    """One action that people sign together: rollback, halt, resume, activation, waiver …

    ``done``: it took effect. ``closed``: why it never will (withdrawn, rejected), empty while it may; that it
    expired or is void follows from the time and from the champion (``ledger.asked``). ``remarks`` are the
    comments on it and whatever withdrew or rejected it.
    """

    TABLE = "requests"
    id: str
    action: Action
    target: str
    created_at: str
    done: bool
    votes: tuple[Vote, ...]
    digest: Digest | None = None
    policy: PolicySource | None = None
    waiver: Waiver | None = None
    model: str = ""
    terms: RequestTerms | None = None
    closed: str = ""
    remarks: tuple[Vote, ...] = ()
    erase: tuple[Commitment, ...] = ()


@dataclass(frozen=True)
class WaiverRow:
    """One waiver that its quorum signed. ``revoked_by``: the request that ended it early."""

    TABLE = "waivers"
    id: str
    waiver: Waiver
    granted_at: str
    revoked: bool = False
    revoked_by: str = ""


@dataclass(frozen=True)
class AnswersRow:
    """One statement of answers that a person handed in, by its digest. ``key``: the fingerprint of who signed."""

    TABLE = ANSWERS_TABLE
    statement: Digest
    model: str
    asker: str
    person: str
    key: str
    answers: int
    skipped: int
    roster: int
    at: str
    seq: int
    record: Digest

    @property
    def label(self) -> str:
        """By what the row is found: see ``ledger.answers.handed_in``."""
        return f"{self.model} {self.asker}"


Row = TypeVar(
    "Row", Workspace, RosterRow, ProposalRow, ModelRow, PolicyRow, RequestRow, WaiverRow, AnswersRow
)

_REMEMBERED = 2048
ONLY = "current"
"""The key of tables that hold one row."""


@lru_cache(maxsize=_REMEMBERED)
def _decoded(cls: Any, body: bytes) -> Any:
    # The same rows are read for record after record: roster, workspace, models. Rows are never changed in place.
    return decode_record(cls, canonical.parse(body))


def _row(tables: Reader, cls: type[Row], key: str, body: bytes) -> Row:
    try:
        row: Row = _decoded(cast("Any", cls), body)
    except RecordError:
        # The tables know which row is damaged, and what to do about it.
        return decode_record(cls, tables.get(cls.TABLE, key))
    return row


def read(tables: Reader, cls: type[Row], key: str = ONLY) -> Row | None:
    """The row of a class at a key, or None."""
    held = tables.held(cls.TABLE, key) if isinstance(tables, ReplayTables) else tables.body(cls.TABLE, key)
    return held if held is None or isinstance(held, cls) else _row(tables, cls, key, held)


def read_all(tables: Reader, cls: type[Row]) -> Iterator[Row]:
    """All rows of a class, sorted by key."""
    rows = tables.all_held(cls.TABLE) if isinstance(tables, ReplayTables) else tables.bodies(cls.TABLE)
    for key, held in rows:
        yield held if isinstance(held, cls) else _row(tables, cls, key, held)


def proposals_in(tables: Reader, label: str) -> Iterator[ProposalRow]:
    """The proposals that are open, promoted or barred, sorted by key.

    Found by their label where the tables know it, as those of verification and of a gate do: their number is that of
    what is found, not that of all proposals there ever were.
    """
    find: Callable[[str, str], list[str]] | None = getattr(tables, "labelled", None)
    if find is None:
        return (row for row in read_all(tables, ProposalRow) if row.label == label)
    return (require_proposal(tables, key) for key in sorted(find(ProposalRow.TABLE, label)))


def replaced(row: Row, **changes: Any) -> Row:
    """The row with other values in some fields: ``dataclasses.replace``, without a call for every field.

    Rows check nothing when they are made, so nothing is left out. Raises TypeError where there is no such field.
    """
    values = row.__dict__
    if not changes.keys() <= values.keys():
        raise TypeError(f"{type(row).__name__} has no field {min(changes.keys() - values.keys())}")
    made = object.__new__(type(row))
    made.__dict__.update(values, **changes)
    return made


def write(tables: Tables, row: Any, key: str = ONLY) -> None:
    """Insert or replace a row."""
    if isinstance(tables, ReplayTables):
        tables.hold(row.TABLE, key, row)
    else:
        tables.put(row.TABLE, key, encode_record(row, lean=True), getattr(row, "label", ""))


# --- rows that must be there ---------------------------------------------------------------


def require_roster(tables: Reader) -> Roster:
    """The roster in force; raises DeniedError before set-up."""
    row = read(tables, RosterRow)
    if row is None:
        raise DeniedError("nobody has been set up yet", hint="run `interlock init --operator NAME`")
    return row.roster


def require_proposal(tables: Reader, proposal_id: str) -> ProposalRow:
    """The row of a proposal; raises UnknownNameError."""
    row = read(tables, ProposalRow, proposal_id)
    if row is None:
        raise UnknownNameError(f"there is no proposal {proposal_id:.40}", hint="`interlock list` shows them")
    return row


def require_request(tables: Reader, request_id: str) -> RequestRow:
    """The row of a request; raises UnknownNameError."""
    row = read(tables, RequestRow, request_id)
    if row is None:
        raise UnknownNameError(
            f"there is no request {request_id:.40}", hint="`interlock list --requests` shows them"
        )
    return row


def require_model(tables: Reader, name: str) -> ModelRow:
    """The row of a model; raises UnknownNameError."""
    row = read(tables, ModelRow, name)
    if row is None:
        known = ", ".join(model.name for model in read_all(tables, ModelRow)) or "none yet"
        raise UnknownNameError(f"there is no model {name:.80}", hint=f"known: {known}")
    return row


def take_id(tables: Tables, prefix: str, wanted: str) -> None:
    """Give out the next id of a series; raises StaleError if another writer took it first."""
    workspace = read(tables, Workspace)
    assert workspace is not None  # noqa: S101 - ``project`` wrote it
    if workspace.next_id(prefix) != wanted:
        raise StaleError(f"id {wanted} is not the next one ({workspace.next_id(prefix)})")
    count = workspace.counters.get(prefix, 0) + 1
    write(tables, replaced(workspace, counters={**workspace.counters, prefix: count}))


def require_not_halted(tables: Reader) -> None:
    """Refuse while a halt is in force."""
    workspace = read(tables, Workspace)
    if workspace is not None and workspace.halted_by:
        raise HaltedError(f"halted by {workspace.halted_by}", hint="`interlock resume` lifts it")


def workspace_time(tables: Reader) -> str:
    """The time of the last machine record: no later record can claim to be before it."""
    workspace = read(tables, Workspace)
    return "" if workspace is None else workspace.time
