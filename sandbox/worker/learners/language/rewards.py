"""Rewards that can be checked: how good an answer is, given the right one. No model has a say in it.

Invariants: a reward lies in 0..1, and is 1 only for the right answer, ended where it ends.
"""

from __future__ import annotations

from collections.abc import Callable

from guardrails.errors import InvalidInputError


def _places(said: str, answer: str) -> float:
    right = sum(one == other for one, other in zip(said, answer, strict=False))
    return 0.5 * (said == answer) + 0.5 * right / max(len(said), len(answer), 1)


REWARDS: dict[str, Callable[[str, str], float]] = {
    "places": _places,
    "exact": lambda said, answer: float(said == answer),
}
"""``places``: half for the whole answer, half by the share of places that are right. ``exact``: all or nothing."""


def reward_of(name: str) -> Callable[[str, str], float]:
    """The reward of that name; raises InvalidInputError where there is none."""
    if name not in REWARDS:
        raise InvalidInputError(f"recipe: reward = {name!r:.40}: one of {', '.join(REWARDS)}")
    return REWARDS[name]
