"""From what a person wants to the exact bytes that they sign.

Invariants:
- A decision is bound to the state that it was prepared in, to the byte; what changes afterwards makes it void.
- Preparing reads and changes nothing; only signed bytes that the ledger accepts count.
- The reason enters the record as a commitment; what opens it travels beside the draft.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Reference, Statement
from guardrails.decision_log.store import Snapshot
from guardrails.errors import DeniedError, StaleError, UnknownNameError, UsageError
from guardrails.ledger import standing
from guardrails.ledger.people import find_person
from guardrails.ledger.rows import (
    PolicyRow,
    RequestRow,
    Workspace,
    read,
    read_all,
    require_proposal,
    require_roster,
)
from guardrails.records import (
    Action,
    Decision,
    ModelKind,
    Opening,
    PolicySource,
    Role,
    Surface,
    Waiver,
    open_text,
)

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
    """What a person wants to decide, before it is bound to the state of the workspace."""

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
        labels=wish.labels,
    )  # fmt: skip
    decision, subjects, references = _bound(snapshot, decision)
    statement = Statement("decision", subjects, encode_record(decision), snapshot.origin, now, references)
    return Draft(decision, statement.encode(), (opening,))


def _bound(
    snapshot: Snapshot, decision: Decision
) -> tuple[Decision, dict[str, Digest], tuple[Reference, ...]]:
    """The decision with its request id and binding, what it is about, and what it rests on."""
    tables = snapshot.tables
    if decision.action in (Action.APPROVE, Action.REJECT, Action.WITHDRAW):
        row = require_proposal(tables, decision.target)
        binding = standing.binding_of(tables, row)
        if binding is None or row.verdict_record is None:
            raise DeniedError(f"{row.id} is {row.state}: there is nothing to {decision.action}")
        decision = replace(decision, request=row.id, binding=binding)
        references = (reference_to(row.verdict_seq, row.verdict_record),)
        return decision, {"bundle": binding.bundle, "verdict": binding.verdict}, references
    if decision.action is Action.DEACTIVATE:
        policy = read(tables, PolicyRow, decision.target)
        if policy is None:
            raise UnknownNameError(f"no policy called {decision.target:.80} is in force")
        decision = replace(decision, digest=policy.source.digest)
    if decision.action is Action.ADOPT:
        if decision.digest is None:
            raise UsageError("adopt needs the digest of a base model")
        return replace(decision, request=decision.target), {"bundle": decision.digest}, ()
    wanted = (decision.action, decision.target, decision.digest, decision.policy, decision.waiver)
    for request in read_all(tables, RequestRow):
        if not request.done and wanted == (
            request.action, request.target, request.digest, request.policy, request.waiver,
        ):  # fmt: skip
            return replace(decision, request=request.id), {"request": digest_of(request)}, ()
    workspace = read(tables, Workspace)
    if workspace is None:
        raise DeniedError("nobody has been set up yet", hint="run `interlock init --operator NAME`")
    decision = replace(decision, request=workspace.next_id("R"))
    subject = decision.digest or (decision.policy.digest if decision.policy else None)
    return decision, {decision.action.value: subject or digest_of(decision)}, ()


def digest_of(record: Any) -> Digest:
    """The digest of a record's canonical bytes."""
    return canonical.digest(canonical.encode(encode_record(record)))


def reference_to(seq: int, record: Digest | None) -> Reference:
    """A reference to an earlier record of the log."""
    if record is None:
        raise StaleError("a record that this rests on is not in the log")
    return Reference(seq, record.hex)
