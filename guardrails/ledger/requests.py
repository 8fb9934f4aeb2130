"""Actions that people sign together outside of proposals: rollback, halt, resume, policies, waivers, the clock.

Invariants:
- A request has one id and one fixed content; every further signature names both, so nobody can add a
  signature to something else than what its signer saw.
- Whoever signed may take the signature back, and whoever could sign may reject, until it has taken effect.
- An action takes effect with the signature that completes its quorum, in the same record. Only a rollback
  needs a record of its own afterwards, because the gate must state what it bars.
"""

from __future__ import annotations

from dataclasses import replace

from guardrails.canonical import Digest
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, RecordError, StaleError, UnknownNameError
from guardrails.ledger.asked import RequestState, request_rules, require_open, tally_request, terms_for
from guardrails.ledger.erasure import check_erase, erase
from guardrails.ledger.people import require_signer, vote_of
from guardrails.ledger.rows import (
    ModelRow,
    PolicyRow,
    RequestRow,
    WaiverRow,
    Workspace,
    read,
    require_model,
    require_roster,
    take_id,
    workspace_time,
    write,
)
from guardrails.ledger.waivers import check_revoke, check_waive
from guardrails.policy import parse_policy
from guardrails.records import Action, Decision

WORKSPACE = "workspace"
"""The target of halt, resume and set-clock."""


def sign(tables: Tables, entry: Entry, decision: Decision) -> None:
    """Count one signature for a request (a new one, or one that is open), and act if it is complete."""
    person = require_signer(entry, decision, require_roster(tables))
    request = read(tables, RequestRow, decision.request)
    if request is None:
        request = _opened(tables, entry, decision)
        take_id(tables, "R", decision.request)
    elif _content(request) != _content(decision):
        raise StaleError(f"{request.id} asks for something else than what was signed")
    # A log whose clock was once far ahead must not keep people from asking, least of all for the right time.
    is_new, time = not request.votes, entry.statement.time
    if not is_new and decision.action is not Action.SET_CLOCK:
        time = max(time, workspace_time(tables))
    require_open(tables, request, time)
    if request.terms != decision.terms:
        raise StaleError(
            f"{request.id} has other terms than what was signed", hint="prepare and sign it again"
        )
    # What is asked for must make sense now, not only when the first person asked for it.
    _check(tables, request, entry.statement.time)
    # A signature under a former roster counts no more; who gave it may sign again.
    votes = tuple(vote for vote in request.votes if vote.roster == decision.roster)
    if any(vote.person == person.id for vote in votes):
        raise DeniedError(f"{request.id}: this person has signed already; a second signature adds nothing")
    request = replace(request, votes=(*votes, vote_of(entry, decision)))
    # Signatures made offline may arrive in another order than they were made in.
    tally = tally_request(tables, request, max(vote.at for vote in request.votes))
    if tally.complete and request.action is not Action.ROLLBACK:
        _carry_out(tables, entry, request)
        request = replace(request, done=True)
    write(tables, request, request.id)


def speak(tables: Tables, entry: Entry, decision: Decision) -> None:
    """Withdraw one's signature under an open request, or reject it."""
    person = require_signer(entry, decision, require_roster(tables))
    request = read(tables, RequestRow, decision.target)
    if request is None or decision.request != decision.target:
        raise UnknownNameError(f"there is no request {decision.target:.40}")
    require_open(tables, request, max(entry.statement.time, workspace_time(tables)))
    request = replace(request, remarks=(*request.remarks, vote_of(entry, decision)))
    if decision.action is Action.REJECT:
        wanted = sorted({role for rule in request_rules(tables, request) for role in rule.roles})
        if decision.role not in wanted:
            raise DeniedError(
                f"the role {decision.role} cannot reject {request.id}", hint=f"who can: {', '.join(wanted)}"
            )
        request = replace(request, closed=RequestState.REJECTED.value)
    else:
        others = tuple(vote for vote in request.votes if vote.person != person.id)
        if others == request.votes:
            raise DeniedError(
                f"{request.id}: you have not signed it, so there is nothing to withdraw",
                hint=f"to stop it: interlock reject {request.id} --reason …",
            )
        request = replace(request, votes=others, closed="" if others else RequestState.WITHDRAWN.value)
    write(tables, request, request.id)


def require_reachable(model: ModelRow, target: Digest) -> None:
    """Refuse a rollback to what never was champion, is champion, or is quarantined."""
    reigns = [reign for reign in model.history if reign.digest == target]
    if not reigns:
        raise UnknownNameError(f"{target} was never champion of {model.name}", hint="`interlock model show`")
    if target == model.champion:
        raise DeniedError(f"{target.short} is the champion of {model.name} already")
    if any(reign.quarantined for reign in reigns):
        raise DeniedError(f"{target.short} is quarantined: it was itself rolled back")


