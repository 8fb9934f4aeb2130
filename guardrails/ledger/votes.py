"""What people say on a proposal: approve, reject, withdraw, ask for a change, comment.

Invariants:
- A decision is bound to bundle, champion, evidence, verdict, policies and roster as they are now, or refused.
- An approval that would not count is refused with the reason; recording it would only mislead.
- A request for change holds up every promotion until whoever made it approves or withdraws it, also across new
  evidence and new verdicts; it falls only with its author's place in the roster.
- A comment changes nothing but what people read.
"""

from __future__ import annotations

from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, RecordError, StaleError, UnknownNameError
from guardrails.ledger.people import require_signer, vote_of
from guardrails.ledger.rows import (
    ProposalRow,
    RequestRow,
    Vote,
    read,
    replaced,
    require_proposal,
    require_roster,
    workspace_time,
    write,
)
from guardrails.ledger.standing import binding_of, binding_votes, require_countable, standing_of
from guardrails.records import Action, Decision, State

ENDED = (
    State.PROMOTED, State.REJECTED, State.WITHDRAWN, State.SUPERSEDED, State.ROLLED_BACK, State.QUARANTINED,
)  # fmt: skip
"""States that nothing leads out of, so that no request for change is left to take back."""


def vote(tables: Tables, entry: Entry, decision: Decision) -> None:
    """Approve, reject, withdraw or ask for a change."""
    person = require_signer(entry, decision, require_roster(tables))
    row = require_proposal(tables, decision.target)
    if decision.expires_at:
        _require_sensible_end(decision, entry.statement.time)
    asked = [change for change in row.changes if change.person == person.id]
    if decision.action is Action.WITHDRAW and asked and row.state not in ENDED and decision.binding is None:
        write(tables, _content(row, person.id), row.id)
        return
    _require_current(tables, row, decision)
    # What was signed under a former roster counts no more; who signed it may sign again.
    row = replaced(row, votes=binding_votes(tables, row))
    # Whoever signed offline may have signed before others did whose votes are here already.
    time = max(entry.statement.time, workspace_time(tables), *(vote.at for vote in row.votes))
    mine = vote_of(entry, decision)
    own = [vote for vote in row.votes if vote.person == person.id]
    if decision.action is Action.REJECT:
        row = replaced(row, state=State.REJECTED, votes=(*row.votes, mine), note="rejected")
    elif decision.action is Action.REQUEST_CHANGES:
        row = _ask_for_change(row, mine, bool(asked))
    elif decision.action is Action.WITHDRAW and (own or asked):
        row = _take_back(tables, row, person.id, time, approved=bool(own))
    elif decision.action is Action.WITHDRAW:
        row = replaced(row, state=State.WITHDRAWN, votes=(*row.votes, mine), note="withdrawn")
    else:
        row = _approve(tables, row, mine, time)
    write(tables, replaced(row, changed_at=time), row.id)


def comment(tables: Tables, entry: Entry, decision: Decision) -> None:
    """Keep what somebody has to say of a proposal or of a request."""
    require_signer(entry, decision, require_roster(tables))
    if decision.request != decision.target:
        raise RecordError("comment: it names two things")
    said = vote_of(entry, decision)
    request = read(tables, RequestRow, decision.target)
    if request is not None:
        write(tables, replaced(request, remarks=(*request.remarks, said)), request.id)
        return
    row = read(tables, ProposalRow, decision.target)
    if row is None:
        raise UnknownNameError(f"there is no proposal or request {decision.target:.40}")
    write(tables, replaced(row, remarks=(*row.remarks, said)), row.id)


# --- inside --------------------------------------------------------------------------------


def _require_current(tables: Tables, row: ProposalRow, decision: Decision) -> None:
    """Refuse a decision on what cannot be decided on, or on what is not so any more."""
    if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
        overtaken = row.state in (State.STALE, State.SUPERSEDED, State.MEASURING, State.JUDGED)
        refusal = StaleError if overtaken else DeniedError
        raise refusal(f"{row.id} is {row.state}: there is nothing to {decision.action}")
    if decision.binding != binding_of(tables, row):
        raise StaleError(
            f"{row.id}: bundle, champion, evidence, policy or roster changed since this was prepared",
            hint="look at it again and sign anew",
        )


def _approve(tables: Tables, row: ProposalRow, mine: Vote, time: str) -> ProposalRow:
    own = [vote for vote in row.votes if vote.person == mine.person]
    if any(not vote.expires_at or time < vote.expires_at for vote in own):
        raise DeniedError(f"{row.id}: this person has approved already; a second approval adds nothing")
    if standing_of(tables, row, time).tally.complete:
        raise DeniedError(f"{row.id}: the quorum is complete already; one more approval adds nothing")
    others = tuple(vote for vote in row.votes if vote.person != mine.person)
    # Whoever approves is content with what they asked to change. The cool-down of a quorum that fell apart does
    # not count for the next one.
    row = replaced(_content(row, mine.person), votes=(*others, mine), approved_at="")
    standing = standing_of(tables, row, time)
    require_countable(standing, mine)
    return replaced(row, state=State.APPROVED if standing.tally.complete else State.AWAITING_APPROVAL)


def _ask_for_change(row: ProposalRow, mine: Vote, asked: bool) -> ProposalRow:
    if asked:
        raise DeniedError(
            f"{row.id}: you ask for a change already",
            hint="say more with `interlock comment`, or withdraw it",
        )
    others = tuple(vote for vote in row.votes if vote.person != mine.person)
    return replaced(
        row, state=State.AWAITING_APPROVAL, votes=others, approved_at="", note="a change was asked for",
        changes=(*row.changes, mine), remarks=(*row.remarks, mine),
    )  # fmt: skip


def _take_back(tables: Tables, row: ProposalRow, person: str, time: str, *, approved: bool) -> ProposalRow:
    """Without this person's approval, or their request for change: the quorum may be complete after that."""
    if approved:
        others = tuple(vote for vote in row.votes if vote.person != person)
        return replaced(
            row, state=State.AWAITING_APPROVAL, votes=others, approved_at="", note="an approval was withdrawn"
        )
    row = replaced(_content(row, person), approved_at="", note="a request for change was withdrawn")
    complete = standing_of(tables, row, time).tally.complete
    return replaced(row, state=State.APPROVED if complete else State.AWAITING_APPROVAL)


def _content(row: ProposalRow, person: str) -> ProposalRow:
    return replaced(row, changes=tuple(change for change in row.changes if change.person != person))


def _require_sensible_end(decision: Decision, time: str) -> None:
    if decision.action is not Action.APPROVE:
        raise RecordError(f"{decision.action}: only an approval can have an end of its own")
    if parse_time(decision.expires_at) <= parse_time(time):
        raise DeniedError(f"the approval would have ended at {decision.expires_at}, before it begins")
