"""Outcomes: items that a model got right or wrong, whatever probe measured them; and games of two models.

Invariants: the columns ``success_candidate`` and ``success_champion`` hold 0 or 1 for each item, whether that was an
episode won, the right choice found likeliest or the right answer written; a suite is measured by one such probe.
Games (``GAMES``) are kept apart: there the two columns share 1 between them, and play may have stopped once its end
was clear, so that only what is valid at every number of items may be said of them.
"""

from __future__ import annotations

from guardrails.checks.check import Evidence, column, distinct, flags
from guardrails.errors import NotMeasuredError
from guardrails.records import Series

PROBES = ("episodes", "adaptation", "choice", "written")
GAMES = "games"


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


def game_scores(evidence: Evidence, suite: str) -> tuple[float, ...] | None:
    """The candidate's score in each item of a suite of games, in the order of play; None where it holds none.

    Raises:
        NotMeasuredError: An item stands twice, or what two players scored in it does not add up to 1.
    """
    found = evidence.measurements.find(GAMES, suite)
    if found is None or not found.items:
        return None
    series = distinct(found)
    candidate = column(series, "success_candidate", low=0.0, high=1.0)
    champion = column(series, "success_champion", low=0.0, high=1.0)
    for item, one, other in zip(series.items, candidate, champion, strict=True):
        if one + other != 1.0:
            raise NotMeasuredError(
                f"'{GAMES}' on suite '{suite}': item {item:.40}: {one} and {other} do not add up to 1"
            )
    return candidate