def _opened(tables: Tables, entry: Entry, decision: Decision) -> RequestRow:
    time = entry.statement.time
    expected = terms_for(tables, decision.action, decision.target, time)
    if decision.terms is not None and decision.terms.reign is None:
        expected = replace(expected, reign=None)  # of a log from before
    if decision.terms is not None and decision.terms != expected:
        raise StaleError(
            f"{decision.action}: its terms are not those that the policies in force give it",
            hint="prepare and sign it again",
        )
    return RequestRow(
        decision.request, decision.action, decision.target, time, False, (), digest=decision.digest,
        policy=decision.policy, waiver=decision.waiver, terms=decision.terms, erase=decision.erase,
    )  # fmt: skip


def _content(asked: RequestRow | Decision) -> tuple[object, ...]:
    return (asked.action, asked.target, asked.digest, asked.policy, asked.erase, asked.waiver)


def _check(tables: Tables, request: RequestRow, time: str) -> None:
    if request.action is Action.WAIVE:
        check_waive(tables, request, time)
    elif request.action is Action.REVOKE:
        check_revoke(tables, request)
    else:
        _CHECKS[request.action](tables, request)


def _check_rollback(tables: Tables, request: RequestRow) -> None:
    if request.digest is None:
        raise RecordError("rollback: the digest to return to is missing")
    require_reachable(require_model(tables, request.target), request.digest)


def _check_halt(tables: Tables, request: RequestRow) -> None:
    if request.target != WORKSPACE:
        raise RecordError(f"{request.action}: the target is the workspace, not {request.target:.40}")
    workspace = read(tables, Workspace)
    halted = bool(workspace and workspace.halted_by)
    if request.action is Action.HALT and halted:
        raise DeniedError("a halt is in force already")
    if request.action is Action.RESUME and not halted:
        raise DeniedError("nothing is halted")


def _check_activate(tables: Tables, request: RequestRow) -> None:
    if request.policy is None:
        raise RecordError("activate: the policy's bytes are missing")
    policy = parse_policy(request.policy)
    if policy.metadata.name != request.target or request.policy.name != request.target:
        raise RecordError(f"activate: the policy is called {policy.metadata.name}, not {request.target:.80}")


def _check_deactivate(tables: Tables, request: RequestRow) -> None:
    row = read(tables, PolicyRow, request.target)
    if row is None:
        raise UnknownNameError(f"no policy called {request.target:.80} is in force")
    if request.digest != row.source.digest:
        raise StaleError(
            f"deactivate: the policy {request.target:.80} in force is not the one that was meant"
        )


def _check_clock(tables: Tables, request: RequestRow) -> None:
    if request.target != WORKSPACE:
        raise RecordError(f"set-clock: the target is the workspace, not {request.target:.40}")


_CHECKS = {
    Action.ROLLBACK: _check_rollback,
    Action.HALT: _check_halt,
    Action.RESUME: _check_halt,
    Action.ACTIVATE: _check_activate,
    Action.DEACTIVATE: _check_deactivate,
    Action.SET_CLOCK: _check_clock,
    Action.ERASE: check_erase,
}


def _carry_out(tables: Tables, entry: Entry, request: RequestRow) -> None:
    time = entry.statement.time
    if request.action in (Action.HALT, Action.RESUME):
        workspace = read(tables, Workspace)
        assert workspace is not None  # noqa: S101 - every projection starts by writing it
        write(tables, replace(workspace, halted_by=request.id if request.action is Action.HALT else ""))
    elif request.action is Action.ACTIVATE and request.policy is not None:
        write(tables, PolicyRow(request.target, request.policy, time, request.id), request.target)
    elif request.action is Action.DEACTIVATE:
        tables.delete(PolicyRow.TABLE, request.target)
    elif request.action is Action.WAIVE and request.waiver is not None:
        write(tables, WaiverRow(request.id, request.waiver, time), request.id)
    elif request.action is Action.REVOKE:
        granted = read(tables, WaiverRow, request.target)
        assert granted is not None  # noqa: S101 - it was checked a moment ago
        write(tables, replace(granted, revoked=True, revoked_by=request.id), granted.id)
    elif request.action is Action.ERASE:
        erase(tables, entry, request)
    elif request.action is Action.SET_CLOCK:
        # The one record of a person that moves the log's clock, in either direction.
        workspace = read(tables, Workspace)
        assert workspace is not None  # noqa: S101 - every projection starts by writing it
        write(tables, replace(workspace, time=time))
