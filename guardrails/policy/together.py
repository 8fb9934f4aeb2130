"""Several policies at once: where they contradict, and where each value that holds was stated.

Invariants: a contradiction is reported only where it is sure (no evidence whatsoever could satisfy both); the
sources of a value are all the places that it came from, and none for a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from guardrails.errors import Problem
from guardrails.policy.effective import combine
from guardrails.policy.model import Policy, Rule, Scope
from guardrails.policy.order import strictest_of
from guardrails.policy.settings import SETTINGS


@dataclass(frozen=True)
class Holding:
    """One setting as it holds. ``sources`` are ``(policy, file:line)``; empty for a default."""

    path: str
    value: Any
    sources: tuple[tuple[str, str], ...]


def holding(policies: Sequence[Policy]) -> list[Holding]:
    """Every setting as several policies together state it, and where."""
    found = []
    for setting in SETTINGS:
        stated = [(p.name, p.settings[setting.path]) for p in policies if setting.path in p.settings]
        if not stated:
            found.append(Holding(setting.path, setting.default, ()))
            continue
        value = strictest_of(setting.order, [s.value for _, s in stated])
        alone = [(name, str(s.place)) for name, s in stated if s.value == value]
        # Where no single policy says all of it (two quorums side by side), each is a source.
        sources = alone[:1] or [(name, str(s.place)) for name, s in stated]
        found.append(Holding(setting.path, value, tuple(sources)))
    return found


def contradictions(policies: Sequence[Policy]) -> list[Problem]:
    """Rules that nothing can satisfy together, and settings that leave no way to approve."""
    binding = [policy for policy in policies if policy.is_binding]
    found = list(_rule_contradictions(binding))
    for group in _overlapping(binding):
        found.extend(_setting_contradictions(group))
    return sorted(set(found), key=lambda p: (p.file, p.line, p.column))


def _overlapping(policies: Sequence[Policy]) -> Iterator[Sequence[Policy]]:
    yield from ([policy] for policy in policies)
    yield from (pair for pair in combinations(policies, 2) if overlap(pair[0].scope, pair[1].scope))


def overlap(a: Scope, b: Scope) -> bool:
    """Whether some model surely falls under both; False where in doubt."""
    labels = dict(a.labels)
    apart = any(labels.get(key, value) != value for key, value in b.labels)
    names = "*" in a.names or "*" in b.names or set(a.names) & set(b.names)
    return bool(a.kinds & b.kinds) and bool(names) and not apart


def _rule_contradictions(policies: Sequence[Policy]) -> Iterator[Problem]:
    rules = [(policy, rule) for policy in policies for rule in policy.rules]
    for (policy, rule), (other_policy, other) in combinations(rules, 2):
        if not overlap(policy.scope, other_policy.scope) or not _same_number(rule, other):
            continue
        low, high = (rule, other) if rule.require.op[0] == ">" else (other, rule)
        if low.require.op[0] != ">" or high.require.op[0] != "<":
            continue
        if low.require.value > high.require.value or (
            low.require.value == high.require.value and (low.require.op, high.require.op) != (">=", "<=")
        ):
            yield rule.place.problem(
                f"rule '{rule.id}': '{rule.require}' and '{other.require}' of rule '{other.id}' in {other.place} "
                "cannot both hold, so no proposal can pass",
                "change one of the limits, or let 'when' or 'appliesTo' keep them apart",
            )


def _same_number(a: Rule, b: Rule) -> bool:
    """Whether both read the same number wherever one of them applies."""
    same = (a.check, a.params, a.require.metric) == (b.check, b.params, b.require.metric)
    return same and (a.when == b.when or not a.when or not b.when)


def _setting_contradictions(policies: Sequence[Policy]) -> Iterator[Problem]:
    effective = combine(policies)
    names = " and ".join(f"'{policy.name}'" for policy in policies)
    here = {policy.name: policy for policy in policies}[policies[-1].name].places[""]
    if not effective.surfaces:
        yield here.problem(f"{names} together leave no surface to sign on", "see approval.surfaces of both")
    if effective.cool_down >= effective.expires_after:
        yield here.problem(
            f"{names} together let every approval expire before its cool-down ends",
            "see approval.coolDown and approval.expiresAfter",
        )
    for verdict, quorums in (("onEligible", effective.on_eligible), ("onReview", effective.on_review)):
        for quorum in quorums:
            if quorum.distinct_roles and quorum.quorum > len(quorum.roles):
                yield here.problem(f"approval.{verdict} asks for {quorum}, which nobody can meet")


def unknown_waivers(policies: Sequence[Policy], waivers: Iterable[tuple[str, str]]) -> list[str]:
    """Waivers, given as id and rule, of rules that no policy has: they waive nothing, and mislead."""
    known = {rule.id for policy in policies for rule in policy.rules}
    return [
        f"waiver {waiver} is for rule '{rule}', which no policy in force has"
        for waiver, rule in waivers
        if rule not in known
    ]
