"""A policy as typed values: what was stated, and where.

Invariants:
- Everything is frozen, and was checked by the loader: a Policy that exists is valid.
- A setting that a file leaves out is absent here; defaults are applied only where policies are
  combined, so that an unstated value of one policy never competes with a stated one of another.
- Every rule and every setting knows its file and line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from guardrails.checks.brought import OpaqueParams, check_of
from guardrails.policy.yaml_tree import Place
from guardrails.records import ModelKind, PolicySource, Role, Severity
from guardrails.statistics import Estimate

ENFORCE = "enforce"
SHADOW = "shadow"


@dataclass(frozen=True)
class Scope:
    """Which models a policy speaks of: every part must match; an empty part matches any."""

    kinds: frozenset[ModelKind] = frozenset(ModelKind)
    names: tuple[str, ...] = ("*",)
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, name: str, kind: ModelKind, labels: Mapping[str, str]) -> bool:
        """Whether a model falls under this scope."""
        return (
            kind in self.kinds
            and any(fnmatchcase(name, pattern) for pattern in self.names)
            and all(labels.get(key) == value for key, value in self.labels)
        )

    def covers(self, other: Scope) -> bool:
        """Whether everything in ``other`` surely falls under this scope; False where in doubt."""
        return (
            other.kinds <= self.kinds
            and ("*" in self.names or set(other.names) <= set(self.names))
            and set(self.labels) <= set(other.labels)
        )

    def __str__(self) -> str:
        labels = "".join(f", {key}={value}" for key, value in self.labels)
        return f"{'/'.join(sorted(self.kinds))} named {', '.join(self.names)}{labels}"


@dataclass(frozen=True)
class Require:
    """A pass condition: ``bound`` (upper or lower end of the interval) ``op`` ``value``.

    ``bound`` is "" for exact metrics, which have no interval.
    """

    metric: str
    bound: str
    op: str
    value: float

    def holds(self, estimate: Estimate) -> bool:
        """Whether the stated bound meets the limit. False for NaN, whatever the operator."""
        number = {"": estimate.value, "upper": estimate.upper, "lower": estimate.lower}[self.bound]
        if self.op == "<":
            return number < self.value
        if self.op == "<=":
            return number <= self.value
        if self.op == ">":
            return number > self.value
        if self.op == ">=":
            return number >= self.value
        return number == self.value

    def __str__(self) -> str:
        return f"{self.bound + ' ' if self.bound else ''}{self.metric} {self.op} {self.value:.10g}"


@dataclass(frozen=True)
class Rule:
    """One rule. ``params`` is an instance of its check's parameter class.

    Two rules that say the same in different places are equal.
    """

    id: str
    check: str
    params: Any
    require: Require
    severity: Severity
    place: Place = field(compare=False)
    when: str = ""
    waivable: bool = True
    rationale: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether its metric has no sampling in it."""
        metric = check_of(self.check).metrics.get(self.require.metric)
        if metric is None or isinstance(self.params, OpaqueParams):
            return not self.require.bound  # what is not here cannot say; the rule does
        return metric.exact

    def least_samples(self, usual: int) -> int:
        """The fewest items on which its number counts: what the rule says (``least_items``), else as usual."""
        return getattr(self.params, "least_items", 0) or usual


@dataclass(frozen=True)
class QuorumRule:
    """How many distinct people, in which roles, must sign; ``distinct_roles``: no two in the same."""

    quorum: int
    roles: tuple[Role, ...]
    distinct_roles: bool = False

    def __str__(self) -> str:
        different = ", each in a different role" if self.distinct_roles else ""
        return f"{self.quorum} of {' or '.join(self.roles)}{different}"


@dataclass(frozen=True)
class Stated:
    """A setting as a file states it."""

    value: Any
    place: Place


@dataclass(frozen=True)
class Metadata:
    """What a policy says of itself. The version is for people; what binds is the digest."""

    name: str
    version: int = 1
    owners: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class Policy:
    """One policy with everything that it extends already folded in.

    ``settings`` maps a dotted path of the format (``defaults.confidence``) to what was stated.
    """

    metadata: Metadata
    mode: str
    scope: Scope
    rules: tuple[Rule, ...]
    settings: Mapping[str, Stated]
    places: Mapping[str, Place]

    @property
    def name(self) -> str:
        """What an activation replaces: the policy in force of the same name."""
        return self.metadata.name

    @property
    def is_binding(self) -> bool:
        """False for a shadow policy: judged and logged, never binding."""
        return self.mode == ENFORCE

    def rule(self, rule_id: str) -> Rule | None:
        """The rule with this id."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)


class LoadedPolicy(NamedTuple):
    """A policy and the exact bytes that it was read from."""

    policy: Policy
    source: PolicySource
