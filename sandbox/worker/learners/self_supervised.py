"""Self-supervised continued training: read more text, and predict its next token better.

Invariants:
- The champion's own files are never written; unless the recipe says otherwise, only a low-rank adapter is trained.
- Two runs with the same champion, records, recipe and seed write the same bytes.
- Records of a control (field ``replay``) are learnt only where the recipe says so, in the share that it says.
- A loss that is not finite, or data without one usable record, raises before anything is written.

What was trained (``form``: an adapter in PEFT layout, or a whole model) goes to ``out/model``, the records used to
``out/data/train.jsonl``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import data, weights
from sandbox.worker.learners import Order, forms, loss_claims, memory, recipes
from sandbox.worker.learners.language.pairs import losses_of
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REPLAY = "replay"
"""The field of a record that is there against forgetting; it names the control that it is of."""


def learn(order: Order) -> dict[str, str]:
    """Train an adapter on the records of ``order.data``; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.TEXT)
    found = [line for line in data.read_directory(order.data) if line.text.strip()]
    lines = [line for line in found if REPLAY not in line.value]
    replayed = [line for line in found if REPLAY in line.value] if recipe["replay"] else []
    if not lines:
        raise InvalidInputError("no record has any text to learn from", hint="a record needs a field text")
    if recipe["replay"] and not replayed:
        raise InvalidInputError(
            "recipe: replay needs records of a control, and there are none",
            hint='name controls in the model\'s configuration: replay = ["control-kjv"]',
        )
    plan = memory.plan(order, recipe, recipe["batch"], recipe["length"])
    order.report(0.0, "loading", records=len(lines) + len(replayed), **plan.claims)
    model, rows, again = _prepare(order, recipe, lines, replayed)
    losses = list(
        _train(plan.applied(model), _mixed(rows, again, recipe, order.seed), recipe, order, plan.rows)
    )
    data.write_records(order.out / "data" / "train.jsonl", [line.value for line in lines + replayed])
    forms.save(model, recipe, order.champion, order.out / "model")
    dtype = str(model.dtype).removeprefix("torch.")
    return {**loss_claims(losses, len(rows) + len(again)), **plan.claims, "dtype": dtype}


def _prepare(
    order: Order, recipe: dict[str, Any], lines: Sequence[data.Line], replayed: Sequence[data.Line]
) -> tuple[PreTrainedModel, list[list[int]], list[list[int]]]:
    import torch

    torch.manual_seed(order.seed)
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError("the champion has no tokenizer", hint="text cannot be learnt without one")
    rows, again = (_rows(tokenizer, some, recipe["length"]) for some in (lines, replayed))
    if not rows or (replayed and not again):
        raise InvalidInputError("no record has two tokens or more: nothing to predict")
    return forms.prepare(order.champion, recipe, order.device), rows, again


def _rows(tokenizer: PreTrainedTokenizerBase, lines: Sequence[data.Line], length: int) -> list[list[int]]:
    """Records in tokens; too short ones teach nothing."""
    found = (
        tokenizer(line.text, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
        for line in lines
    )
    return [row for row in found if len(row) >= 2]


def _train(
    model: PreTrainedModel,
    batches: Iterator[list[list[int]]],
    recipe: dict[str, Any],
    order: Order,
    at_once: int,
) -> Iterator[float]:
    updates = Updates(forms.trained(model), recipe)
    for step in range(recipe["steps"]):
        value = updates.step_of(losses_of(model, [(row, row) for row in next(batches)], at_once))
        order.report((step + 1) / recipe["steps"], "training", step=step + 1, loss=round(value, 4))
        yield value


def _mixed(
    rows: list[list[int]], again: list[list[int]], recipe: dict[str, Any], seed: int
) -> Iterator[list[list[int]]]:
    """Endless batches; of each, the recipe's share is of the records that are there against forgetting."""
    share = round(recipe["batch"] * recipe["replay"])
    if not share:
        yield from _batches(rows, recipe["batch"], seed)
    own, old = _batches(rows, max(1, recipe["batch"] - share), seed), _batches(again, share, seed)
    while True:
        yield next(own) + next(old)


def _batches(rows: list[list[int]], size: int, seed: int) -> Iterator[list[list[int]]]:
    """Endless batches; every pass over the rows has its own order, and rows of like length lie together."""
    order = random.Random(seed)  # noqa: S311 - a training order is no secret
    size = min(size, len(rows))
    while True:
        shuffled = order.sample(rows, len(rows))
        window = size * 8  # sorting inside windows saves padding and keeps the order random
        batches = []
        for start in range(0, len(shuffled), window):
            near = sorted(shuffled[start : start + window], key=len)
            batches += [near[at : at + size] for at in range(0, len(near) - size + 1, size)]
        order.shuffle(batches)
        yield from batches
