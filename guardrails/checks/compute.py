"""Compute: what making the proposal cost, as the supervisor measured it.

Invariants: readings come from the gate's own facts, never from the job that they are about.
"""

from __future__ import annotations

from guardrails.canonical import decimal
from guardrails.checks.check import Check, Evidence, Metric, NoParams
from guardrails.records import Compute
from guardrails.statistics import Estimate, exact

PREFIX = "compute."


def compute_facts(compute: Compute) -> dict[str, str]:
    """The supervisor's readings as facts; the only source of names below ``compute.``."""
    return {
        f"{PREFIX}cpu_seconds": decimal(compute.cpu_s),
        f"{PREFIX}wall_seconds": decimal(compute.wall_s),
        f"{PREFIX}memory_bytes": str(compute.memory_bytes),
    }


def _usage(metric: str, params: NoParams, evidence: Evidence, confidence: float) -> Estimate:
    return exact(evidence.number(f"{PREFIX}{metric}"))


CHECKS = (
    Check(
        name="compute.usage",
        doc="Resources that the proposing job used.",
        params=NoParams,
        metrics={
            "cpu_seconds": Metric("CPU time over all processes", "s", exact=True, low=0.0),
            "wall_seconds": Metric("wall clock", "s", exact=True, low=0.0),
            "memory_bytes": Metric("peak memory", "bytes", exact=True, low=0.0),
        },
        measure=_usage,
    ),
)
