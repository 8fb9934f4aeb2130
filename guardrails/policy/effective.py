"""Several policies at once: of every setting the strictest stated value, else its default.

Invariants: combining policies never gives a value looser than any of them states; the order of the
policies does not matter for strictness; no policy at all gives the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from guardrails.policy.model import Policy, QuorumRule, Rule
from guardrails.policy.order import strictest_of
from guardrails.policy.settings import SETTINGS
from guardrails.records import ModelKind, Surface, VerdictKind


@dataclass(frozen=True)
class Effective:
    """What the policies in force come to. None: not limited. A quorum is a tuple: all must be met."""

    isolation_minimum: str
    confidence: float
    min_samples: int
    on_inconclusive: str
    on_error: str
    cpu_seconds_per_proposal: float | None
    cpu_hours_per_day: float | None
    cpu_hours_per_week: float | None
    proposals_pending: int | None
    proposals_per_day: int | None
    proposals_per_week: int | None
    promotions_per_day: int | None
    cumulative_drift: tuple[Rule, ...]
    error_alpha: float | None
    on_eligible: tuple[QuorumRule, ...]
    on_review: tuple[QuorumRule, ...]
    on_blocked: str
    exclude: tuple[str, ...]
    cool_down: timedelta
    expires_after: timedelta
    surfaces: tuple[Surface, ...]
    require_viewed: tuple[str, ...]
    invalidate_on: tuple[str, ...]
    rollback: tuple[QuorumRule, ...]
    halt: tuple[QuorumRule, ...]
    resume: tuple[QuorumRule, ...]
    activation_tighten: tuple[QuorumRule, ...]
    activation_loosen: tuple[QuorumRule, ...]
    waiver: tuple[QuorumRule, ...]
    rejected_days: int

    def approval(self, verdict: VerdictKind) -> tuple[QuorumRule, ...] | None:
        """Whose approval a verdict asks for; None for blocked, which nobody can approve."""
        return {VerdictKind.ELIGIBLE: self.on_eligible, VerdictKind.REVIEW: self.on_review}.get(verdict)


def combine(policies: Sequence[Policy]) -> Effective:
    """The strictest of what policies state. Give it the binding policies that matter."""
    values = {}
    for setting in SETTINGS:
        stated = [p.settings[setting.path].value for p in policies if setting.path in p.settings]
        values[setting.attribute] = strictest_of(setting.order, stated) if stated else setting.default
    return Effective(**values)


def matching(
    policies: Sequence[Policy], name: str, kind: ModelKind, labels: Mapping[str, str]
) -> tuple[Policy, ...]:
    """The binding policies that speak of a model. None matching: it is blocked."""
    return tuple(p for p in policies if p.is_binding and p.scope.matches(name, kind, labels))
