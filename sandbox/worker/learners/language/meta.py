"""Meta-learning of a language model: become one that a few examples of a new skill are enough for (Reptile).

Invariants:
- Only the skills in the task's records are learnt from; on which skill the result is judged is not known here.
- ``method = joint`` draws as many examples of the same skills in as many updates, and mixes them in each: ordinary
  training, to be compared with at equal compute.
- Two runs with the same champion, records, recipe and seed write the same bytes.

Reptile (Nichol, Achiam and Schulman 2018, arXiv:1803.02999): take a few steps on one skill, and move a part of the way
to where they led; then another skill. A record's skill is its field ``skill``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.learners import Order, forms, memory, recipes
from sandbox.worker.learners.language.pairs import Row, finish, fit, losses_of, read_groups
from sandbox.worker.learners.language.sampling import load_tokenizer
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BETAS = (
    0.0,
    0.999,
)  # without momentum, which would carry one skill's direction into the next visit's first step


def learn(order: Order) -> dict[str, str]:
    """Learn the skills of ``order.data``; returns what the run claims about itself."""
    recipe = {**read_recipe(order.recipe, recipes.META), "form": forms.FULL}
    groups = read_groups(order, load_tokenizer(order.champion), recipe["length"])
    if len(groups) < 2:
        raise InvalidInputError(
            "meta-learning needs records of two skills or more", hint="a record's field skill names its group"
        )
    plan = memory.plan(order, recipe, recipe["batch"], recipe["length"])
    order.report(0.0, "loading", skills=len(groups), **plan.claims)
    torch.manual_seed(order.seed)
    model = plan.applied(forms.prepare(order.champion, recipe, order.device))
    rows = [row for group in groups.values() for row in group]
    if recipe["method"] == "joint":
        steps = recipe["rounds"] * recipe["inner"]
        losses = fit(model, rows, {**recipe, "steps": steps}, order.seed, order.report, plan.rows)
    else:
        losses = _reptile(order, model, list(groups.values()), recipe, plan.rows)
    return finish(order, model, recipe, losses, len(rows)) | plan.claims


def _reptile(
    order: Order,
    model: PreTrainedModel,
    skills: Sequence[Sequence[Row]],
    recipe: dict[str, Any],
    at_once: int,
) -> list[float]:
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    losses: list[float] = []
    for visit in range(recipe["rounds"]):
        before = [weights.detach().clone() for weights in model.parameters()]
        losses += _visit(model, skills[visit % len(skills)], recipe, draw, at_once)
        part = recipe["step"] * (1 - visit / recipe["rounds"])
        with torch.no_grad():
            for weights, begun in zip(model.parameters(), before, strict=True):
                weights.copy_(begun + part * (weights - begun))
        share = (visit + 1) / recipe["rounds"]
        order.report(share, "training", visit=visit + 1, loss=round(losses[-1], 4))
    return losses


def _visit(
    model: PreTrainedModel, rows: Sequence[Row], recipe: dict[str, Any], draw: random.Random, at_once: int
) -> list[float]:
    """A few updates on one skill, each visit with an optimiser of its own."""
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe["lr"], betas=_BETAS)
    losses = []
    for _ in range(recipe["inner"]):
        optimizer.zero_grad(set_to_none=True)
        losses.append(0.0)
        for loss in losses_of(model, draw.sample(rows, min(recipe["batch"], len(rows))), at_once):
            losses[-1] += loss.item()
            if not math.isfinite(losses[-1]):
                raise JobFailedError(f"the loss became {losses[-1]}", hint="try a lower lr in the recipe")
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        optimizer.step()
    return losses
