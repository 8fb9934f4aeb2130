"""What past proposals were judged on, read back from the log.

Invariants:
- An estimate is taken from a recorded finding only where the same check, with the same parameters, read the
  same metric at the same confidence (an exact metric has none); whatever else a policy asks is read from the
  measurements in the store, and what is not there makes the proposal not replayable: nothing is guessed.
- The policies beside the one under test are those of the recorded verdict, by digest, and a waiver counts
  where it counted then.

Rows are read as they are stored and not decoded field by field: ten thousand of them are read for one answer.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from guardrails import canonical, engine
from guardrails.canonical import Digest
from guardrails.checks import CHECKS
from guardrails.checks.compute import compute_facts
from guardrails.checks.control import control_facts
from guardrails.codec import decode_record
from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.tables import Reader
from guardrails.errors import InterlockError, NotMeasuredError
from guardrails.ledger.judging import INTACT_FACT, is_intact
from guardrails.ledger.rows import ModelRow, PolicyRow, ProposalRow, RequestRow, WaiverRow, read_all
from guardrails.policy import LoadedPolicy, Policy, Subject, combine, parse_policy
from guardrails.policy.model import Rule
from guardrails.records import Measurements, ModelKind, PolicySource, Proposal, VerdictKind, Waiver
from guardrails.registry import ArtifactStore
from guardrails.statistics import Estimate

Key = tuple[str, Any, str]
"""What a number answers: check, parameters, metric."""


@dataclass(frozen=True)
class Approval:
    """One approval as it was signed."""

    person: str
    role: str
    surface: str
    viewed: tuple[str, ...]


@dataclass(frozen=True)
class Past:
    """One proposal that was judged, and what the verdict rested on."""

    id: str
    state: str
    promoted: bool
    subject: Subject
    attempt: int
    judged_at: datetime
    before: VerdictKind
    confidence: float
    policies: Mapping[str, str]
    failed: tuple[str, ...]
    estimates: Mapping[Key, Estimate]
    measurements: Digest
    evidence: Digest
    proposal: Mapping[str, Any]
    waivers: tuple[Waiver, ...]
    approvals: tuple[Approval, ...]


@dataclass
class History:
    """Every proposal of a log: those that were judged, and why the others cannot be replayed."""

    past: list[Past] = field(default_factory=list)
    not_replayable: list[tuple[str, str]] = field(default_factory=list)
    sources: dict[str, LoadedPolicy] = field(default_factory=dict)


@lru_cache(maxsize=256)
def _parsed(digest: Digest, name: str, texts: tuple[tuple[str, str], ...], order: tuple[str, ...]) -> Policy:
    return parse_policy(PolicySource(name, digest, order, dict(texts)))


def loaded(source: PolicySource) -> LoadedPolicy:
    """The policy in activated bytes; parsed once per digest."""
    policy = _parsed(source.digest, source.name, tuple(source.files.items()), source.order)
    return LoadedPolicy(policy, source)


def read_history(tables: Reader) -> History:
    """Everything that was judged, oldest first."""
    # Millions of small objects, none of them in a cycle: looking for cycles takes a third of the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return _read(tables)
    finally:
        if was_on:
            gc.enable()


def _read(tables: Reader) -> History:
    history = History(sources=_sources(tables))
    labels = {row.name: dict(row.labels) for row in read_all(tables, ModelRow)}
    waivers: dict[str, list[Waiver]] = {}
    for granted in read_all(tables, WaiverRow):
        waivers.setdefault(str(granted.waiver.bundle), []).append(granted.waiver)
    indexes: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], Key | None]] = {}
    for key, row in tables.scan(ProposalRow.TABLE):
        lacks = next((part for part in ("proposal", "evidence", "verdict") if part not in row), "")
        if lacks:
            said = {
                "proposal": "it failed",
                "evidence": "it was not measured",
                "verdict": "it was not judged",
            }
            history.not_replayable.append((key, said[lacks]))
            continue
        policies = dict(row["verdict"]["policies"])
        if any(digest not in history.sources for digest in policies.values()):
            history.not_replayable.append((key, "a policy that it was judged by is not in the log"))
            continue
        known = tuple(sorted(policies.items()))
        if known not in indexes:
            indexes[known] = _index([history.sources[digest].policy for digest in policies.values()])
        history.past.append(_past(row, labels, waivers, indexes[known]))
    return history


def _sources(tables: Reader) -> dict[str, LoadedPolicy]:
    sources = [row.source for row in read_all(tables, PolicyRow)]
    sources += [row.policy for row in read_all(tables, RequestRow) if row.policy is not None]
    return {str(source.digest): loaded(source) for source in sources}


def _index(policies: list[Policy]) -> dict[tuple[str, str], Key | None]:
    """Rule and policy line to what its number answers; None where two policies leave that open."""
    effective = combine([policy for policy in policies if policy.is_binding])
    found: dict[tuple[str, str], Key | None] = {}
    for rule in (*(rule for policy in policies for rule in policy.rules), *effective.cumulative_drift):
        at, key = (rule.id, str(rule.place)), key_of(rule)
        found[at] = key if found.get(at, key) == key else None
    return found


def key_of(rule: Rule) -> Key:
    """What the number behind a rule answers."""
    return rule.check, rule.params, rule.require.metric


_CPU_KEY: Key = ("compute.usage", CHECKS["compute.usage"].params(), "cpu_seconds")


def _past(
    row: Mapping[str, Any],
    labels: Mapping[str, Mapping[str, str]],
    waivers: Mapping[str, list[Waiver]],
    index: Mapping[tuple[str, str], Key | None],
) -> Past:
    proposal, evidence, verdict = row["proposal"], row["evidence"], row["verdict"]
    submitted = proposal.get("submitted", False)
    waived = row.get("waived", ())
    return Past(
        id=row["id"],
        state=row["state"],
        promoted=bool(row.get("promoted_at", "")),
        subject=Subject(
            proposal=row["id"],
            model=row["model"],
            kind=ModelKind(proposal["kind"]),
            bundle=Digest.parse(proposal["bundle"]),
            technique="submitted" if submitted else proposal["technique"],
            submitted=submitted,
            seed=proposal["seed"],
            isolation=proposal["isolation"],
            proposer=proposal["proposer"],
            measured_at=evidence["isolation"],
            labels=labels.get(row["model"], {}),
        ),
        attempt=row.get("attempt", 0),
        judged_at=parse_time(row["judged_at"]),
        before=VerdictKind(verdict["kind"]),
        confidence=canonical.parse_decimal(verdict["confidence"]),
        policies=verdict["policies"],
        failed=tuple(
            f["rule"] for f in verdict["findings"] if f["outcome"] not in _CALM and not f.get("shadow")
        ),
        estimates=dict(_estimates(verdict["findings"], index)),
        measurements=Digest.parse(evidence["measurements"]),
        evidence=Digest.parse(row["evidence_record"]),
        proposal=proposal,
        waivers=tuple(w for w in waivers.get(proposal["bundle"], ()) if w.rule in waived),
        approvals=tuple(
            Approval(v["person"], v["role"], v["surface"], tuple(v["viewed"]))
            for v in row.get("votes", ())
            if v["action"] == "approve"
        ),
    )


_CALM = ("pass", "skipped")


def _estimates(
    findings: list[Mapping[str, Any]], index: Mapping[tuple[str, str], Key | None]
) -> Iterator[tuple[Key, Estimate]]:
    """The numbers that recorded findings hold. A shadow's are at a confidence of its own."""
    for finding in findings:
        observed = finding.get("observed")
        if observed is None or finding.get("shadow"):
            continue
        rule = finding["rule"]
        key = _CPU_KEY if rule == "budget.cpu_seconds" else index.get((rule, finding["source"]))
        if key is None:
            continue
        value, n = float(observed), finding.get("n")
        if n is None:
            yield key, Estimate(value, value, value, 0, "exact")
        else:
            yield key, Estimate(value, float(finding["lower"]), float(finding["upper"]), n, "recorded")


