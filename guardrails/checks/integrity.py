"""Integrity: is the candidate made of what it may be made of.

Invariants: each property below must have been established as ``true``; anything else, absence
included, counts as a violation.
"""

from __future__ import annotations

from guardrails.checks.check import Check, Evidence, Metric, NoParams
from guardrails.statistics import Estimate, exact

PROPERTIES = {
    "integrity.safetensors_only": "weights are safetensors and nothing that can run code",
    "integrity.finite": "every weight is a finite number",
    "integrity.same_architecture": "shapes and configuration are the champion's",
    "integrity.same_tokenizer": "the tokenizer is the champion's",
    "integrity.digest_matches": "the measured files are the submitted files, byte for byte",
}


def violations(facts: dict[str, str]) -> tuple[str, ...]:
    """The properties that do not hold, in the order above."""
    return tuple(name for name in PROPERTIES if facts.get(name) != "true")


def _weights(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    return exact(float(len(violations(dict(evidence.facts)))))


CHECKS = (
    Check(
        name="integrity.weights",
        doc="Properties of the candidate's files that must hold: " + "; ".join(PROPERTIES.values()) + ".",
        params=NoParams,
        metrics={
            "violations": Metric("properties that do not hold", "properties", exact=True, low=0.0, high=5.0)
        },
        measure=_weights,
    ),
)
