"""Policies and evidence for tests: the smallest valid thing, to be changed in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from guardrails import canonical, engine
from guardrails.policy import LoadedPolicy, Policy, Subject, parse_policy, source_digest
from guardrails.records import Finding, Measurements, ModelKind, PolicySource, Series, Verdict, Waiver

DEFAULT = Path(__file__).parent.parent / "policies" / "default.yaml"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BUNDLE = canonical.digest(b"bundle")
EVIDENCE = canonical.digest(b"evidence")


def rule(**changes: Any) -> dict[str, Any]:
    """A rule on drift, as YAML values."""
    return {
        "id": "drift.output",
        "check": "drift.output_kl",
        "params": {"suite": "control"},
        "require": {"metric": "kl_mean", "bound": "upper", "op": "<", "value": 0.15},
        "severity": "review",
    } | changes


def integrity_rule(**changes: Any) -> dict[str, Any]:
    """An exact rule, as YAML values."""
    return {
        "id": "integrity.weights",
        "check": "integrity.weights",
        "require": {"metric": "violations", "op": "==", "value": 0},
        "severity": "block",
    } | changes


def document(*rules: dict[str, Any], name: str = "p", **keys: Any) -> dict[str, Any]:
    """A policy document, as YAML values."""
    head = {"apiVersion": "interlock/v1", "kind": "Policy", "metadata": {"name": name, "version": 1}}
    return head | {"rules": list(rules)} | keys


def source(*files: tuple[str, dict[str, Any] | str], name: str = "p") -> PolicySource:
    """A source of these files; the first is the policy itself."""
    texts = {f: t if isinstance(t, str) else yaml.safe_dump(t, sort_keys=False) for f, t in files}
    return PolicySource(name, source_digest(texts), tuple(texts), texts)


def loaded(*rules: dict[str, Any], name: str = "p", **keys: Any) -> LoadedPolicy:
    """A policy of these rules."""
    made = source((f"{name}.yaml", document(*rules, name=name, **keys)), name=name)
    return LoadedPolicy(parse_policy(made), made)


def policy(*rules: dict[str, Any], name: str = "p", **keys: Any) -> Policy:
    """A policy of these rules, without its bytes."""
    return loaded(*rules, name=name, **keys).policy


def subject(**changes: Any) -> Subject:
    """A language model's proposal, made at level strict."""
    values: dict[str, Any] = {
        "proposal": "P-0001",
        "model": "assistant",
        "kind": ModelKind.LLM,
        "bundle": BUNDLE,
        "technique": "self_supervised",
        "submitted": False,
        "seed": 7,
        "isolation": "strict",
        "proposer": "loop",
        "measured_at": "strict",
        "labels": {"tier": "prod"},
    }
    return Subject(**(values | changes))


def drift(values: Sequence[float], suite: str = "control") -> Series:
    """Per-item KL values."""
    items = tuple(f"i{n}" for n in range(len(values)))
    return Series("distribution", suite, items, {"kl_mean": tuple(values)})


SOUND = {
    f"integrity.{name}": "true"
    for name in ("safetensors_only", "finite", "same_architecture", "same_tokenizer", "digest_matches")
}


def verdict(
    policies: Sequence[LoadedPolicy],
    *series: Series,
    facts: Mapping[str, str] | None = None,
    gate_facts: Mapping[str, str] | None = None,
    waivers: Sequence[Waiver] = (),
    attempt: int = 1,
    measured: bool = True,
    about: Subject | None = None,
) -> Verdict:
    """The engine's verdict on these measurements."""
    given = dict(SOUND if facts is None else facts)
    return engine.judge(
        policies,
        engine.Case(
            subject=about or subject(),
            measurements=Measurements(tuple(series), given) if measured else None,
            evidence=EVIDENCE,
            facts=gate_facts or {"compute.cpu_seconds": "10.0"},
            waivers=waivers,
            attempt=attempt,
            now=NOW,
        ),
    )


def finding(result: Verdict, rule_id: str) -> Finding:
    """The only finding of a rule."""
    (found,) = [f for f in result.findings if f.rule == rule_id]
    return found