class PastReading:
    """Reads the numbers of one past proposal for the engine; ``gone`` says what could not be read."""

    def __init__(self, past: Past, store: ArtifactStore | None) -> None:
        self._past, self._store = past, store
        self._case: engine.Case | None = None
        self.gone = ""

    def __call__(self, rule: Rule, confidence: float) -> Estimate:
        """A rule's estimate: as recorded where it answers the same, else from the measurements."""
        known = self._past.estimates.get(key_of(rule))
        if known is not None and (rule.is_exact or abs(confidence - self._past.confidence) < 1e-12):
            return known
        case = self._measured()
        if rule.check == "integrity.weights":
            case = self._with_integrity(case)
        return engine.read_measurements(rule, case, confidence)

    def case(self) -> engine.Case:
        """The engine's input, with this as the source of numbers."""
        past = self._past
        return engine.Case(
            past.subject, None, past.evidence, {}, past.waivers, past.attempt, past.judged_at, reading=self
        )

    def _measured(self) -> engine.Case:
        if self._case is None:
            if self._store is None:
                self.gone = "its measurements are not at hand"
                raise NotMeasuredError(self.gone)
            try:
                data = self._store.get_bytes(self._past.measurements)
                measurements = decode_record(Measurements, canonical.parse(data))
            except InterlockError as error:
                self.gone = f"its measurements cannot be read: {error.message}"
                raise NotMeasuredError(self.gone) from None
            proposal = decode_record(Proposal, dict(self._past.proposal))
            facts = {**compute_facts(proposal.compute), **control_facts(proposal)}
            past = self._past
            self._case = engine.Case(
                past.subject, measurements, past.evidence, facts, past.waivers, past.attempt, past.judged_at
            )
        return self._case

    def _with_integrity(self, case: engine.Case) -> engine.Case:
        """Whether the bundle was whole stands only in the store, and costs reading all of it."""
        assert self._store is not None  # noqa: S101 - ``_measured`` has read from it
        if INTACT_FACT not in case.facts:
            intact = "true" if is_intact(self._store, self._past.subject.bundle) else "false"
            self._case = case = replace(case, facts={**case.facts, INTACT_FACT: intact})
        return case
