"""From the state of the log to the engine's input, and back: verdicts that anybody can recompute.

Invariants: whatever the engine is given stands in the log, in the artifact store by digest, or is the time of
the verdict's own record; so a verifier gets the same verdict from the same bytes.
"""

from __future__ import annotations

from guardrails import canonical, engine
from guardrails.canonical import Digest
from guardrails.checks.brought import ABSENT, provenance
from guardrails.checks.compute import compute_facts
from guardrails.checks.control import control_facts
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader
from guardrails.decision_log.verify import Recompute
from guardrails.errors import DeniedError, InterlockError, LogVerificationError
from guardrails.ledger import waivers
from guardrails.ledger.in_force import policy_of
from guardrails.ledger.rows import PolicyRow, ProposalRow, read_all, require_model, require_proposal
from guardrails.policy import LoadedPolicy, Subject
from guardrails.records import Measurements, Verdict
from guardrails.registry import ArtifactStore

INTACT_FACT = "integrity.digest_matches"


def judge(
    tables: Reader,
    row: ProposalRow,
    measurements: Measurements,
    now: str,
    *,
    intact: bool,
    policies: list[LoadedPolicy] | None = None,
) -> Verdict:
    """The verdict on a proposal's evidence; ``policies`` replaces those in force (for a what-if)."""
    case = case_of(tables, row, measurements, now, intact=intact)
    return engine.judge(in_force(tables) if policies is None else policies, case)


def case_of(
    tables: Reader, row: ProposalRow, measurements: Measurements, now: str, *, intact: bool
) -> engine.Case:
    """All that a verdict on a proposal depends on, besides the policies."""
    if row.proposal is None or row.evidence is None or row.evidence_record is None:
        raise DeniedError(f"{row.id} is {row.state}: nothing has been measured yet")
    model = require_model(tables, row.model)
    facts = {
        **compute_facts(row.proposal.compute),
        **control_facts(row.proposal),
        INTACT_FACT: "true" if intact else "false",
    }
    return engine.Case(
        subject=Subject.of(row.proposal, model.labels, row.evidence),
        measurements=measurements,
        evidence=row.evidence_record,
        facts=facts,
        waivers=waivers.granted_for(tables, row.proposal.bundle),
        attempt=row.attempt,
        now=parse_time(now),
    )


def in_force(tables: Reader) -> list[LoadedPolicy]:
    """Every activated policy, shadow ones too."""
    return [LoadedPolicy(policy_of(row.source), row.source) for row in read_all(tables, PolicyRow)]


def read_measurements(store: ArtifactStore, row: ProposalRow) -> Measurements:
    """The numbers behind a proposal's evidence, read from the store and checked."""
    if row.evidence is None:
        raise DeniedError(f"{row.id} is {row.state}: nothing has been measured yet")
    return decode_record(Measurements, canonical.parse(store.get_bytes(row.evidence.measurements)))


def recomputer(store: ArtifactStore) -> Recompute:
    """For ``verify_log``: judge again, and refuse a verdict that does not come out the same."""

    def recompute(tables: Reader, entry: Entry) -> str:
        recorded = decode_record(Verdict, dict(entry.statement.body))
        if recorded.engine != engine.ENGINE:
            return f"made by {recorded.engine}, this is {engine.ENGINE}"
        brought = recorded.checks or {}
        for name, here in (provenance(brought) or {}).items():
            if here != brought[name] or here == ABSENT:
                return f"it rests on {name} ({brought[name]:.160}), here is {here:.160}"
        row = require_proposal(tables, recorded.proposal)
        try:
            measurements = read_measurements(store, row)
        except InterlockError as error:
            return str(error)
        again = judge(tables, row, measurements, entry.statement.time, intact=True)
        if encode_record(again) == encode_record(recorded):
            return ""
        # Whether the bundle was whole at that time stands nowhere else; if it was not, that is what was found.
        damaged = judge(tables, row, measurements, entry.statement.time, intact=False)
        if encode_record(damaged) == encode_record(recorded):
            return ""
        raise LogVerificationError(
            f"the engine comes to another verdict: {again.kind}, recorded is {recorded.kind}", index=entry.seq
        )

    return recompute


def is_intact(store: ArtifactStore, bundle: Digest) -> bool:
    """True if every byte of a tree is present and as its address says."""
    try:
        store.verify_tree(bundle)
    except InterlockError:
        return False
    return True
