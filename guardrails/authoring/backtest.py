"""A new policy against everything that was ever judged: what would have come out otherwise.

Invariants:
- Each past proposal is judged by the new policy in the place of the one of its name, beside the other policies
  that it was judged by then; the engine judges, at the attempt and the time of the recorded verdict.
- What was not measured then is an error, as it would have been; the flip says so, because it tells of the
  policy and not of the model.
- Loosened flips come first. What could not be replayed is listed, never left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from guardrails import engine
from guardrails.authoring.history import History, Past, PastReading, key_of
from guardrails.policy import Effective, LoadedPolicy, combine
from guardrails.policy.model import ENFORCE, Require
from guardrails.records import Finding, Outcome, Role, Verdict, VerdictKind
from guardrails.registry import ArtifactStore

_BADNESS = (VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED)
_CALM = (Outcome.PASS, Outcome.SKIPPED)
_SHOWN = 6


@dataclass(frozen=True)
class Flip:
    """One verdict that comes out otherwise. ``rules`` made it so; ``not_measured`` of them lacked numbers."""

    id: str
    model: str
    state: str
    before: VerdictKind
    after: VerdictKind
    rules: tuple[str, ...]
    not_measured: tuple[str, ...] = ()

    @property
    def loosened(self) -> bool:
        """Whether the new verdict is milder."""
        return _BADNESS.index(self.after) < _BADNESS.index(self.before)


@dataclass(frozen=True)
class Refused:
    """An approval that took effect and would not have."""

    id: str
    model: str
    reason: str


@dataclass
class Backtest:
    """What a replay found. ``fired`` counts, per rule, how often it did not pass."""

    policy: str
    replayed: int = 0
    flips: list[Flip] = field(default_factory=list)
    not_replayable: list[tuple[str, str]] = field(default_factory=list)
    never_fired: list[str] = field(default_factory=list)
    never_applied: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    not_measured: dict[str, list[str]] = field(default_factory=dict)
    fired: Counter[str] = field(default_factory=Counter)


def backtest(
    new: LoadedPolicy,
    history: History,
    store: ArtifactStore | None,
    *,
    alone: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Backtest:
    """Replay the past; ``alone``: by the new policy only, without the others of that time."""
    new = LoadedPolicy(replace(new.policy, mode=ENFORCE), new.source)
    result = Backtest(new.policy.name, not_replayable=list(history.not_replayable))
    applied: set[str] = set()
    own = {str(rule.place) for rule in new.policy.rules}
    for number, past in enumerate(history.past):
        if progress is not None and number % 500 == 0:
            progress(number)
        verdict, gone = judge_past(past, _policies(new, past, history, alone=alone), store)
        if gone:
            result.not_replayable.append((past.id, gone))
            continue
        result.replayed += 1
        for finding in verdict.findings:
            if finding.source in own and finding.outcome is not Outcome.SKIPPED:
                applied.add(finding.rule)
                result.fired[finding.rule] += finding.outcome is not Outcome.PASS
        _compare(result, past, verdict)
        _approvals(result, past, verdict, [new, *_others(new, past, history, alone=alone)])
    rules = [rule.id for rule in new.policy.rules]
    result.never_applied = [rule for rule in rules if rule not in applied]
    result.never_fired = [rule for rule in rules if rule in applied and not result.fired[rule]]
    result.flips.sort(key=lambda flip: (not flip.loosened, flip.id))
    return result


def judge_past(
    past: Past, policies: Sequence[LoadedPolicy], store: ArtifactStore | None
) -> tuple[Verdict, str]:
    """What policies say of a past proposal; and, where that cannot be told, why."""
    reading = PastReading(past, store)
    verdict = engine.judge(policies, reading.case())
    return verdict, reading.gone


def _policies(new: LoadedPolicy, past: Past, history: History, *, alone: bool) -> list[LoadedPolicy]:
    return [new, *_others(new, past, history, alone=alone)]


def _others(new: LoadedPolicy, past: Past, history: History, *, alone: bool) -> list[LoadedPolicy]:
    if alone:
        return []
    return [history.sources[digest] for name, digest in past.policies.items() if name != new.policy.name]


def _compare(result: Backtest, past: Past, verdict: Verdict) -> None:
    unmeasured = tuple(f.rule for f in verdict.findings if _is_unmeasured(f) and f.rule not in past.failed)
    for rule in unmeasured:
        result.not_measured.setdefault(rule, []).append(past.id)
    if verdict.kind is past.before:
        return
    failing = [f.rule for f in verdict.findings if not f.shadow and f.outcome not in _CALM]
    changed = [rule for rule in failing if rule not in past.failed]
    changed = changed or [rule for rule in past.failed if rule not in failing] or failing
    rules = tuple(dict.fromkeys(changed))[:_SHOWN]
    subject = past.subject
    result.flips.append(
        Flip(past.id, subject.model, past.state, past.before, verdict.kind, rules, unmeasured)
    )


def _is_unmeasured(finding: Finding) -> bool:
    return not finding.shadow and finding.outcome is Outcome.ERROR and finding.observed is None


# --- approvals -----------------------------------------------------------------------------


def _approvals(result: Backtest, past: Past, verdict: Verdict, policies: Iterable[LoadedPolicy]) -> None:
    """Whether what people signed then, and the gate acted upon, would have sufficed."""
    if not past.promoted and past.state != "approved":
        return
    if verdict.kind is VerdictKind.BLOCKED:
        result.refused.append(Refused(past.id, past.subject.model, "the verdict would have been blocked"))
        return
    subject = past.subject
    matched = [
        p.policy for p in policies
        if p.policy.is_binding and p.policy.scope.matches(subject.model, subject.kind, subject.labels)
    ]  # fmt: skip
    missing = _missing(past, combine(matched), verdict.kind)
    if missing:
        result.refused.append(Refused(past.id, subject.model, missing))


def _missing(past: Past, effective: Effective, kind: VerdictKind) -> str:
    """What the signatures of that time lack; by the signatures alone, whoever else was in the roster."""
    counting = [
        approval for approval in past.approvals
        if approval.surface in effective.surfaces and set(effective.require_viewed) <= set(approval.viewed)
        and not ("proposer" in effective.exclude and approval.person == past.subject.proposer)
    ]  # fmt: skip
    for rule in effective.approval(kind) or ():
        people = {approval.person for approval in counting if Role(approval.role) in rule.roles}
        roles = {approval.role for approval in counting if Role(approval.role) in rule.roles}
        have = min(len(people), len(roles)) if rule.distinct_roles else len(people)
        if have < rule.quorum:
            return f"it needs {rule}; {have} of its approvals would have counted"
    return ""


# --- one limit, moved ------------------------------------------------------------------------


def with_limit(policy: LoadedPolicy, rule_id: str, value: float) -> LoadedPolicy:
    """The policy with one limit at another number; the bytes are still those of the original."""
    rules = tuple(
        replace(rule, require=replace(rule.require, value=value)) if rule.id == rule_id else rule
        for rule in policy.policy.rules
    )
    return LoadedPolicy(replace(policy.policy, rules=rules), policy.source)


def flips_at(
    policy: LoadedPolicy, rule_id: str, value: float, history: History, store: ArtifactStore | None
) -> tuple[list[Flip], int]:
    """The verdicts that one moved limit changes, loosened first; and how many proposals it was tried on.

    Nothing else of the policy changes, so only proposals on which the moved rule itself comes out otherwise
    are judged again: a limit that is dragged gets its answer at once.
    """
    rule = policy.policy.rule(rule_id)
    if rule is None:
        return [], 0
    moved: Require = replace(rule.require, value=value)
    key, found = key_of(rule), Backtest(policy.policy.name)
    tried, changed = 0, with_limit(policy, rule_id, value)
    for past in history.past:
        if past.policies.get(policy.policy.name) != str(policy.source.digest):
            continue
        estimate = past.estimates.get(key)
        if estimate is None:
            continue
        tried += 1
        if rule.require.holds(estimate) == moved.holds(estimate):
            continue
        verdict, gone = judge_past(past, _policies(changed, past, history, alone=False), store)
        if not gone:
            _compare(found, past, verdict)
    return sorted(found.flips, key=lambda flip: (not flip.loosened, flip.id)), tried
