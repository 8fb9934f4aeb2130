"""Policies and evidence to a verdict. Pure: the same input gives the same verdict, on any machine.

Invariants:
- Every rule of every matching policy yields a finding; none is dropped, none is guessed.
- Nothing measured, too few items, NaN, a crash, an unknown name, no policy: never ``eligible``.
- A policy that tells tasks apart, and has no rule for the task of the model at hand, blocks.
- The worst finding wins. All rules must hold, each tested at the full level (intersection-union), so
  no level is split between rules; the error budget splits it between attempts.
- Shadow policies are judged by the same code and do not count.
- Only a rule that can be waived, and fails on sufficient evidence, can be waived; that gives
  ``review``, never ``eligible``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from guardrails.canonical import Digest
from guardrails.checks import CHECKS
from guardrails.checks.brought import OpaqueParams, check_of, provenance
from guardrails.checks.compute import PREFIX as COMPUTE_PREFIX
from guardrails.checks.control import ATTEMPT
from guardrails.checks.control import PREFIX as CONTROL_PREFIX
from guardrails.errors import NotMeasuredError
from guardrails.findings import (
    Judged,
    coverage_of,
    empty_policy,
    error_of,
    finding_of,
    no_policy,
    sentence,
)
from guardrails.policy.effective import Effective, combine
from guardrails.policy.facts import TASK_FACT, Subject
from guardrails.policy.model import LoadedPolicy, Policy, Require, Rule
from guardrails.policy.order import strictest_of
from guardrails.policy.settings import BY_PATH, ISOLATION_LEVELS
from guardrails.policy.when import facts_read, holds
from guardrails.policy.yaml_tree import Place
from guardrails.records import Finding, Measurements, Outcome, Severity, Verdict, VerdictKind, Waiver
from guardrails.statistics import Estimate, attempt_alpha

ENGINE = "interlock-engine/1"
_BADNESS = (VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED)
_OF_SEVERITY = {
    Severity.WARN: VerdictKind.ELIGIBLE,
    Severity.REVIEW: VerdictKind.REVIEW,
    Severity.BLOCK: VerdictKind.BLOCKED,
}
_GATES_OWN = (COMPUTE_PREFIX, CONTROL_PREFIX)
_CPU_SECONDS, _ISOLATION = "budgets.compute.cpuSecondsPerProposal", "isolation.minimum"
_OF_WORD = {"review": VerdictKind.REVIEW, "block": VerdictKind.BLOCKED}

Reading = Callable[[Rule, float], Estimate]
"""A rule's estimate at a confidence; raises NotMeasuredError."""


@dataclass(frozen=True)
class Case:
    """All that a verdict depends on, besides the policies.

    ``facts`` are the gate's own (``compute.*`` and ``control.*`` among them) and go before the measurement's
    facts of the same name. ``waivers`` are those that the log holds in force; expiry is judged here, at
    ``now``. ``attempt`` is k: this is the k-th proposal since the last promotion, counting from 1.

    ``reading`` replaces the measurements as the source of a rule's numbers: for the tests of a policy and
    for the replay of what was found before. The gate never sets it.
    """

    subject: Subject
    measurements: Measurements | None
    evidence: Digest
    facts: Mapping[str, str]
    waivers: Sequence[Waiver]
    attempt: int
    now: datetime
    reading: Reading | None = None


def judge(policies: Sequence[LoadedPolicy], case: Case) -> Verdict:
    """The verdict of all policies in force. Give all of them: which ones match is decided here."""
    subject = case.subject
    matched = [p for p in policies if p.policy.scope.matches(subject.model, subject.kind, subject.labels)]
    binding = [p for p in matched if p.policy.is_binding]
    effective = combine([p.policy for p in binding])
    confidence = 1.0 - attempt_alpha(effective.confidence, effective.error_alpha, case.attempt)
    judged = _judge_together([p.policy for p in binding], effective, confidence, case)
    if not binding:
        judged = [no_policy(subject, [p.policy for p in matched])]
    shadows = [f for p in matched if not p.policy.is_binding for f in _judge_shadow(p.policy, case)]
    return Verdict(
        proposal=subject.proposal,
        kind=max((j.effect for j in judged), key=_BADNESS.index),
        policies={p.policy.name: str(p.source.digest) for p in binding},
        evidence=case.evidence,
        findings=tuple([j.finding for j in judged] + shadows),
        coverage=coverage_of([j.finding for j in judged], case.measurements),
        confidence=confidence,
        attempt=case.attempt,
        engine=ENGINE,
        checks=provenance(rule.check for p in matched for rule in p.policy.rules),
    )


