"""From what a person wants to the exact bytes that they sign.

Invariants:
- A decision is bound to the state that it was prepared in, to the byte; what changes afterwards makes it void.
- Preparing reads and changes nothing; only signed bytes that the ledger accepts count.
- The reason enters the record as a commitment; what opens it travels beside the draft.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Reference, Statement
from guardrails.decision_log.store import Snapshot
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError, StaleError, UnknownNameError, UsageError
from guardrails.ledger import asked, remarks, standing, subjects
from guardrails.ledger.forms import REQUESTED
from guardrails.ledger.people import find_person
from guardrails.ledger.rows import (
    PolicyRow,
    RequestRow,
    Workspace,
    read,
    read_all,
    require_proposal,
    require_request,
    require_roster,
)
from guardrails.ledger.subjects import digest_of
from guardrails.records import (
    Action,
    Commitment,
    Decision,
    ModelKind,
    Opening,
    PolicySource,
    Role,
    Surface,
    Waiver,
    open_text,
)

__all__ = ["MAX_REASON_CHARS", "Draft", "Intention", "Receipt", "digest_of", "prepare", "reference_to"]

MAX_REASON_CHARS = 2000


@dataclass(frozen=True)
class Draft:
    """A decision ready to be signed: the exact payload, and what opens its commitments."""

    decision: Decision
    payload: bytes
    openings: tuple[Opening, ...]


@dataclass(frozen=True)
class Receipt:
    """What became of a signed decision. ``record`` is its position and leaf; ``effect`` what it caused."""

    action: Action
    target: str
    request: str
    record: Reference
    state: str
    effect: str


@dataclass(frozen=True)
class Intention:
    """What a person wants to decide, before it is bound to the state of the workspace.

    ``expires_at``: from then on an approval is to count no more; empty: as long as it is current.
    """

    action: Action
    target: str
    person: str
    role: Role
    reason: str
    surface: Surface
    viewed: tuple[str, ...] = ()
    digest: Digest | None = None
    policy: PolicySource | None = None
    waiver: Waiver | None = None
    kind: ModelKind | None = None
    labels: dict[str, str] = field(default_factory=dict)
    expires_at: str = ""
    erase: tuple[Commitment, ...] = ()


def prepare(snapshot: Snapshot, wish: Intention, now: str) -> Draft:
    """The decision that a person wants, bound to the state of the snapshot."""
    reason = " ".join(wish.reason.split())
    if not reason or len(reason) > MAX_REASON_CHARS:
        raise UsageError(f"a reason of 1 to {MAX_REASON_CHARS} characters is needed")
    opening = open_text(reason)
    roster = require_roster(snapshot.tables)
    find_person(roster, wish.person)
    decision = Decision(
        action=wish.action, target=wish.target, person=wish.person, role=wish.role,
        reason=opening.commitment(), surface=wish.surface, viewed=wish.viewed, roster=roster.version,
        request="", digest=wish.digest, policy=wish.policy, waiver=wish.waiver, kind=wish.kind,
        labels=wish.labels, expires_at=wish.expires_at, erase=wish.erase,
    )  # fmt: skip
    remarks.require_room(snapshot.tables, decision)
    decision, references = _bound(snapshot, decision, now)
    about = subjects.subjects_of(snapshot.tables, decision)
    statement = Statement("decision", about, encode_record(decision), snapshot.origin, now, references)
    return Draft(decision, statement.encode(), (opening,))


def _bound(snapshot: Snapshot, decision: Decision, now: str) -> tuple[Decision, tuple[Reference, ...]]:
    """The decision with its request id and binding, and what it rests on."""
    tables = snapshot.tables
    if decision.action is Action.COMMENT:
        if decision.target.startswith("R-"):
            require_request(tables, decision.target)
        else:
            require_proposal(tables, decision.target)
        return replace(decision, request=decision.target), ()
    if decision.action in REQUESTED:
        return _bound_to_request(tables, decision, now), ()
    if decision.action is Action.ADOPT:
        if decision.digest is None:
            raise UsageError("adopt needs the digest of a base model")
        return replace(decision, request=decision.target), ()
    if decision.target.startswith("R-"):
        asked.require_open(tables, require_request(tables, decision.target), now)
        return replace(decision, request=decision.target), ()
    return _bound_to_proposal(tables, decision)


def _bound_to_proposal(tables: Reader, decision: Decision) -> tuple[Decision, tuple[Reference, ...]]:
    row = require_proposal(tables, decision.target)
    decision = replace(decision, request=row.id)
    binding = standing.binding_of(tables, row)
    if binding is None or row.verdict_record is None:
        asked_by = {change.person for change in row.changes}
        if decision.action is Action.WITHDRAW and decision.person in asked_by:
            return decision, ()
        raise DeniedError(f"{row.id} is {row.state}: there is nothing to {decision.action}")
    return replace(decision, binding=binding), (reference_to(row.verdict_seq, row.verdict_record),)


def _bound_to_request(tables: Reader, decision: Decision, now: str) -> Decision:
    """Under the open request that asks for just this, or under a new one."""
    if decision.action is Action.DEACTIVATE:
        policy = read(tables, PolicyRow, decision.target)
        if policy is None:
            raise UnknownNameError(f"no policy called {decision.target:.80} is in force")
        decision = replace(decision, digest=policy.source.digest)
    wanted = (decision.action, decision.target, decision.digest, decision.policy, decision.waiver)
    for request in read_all(tables, RequestRow):
        same = wanted == (request.action, request.target, request.digest, request.policy, request.waiver)
        if same and asked.state_of(tables, request, now) is asked.RequestState.OPEN:
            return replace(decision, request=request.id, terms=request.terms)
    workspace = read(tables, Workspace)
    if workspace is None:
        raise DeniedError("nobody has been set up yet", hint="run `interlock init --operator NAME`")
    terms = asked.terms_for(tables, decision.action, decision.target, now)
    return replace(decision, request=workspace.next_id("R"), terms=terms)


def reference_to(seq: int, record: Digest | None) -> Reference:
    """A reference to an earlier record of the log."""
    if record is None:
        raise StaleError("a record that this rests on is not in the log")
    return Reference(seq, record.hex)
