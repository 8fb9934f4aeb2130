"""Transfer: from what the champion can to a new family of levels, by a few demonstrations of it.

Invariants:
- Only levels in the task's records are learnt from, as their demonstrations go, turned and mirrored.
- Two runs with the same champion, records, recipe and seed write the same bytes.
- With ``form = adapter`` the champion's own weights are never written: a low-rank adapter goes to ``out/model``, and is
  merged elsewhere. With ``form = full`` the whole model does.
- ``start = scratch`` forgets the champion before the first update. It is there to be compared with, at
  equal compute: what transfer brings is the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.worker import adapters, data
from sandbox.worker.learners import Order, loss_claims, recipes
from sandbox.worker.learners.levels import load_champion, read_records, recorded, save
from sandbox.worker.learners.levels.imitation import Settings, examples, imitate, turned
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPREAD = 0.1  # of the weights of a model from scratch, as of the shipped bases


def learn(order: Order) -> dict[str, str]:
    """Learn the demonstrations of ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.TRANSFER_IN_LEVELS)
    records = recorded(read_records(order.data))
    records = records[: recipe["demonstrations"] or len(records)]
    order.report(0.0, "loading", demonstrations=len(records))
    model, encoder = load_champion(order)
    if recipe["start"] == "scratch":
        forget(model)
    known = examples(encoder, turned(records, recipe["forms"], order.seed))
    learner = adapters.with_adapter(model, recipe) if recipe["form"] == "adapter" else model
    settings = Settings(recipe["updates"], recipe["batch"], recipe["lr"])
    total = settings.steps
    losses = imitate(
        learner, encoder, known, settings, order.seed,
        lambda step, loss: order.report(step / total, "training", step=step, loss=round(loss, 4)),
    )  # fmt: skip
    values = [record.value for record in records]
    if recipe["form"] == "adapter":
        _save_adapter(order, learner, values)
    else:
        save(order, model, values)
    return loss_claims(losses, len(records))


def forget(model: PreTrainedModel) -> None:
    """Draw every matrix anew; what is a vector (the scales of norms) becomes ones."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, SPREAD))  # drawn on the processor
            else:
                parameter.fill_(1.0)


def _save_adapter(order: Order, model: PreTrainedModel, values: list[Any]) -> None:
    data.write_records(order.out / "data" / "layouts.jsonl", values)
    adapters.save_adapter(order.out / "model", model)
