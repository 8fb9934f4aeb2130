"""Which policies are in force, for whom, and what they ask for together. Pure.

Invariant: of several policies the strictest value of each key holds; no policy for a model means blocked.
"""

from __future__ import annotations

from functools import lru_cache

from guardrails.canonical import Digest
from guardrails.decision_log.tables import Reader
from guardrails.ledger.rows import ModelRow, PolicyRow, read_all
from guardrails.policy import Effective, Policy, combine, matching, parse_policy
from guardrails.records import ModelKind, PolicySource


@lru_cache(maxsize=256)
def _parsed(digest: Digest, name: str, texts: tuple[tuple[str, str], ...], order: tuple[str, ...]) -> Policy:
    return parse_policy(PolicySource(name, digest, order, dict(texts)))


def policy_of(source: PolicySource) -> Policy:
    """The policy in activated bytes; parsed once per digest."""
    return _parsed(source.digest, source.name, tuple(sorted(source.files.items())), source.order)


def policies_for(tables: Reader, model: ModelRow) -> tuple[PolicyRow, ...]:
    """The binding policies in force that speak of a model."""
    rows = {row.name: row for row in read_all(tables, PolicyRow)}
    policies = [policy_of(row.source) for row in rows.values()]
    found = matching(policies, model.name, ModelKind(model.kind), model.labels)
    return tuple(rows[policy.name] for policy in found)


def effective_for(tables: Reader, model: ModelRow) -> Effective:
    """The strictest of what the policies for a model state."""
    return combine([policy_of(row.source) for row in policies_for(tables, model)])


def effective_everywhere(tables: Reader) -> Effective:
    """The strictest of what all binding policies state: for halts, resumes, activations and waivers."""
    policies = [policy_of(row.source) for row in read_all(tables, PolicyRow)]
    return combine([policy for policy in policies if policy.is_binding])
