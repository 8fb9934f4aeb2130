"""The champion moves: set-up, promotion, rollback, and what a rollback bars for good.

Invariants:
- These three handlers are the only ones that write which bundle is champion.
- A promotion rests on a permitting verdict and a full quorum at its own time, and states that the way back was
  tried: the parent was restored from the store and came to the digest that is champion now.
- A rollback bars the champions that it leaves, everything trained from them, everything that shares data which
  a model wrote with any of these, and so on. What a model wrote without saying so, no record can show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from guardrails.canonical import Digest
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader, Tables
from guardrails.errors import DeniedError, RecordError, StaleError
from guardrails.ledger.asked import require_complete, require_open
from guardrails.ledger.people import require_signer
from guardrails.ledger.requests import require_reachable
from guardrails.ledger.rows import (
    ModelRow,
    ProposalRow,
    Reign,
    RequestRow,
    proposals_in,
    read,
    read_all,
    require_model,
    require_not_halted,
    require_proposal,
    require_roster,
    write,
)
from guardrails.ledger.standing import standing_of
from guardrails.records import Action, Decision, Promotion, Proposal, Role, Rollback, State


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


def promote(tables: Tables, entry: Entry, promotion: Promotion) -> None:
    """A proposal's bundle becomes champion, if verdict, quorum and time allow it."""
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
    if promotion.rehearsed not in (None, promotion.previous):
        raise DeniedError(f"{row.id}: the way back leads elsewhere: the champion was restored to other bytes")
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
    for row in list(proposals_in(tables, "open")):
        if row.model == model.name and row.proposal is not None:
            same = row.proposal.bundle.hex == champion
            state = State.SUPERSEDED if same else State.STALE
            note = f"{why}; " + ("it is the same model" if same else "measure it again")
            write(tables, replace(row, state=state, changed_at=time, note=note, votes=()), row.id)


def roll_back(tables: Tables, entry: Entry, rollback: Rollback) -> None:
    """A former champion comes back, and what was left is barred."""
    time = entry.statement.time
    model = require_model(tables, rollback.model)
    request = read(tables, RequestRow, rollback.request)
    if request is None or request.action is not Action.ROLLBACK or request.target != model.name:
        raise DeniedError(f"no rollback of {model.name} was asked for under {rollback.request:.40}")
    require_open(tables, request, time)
    if rollback.bundle != request.digest or rollback.previous != model.champion:
        raise StaleError(f"{model.name}: champion or target changed since the rollback was prepared")
    tally = require_complete(tables, request, time)
    if rollback.decisions != tuple(vote.record for vote in request.votes):
        raise DeniedError(f"{request.id}: the rollback does not name the decisions that it rests on")
    if rollback.sole_person != tally.sole_person:
        raise DeniedError(f"{request.id}: the rollback misstates whether one person acted alone")
    require_reachable(model, rollback.bundle)
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
    for row in proposals_in(tables, "barred"):
        if row.model == model.name and row.proposal:
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
    rows = list(read_all(tables, ProposalRow))
    own = [row for row in rows if row.model == model.name]
    kept = {reign.digest for reign in model.history[: start + 1]}
    barred = _descendants(own, {digest for digest, _ in left} - {target}, target, kept)
    final = (State.REJECTED, State.WITHDRAWN, State.FAILED, State.ROLLED_BACK, State.QUARANTINED)
    ids = tuple(
        row.id for row in own if row.proposal and row.proposal.bundle in barred and row.state not in final
    )  # fmt: skip
    return left, ids


def tainted_data(tables: Reader) -> set[Digest]:
    """Files with records that a model wrote, of whatever a rollback left behind: not to be trained on again.

    What a champion was made from that stands is older than what came after it, and stays usable.
    """
    tainted = _generated(row.proposal for row in proposals_in(tables, "barred"))
    if not tainted:
        return tainted
    return tainted - _generated(row.proposal for row in proposals_in(tables, "promoted"))


def _descendants(
    rows: list[ProposalRow], barred: set[Digest], target: Digest, kept: set[Digest]
) -> set[Digest]:
    """Grow a set of bundles by what was trained from them, and by what shares model-written data with them."""
    proposals = [row.proposal for row in rows if row.proposal and row.proposal.bundle != target]
    clean = _generated(row.proposal for row in rows if row.proposal and row.proposal.bundle in kept)
    while True:
        tainted = _generated(p for p in proposals if p.bundle in barred) - clean
        grown = barred | {p.bundle for p in proposals if p.champion in barred or tainted & _data_of(p)}
        if grown == barred:
            return barred
        barred = grown


def _generated(proposals: Iterable[Proposal | None]) -> set[Digest]:
    return {file for proposal in proposals if proposal for file in proposal.generated or ()}


def _data_of(proposal: Proposal) -> set[Digest]:
    return {proposal.data, *(proposal.generated or ())}
