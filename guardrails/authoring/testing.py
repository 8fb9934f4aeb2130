"""Cases against a policy: what it says of each, and which rules no case tries.

Invariants:
- The engine judges; this only compares its findings with what a case expects.
- A rule that a case does not name must pass or be skipped, so that no side effect goes unnoticed.
- A rule is covered only by a case that runs as expected, and both ways: it passes there, it fails there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from guardrails import canonical, engine
from guardrails.authoring.case_files import BUILT_IN, PolicyCase, known_metrics
from guardrails.authoring.case_schema import WAIVED
from guardrails.authoring.recording import Recording
from guardrails.decision_log.envelope import format_time
from guardrails.errors import NotMeasuredError
from guardrails.policy.model import ENFORCE, LoadedPolicy, Rule
from guardrails.policy.yaml_tree import Place
from guardrails.records import Finding, Outcome, Verdict, Waiver
from guardrails.statistics import Estimate

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
EVIDENCE = canonical.digest(b"the evidence of a case")
_RANK = (Outcome.SKIPPED, Outcome.PASS, Outcome.WARN, Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.ERROR)
_FAILED = (Outcome.WARN, Outcome.FAIL)


@dataclass(frozen=True)
class Mismatch:
    """Where a policy says something else than a case expects; ``rule`` is "" for the verdict."""

    rule: str
    expected: str
    got: str
    message: str


@dataclass(frozen=True)
class Result:
    """One case, as it ran."""

    case: PolicyCase
    verdict: Verdict
    mismatches: tuple[Mismatch, ...]

    @property
    def ok(self) -> bool:
        """Whether everything came out as expected."""
        return not self.mismatches


@dataclass(frozen=True)
class Gap:
    """A rule that no case tries one way: ``passing`` or ``failing``."""

    rule: str
    lacks: str


def run_cases(policy: LoadedPolicy, cases: Sequence[PolicyCase]) -> list[Result]:
    """Judge every case by the policy alone."""
    return [run_case(policy, case) for case in cases]


def run_case(policy: LoadedPolicy, case: PolicyCase) -> Result:
    """Judge one case. A shadow policy is judged as if it were binding: its cases say what it would do."""
    binding = LoadedPolicy(replace(policy.policy, mode=ENFORCE), policy.source)
    verdict = engine.judge([binding], engine_case(case))
    return Result(case, verdict, tuple(_mismatches(case, verdict)))


def engine_case(case: PolicyCase) -> engine.Case:
    """A case as the engine takes it."""
    recording = case.recording
    now = recording.now if recording else NOW
    end = format_time(now + timedelta(days=30))
    made = engine.Case(
        subject=case.subject,
        measurements=case.measurements,
        evidence=EVIDENCE,
        facts=recording.facts if recording else _gate_facts(case),
        waivers=[Waiver(rule, case.subject.bundle, "owner", end) for rule in case.waivers],
        attempt=case.attempt,
        now=now,
    )

    def reading(rule: Rule, confidence: float) -> Estimate:
        stated = case.evidence.get(rule.id)
        if stated is None:
            return engine.read_measurements(rule, made, confidence)
        found = stated.get(rule.require.metric)
        if found is None:
            raise NotMeasuredError(f"the case states no {rule.require.metric}")
        if isinstance(found, str):
            raise NotMeasuredError(found)
        return found

    return replace(made, reading=reading)


def _gate_facts(case: PolicyCase) -> dict[str, str]:
    """What the gate itself would establish: in a case, whatever its measurements state."""
    return dict(case.measurements.facts) if case.measurements else {}


def outcomes(verdict: Verdict) -> dict[str, Finding]:
    """The worst finding of every rule."""
    found: dict[str, Finding] = {}
    for finding in verdict.findings:
        known = found.get(finding.rule)
        if known is None or _RANK.index(finding.outcome) > _RANK.index(known.outcome):
            found[finding.rule] = finding
    return found


def word_of(finding: Finding) -> str:
    """A finding's outcome in the words of a case."""
    return WAIVED if finding.waived and finding.outcome is Outcome.FAIL else finding.outcome.value


def _mismatches(case: PolicyCase, verdict: Verdict) -> Iterable[Mismatch]:
    if verdict.kind.value != case.verdict:
        yield Mismatch("", case.verdict, verdict.kind.value, "the verdict")
    found = outcomes(verdict)
    for rule, finding in found.items():
        got, expected = word_of(finding), case.findings.get(rule, "")
        fine = got == expected if expected else got in (Outcome.PASS.value, Outcome.SKIPPED.value)
        if not fine:
            yield Mismatch(rule, expected or "pass or skipped", got, finding.message)
    for rule in case.findings:
        if rule not in found:
            yield Mismatch(rule, case.findings[rule], "nothing", "the rule was not judged")


def gaps(policy: LoadedPolicy, results: Sequence[Result]) -> list[Gap]:
    """The rules that no case that runs as expected tries, one way or the other."""
    tried = _tried(results)
    rules = [rule for rule in known_metrics(policy.policy) if rule not in BUILT_IN]
    wanted = [(rule, way) for rule in rules for way in ("passing", "failing")]
    return [Gap(rule, way) for rule, way in wanted if way not in tried.get(rule, set())]


def _tried(results: Sequence[Result]) -> Mapping[str, set[str]]:
    tried: dict[str, set[str]] = {}
    for result in results:
        for finding in result.verdict.findings if result.ok else ():
            # A limit on a budget has no softer outcome than an error; a number that was seen tells them apart.
            over_budget = finding.outcome is Outcome.ERROR and finding.observed is not None
            if finding.outcome is Outcome.PASS:
                tried.setdefault(finding.rule, set()).add("passing")
            elif finding.outcome in _FAILED or (over_budget and finding.rule.startswith("budget.")):
                tried.setdefault(finding.rule, set()).add("failing")
    return tried


def recorded_verdict(policy: LoadedPolicy, recording: Recording) -> Verdict:
    """What a policy alone says of a recording, without waivers."""
    place = Place("recording", 1, 1)
    case = PolicyCase(
        "", place, recording.subject, recording.attempt, (), {}, recording.measurements, recording, "", {}
    )
    return run_case(policy, case).verdict
