"""Meta-learning: become a model that a few examples of a new kind of level are enough for.

Invariants:
- Only families of levels in the task's records are learnt from; on which family the result is judged is not known
  here.
- Two runs with the same champion, records, recipe and seed write the same bytes.
- ``method = joint`` draws the same number of examples of the same families in as many updates as ``reptile``, and mixes
  them in each: ordinary training, to be compared with at equal compute.

``method = reptile`` (Nichol, Achiam and Schulman 2018, arXiv:1803.02999): take a few steps on one family, and move a part
of the way to where they led; then another family. A record's family is its field ``family``, or else its level's wiring.

``method = rescale`` learns two numbers instead: how readily the weights that say an action are to learn (``HEADS``), and
how slowly all others (``BODIES``). They are written into the weights (``rescaling``), for the short training on a new
family is somebody else's; until then the model acts as before. Of all pairs that one is kept with which most other levels
of a family are won after a visit, in the mean of the families.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.environments import world
from sandbox.worker.environments.episodes import play, rate
from sandbox.worker.environments.policy import Encoder, Policy
from sandbox.worker.learners import Order, loss_claims, recipes
from sandbox.worker.learners.levels import Record, load_champion, read_records, recorded, save
from sandbox.worker.learners.levels.imitation import (
    MAX_NORM,
    Examples,
    Settings,
    examples,
    imitate,
    loss_of,
    turned,
)
from sandbox.worker.learners.levels.rescaling import require_same, rescale, spoken
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMOOTHING = 0.05
HEADS = (1.0, 8.0, 32.0)
BODIES = (1.0, 8.0)
"""Powers of two: products with them are exact."""
ASKED = 24  # levels of a family that tell how well a visit served


def learn(order: Order) -> dict[str, str]:
    """Learn the families of ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.META_IN_LEVELS)
    records = recorded(read_records(order.data))
    families = _families(records)
    if len(families) < 2:
        raise InvalidInputError("meta-learning needs two families of levels or more; the records hold one")
    order.report(0.0, "loading", families=len(families))
    model, encoder = load_champion(order)
    losses = METHODS[recipe["method"]](order, model, encoder, families, recipe)
    save(order, model, [record.value for record in records])
    return loss_claims(losses, len(records))


def _families(records: list[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        name = record.family or world.parse_level(record.layout).wiring
        found.setdefault(name, []).append(record)
    return dict(sorted(found.items()))


def _reptile(
    order: Order,
    model: PreTrainedModel,
    encoder: Encoder,
    families: dict[str, list[Record]],
    recipe: dict[str, Any],
) -> list[float]:
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    names, losses = list(families), []
    for visit in range(recipe["rounds"]):
        records = families[names[visit % len(names)]]
        shots = draw.sample(records, min(recipe["shots"] or len(records), len(records)))
        known = examples(encoder, turned(shots, recipe["forms"], draw.randrange(2**31)))
        before = [weights.detach().clone() for weights in model.parameters()]
        losses += _visit(model, encoder, known, recipe, draw.randrange(2**31))
        part = recipe["step"] * (1 - visit / recipe["rounds"])
        with torch.no_grad():
            for weights, begun in zip(model.parameters(), before, strict=True):
                weights.copy_(begun + part * (weights - begun))
        order.report((visit + 1) / recipe["rounds"], "training", visit=visit + 1, loss=round(losses[-1], 4))
    return losses


def _visit(
    model: PreTrainedModel, encoder: Encoder, known: Examples, recipe: dict[str, Any], seed: int
) -> list[float]:
    """A few updates on one family, each visit with an optimiser of its own."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe["lr"])
    losses = []
    for _ in range(recipe["inner"]):
        rows = torch.randint(len(known), (recipe["batch"],), generator=generator)
        loss = loss_of(model, Examples(known.ids[rows], known.said[rows]), encoder, SMOOTHING)
        if not torch.isfinite(loss):
            raise JobFailedError(f"the loss became {loss.item()}", hint="try a lower lr in the recipe")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _joint(
    order: Order,
    model: PreTrainedModel,
    encoder: Encoder,
    families: dict[str, list[Record]],
    recipe: dict[str, Any],
) -> list[float]:
    records = [record for group in families.values() for record in group]
    known = examples(encoder, turned(records, recipe["forms"], order.seed))
    settings = Settings(
        recipe["rounds"] * recipe["inner"], recipe["batch"], recipe["lr"], smoothing=SMOOTHING
    )
    return imitate(
        model, encoder, known, settings, order.seed,
        lambda step, loss: order.report(step / settings.steps, "training", step=step, loss=round(loss, 4)),
    )  # fmt: skip


def _rescale(
    order: Order,
    model: PreTrainedModel,
    encoder: Encoder,
    families: dict[str, list[Record]],
    recipe: dict[str, Any],
) -> list[float]:
    draw = random.Random(order.seed)  # noqa: S311 - a reproducible draw, not a secret
    visits = []
    for records in families.values():
        shuffled = draw.sample(records, len(records))
        shots = min(recipe["shots"] or len(shuffled), (len(shuffled) + 1) // 2)
        shown = examples(encoder, turned(shuffled[:shots], recipe["forms"], draw.randrange(2**31)))
        asked = [record.layout for record in shuffled[shots : shots + ASKED] or shuffled]
        visits.append((shown, asked, draw.randrange(2**31)))
    before = [weights.detach().clone() for weights in model.parameters()]
    known = visits[0][0].ids
    said = spoken(model, encoder, known)
    losses: list[float] = []
    after: dict[tuple[float, float], float] = {}
    pairs = list(itertools.product(HEADS, BODIES))
    for at, (head, body) in enumerate(pairs):
        won = []
        for shown, asked, seed in visits:
            _restore(model, before)
            rescale(model, encoder, head, body)
            losses += _visit(model, encoder, shown, recipe, seed)
            won.append(rate(play(Policy(model, encoder), asked), "success"))
        after[head, body] = sum(won) / len(won)
        order.report((at + 1) / len(pairs), "training", head=head, body=body, won=round(after[head, body], 4))
    _restore(model, before)
    rescale(model, encoder, *max(after, key=after.__getitem__))
    require_same(model, encoder, known, said)
    return losses


def _restore(model: PreTrainedModel, before: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for weights, begun in zip(model.parameters(), before, strict=True):
            weights.copy_(begun)


METHODS = {"reptile": _reptile, "rescale": _rescale, "joint": _joint}
