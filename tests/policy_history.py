"""A projection full of past proposals, judged by the real engine: for replays without signing ten thousand times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policy_cases import NOW, subject

from guardrails import canonical, engine
from guardrails.canonical import digest
from guardrails.checks.compute import compute_facts
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.tables import MemoryTables
from guardrails.ledger.rows import ModelRow, PolicyRow, ProposalRow, Reign, Vote, WaiverRow, write
from guardrails.policy import LoadedPolicy
from guardrails.records import (
    Action,
    Commitment,
    Compute,
    Evidence,
    Measurements,
    ModelKind,
    Proposal,
    Role,
    State,
    Surface,
    Verdict,
    Waiver,
)
from guardrails.registry import ArtifactStore

COMPUTE = Compute(130.0, 240.0, 2_000_000_000, 1 << 20, "cgroup")
TIME = format_time(NOW)
SEEN = ("findings", "provenance", "samples")


class PastWorkspace:
    """Tables as a log would fill them, one proposal at a time."""

    def __init__(self, *policies: LoadedPolicy, store: ArtifactStore | None = None) -> None:
        self.tables = MemoryTables()
        self.policies = policies
        self.store = store
        self.count = 0
        for name, kind in (("assistant", ModelKind.LLM), ("navigator", ModelKind.LAM)):
            base = digest(name.encode())
            write(self.tables, ModelRow(name, kind.value, base, base, (Reign(base, TIME, ""),)), name)
        for policy in policies:
            source = policy.source
            write(self.tables, PolicyRow(source.name, source, TIME, "R-0001"), source.name)

    def verdict(
        self, measured: Measurements, *, attempt: int = 1, waivers: Sequence[Waiver] = (), **about: object
    ) -> Verdict:
        """What the engine says, as the gate would ask it."""
        facts = {**compute_facts(COMPUTE), "integrity.digest_matches": "true"}
        case = engine.Case(subject(**about), measured, digest(b"e"), facts, waivers, attempt, NOW)
        return engine.judge(self.policies, case)

    def add(
        self, measured: Measurements, *, state: State = State.AWAITING_APPROVAL, votes: Sequence[tuple[str, Role]] = (),
        attempt: int = 1, verdict: Verdict | None = None, waived: Sequence[str] = (), **about: object,
    ) -> str:  # fmt: skip
        """One proposal with its evidence and verdict; returns its id."""
        self.count += 1
        proposal_id, bundle = f"P-{self.count:05d}", digest(b"bundle %d" % self.count)
        known = subject(**{"bundle": bundle, "labels": {}, "proposal": proposal_id, **about})
        waivers = [Waiver(rule, bundle, "ada", "2027-01-01T00:00:00Z") for rule in waived]
        for waiver in waivers:
            write(self.tables, WaiverRow(f"R-9{self.count}", waiver, TIME), f"R-9{self.count}{waiver.rule}")
        verdict = verdict or self.verdict(measured, attempt=attempt, waivers=waivers, **vars(known))
        data = canonical.encode(encode_record(measured))
        address = self.store.put_bytes(data) if self.store else digest(data)
        commitment = Commitment("0" * 64)
        base = digest(known.model.encode())
        proposal = Proposal(
            proposal_id, known.model, known.kind, known.technique, commitment, bundle, base, digest(b"d"), digest(b"o"),
            {"steps": "10"}, known.seed, {}, known.isolation, known.submitted, COMPUTE, known.proposer,
        )  # fmt: skip
        evidence = Evidence(
            proposal_id, bundle, base, address, {}, "evaluator", "n", 1, known.measured_at, COMPUTE
        )
        cast = tuple(
            Vote(Action.APPROVE, person, role, TIME, Surface.CLI, SEEN, commitment, digest(b"v"), 9, 1)
            for person, role in votes
        )
        write(self.tables, ProposalRow(
            proposal_id, known.model, known.technique, state, TIME, TIME, proposal=proposal, proposal_record=digest(b"p"),
            evidence=evidence, evidence_record=digest(b"e"), verdict=replace(verdict, proposal=proposal_id),
            verdict_record=digest(b"v"), judged_at=TIME, attempt=attempt, votes=cast, waived=tuple(sorted(waived)),
            promoted_at=TIME if state is State.PROMOTED else "",
        ), proposal_id)  # fmt: skip
        return proposal_id
