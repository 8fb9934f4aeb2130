"""Transfer of a language model: a new task from what the champion already knows.

Invariants:
- The champion's own weights stay what they are where ``form`` is ``adapter``: what it could do before comes back by
  taking the adapter off.
- ``start = scratch`` forgets what the champion knows and then does exactly the same: the same architecture, examples,
  updates and rates. It is there to be compared with, and cannot train an adapter, for there is nothing under it.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

from typing import Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker.learners import Order, forms, memory, read_recipe
from sandbox.worker.learners.language.pairs import finish, fit, read_groups
from sandbox.worker.learners.language.sampling import load_tokenizer
from sandbox.worker.learners.language.updates import require

DEFAULTS: dict[str, Any] = {
    "start": "champion",  # or scratch
    "steps": 80,  # updates
    "batch": 32,  # records in one update
    "length": 64,  # tokens of a record that are read; the rest is cut
    "lr": 5e-3,  # highest learning rate
    "warmup": 0.1,  # share of the steps in which the rate rises; then it falls to zero in a line
    "weight_decay": 0.0,
    "clip": 1.0,  # highest norm of a gradient
    "form": "adapter",  # adapter | full
    "rank": 16,
    "alpha": 32,
    "targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    "dtype": "auto",  # of the frozen weights under an adapter
}
STARTS = ("champion", "scratch")


def learn(order: Order) -> dict[str, str]:
    """Learn the records of ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, DEFAULTS)
    require(recipe, ("steps", "batch", "length", "rank"), ("lr", "clip", "alpha"))
    if recipe["start"] not in STARTS:
        raise InvalidInputError(f"recipe: start = {recipe['start']!r:.40}: one of {', '.join(STARTS)}")
    scratch = recipe["start"] == "scratch"
    if scratch and recipe["form"] != forms.FULL:
        raise InvalidInputError("recipe: start = scratch needs form = full")
    groups = read_groups(order, load_tokenizer(order.champion), recipe["length"])
    rows = [row for group in groups.values() for row in group]
    plan = memory.plan(order, recipe, min(recipe["batch"], len(rows)), recipe["length"])
    order.report(0.0, "loading", records=len(rows), **plan.claims)
    torch.manual_seed(order.seed)
    model = forms.prepare(order.champion, recipe)
    if scratch:
        model = type(model)(model.config).train()
    losses = fit(plan.applied(model), rows, recipe, order.seed, order.report, plan.rows)
    return finish(order, model, recipe, losses, len(rows)) | plan.claims
