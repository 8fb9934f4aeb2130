"""Where a request stands: who must sign it, who has, and whether it can still take effect. Pure.

Invariants:
- A request that was carried out, withdrawn, rejected, that expired or is void takes no more signatures.
- It expires at the time that its first signature fixed, and is void for good once another champion came into force
  than the one that it names: neither needs a record, both follow from the log and the time.
- Signatures under a former roster do not count; who gave one may sign again.
"""

from __future__ import annotations

from enum import StrEnum

from guardrails import approval
from guardrails.approval import Tally, Terms
from guardrails.decision_log.envelope import format_time, parse_time
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError
from guardrails.ledger.in_force import effective_everywhere, effective_for, policy_of
from guardrails.ledger.rows import (
    ModelRow,
    PolicyRow,
    RequestRow,
    read,
    read_all,
    require_model,
    require_roster,
)
from guardrails.ledger.standing import counted_vote
from guardrails.policy import QuorumRule, is_tightening
from guardrails.records import Action, RequestTerms, Role

FOUNDING = (QuorumRule(1, (Role.OPERATOR, Role.ROOT)),)
"""Who may act while no policy is in force: set-up, and the way back from a workspace without policies."""


class RequestState(StrEnum):
    """Whether a request can still take effect."""

    OPEN = "open"
    DONE = "done"
    WITHDRAWN = "withdrawn"
    REJECTED = "rejected"
    EXPIRED = "expired"
    VOID = "void"


WHY_CLOSED = {
    RequestState.DONE: "has been carried out already",
    RequestState.WITHDRAWN: "was withdrawn by those who signed it",
    RequestState.REJECTED: "was rejected",
    RequestState.EXPIRED: "expired before enough people had signed",
    RequestState.VOID: "is void: another champion is in force than the one that it would leave",
}


def state_of(tables: Reader, request: RequestRow, now: str) -> RequestState:
    """Where a request stands at a time."""
    if request.done:
        return RequestState.DONE
    if request.closed:
        return RequestState(request.closed)
    if request.terms is not None:
        if now >= request.terms.expires_at:
            return RequestState.EXPIRED
        model = read(tables, ModelRow, request.target) if request.action is Action.ROLLBACK else None
        if model is not None and _is_void(request.terms, model):
            return RequestState.VOID
    return RequestState.OPEN


def _is_void(terms: RequestTerms, model: ModelRow) -> bool:
    """Whether another champion came into force since, even if the one that the request names is back."""
    return terms.champion != model.champion or terms.reign not in (None, len(model.history))


def require_open(tables: Reader, request: RequestRow, now: str) -> None:
    """Refuse to touch a request that is over, and say why it is."""
    state = state_of(tables, request, now)
    if state is not RequestState.OPEN:
        hint = "" if state is RequestState.DONE else "ask for it again"
        raise DeniedError(f"{request.id} {WHY_CLOSED[state]}", hint=hint)


def terms_for(tables: Reader, action: Action, target: str, opened_at: str) -> RequestTerms:
    """The terms of a request that is opened at a time, under the policies in force."""
    model = require_model(tables, target) if action is Action.ROLLBACK else None
    effective = effective_for(tables, model) if model else effective_everywhere(tables)
    expires = format_time(parse_time(opened_at) + effective.expires_after)
    return RequestTerms(expires, model.champion, len(model.history)) if model else RequestTerms(expires)


def request_rules(tables: Reader, request: RequestRow) -> tuple[QuorumRule, ...]:
    """Whose signatures an action needs."""
    if request.action in (Action.SET_CLOCK, Action.ERASE):
        return (QuorumRule(require_roster(tables).threshold, (Role.ROOT,)),)
    policies = list(read_all(tables, PolicyRow))
    if not policies:
        return FOUNDING
    effective = effective_everywhere(tables)
    if request.action is Action.ROLLBACK:
        return effective_for(tables, require_model(tables, request.target)).rollback
    if request.action in (Action.ACTIVATE, Action.DEACTIVATE):
        old = next((policy_of(row.source) for row in policies if row.name == request.target), None)
        new = policy_of(request.policy) if request.policy else None
        others = [policy_of(row.source) for row in policies if row.name != request.target]
        tightens = is_tightening(old, new, others)
        return effective.activation_tighten if tightens else effective.activation_loosen
    if request.action is Action.REVOKE:
        # To end an exception tightens: one of those who could have granted it is enough.
        return (QuorumRule(1, tuple(sorted({role for rule in effective.waiver for role in rule.roles}))),)
    return {
        Action.HALT: effective.halt, Action.RESUME: effective.resume, Action.WAIVE: effective.waiver,
    }[request.action]  # fmt: skip


def tally_request(tables: Reader, request: RequestRow, now: str) -> Tally:
    """How far the signatures of a request go."""
    roster = require_roster(tables)
    votes = [counted_vote(vote) for vote in request.votes if vote.roster == roster.version]
    terms = Terms(
        alone=request.action in (Action.ACTIVATE, Action.DEACTIVATE),
        closes_at=parse_time(request.terms.expires_at) if request.terms else None,
    )
    return approval.tally(votes, roster, request_rules(tables, request), terms, parse_time(now))


def missing_of(tables: Reader, request: RequestRow, now: str) -> str:
    """What a request still needs, or why it is over; empty where it was carried out."""
    state = state_of(tables, request, now)
    if state is RequestState.DONE:
        return ""
    if state is not RequestState.OPEN:
        return f"it {WHY_CLOSED[state]}"
    return tally_request(tables, request, now).missing


def require_complete(tables: Reader, request: RequestRow, now: str) -> Tally:
    """The tally of a request whose quorum is complete; refuses otherwise."""
    tally = tally_request(tables, request, now)
    if not tally.complete:
        raise DeniedError(f"{request.id}: the quorum is not complete: {tally.missing}")
    return tally
