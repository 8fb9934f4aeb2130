"""What a signature leads to: promotions, rollbacks and erasures, in the transaction that appends it.

Invariants:
- The last signature that completes a quorum and the change that it permits are one transaction.
- What is promoted is what was measured, to the byte, and the champion that it replaces was restored for trial: both
  take time, so they are done before the log is locked, and their result is handed in as ``ready``.
- What may happen is the ledger's to say; here it is prepared and asked for.
"""

from __future__ import annotations

from guardrails import rehearsal
from guardrails.canonical import Digest
from guardrails.clerk import Clerk
from guardrails.decision_log.store import Transaction
from guardrails.decision_log.tables import Reader
from guardrails.decisions import reference_to
from guardrails.errors import DeniedError, InterlockError
from guardrails.ledger import asked, champions, judging, standing
from guardrails.ledger.rows import ProposalRow, RequestRow, read, require_model, require_proposal
from guardrails.records import Action, Decision, Promotion, Rollback, State, Transition
from guardrails.registry import ArtifactStore

VOTES = (Action.APPROVE, Action.REJECT, Action.WITHDRAW, Action.REQUEST_CHANGES)
"""What people decide about a proposal."""

PROMOTING = (Action.APPROVE, Action.WITHDRAW)
"""Those of them after which a quorum may be complete."""


# --- before the log is locked ----------------------------------------------------------------


def require_intact(store: ArtifactStore, row: ProposalRow) -> None:
    """What was measured must still be what would be promoted, to the byte."""
    if row.proposal is None or row.evidence is None:
        return
    if not judging.is_intact(store, row.proposal.bundle):
        raise DeniedError(f"{row.id}: the bundle in the artifact store is damaged; it cannot be approved")


def rehearsed(store: ArtifactStore, row: ProposalRow) -> Digest | None:
    """Restore the champion that a promotion of this proposal would replace; what it came to."""
    return None if row.evidence is None else rehearsal.rehearse(store, row.evidence.champion)


def may_promote(tables: Reader, decision: Decision, now: str) -> ProposalRow | None:
    """The proposal that this decision may complete the quorum of; None if it cannot."""
    row = read(tables, ProposalRow, decision.target)
    if row is None or not standing.may_complete(tables, row, now):
        return None
    # A withdrawal promotes something only where it takes back a request for changes.
    return None if decision.action is Action.WITHDRAW and not row.changes else row


# --- in the transaction ----------------------------------------------------------------------


def follow(
    clerk: Clerk, store: ArtifactStore, tx: Transaction, decision: Decision, ready: Digest | None
) -> tuple[str, str]:
    """What a decision leads to in the same transaction: (state, sentence)."""
    if decision.action is Action.COMMENT:
        return "kept", "the comment stands in the log"
    if decision.action in VOTES and not decision.target.startswith("R-"):
        return _follow_vote(clerk, store, tx, decision, ready)
    if decision.action is Action.ADOPT:
        return "adopted", f"{decision.target} has a champion"
    request = read(tx.tables, RequestRow, decision.request)
    if request is None:
        raise InterlockError(f"request {decision.request} is not in the log that it was just written to")
    if request.action is Action.ROLLBACK and not request.done and decision.action is Action.ROLLBACK:
        return _roll_back(clerk, store, tx, request)
    if request.done and request.action is Action.ERASE:
        tx.forget(request.erase)
        count = len(request.erase)
        return "done", f"{count} {'text is' if count == 1 else 'texts are'} erased"
    if request.done:
        lifted = request.action is Action.RESUME
        return "done", "the halt is lifted" if lifted else f"{request.action} is in force"
    state = asked.state_of(tx.tables, request, clerk.now())
    return state.value, asked.missing_of(tx.tables, request, clerk.now())


def _follow_vote(
    clerk: Clerk, store: ArtifactStore, tx: Transaction, decision: Decision, ready: Digest | None
) -> tuple[str, str]:
    row = require_proposal(tx.tables, decision.target)
    if row.state is not State.APPROVED:
        return row.state.value, standing.sentence(tx.tables, row, clerk.now())
    waits_for = standing.obstacle(tx.tables, row, clerk.now())
    if waits_for:
        clerk.append(tx, Transition(row.id, State.APPROVED, "quorum complete"))
        return State.APPROVED.value, f"approved; the promotion waits: {waits_for}"
    promote(clerk, store, tx, row, ready)
    return State.PROMOTED.value, f"promoted: champion of {row.model}"


def promote(
    clerk: Clerk, store: ArtifactStore, tx: Transaction, row: ProposalRow, ready: Digest | None
) -> None:
    """Append the promotion of a proposal whose quorum is complete."""
    if row.proposal is None or row.verdict_record is None:
        raise InterlockError(f"{row.id} is approved without a verdict")
    model = require_model(tx.tables, row.model)
    stands = standing.standing_of(tx.tables, row, clerk.now())
    promotion = Promotion(
        row.id, row.model, row.proposal.bundle, model.champion, stands.decisions, stands.tally.sole_person,
        # Somebody else may have made the quorum complete meanwhile; then it is tried here.
        ready or rehearsal.rehearse(store, model.champion),
    )  # fmt: skip
    references = [reference_to(row.verdict_seq, row.verdict_record)]
    references += [
        reference_to(vote.seq, vote.record) for vote in row.votes if vote.record in stands.decisions
    ]
    clerk.append(tx, promotion, references)


def _roll_back(clerk: Clerk, store: ArtifactStore, tx: Transaction, request: RequestRow) -> tuple[str, str]:
    # Where a wrong clock has dated the log ahead, the way back stays open: at the log's own time.
    now = clerk.now_or_later(tx.tables)
    tally = asked.tally_request(tx.tables, request, now)
    if not tally.complete or request.digest is None:
        return "open", tally.missing
    model = require_model(tx.tables, request.target)
    _, quarantined = champions.after_rollback(tx.tables, model, request.digest)
    rollback = Rollback(
        request.id, model.name, request.digest, model.champion,
        tuple(vote.record for vote in request.votes), quarantined, tally.sole_person,
    )  # fmt: skip
    store.verify_tree(request.digest)
    references = [reference_to(vote.seq, vote.record) for vote in request.votes]
    clerk.append(tx, rollback, references, now=now)
    return "rolled_back", f"{model.name} is back at {request.digest.short}"
