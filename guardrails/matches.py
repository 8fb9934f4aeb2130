"""What a match has to show, so that whoever plays it knows when it may stop. Pure.

Invariants:
- A match is stopped by the rule that will judge it: its suite, its limit, and the level that is left to this
  attempt of the error budget. The verdict is recomputed from the recorded scores and trusts no word about the stop.
- Several rules on one suite: the strictest of each part. A rule that cannot be decided by winning, no rule, or one
  that does not apply to the subject: nothing is stopped, every item is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guardrails.errors import InterlockError
from guardrails.policy.effective import combine
from guardrails.policy.facts import Subject
from guardrails.policy.model import LoadedPolicy, Rule
from guardrails.policy.when import holds
from guardrails.statistics import attempt_alpha

CHECK = "gain.match"


@dataclass(frozen=True)
class Stopping:
    """A match may end once a mean score above ``null`` is shown with error at most ``alpha``, after ``least`` items."""

    null: float
    alpha: float
    least: int


def stopping(policies: Sequence[LoadedPolicy], subject: Subject, attempt: int) -> dict[str, Stopping]:
    """For every suite whose match the policies in force judge: when it may stop."""
    matching = [
        p.policy for p in policies if p.policy.scope.matches(subject.model, subject.kind, subject.labels)
    ]
    binding = [policy for policy in matching if policy.is_binding]
    if not binding:
        return {}
    effective = combine(binding)
    alpha = attempt_alpha(effective.confidence, effective.error_alpha, attempt) / 2.0
    rules = [rule for policy in binding for rule in policy.rules if _speaks_of(rule, subject)]
    found: dict[str, Stopping] = {}
    for suite in dict.fromkeys(rule.params.suite for rule in rules):
        own = [rule for rule in rules if rule.params.suite == suite]
        null = max(rule.require.value for rule in own)
        if all(_is_won(rule) for rule in own) and 0.0 < null < 1.0:
            least = max(rule.least_samples(effective.min_samples) for rule in own)
            found[suite] = Stopping(null, alpha, least)
    return found


def _speaks_of(rule: Rule, subject: Subject) -> bool:
    """Whether a rule on a match applies; one whose condition cannot be read applies, for it will be an error."""
    if rule.check != CHECK:
        return False
    try:
        return not rule.when or holds(rule.when, subject.facts())
    except InterlockError:
        return True


def _is_won(rule: Rule) -> bool:
    return rule.require.bound == "lower" and rule.require.op in (">", ">=")
