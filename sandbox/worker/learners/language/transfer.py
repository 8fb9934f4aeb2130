"""Transfer of a language model: a new task from what the champion already knows.

Invariants:
- The champion's own weights stay what they are where ``form`` is ``adapter``: what it could do before comes back by
  taking the adapter off.
- ``start = scratch`` forgets what the champion knows and then does exactly the same: the same architecture, examples,
  updates and rates. It is there to be compared with, and cannot train an adapter, for there is nothing under it.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker.learners import Order, forms, memory, recipes
from sandbox.worker.learners.language.pairs import finish, fit, read_groups
from sandbox.worker.learners.language.sampling import load_tokenizer
from sandbox.worker.learners.settings import read_recipe


def learn(order: Order) -> dict[str, str]:
    """Learn the records of ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.TRANSFER)
    scratch = recipe["start"] == "scratch"
    if scratch and recipe["form"] != forms.FULL:
        raise InvalidInputError("recipe: start = scratch needs form = full")
    groups = read_groups(order, load_tokenizer(order.champion), recipe["length"])
    rows = [row for group in groups.values() for row in group]
    plan = memory.plan(order, recipe, min(recipe["batch"], len(rows)), recipe["length"])
    order.report(0.0, "loading", records=len(rows), **plan.claims)
    torch.manual_seed(order.seed)
    model = forms.prepare(order.champion, recipe, order.device)
    if scratch:
        model = type(model)(model.config).train().to(order.device)
    losses = fit(plan.applied(model), rows, recipe, order.seed, order.report, plan.rows)
    return finish(order, model, recipe, losses, len(rows)) | plan.claims
