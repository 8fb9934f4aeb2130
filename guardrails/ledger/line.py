"""From a proposal to its verdict: what the records of the services do, and when they may not.

Invariants: each handler refuses or writes rows, and does nothing else. A measurement spends its step of the
error budget when it starts, so that looking and stopping is not free; evidence names the record that opened
the measurement which it comes from, and only the newest counts.
"""

from __future__ import annotations

from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, StaleError
from guardrails.ledger import removal
from guardrails.ledger.answers import require_authors
from guardrails.ledger.champions import barred_bundles, tainted_data
from guardrails.ledger.in_force import policies_for
from guardrails.ledger.rows import (
    OPEN,
    ModelRow,
    ProposalRow,
    replaced,
    require_model,
    require_proposal,
    take_id,
    write,
)
from guardrails.ledger.standing import standing_of
from guardrails.ledger.waivers import waived_rules
from guardrails.records import Evidence, Failure, Proposal, State, Transition, Verdict, VerdictKind

MEASURABLE = (*OPEN, State.BLOCKED, State.STALE, State.EXPIRED, State.FAILED)
"""States from which a proposal may be measured (again)."""

FALLIBLE = (State.PROPOSED, State.MEASURING)
"""States in which a job may be at work on a proposal."""


def proposal(tables: Tables, entry: Entry, proposal: Proposal) -> None:
    """A candidate enters: trained from the champion in force, of nothing that a rollback barred, naming its authors."""
    model = require_model(tables, proposal.model)
    if proposal.kind.value != model.kind:
        raise DeniedError(f"{proposal.model} is a {model.kind}, the proposal says {proposal.kind}")
    if proposal.champion != model.champion:
        raise StaleError(f"{proposal.model} has another champion than the one this was trained from")
    if proposal.bundle in barred_bundles(tables, model):
        raise DeniedError(
            f"bundle {proposal.bundle.short} is quarantined: it, or what it was trained from, was rolled back"
        )
    tainted = tainted_data(tables) & {proposal.data, *(proposal.generated or ())}
    if tainted:
        raise DeniedError(
            f"data {min(tainted, key=str).short} was written by a model that was rolled back, or came with one"
        )
    require_authors(tables, proposal)
    take_id(tables, "P", proposal.id)
    time = entry.statement.time
    write(
        tables,
        ProposalRow(
            proposal.id, proposal.model, proposal.technique, State.PROPOSED, time, time,
            proposal=proposal, proposal_record=entry.leaf_digest, proposal_seq=entry.seq,
        ),
        proposal.id,
    )  # fmt: skip


def failure(tables: Tables, entry: Entry, failure: Failure) -> None:
    """A job ended without a proposal or without evidence."""
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
    write(tables, replaced(row, state=State.FAILED, changed_at=time, note=note, failure=failure), row.id)


def transition(tables: Tables, entry: Entry, transition: Transition) -> None:
    """The gate notes that a measurement starts, that a quorum is complete, or that time is up."""
    row = require_proposal(tables, transition.proposal)
    if transition.state is State.MEASURING:
        if row.proposal is None or row.state not in MEASURABLE:
            raise DeniedError(f"{row.id} is {row.state} and cannot be measured")
        removal.require_kept(row)
        # Votes and a verdict on former evidence say nothing about what comes now.
        row = replaced(row, votes=(), approved_at="", failure=None)
        if transition.attempt is not None:
            row = _begin(tables, entry, row, transition.attempt)
    elif transition.state is State.APPROVED:
        if row.state is not State.APPROVED or row.approved_at:
            raise DeniedError(f"{row.id} is {row.state}: its quorum is not newly complete")
        tally = standing_of(tables, row, entry.statement.time).tally
        if not tally.complete:
            raise DeniedError(f"{row.id}: the quorum is not complete: {tally.missing}")
        # A cool-down counts from here, by the gate's clock, not from what a signer says.
        row = replaced(row, approved_at=entry.statement.time)
    elif transition.state is State.EXPIRED:
        if row.state not in (State.AWAITING_APPROVAL, State.APPROVED):
            raise DeniedError(f"{row.id} is {row.state} and cannot expire")
        if entry.statement.time <= standing_of(tables, row, entry.statement.time).expires_at:
            raise DeniedError(f"{row.id} has not expired yet")
    else:
        raise DeniedError(f"nothing moves to {transition.state} by itself")
    write(
        tables,
        replaced(row, state=transition.state, changed_at=entry.statement.time, note=transition.reason),
        row.id,
    )


def _begin(tables: Tables, entry: Entry, row: ProposalRow, attempt: int) -> ProposalRow:
    """A measurement starts, and spends its step of the error budget: asking again is not free."""
    model = require_model(tables, row.model)
    if attempt != model.attempts + 1:
        raise StaleError(
            f"{row.id}: attempt {attempt}, but the next one of {model.name} is {model.attempts + 1}"
        )
    return replaced(_spend(tables, row, model), measuring=entry.leaf_digest)


def _spend(tables: Tables, row: ProposalRow, model: ModelRow) -> ProposalRow:
    write(tables, replaced(model, attempts=model.attempts + 1), model.name)
    return replaced(row, attempt=model.attempts + 1)


def evidence(tables: Tables, entry: Entry, evidence: Evidence) -> None:
    """The numbers of the measurement that is under way."""
    row = require_proposal(tables, evidence.proposal)
    if row.state is not State.MEASURING or row.proposal is None:
        raise DeniedError(f"{row.id} is {row.state}: no measurement is under way")
    if evidence.bundle != row.proposal.bundle:
        raise DeniedError(f"{row.id}: the evidence is about another bundle")
    model = require_model(tables, row.model)
    if evidence.champion != model.champion:
        raise StaleError(f"{row.id}: the champion changed while it was measured; measure it again")
    if evidence.measurement != row.measuring:
        raise StaleError(f"{row.id}: the evidence is not of the measurement that is under way")
    if row.measuring is None:
        # Former logs spent the step here.
        row = _spend(tables, row, model)
    write(
        tables,
        replaced(
            row, state=State.JUDGED, changed_at=entry.statement.time, note="measured", evidence=evidence,
            evidence_record=entry.leaf_digest, evidence_seq=entry.seq,
            verdict=None, verdict_record=None, verdict_seq=-1, votes=(),
        ),
        row.id,
    )  # fmt: skip


def verdict(tables: Tables, entry: Entry, verdict: Verdict) -> None:
    """What the policies in force make of the newest evidence."""
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
        replaced(
            row, state=State.BLOCKED if blocked else State.AWAITING_APPROVAL, changed_at=entry.statement.time,
            note="", verdict=verdict, verdict_record=entry.leaf_digest, verdict_seq=entry.seq,
            judged_at=entry.statement.time, approved_at="", votes=(),
            waived=waived_rules(tables, row, entry.statement.time),
        ),
        row.id,
    )  # fmt: skip