def _judge_together(
    policies: Sequence[Policy], effective: Effective, confidence: float, case: Case
) -> list[Judged]:
    """Every rule of every policy, and what their common settings add."""
    judge = _RuleJudge(effective, confidence, case)
    judged = []
    for policy in policies:
        if not policy.rules:
            judged.append(empty_policy(policy, "it has no rules"))
        found = [judge.rule(rule) for rule in policy.rules]
        judged.extend(found)
        if _overlooks(policy, found):
            judged.append(empty_policy(policy, f"no rule of it is for the task '{case.subject.task:.40}'"))
    if judged and all(j.finding.outcome is Outcome.SKIPPED for j in judged):
        judged.append(empty_policy(policies[0], "every rule was skipped, so nothing was looked at"))
    if policies:
        judged.extend(judge.rule(rule) for rule in effective.cumulative_drift)
        budget = effective.cpu_seconds_per_proposal
        if budget is not None:
            judged.append(judge.rule(_cpu_rule(budget, _place(policies, _CPU_SECONDS))))
        judged.append(judge.isolation(_place(policies, _ISOLATION)))
    return judged


def _overlooks(policy: Policy, judged: Sequence[Judged]) -> bool:
    """Whether rules of the policy are for tasks, and none of them for this one."""
    outcomes = [
        one.finding.outcome
        for rule, one in zip(policy.rules, judged, strict=True)
        if rule.when and TASK_FACT in facts_read(rule.when)
    ]
    return bool(outcomes) and all(outcome is Outcome.SKIPPED for outcome in outcomes)


def _judge_shadow(policy: Policy, case: Case) -> list[Finding]:
    effective = combine([policy])
    confidence = 1.0 - attempt_alpha(effective.confidence, effective.error_alpha, case.attempt)
    judged = _judge_together([policy], effective, confidence, case)
    told = f"policy '{policy.name}' is in shadow, not binding: "
    return [replace(j.finding, shadow=True, message=told + j.finding.message) for j in judged]


