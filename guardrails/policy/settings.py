"""Every setting of the format but the rules: its path, type, default and direction of strictness.

Invariants:
- One line here is all that a setting needs: JSON Schema, reading, combination of several policies,
  ``extends`` and the comparison of two versions all follow from this table.
- A default applies where no policy in force states the setting. Budgets default to "not limited";
  everything about people and isolation defaults to what the shipped policy says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from guardrails.policy.model import QuorumRule
from guardrails.policy.order import Halt, Higher, Lower, Order, Quorum, Ranked, Rules, Subset, Superset
from guardrails.records import Role, Surface

ISOLATION_LEVELS = ("none", "landlock", "strict+gpu", "strict")
EXCLUSIONS = ("proposer", "data-author", "policy-author")
VIEWABLE = ("findings", "samples", "provenance", "diff")
INVALIDATORS = ("bundle", "champion", "evidence", "policy", "roster")
DURATION_PATTERN = r"^(0|[1-9][0-9]{0,5})(s|m|h|d)$"

Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting; ``attribute`` is its name in Effective, ``read`` turns YAML values into typed ones."""

    path: str
    attribute: str
    schema: Json
    order: Order
    default: Any
    read: Callable[[Any], Any] = field(default=lambda value: value)


def duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``72h``, ``7d``."""
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[text[-1]]
    return timedelta(**{unit: int(text[:-1])})


def _integer(value: Any) -> int:
    return int(value)


def _quorum(value: Any) -> tuple[QuorumRule, ...]:
    roles = tuple(sorted({Role(role) for role in value["roles"]}))
    return (QuorumRule(int(value["quorum"]), roles, bool(value.get("distinctRoles", False))),)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(sorted(set(value)))


def _people(quorum: int, *roles: Role, distinct: bool = False) -> tuple[QuorumRule, ...]:
    return (QuorumRule(quorum, tuple(sorted(roles)), distinct),)


def _choice(*words: str) -> Json:
    return {"type": "string", "enum": list(words)}


def _set_of(words: tuple[str, ...], *, least: int = 0) -> Json:
    return {"type": "array", "items": _choice(*words), "uniqueItems": True, "minItems": least}


def quorum_schema(*, most: int = 20) -> Json:
    """How many people of which roles."""
    return {
        "type": "object",
        "description": "How many distinct people, in which roles, must sign.",
        "additionalProperties": False,
        "required": ["quorum", "roles"],
        "properties": {
            "quorum": {
                "type": "integer",
                "minimum": 1,
                "maximum": most,
                "description": "How many different people.",
            },
            "roles": {
                **_set_of(tuple(Role), least=1),
                "description": "In which roles their signatures count.",
            },
            "distinctRoles": {"type": "boolean", "description": "No two signers in the same role."},
        },
    }


_DURATION: Json = {
    "type": "string",
    "pattern": DURATION_PATTERN,
    "description": "A whole number and a unit: 90s, 15m, 72h, 7d.",
}
_AMOUNT: Json = {"type": "number", "minimum": 0}
_COUNT: Json = {"type": "integer", "minimum": 0}

SETTINGS: tuple[Setting, ...] = (
    Setting("isolation.minimum", "isolation_minimum", _choice(*ISOLATION_LEVELS),
            Ranked(ISOLATION_LEVELS), "strict"),
    Setting("defaults.confidence", "confidence",
            {"type": "number", "minimum": 0.5, "exclusiveMaximum": 1}, Higher(), 0.95, float),
    Setting("defaults.minSamples", "min_samples", {"type": "integer", "minimum": 1}, Higher(), 200, _integer),
    Setting("defaults.onInconclusive", "on_inconclusive", _choice("review", "block"),
            Ranked(("review", "block")), "review"),
    Setting("defaults.onError", "on_error", _choice("block"), Ranked(("block",)), "block"),
    Setting("budgets.compute.cpuSecondsPerProposal", "cpu_seconds_per_proposal",
            _AMOUNT, Lower(), None, float),
    Setting("budgets.compute.cpuHoursPerDay", "cpu_hours_per_day", _AMOUNT, Lower(), None, float),
    Setting("budgets.compute.cpuHoursPerWeek", "cpu_hours_per_week", _AMOUNT, Lower(), None, float),
    Setting("budgets.proposals.pending", "proposals_pending", _COUNT, Lower(), None, _integer),
    Setting("budgets.proposals.perDay", "proposals_per_day", _COUNT, Lower(), None, _integer),
    Setting("budgets.proposals.perWeek", "proposals_per_week", _COUNT, Lower(), None, _integer),
    Setting("budgets.promotions.perDay", "promotions_per_day", _COUNT, Lower(), None, _integer),
    Setting("budgets.cumulativeDrift", "cumulative_drift", {}, Rules(), ()),
    Setting("budgets.errorBudget.alpha", "error_alpha",
            {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, Lower(), None, float),
    Setting("approval.onEligible", "on_eligible", quorum_schema(), Quorum(sole_person=True),
            _people(1, Role.OPERATOR), _quorum),
    Setting("approval.onReview", "on_review", quorum_schema(), Quorum(sole_person=True),
            _people(2, Role.OPERATOR, Role.SAFETY, distinct=True), _quorum),
    Setting("approval.onBlocked", "on_blocked", _choice("never"), Ranked(("never",)), "never"),
    Setting("approval.exclude", "exclude", _set_of(EXCLUSIONS), Superset(),
            ("data-author", "proposer"), _names),
    Setting("approval.coolDown", "cool_down", _DURATION, Higher(), timedelta(0), duration),
    Setting("approval.expiresAfter", "expires_after", _DURATION, Lower(), timedelta(hours=72), duration),
    Setting("approval.surfaces", "surfaces", _set_of(tuple(Surface), least=1), Subset(),
            tuple(sorted(Surface)), lambda value: tuple(sorted({Surface(word) for word in value}))),
    Setting("approval.requireViewed", "require_viewed", _set_of(VIEWABLE), Superset(),
            ("findings", "provenance", "samples"), _names),
    Setting("approval.invalidateOn", "invalidate_on", _set_of(INVALIDATORS), Superset(),
            tuple(sorted(INVALIDATORS)), _names),
    Setting("rollback", "rollback", quorum_schema(), Quorum(),
            _people(1, Role.OPERATOR, Role.SAFETY), _quorum),
    Setting("halt", "halt", quorum_schema(most=1), Halt(),
            _people(1, Role.OPERATOR, Role.SAFETY, Role.AUDITOR), _quorum),
    Setting("resume", "resume", quorum_schema(), Quorum(), _people(1, Role.OPERATOR), _quorum),
    Setting("activation.tighten", "activation_tighten", quorum_schema(), Quorum(),
            _people(1, Role.OPERATOR, Role.AUTHOR), _quorum),
    Setting("activation.loosen", "activation_loosen", quorum_schema(), Quorum(),
            _people(2, Role.OPERATOR, Role.AUTHOR, Role.SAFETY), _quorum),
    Setting("waiver", "waiver", quorum_schema(), Quorum(), _people(2, Role.OPERATOR, Role.SAFETY), _quorum),
    Setting("retention.rejectedDays", "rejected_days", _COUNT, Higher(), 30, _integer),
)  # fmt: skip

BY_PATH = {setting.path: setting for setting in SETTINGS}

UNBUILT: dict[str, tuple[str, ...]] = {
    "approval.blindSamples": ("count",),
    "approval.seededChecks": ("rate",),
    "replay": ("share", "techniques"),
    "deadMan": ("operatorSeenWithin",),
}
"""Keys of the format whose feature is not built yet: they and their members take only 0, [] or null."""

DOCS: dict[str, str] = {
    "isolation.minimum": "The least isolation level at which proposing and measuring must have run.",
    "defaults.confidence": "Of every interval, two-sided; the error budget can only raise it.",
    "defaults.minSamples": "The fewest independent items on which a sampled number counts.",
    "defaults.onInconclusive": "What too few items, or a check that does not apply, mean for the verdict.",
    "defaults.onError": "What NaN, a crash or a missing measurement mean: always block.",
    "budgets.compute.cpuSecondsPerProposal": "CPU seconds that making one proposal may take; more is blocked.",
    "budgets.compute.cpuHoursPerDay": "CPU hours in 24 hours, after which no new proposal starts.",
    "budgets.compute.cpuHoursPerWeek": "CPU hours in seven days, after which no new proposal starts.",
    "budgets.proposals.pending": "How many proposals may wait for people before no new one starts.",
    "budgets.proposals.perDay": "How many proposals may start in 24 hours.",
    "budgets.proposals.perWeek": "How many proposals may start in seven days.",
    "budgets.promotions.perDay": "How many promotions a model may have in 24 hours.",
    "budgets.cumulativeDrift": "How far a model may move from its first champion, by the upper bound; blocking.",
    "budgets.errorBudget.alpha": "The error level that all attempts since the last promotion share.",
    "approval.onEligible": "Whose approval an eligible proposal needs.",
    "approval.onReview": "Whose approval a proposal needs that the sample could not clear.",
    "approval.onBlocked": "Whose approval a blocked proposal needs: nobody's suffices.",
    "approval.exclude": "Who may not approve: the proposer, the data's author, the policy's author.",
    "approval.coolDown": "The time between a complete quorum and the promotion.",
    "approval.expiresAfter": "How long after the verdict an approval can still take effect.",
    "approval.surfaces": "Where a signature may be made to count.",
    "approval.requireViewed": "What a person must have opened before an approval counts.",
    "approval.invalidateOn": "Which changes make an approval void.",
    "rollback": "Whose signatures return a model to an earlier champion.",
    "halt": "Who may stop every job and promotion: one person always suffices.",
    "resume": "Whose signatures lift a halt.",
    "activation.tighten": "Whose signatures put a policy in force that gives nothing up.",
    "activation.loosen": "Whose signatures put a policy in force, or take one out, where something loosens.",
    "waiver": "Whose signatures grant an exception for one rule and one bundle.",
    "retention.rejectedDays": "How many days the bundle of a rejected proposal is kept.",
}
"""What each setting does: hover text in editors, and the generated documentation."""
