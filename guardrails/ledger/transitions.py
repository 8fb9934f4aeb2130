"""What each record does to the state, and when it may not.

Invariants: see ``guardrails.ledger``. Each handler takes the tables, the entry and its decoded body, refuses
or writes rows, and does nothing else: no clock, no files, no randomness. Machine records carry the time of
the gate and never run backwards; a person's statement may be older than the records before it (it was
signed offline), so whatever depends on time is checked again at the promotion, by the gate's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from guardrails.canonical import Digest
from guardrails.codec import decode_record
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader, Tables
from guardrails.errors import DeniedError, RecordError, StaleError
from guardrails.ledger import removal, requests, roster
from guardrails.ledger.people import SERVICE_OF, require_service, require_signer, vote_of
from guardrails.ledger.rows import (
    ModelRow,
    ProposalRow,
    Reign,
    RequestRow,
    Workspace,
    read,
    read_all,
    require_model,
    require_not_halted,
    require_proposal,
    require_roster,
    take_id,
    workspace_time,
    write,
)
from guardrails.ledger.standing import (
    binding_of,
    binding_votes,
    policies_for,
    require_complete,
    require_countable,
    standing_of,
    waived_rules,
)
from guardrails.records import (
    Action,
    Decision,
    Evidence,
    Failure,
    Promotion,
    Proposal,
    Removal,
    Role,
    Rollback,
    Roster,
    State,
    Transition,
    Verdict,
    VerdictKind,
)

OPEN = (State.PROPOSED, State.MEASURING, State.JUDGED, State.AWAITING_APPROVAL, State.APPROVED)
"""States from which a proposal can still become champion."""

MEASURABLE = (*OPEN, State.BLOCKED, State.STALE, State.EXPIRED, State.FAILED)
"""States from which a proposal may be measured (again)."""


BARRED = (State.ROLLED_BACK, State.QUARANTINED)
"""States of what a rollback left behind."""

FALLIBLE = (State.PROPOSED, State.MEASURING)
"""States in which a job may be at work on a proposal."""


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
            f"the clock went backwards: {statement.time} after {workspace.time}", hint="set the clock right"
        )
    # A person's clock may be wrong, so only machine records move the log's clock.
    time = statement.time if is_machine else workspace.time
    write(tables, replace(workspace, time=time, size=entry.seq + 1))
    if is_machine:
        require_service(entry, require_roster(tables))
    if statement.record not in _HANDLERS:
        raise RecordError(f"unknown kind of record: {statement.record}")
    cls, handler = _HANDLERS[statement.record]
    handler(tables, entry, decode_record(cls, dict(statement.body)))


# --- set-up --------------------------------------------------------------------------------


def adopt(tables: Tables, entry: Entry, decision: Decision) -> None:
    """A root takes a base model as the first champion: the only way to a champion without a verdict."""
    if Role.ROOT not in require_signer(entry, decision, require_roster(tables)).roles:
        raise DeniedError("only a root can adopt a base model")
    if decision.digest is None or decision.kind is None:
        raise RecordError("adopt: digest and kind are needed")
    if read(tables, ModelRow, decision.target) is not None:
        raise DeniedError(f"model {decision.target} has a champion already; only a promotion can move it")
    reign = Reign(decision.digest, entry.statement.time, "")
    write(
        tables,
        ModelRow(
            decision.target, decision.kind.value, decision.digest, decision.digest, (reign,), decision.labels
        ),
        decision.target,
    )


# --- proposal, evidence, verdict -----------------------------------------------------------


def _proposal(tables: Tables, entry: Entry, proposal: Proposal) -> None:
    model = require_model(tables, proposal.model)
    if proposal.kind.value != model.kind:
        raise DeniedError(f"{proposal.model} is a {model.kind}, the proposal says {proposal.kind}")
    if proposal.champion != model.champion:
        raise StaleError(f"{proposal.model} has another champion than the one this was trained from")
    if proposal.bundle in barred_bundles(tables, model):
        raise DeniedError(
            f"bundle {proposal.bundle.short} is quarantined: it, or what it was trained from, was rolled back"
        )
    take_id(tables, "P", proposal.id)
    time = entry.statement.time
    write(
        tables,
        ProposalRow(
            proposal.id, proposal.model, proposal.technique, State.PROPOSED, time, time,
            proposal=proposal, proposal_record=Digest(entry.leaf), proposal_seq=entry.seq,
        ),
        proposal.id,
    )  # fmt: skip


def _failure(tables: Tables, entry: Entry, failure: Failure) -> None:
    time = entry.statement.time
    if failure.stage == "propose":
        require_model(tables, failure.model)
        take_id(tables, "P", failure.id)
        row = ProposalRow(failure.id, failure.model, failure.technique, State.FAILED, time, time)
    else:
        row = require_proposal(tables, failure.id)
        # Anything else is over, or judged: a failure must not open again what people have closed.
        if row.state not in FALLIBLE or row.model != failure.model:
            raise DeniedError(f"{row.id} is {row.state}: nothing of it can fail now")
    note = f"{failure.stage}: {failure.reason}"
    write(tables, replace(row, state=State.FAILED, changed_at=time, note=note, failure=failure), row.id)


def _transition(tables: Tables, entry: Entry, transition: Transition) -> None:
    row = require_proposal(tables, transition.proposal)
    if transition.state is State.MEASURING:
        if row.proposal is None or row.state not in MEASURABLE:
            raise DeniedError(f"{row.id} is {row.state} and cannot be measured")
        removal.require_kept(row)
        # Votes and a verdict on former evidence say nothing about what comes now.
        row = replace(row, votes=(), approved_at="", failure=None)
    elif transition.state is State.APPROVED:
        if row.state is not State.APPROVED or row.approved_at:
            raise DeniedError(f"{row.id} is {row.state}: its quorum is not newly complete")
        tally = standing_of(tables, row, entry.statement.time).tally
        if not tally.complete:
            raise DeniedError(f"{row.id}: the quorum is not complete: {tally.missing}")
        # A cool-down counts from here, by the gate's clock, not from what a signer says.
        row = replace(row, approved_at=entry.statement.time)
    elif transition.state is State.EXPIRED:
        if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
            raise DeniedError(f"{row.id} is {row.state} and cannot expire")
        if entry.statement.time <= standing_of(tables, row, entry.statement.time).expires_at:
            raise DeniedError(f"{row.id} has not expired yet")
    else:
        raise DeniedError(f"nothing moves to {transition.state} by itself")
    write(
        tables,
        replace(row, state=transition.state, changed_at=entry.statement.time, note=transition.reason),
        row.id,
    )


def _evidence(tables: Tables, entry: Entry, evidence: Evidence) -> None:
    row = require_proposal(tables, evidence.proposal)
    if row.state is not State.MEASURING or row.proposal is None:
        raise DeniedError(f"{row.id} is {row.state}: no measurement is under way")
    if evidence.bundle != row.proposal.bundle:
        raise DeniedError(f"{row.id}: the evidence is about another bundle")
    model = require_model(tables, row.model)
    if evidence.champion != model.champion:
        raise StaleError(f"{row.id}: the champion changed while it was measured; measure it again")
    # Each measurement spends one step of the error budget: asking again is not free.
    write(tables, replace(model, attempts=model.attempts + 1), model.name)
    write(
        tables,
        replace(
            row, state=State.JUDGED, changed_at=entry.statement.time, note="measured", evidence=evidence,
            evidence_record=Digest(entry.leaf), evidence_seq=entry.seq, attempt=model.attempts + 1,
            verdict=None, verdict_record=None, verdict_seq=-1, votes=(),
        ),
        row.id,
    )  # fmt: skip


def _verdict(tables: Tables, entry: Entry, verdict: Verdict) -> None:
    row = require_proposal(tables, verdict.proposal)
    if row.evidence is None or row.state not in (
        State.JUDGED, State.AWAITING_APPROVAL, State.APPROVED, State.BLOCKED,
    ):  # fmt: skip
        raise DeniedError(f"{row.id} is {row.state}: there is no evidence to judge")
    removal.require_kept(row)
    if verdict.evidence != row.evidence_record:
        raise StaleError(f"{row.id}: the verdict is about other evidence")
    model = require_model(tables, row.model)
    if row.evidence.champion != model.champion:
        raise StaleError(f"{row.id}: the champion changed since it was measured; measure it again")
    if verdict.attempt != row.attempt:
        raise DeniedError(f"{row.id}: attempt {verdict.attempt}, but this evidence is attempt {row.attempt}")
    in_force = policies_for(tables, model)
    if verdict.policies != {policy.name: str(policy.source.digest) for policy in in_force}:
        raise StaleError(f"{row.id}: the policies in force are not the ones judged by")
    blocked = verdict.kind is VerdictKind.BLOCKED
    write(
        tables,
        replace(
            row, state=State.BLOCKED if blocked else State.AWAITING_APPROVAL, changed_at=entry.statement.time,
            note="", verdict=verdict, verdict_record=Digest(entry.leaf), verdict_seq=entry.seq,
            judged_at=entry.statement.time, approved_at="", votes=(),
            waived=waived_rules(tables, row, entry.statement.time),
        ),
        row.id,
    )  # fmt: skip


# --- decisions -----------------------------------------------------------------------------


def _decision(tables: Tables, entry: Entry, decision: Decision) -> None:
    if decision.action is Action.ADOPT:
        adopt(tables, entry, decision)
    elif decision.action in (Action.APPROVE, Action.REJECT, Action.WITHDRAW):
        _vote(tables, entry, decision)
    else:
        requests.sign(tables, entry, decision)


def _vote(tables: Tables, entry: Entry, decision: Decision) -> None:
    person = require_signer(entry, decision, require_roster(tables))
    row = require_proposal(tables, decision.target)
    if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
        overtaken = row.state in (State.STALE, State.SUPERSEDED, State.MEASURING, State.JUDGED)
        refusal = StaleError if overtaken else DeniedError
        raise refusal(f"{row.id} is {row.state}: there is nothing to {decision.action}")
    if decision.binding != binding_of(tables, row):
        raise StaleError(
            f"{row.id}: bundle, champion, evidence, policy or roster changed since this was prepared",
            hint="look at it again and sign anew",
        )
    # What was signed under a former roster counts no more; who signed it may sign again.
    row = replace(row, votes=binding_votes(tables, row))
    own = [vote for vote in row.votes if vote.person == person.id]
    # Whoever signed offline may have signed before others did whose votes are here already.
    time = max(entry.statement.time, workspace_time(tables), *(vote.at for vote in row.votes))
    vote = vote_of(entry, decision)
    if decision.action is Action.REJECT:
        row = replace(row, state=State.REJECTED, votes=(*row.votes, vote), note="rejected")
    elif decision.action is Action.WITHDRAW and own:
        others = tuple(vote for vote in row.votes if vote.person != person.id)
        row = replace(
            row, state=State.AWAITING_APPROVAL, votes=others, approved_at="", note="an approval was withdrawn"
        )
    elif decision.action is Action.WITHDRAW:
        row = replace(row, state=State.WITHDRAWN, votes=(*row.votes, vote), note="withdrawn")
    else:
        if own:
            raise DeniedError(f"{row.id}: this person has approved already; a second approval adds nothing")
        if standing_of(tables, row, time).tally.complete:
            raise DeniedError(f"{row.id}: the quorum is complete already; one more approval adds nothing")
        # The cool-down of a quorum that fell apart does not count for the next one.
        row = replace(row, votes=(*row.votes, vote), approved_at="")
        standing = standing_of(tables, row, time)
        require_countable(standing, vote)
        row = replace(row, state=State.APPROVED if standing.tally.complete else State.AWAITING_APPROVAL)
    write(tables, replace(row, changed_at=time), row.id)


# --- the champion moves --------------------------------------------------------------------


def _promotion(tables: Tables, entry: Entry, promotion: Promotion) -> None:
    time = entry.statement.time
    row = require_proposal(tables, promotion.proposal)
    model = require_model(tables, promotion.model)
    require_not_halted(tables)
    if row.state is not State.APPROVED or row.proposal is None or row.model != model.name:
        raise DeniedError(f"{row.id} is {row.state}, not approved")
    if promotion.bundle != row.proposal.bundle:
        raise DeniedError(f"{row.id}: the promotion names another bundle than the proposal")
    if promotion.previous != model.champion:
        raise StaleError(f"{model.name}: the champion is not {promotion.previous.short} any more")
    standing = standing_of(tables, row, time)
    standing.require_promotable(time)
    if promotion.decisions != standing.decisions or promotion.sole_person != standing.tally.sole_person:
        raise DeniedError(f"{row.id}: the promotion does not name the decisions that it rests on")
    reign = Reign(promotion.bundle, time, row.id)
    write(
        tables,
        replace(
            model, champion=promotion.bundle, history=(*model.history, reign), attempts=0,
            promotions=(*model.promotions, time),
        ),
        model.name,
    )  # fmt: skip
    write(tables, replace(row, state=State.PROMOTED, changed_at=time, promoted_at=time, note=""), row.id)
    _overtake(tables, model, time, f"{row.id} became champion", promotion.bundle.hex)


def _overtake(tables: Tables, model: ModelRow, time: str, why: str, champion: str) -> None:
    """What was measured against the former champion says nothing about the new one."""
    for row in read_all(tables, ProposalRow):
        if row.model == model.name and row.state in OPEN and row.proposal is not None:
            same = row.proposal.bundle.hex == champion
            state = State.SUPERSEDED if same else State.STALE
            note = f"{why}; " + ("it is the same model" if same else "measure it again")
            write(tables, replace(row, state=state, changed_at=time, note=note, votes=()), row.id)


def _rollback(tables: Tables, entry: Entry, rollback: Rollback) -> None:
    time = entry.statement.time
    model = require_model(tables, rollback.model)
    request = read(tables, RequestRow, rollback.request)
    if request is None or request.action is not Action.ROLLBACK or request.target != model.name:
        raise DeniedError(f"no rollback of {model.name} was asked for under {rollback.request:.40}")
    if request.done:
        raise DeniedError(f"{request.id} has been carried out already")
    if rollback.bundle != request.digest or rollback.previous != model.champion:
        raise StaleError(f"{model.name}: champion or target changed since the rollback was prepared")
    tally = require_complete(tables, request, time)
    if rollback.decisions != tuple(vote.record for vote in request.votes):
        raise DeniedError(f"{request.id}: the rollback does not name the decisions that it rests on")
    if rollback.sole_person != tally.sole_person:
        raise DeniedError(f"{request.id}: the rollback misstates whether one person acted alone")
    requests.require_reachable(model, rollback.bundle)
    left, quarantined = after_rollback(tables, model, rollback.bundle)
    if rollback.quarantined != quarantined:
        raise DeniedError(f"{request.id}: the list of quarantined proposals is not what follows from the log")
    barred = {left_digest for left_digest, _ in left}
    history = tuple(replace(r, quarantined=r.quarantined or r.digest in barred) for r in model.history)
    history = (*history, Reign(rollback.bundle, time, f"rollback {request.id}"))
    write(tables, replace(model, champion=rollback.bundle, history=history, attempts=0), model.name)
    write(tables, replace(request, done=True), request.id)
    for proposal_id in quarantined:
        row = require_proposal(tables, proposal_id)
        was_champion = any(proposal_id == proposal for _, proposal in left)
        state = State.ROLLED_BACK if was_champion else State.QUARANTINED
        note = f"{model.name} was rolled back to {rollback.bundle.short}"
        # Who approved what was rolled back stays on its page; open votes mean nothing any more.
        votes = row.votes if was_champion else ()
        write(tables, replace(row, state=state, changed_at=time, note=note, votes=votes), row.id)
    _overtake(tables, model, time, f"{model.name} was rolled back to {rollback.bundle.short}", "")


def barred_bundles(tables: Reader, model: ModelRow) -> set[Digest]:
    """What must not come back under another id: quarantined champions, and what was trained from them."""
    barred = {reign.digest for reign in model.history if reign.quarantined}
    for row in read_all(tables, ProposalRow):
        if row.model == model.name and row.proposal and row.state in BARRED:
            barred.add(row.proposal.bundle)
    return barred - {model.champion}


def after_rollback(
    tables: Reader, model: ModelRow, target: Digest
) -> tuple[tuple[tuple[Digest, str], ...], tuple[str, ...]]:
    """What a rollback leaves behind: the champions after the target's last reign (digest, proposal), and the
    ids of all proposals that are barred by it: those champions' own, and everything trained from them.
    """
    start = max(index for index, reign in enumerate(model.history) if reign.digest == target)
    left = tuple((reign.digest, reign.proposal) for reign in model.history[start + 1 :])
    barred = {digest for digest, _ in left} - {target}
    proposals = [row for row in read_all(tables, ProposalRow) if row.model == model.name and row.proposal]
    grew = True
    while grew:
        children = {
            row.proposal.bundle for row in proposals
            if row.proposal and row.proposal.champion in barred and row.proposal.bundle not in {*barred, target}
        }  # fmt: skip
        grew = bool(children)
        barred |= children
    final = (State.REJECTED, State.WITHDRAWN, State.FAILED, State.ROLLED_BACK, State.QUARANTINED)
    ids = tuple(
        row.id
        for row in proposals
        if row.proposal and row.proposal.bundle in barred and row.state not in final
    )
    return left, ids


_HANDLERS: dict[str, tuple[type[Any], Callable[[Tables, Entry, Any], None]]] = {
    "roster": (Roster, roster.enter),
    "proposal": (Proposal, _proposal),
    "failure": (Failure, _failure),
    "transition": (Transition, _transition),
    "evidence": (Evidence, _evidence),
    "verdict": (Verdict, _verdict),
    "decision": (Decision, _decision),
    "promotion": (Promotion, _promotion),
    "rollback": (Rollback, _rollback),
    "removal": (Removal, removal.remove),
}