# --- one rule ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RuleJudge:
    effective: Effective
    confidence: float
    case: Case

    def rule(self, rule: Rule) -> Judged:
        """The finding of one rule, and what it means for the verdict."""
        kind = self.case.subject.kind
        try:
            if rule.when and not holds(rule.when, self.case.subject.facts()):
                finding = finding_of(rule, Outcome.SKIPPED, f"skipped, for this is false: {rule.when}")
                return Judged(finding, VerdictKind.ELIGIBLE)
            if kind not in check_of(rule.check).kinds:
                said = f"'{rule.check}' does not apply to kind '{kind.value}'; limit the rule with 'when'"
                effect = _OF_WORD[self.effective.on_inconclusive]
                return Judged(finding_of(rule, Outcome.INCONCLUSIVE, said), effect)
            return self._weigh(rule, self._estimate(rule))
        except NotMeasuredError as error:
            return error_of(rule, str(error))
        except Exception as error:
            # Whatever a check trips over on hostile numbers, it is not a pass.
            return error_of(rule, f"the check failed: {type(error).__name__}: {error!s:.200}")

    def _estimate(self, rule: Rule) -> Estimate:
        if self.case.reading is not None:
            return self.case.reading(rule, self.confidence)
        return read_measurements(rule, self.case, self.confidence)

    def _weigh(self, rule: Rule, estimate: Estimate) -> Judged:
        if not estimate.is_number:
            return error_of(rule, f"the measured value is {estimate.value}, not a finite number", estimate)
        least = rule.least_samples(self.effective.min_samples)
        is_short = not rule.is_exact and estimate.n < least
        passes = rule.require.holds(estimate)
        told = sentence(rule, estimate, passes)
        if passes and not is_short:
            return Judged(finding_of(rule, Outcome.PASS, told, estimate), VerdictKind.ELIGIBLE)
        if not passes and rule.id.startswith("budget."):
            return error_of(rule, f"out of budget: {told}", estimate)
        effect, waived, note = VerdictKind.ELIGIBLE, False, ""
        if not passes:
            effect = _OF_SEVERITY[rule.severity]
            waived, note = self._waiver(rule)
            effect = VerdictKind.REVIEW if waived else effect
        outcome = Outcome.WARN if rule.severity is Severity.WARN else Outcome.FAIL
        if is_short:
            outcome = Outcome.INCONCLUSIVE
            effect = max(effect, _OF_WORD[self.effective.on_inconclusive], key=_BADNESS.index)
            told = f"only {estimate.n} of at least {least} samples; {told}"
        finding = finding_of(rule, outcome, told + note, estimate)
        return Judged(replace(finding, waived=True) if waived else finding, effect)

    def _waiver(self, rule: Rule) -> tuple[bool, str]:
        """Whether a waiver for this rule and this bundle is in force, and what to say about it."""
        mine = [w for w in self.case.waivers if w.rule == rule.id and w.bundle == self.case.subject.bundle]
        if not mine or rule.severity is Severity.WARN:
            return False, ""
        if not rule.waivable:
            return False, "; a waiver was signed, but this rule cannot be waived"
        holding = [waiver for waiver in mine if waiver.holds_at(self.case.now)]
        if not holding:
            return False, f"; the waiver ended at {mine[-1].expires_at:.40} and is not in force"
        end = max(datetime.fromisoformat(waiver.expires_at) for waiver in holding)
        soon = " (ends within 7 days)" if end - self.case.now <= timedelta(days=7) else ""
        return True, f"; waived, would fail; the waiver ends at {end.isoformat()}{soon}"

    def isolation(self, place: Place) -> Judged:
        """Both jobs must have run at the least level; a submission's own training is not ours to isolate.

        At ``none`` nothing is isolated: what was made or measured there passes under no policy.
        """
        subject = self.case.subject
        least = max(self.effective.isolation_minimum, ISOLATION_LEVELS[1], key=ISOLATION_LEVELS.index)
        ran = {"measurement": subject.measured_at}
        if not subject.submitted:
            ran["proposal"] = subject.isolation
        weak = [
            f"the {job} ran at {level or 'no known level'}"
            for job, level in sorted(ran.items())
            if level not in ISOLATION_LEVELS or ISOLATION_LEVELS.index(level) < ISOLATION_LEVELS.index(least)
        ]
        finding = Finding(
            rule="isolation.minimum",
            check="isolation",
            outcome=Outcome.ERROR if weak else Outcome.PASS,
            severity=Severity.BLOCK,
            limit=f">= {least}",
            source=str(place) if place.file else "",
            message=f"{'; '.join(weak)}: {least} is needed" if weak else f"isolated at {least} or better",
            metric="level",
        )
        return Judged(finding, VerdictKind.BLOCKED if weak else VerdictKind.ELIGIBLE)


def read_measurements(rule: Rule, case: Case, confidence: float) -> Estimate:
    """What a rule's check reads from a case's measurements; raises NotMeasuredError."""
    if case.measurements is None:
        raise NotMeasuredError("there is no evidence")
    facts = {k: v for k, v in case.measurements.facts.items() if not k.startswith(_GATES_OWN)}
    facts |= {ATTEMPT: str(case.attempt)} | dict(case.facts)
    check = check_of(rule.check)
    if isinstance(rule.params, OpaqueParams) and check.params is not OpaqueParams:
        raise NotMeasuredError(f"'{rule.check}' takes other parameters here than the policy gives")
    if check.metrics.get(rule.require.metric) is None:
        raise NotMeasuredError(f"'{rule.check}' has no metric '{rule.require.metric:.40}' here")
    return check.estimate(rule.require.metric, rule.params, case.measurements, facts, confidence)


# --- what the settings add -------------------------------------------------------------------


def _cpu_rule(budget: float, place: Place) -> Rule:
    params: Any = CHECKS["compute.usage"].params()
    require = Require("cpu_seconds", "", "<=", budget)
    return Rule("budget.cpu_seconds", "compute.usage", params, require, Severity.BLOCK, place, waivable=False)


def _place(policies: Sequence[Policy], path: str) -> Place:
    """Where the value that holds was stated; the first policy where it is a default."""
    order = [p.settings[path] for p in policies if path in p.settings]
    if not order:
        return policies[0].places[""]
    wanted = strictest_of(BY_PATH[path].order, [stated.value for stated in order])
    return next((s.place for s in order if s.value == wanted), order[0].place)
