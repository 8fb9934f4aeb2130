"""Which of two values is stricter: the one place that knows, for every setting.

Invariants:
- ``loosens`` is True where in doubt: values that cannot be compared loosen.
- ``strictest`` of two values is at least as strict as each.
- None means "not limited" and is the loosest value of whatever may be None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from guardrails.policy.model import QuorumRule, Rule


class Order(Protocol):
    """A direction of strictness on one kind of value."""

    def loosens(self, old: Any, new: Any) -> bool:
        """Whether replacing ``old`` by ``new`` gives up any strictness."""
        ...

    def strictest(self, a: Any, b: Any) -> Any:
        """A value at least as strict as both."""
        ...


@dataclass(frozen=True)
class Higher:
    """More is stricter."""

    def loosens(self, old: Any, new: Any) -> bool:
        return bool(old is not None and (new is None or new < old))

    def strictest(self, a: Any, b: Any) -> Any:
        return max((v for v in (a, b) if v is not None), default=None)


@dataclass(frozen=True)
class Lower:
    """Less is stricter."""

    def loosens(self, old: Any, new: Any) -> bool:
        return bool(old is not None and (new is None or new > old))

    def strictest(self, a: Any, b: Any) -> Any:
        return min((v for v in (a, b) if v is not None), default=None)


@dataclass(frozen=True)
class Ranked:
    """Words from loose to strict."""

    words: tuple[str, ...]

    def loosens(self, old: Any, new: Any) -> bool:
        return self.words.index(new) < self.words.index(old)

    def strictest(self, a: Any, b: Any) -> Any:
        return max(a, b, key=self.words.index)


@dataclass(frozen=True)
class Superset:
    """A set where having more is stricter (what must be viewed, who is excluded)."""

    def loosens(self, old: Any, new: Any) -> bool:
        return not set(old) <= set(new)

    def strictest(self, a: Any, b: Any) -> Any:
        return tuple(sorted({*a, *b}))


@dataclass(frozen=True)
class Subset:
    """A set where having less is stricter (where people may sign)."""

    def loosens(self, old: Any, new: Any) -> bool:
        return not set(new) <= set(old)

    def strictest(self, a: Any, b: Any) -> Any:
        return tuple(sorted(set(a) & set(b)))


@dataclass(frozen=True)
class Quorum:
    """Quorums: a tuple of rules, all of which must be met.

    Several policies' quorums are put side by side and not merged into one: the intersection of
    their roles could be empty, which nobody could sign, and their union would be looser than each.

    ``sole_person``: an exclusion does not bind the only person who holds a quorum-of-one's roles.
    Naming fewer roles makes such a person more likely, so there it is not a tightening.
    """

    sole_person: bool = False

    def loosens(self, old: Any, new: Any) -> bool:
        return not all(any(self._implies(b, a) for b in new) for a in old)

    def strictest(self, a: Any, b: Any) -> Any:
        return (*a, *(rule for rule in b if rule not in a))

    def _implies(self, new: QuorumRule, old: QuorumRule) -> bool:
        if self.sole_person and new.quorum == 1 and set(new.roles) != set(old.roles):
            return False
        # With distinct roles each other role has room for one signature, so the rest come from the old ones.
        others = set(new.roles) - set(old.roles)
        within = new.quorum - len(others) if new.distinct_roles or not others else 0
        return within >= old.quorum and (new.distinct_roles or not old.distinct_roles)


@dataclass(frozen=True)
class Halt:
    """Who may stop everything: one person always suffices, and more roles is the safer side."""

    def loosens(self, old: Any, new: Any) -> bool:
        return not set(old[0].roles) <= set(new[0].roles)

    def strictest(self, a: Any, b: Any) -> Any:
        return (QuorumRule(1, tuple(sorted({*a[0].roles, *b[0].roles}))),)


@dataclass(frozen=True)
class Rules:
    """Rules that a setting stands for (cumulative drift): all hold, side by side."""

    def loosens(self, old: Any, new: Any) -> bool:
        return not all(any(not rule_loosenings(a, b) for b in new) for a in old)

    def strictest(self, a: Any, b: Any) -> Any:
        return (*a, *(rule for rule in b if rule not in a))


_SEVERITY = Ranked(("warn", "review", "block"))


def rule_loosenings(old: Rule, new: Rule) -> list[str]:
    """In which parts ``new`` is looser than ``old``, or cannot be compared with it."""
    parts: list[tuple[str, bool]] = [
        ("check", new.check != old.check),
        ("params", new.params != old.params),
        ("when", bool(new.when) and new.when != old.when),
        ("require", _limit_loosens(old, new)),
        ("severity", _SEVERITY.loosens(old.severity, new.severity)),
        ("waivable", new.waivable and not old.waivable),
    ]
    return [name for name, is_looser in parts if is_looser]


def _limit_loosens(old: Rule, new: Rule) -> bool:
    a, b = old.require, new.require
    if a == b:
        return False
    if (a.metric, a.bound) != (b.metric, b.bound):
        return True
    if a.op[0] != b.op[0] or "==" in (a.op, b.op):
        return True
    limit: Order = Lower() if a.op[0] == "<" else Higher()
    return limit.loosens(a.value, b.value) or (a.value == b.value and len(b.op) > len(a.op))


def strictest_of(order: Order, values: Sequence[Any]) -> Any:
    """The strictest of one or more values."""
    result = values[0]
    for value in values[1:]:
        result = order.strictest(result, value)
    return result
