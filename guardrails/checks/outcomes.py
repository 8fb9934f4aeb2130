"""Outcomes: items that a model got right or wrong, whatever probe measured them.

Invariants: the columns ``success_candidate`` and ``success_champion`` hold 0 or 1 for each item, whether that was an
episode won, the right choice found likeliest or the right answer written; a suite is measured by one such probe.
"""

from __future__ import annotations

from guardrails.checks.check import Evidence, distinct, flags
from guardrails.records import Series

PROBES = ("episodes", "adaptation", "choice", "answer")


def outcomes(evidence: Evidence, suite: str) -> Series | None:
    """The series of outcomes on a suite, or None where it holds none."""
    for probe in PROBES:
        found = evidence.measurements.find(probe, suite)
        if found is not None and found.items:
            return distinct(found)
    return None


def successes(series: Series) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which items candidate and champion got right."""
    return flags(series, "success_candidate"), flags(series, "success_champion")
