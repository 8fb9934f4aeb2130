"""Reinforcement of a language model: by a reward that can be checked, or by what people prefer.

Invariants: the recipe's ``method`` decides, and stands in the objective that is recorded; every other key is the
method's own, with the defaults of its recipe.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from guardrails.errors import InvalidInputError
from sandbox.worker.learners import Order, recipes

METHODS = {
    name: f"sandbox.worker.learners.language.{name}"
    for name in (recipes.POLICY_GRADIENT, recipes.PREFERENCE, recipes.EXPERT_ITERATION)
}


def learn(order: Order) -> dict[str, str]:
    """Learn by the method that the recipe names."""
    settings = dict(order.recipe)
    method = settings.pop("method", recipes.POLICY_GRADIENT)
    if method not in METHODS:
        raise InvalidInputError(f"recipe: method = {method!r:.40}: one of {', '.join(METHODS)}")
    claims: dict[str, str] = importlib.import_module(METHODS[method]).learn(replace(order, recipe=settings))
    return claims
