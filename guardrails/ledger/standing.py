"""What the policies in force ask for a proposal, and how far the votes go. Pure.

Invariants:
- A vote counts only while its binding is what is so now: bundle, champion, evidence, verdict, policies and
  roster. No approval is carried over; a request for change is, until the person who made it is content.
- Expiry counts from the verdict, a cool-down from the gate's own record that the quorum was complete:
  neither from what a signer says of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from guardrails import approval
from guardrails.approval import Tally, Terms
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import format_time, parse_time
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError, StaleError
from guardrails.ledger.budgets import is_of_last_day
from guardrails.ledger.in_force import effective_for, policies_for
from guardrails.ledger.rows import (
    ProposalRow,
    RequestRow,
    Vote,
    Workspace,
    read,
    read_all,
    require_model,
    require_roster,
    workspace_time,
)
from guardrails.ledger.waivers import waived_rules
from guardrails.policy import Effective, QuorumRule
from guardrails.records import Action, Binding, State, VerdictKind


class Due(StrEnum):
    """What time or events ask of the gate for one proposal."""

    NOTHING = "nothing"
    JUDGE = "judge"
    EXPIRE = "expire"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Standing:
    """How far a judged proposal is from promotion. Times are ISO texts; ``ready_at`` may be empty.

    ``decisions`` are the records of the approvals that count: what a promotion rests on.
    """

    rules: tuple[QuorumRule, ...]
    tally: Tally
    terms: Terms
    verdict: VerdictKind
    expires_at: str
    ready_at: str
    promotions_left: bool
    decisions: tuple[Digest, ...]

    def require_promotable(self, time: str) -> None:
        """Refuse a promotion that the rules do not allow at this time."""
        if self.verdict not in (VerdictKind.ELIGIBLE, VerdictKind.REVIEW):
            raise DeniedError("the verdict permits no promotion")
        if not self.tally.complete:
            raise DeniedError(f"the quorum is not complete: {self.tally.missing}")
        if not self.ready_at or time < self.ready_at:
            raise DeniedError(f"the cool-down lasts until {self.ready_at or 'the quorum is recorded'}")
        if not self.promotions_left:
            raise DeniedError(
                "the policy's promotions per day are used up", hint="wait until a day has passed"
            )


# --- proposals -----------------------------------------------------------------------------


def binding_of(tables: Reader, row: ProposalRow) -> Binding | None:
    """What a decision on a proposal is about, as it is now; None where it cannot be decided on."""
    if row.proposal is None or row.evidence_record is None or row.verdict_record is None:
        return None
    if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
        return None
    model = require_model(tables, row.model)
    return Binding(
        bundle=row.proposal.bundle,
        champion=model.champion,
        evidence=row.evidence_record,
        verdict=row.verdict_record,
        policies={policy.name: str(policy.source.digest) for policy in policies_for(tables, model)},
        roster=require_roster(tables).version,
    )


def standing_of(tables: Reader, row: ProposalRow, now: str) -> Standing:
    """Where a judged proposal stands at a time.

    Raises:
        StaleError: Verdict, evidence or champion are no longer what a decision would be about.
    """
    model = require_model(tables, row.model)
    binding = binding_of(tables, row)
    if binding is None or row.verdict is None or row.evidence is None:
        raise StaleError(f"{row.id} is {row.state}: there is no verdict to decide on")
    if row.evidence.champion != model.champion:
        raise StaleError(f"{row.id}: the champion changed since it was measured")
    if row.verdict.policies != binding.policies:
        raise StaleError(
            f"{row.id}: the policies changed since it was judged", hint="`interlock tick` judges again"
        )
    if row.waived != waived_rules(tables, row, now):
        raise StaleError(
            f"{row.id}: waivers changed since it was judged", hint="`interlock tick` judges again"
        )
    effective = effective_for(tables, model)
    rules = effective.approval(row.verdict.kind) or ()
    judged_at = parse_time(row.judged_at)
    excluded = _excluded(tables, row, effective)
    terms = Terms.of(effective, excluded, judged_at)
    moment = parse_time(now)
    votes = [vote for vote in row.votes if _still_binds(vote, binding, effective)]
    counted = [counted_vote(vote) for vote in (*votes, *row.changes)]
    tally = approval.tally(counted, require_roster(tables), rules, terms, moment)
    ready = _ready_at(tally, row, effective.cool_down)
    today = [time for time in model.promotions if is_of_last_day(time, moment)]
    limit = effective.promotions_per_day
    return Standing(
        rules=rules, tally=tally, terms=terms, verdict=row.verdict.kind,
        expires_at=format_time(judged_at + effective.expires_after),
        ready_at=format_time(ready) if ready else "",
        promotions_left=limit is None or len(today) < limit,
        decisions=tuple(v.record for v in votes if v.action is Action.APPROVE and v.person in tally.people),
    )  # fmt: skip


def binding_votes(tables: Reader, row: ProposalRow) -> tuple[Vote, ...]:
    """The votes on a proposal that are still about what is so now."""
    binding = binding_of(tables, row)
    if binding is None:
        return ()
    effective = effective_for(tables, require_model(tables, row.model))
    return tuple(vote for vote in row.votes if _still_binds(vote, binding, effective))


def require_countable(standing: Standing, vote: Vote) -> None:
    """Refuse an approval that would not count, with the reason; recording it would only mislead."""
    terms = standing.terms
    if vote.surface not in terms.surfaces:
        allowed = ", ".join(terms.surfaces)
        raise DeniedError(
            f"approvals from surface {vote.surface} do not count here", hint=f"allowed: {allowed}"
        )
    unseen = sorted(set(terms.require_viewed) - set(vote.viewed))
    if unseen:
        raise DeniedError(f"not viewed yet: {', '.join(unseen)}", hint="look at them, then approve")
    if vote.person not in standing.tally.people and not standing.tally.complete:
        if vote.person in terms.excluded:
            raise DeniedError(
                "you are excluded from approving this (proposer, data author or policy author)",
                hint="`interlock show` says who proposed it and who answered its questions; ask somebody else",
            )
        wanted = {role for rule in standing.rules for role in rule.roles}
        if vote.role not in wanted:
            raise DeniedError(
                f"the role {vote.role} is not asked for", hint=f"asked for: {', '.join(sorted(wanted))}"
            )
        raise DeniedError(f"this approval would not count: {standing.tally.missing or 'the quorum is full'}")


def due(tables: Reader, row: ProposalRow, now: str) -> Due:
    """What the gate should do about a proposal now."""
    if row.proposal is None or row.evidence is None or row.removed_at:
        return Due.NOTHING
    model = require_model(tables, row.model)
    if row.evidence.champion != model.champion:
        return Due.NOTHING
    in_force = {policy.name: str(policy.source.digest) for policy in policies_for(tables, model)}
    if (
        row.verdict is None
        or row.verdict.policies != in_force
        or row.waived != waived_rules(tables, row, now)
        or _is_ahead(tables, row)
    ):
        return Due.JUDGE
    if row.state is State.BLOCKED:
        return Due.NOTHING
    standing = standing_of(tables, row, now)
    if now > standing.expires_at:
        return Due.EXPIRE
    if (
        row.state is State.APPROVED
        and standing.tally.complete
        and standing.ready_at
        and now >= standing.ready_at
    ):
        return Due.PROMOTE
    return Due.NOTHING


def may_complete(tables: Reader, row: ProposalRow, now: str) -> bool:
    """Whether the next decision on a proposal may be the one that lets it be promoted."""
    if binding_of(tables, row) is None:
        return False
    standing = standing_of(tables, row, now)
    return all(rule.quorum - len(standing.tally.people) <= 1 for rule in standing.rules)


def sentence(tables: Reader, row: ProposalRow, now: str) -> str:
    """What is still missing, for people."""
    if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
        return row.note or row.state.value.replace("_", " ")
    return standing_of(tables, row, now).tally.missing or "the quorum is complete"


def cool_down_s(tables: Reader, row: ProposalRow) -> float:
    """Seconds between a complete quorum and the promotion."""
    return effective_for(tables, require_model(tables, row.model)).cool_down.total_seconds()


def obstacle(tables: Reader, row: ProposalRow, now: str) -> str:
    """What keeps a proposal with a complete quorum from being promoted at once; empty if nothing."""
    workspace = read(tables, Workspace)
    if workspace is not None and workspace.halted_by:
        return f"halted by {workspace.halted_by}"
    cool_down = effective_for(tables, require_model(tables, row.model)).cool_down
    if cool_down > timedelta(0):
        return f"cool-down of {cool_down}"
    if not standing_of(tables, row, now).promotions_left:
        return "the policy's promotions per day are used up"
    return ""


# --- inside --------------------------------------------------------------------------------


def _still_binds(vote: Vote, binding: Binding, effective: Effective) -> bool:
    """Whether what a vote was bound to is what is so now, in everything that the policy invalidates on.

    The verdict always binds: it carries bundle, evidence and policies.
    """
    if vote.binding is None or vote.binding.verdict != binding.verdict:
        return False
    now, then = encode_record(binding), encode_record(vote.binding)
    fields = {
        "bundle": "bundle",
        "champion": "champion",
        "evidence": "evidence",
        "policy": "policies",
        "roster": "roster",
    }
    return all(now[fields[name]] == then[fields[name]] for name in effective.invalidate_on)


def counted_vote(vote: Vote) -> approval.Vote:
    """A vote as the quorum counts it."""
    return approval.Vote(
        vote.person,
        vote.role,
        vote.action not in (Action.REJECT, Action.REQUEST_CHANGES),
        parse_time(vote.at),
        vote.surface,
        vote.viewed,
        vote.action is not Action.REQUEST_CHANGES,
        parse_time(vote.expires_at) if vote.expires_at else None,
    )


def _is_ahead(tables: Reader, row: ProposalRow) -> bool:
    """Whether a verdict, or the end of a quorum, lies in a time that the roots have taken back (``set-clock``).

    Nobody could sign before that time came round again, and nothing would expire; so it is judged anew.
    """
    return max(row.judged_at, row.approved_at) > workspace_time(tables)


def _excluded(tables: Reader, row: ProposalRow, effective: Effective) -> frozenset[str]:
    """The people that the policy keeps from approving this proposal."""
    people = set()
    if row.proposal and {"proposer", "data-author"} & set(effective.exclude):
        # A submission's data come with it: who submitted it is its data's author too.
        people.add(row.proposal.proposer)
    if row.proposal and "data-author" in effective.exclude:
        people.update(row.proposal.authors)
    if "policy-author" in effective.exclude:
        requests = {policy.request for policy in policies_for(tables, require_model(tables, row.model))}
        for request in read_all(tables, RequestRow):
            if request.id in requests:
                people |= {vote.person for vote in request.votes}
    return frozenset(people)


def _ready_at(tally: Tally, row: ProposalRow, cool_down: timedelta) -> datetime | None:
    if not tally.complete:
        return None
    if cool_down <= timedelta(0):
        return tally.earliest_at
    return parse_time(row.approved_at) + cool_down if row.approved_at else None
