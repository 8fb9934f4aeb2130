"""Learning to give the answers of records: what transfer and meta-learning of language models share.

Invariants:
- A record is learnt from or refused with file and line; only what comes after its prompt is learnt.
- Two runs with the same model, rows, recipe and seed change the weights in the same way.

Records are ``{"prompt", "answer"}``, or ``{"text"}``, of which every token is learnt. ``skill`` names the group of
records that one belongs to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker import data
from sandbox.worker.learners import Order, Report, forms, loss_claims
from sandbox.worker.learners.language.updates import Updates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is read and not learnt (PyTorch's)."""

Row = tuple[list[int], list[int]]
"""Token ids, and for each the label: itself, or IGNORED."""


def read_groups(order: Order, tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, list[Row]]:
    """The records of ``train.jsonl`` as rows of at most ``length`` tokens, by ``skill`` ('' where one names none).

    Raises:
        InvalidInputError: A record has neither text nor prompt and answer, or there is nothing to learn from.
    """
    groups: dict[str, list[Row]] = {}
    for line in data.read_lines(order.data / "train.jsonl"):
        paired = "answer" in line.value
        prompt, answer = (line.value.get("prompt"), line.value["answer"]) if paired else ("", line.text)
        if not (isinstance(prompt, str) and isinstance(answer, str) and answer):
            raise InvalidInputError(
                f"{line.place}: a record needs prompt and answer, or text; all of them texts"
            )
        ids, labels = row_of(tokenizer, prompt, answer)
        if any(label != IGNORED for label in labels[1:length]):
            groups.setdefault(str(line.value.get("skill", "")), []).append((ids[:length], labels[:length]))
    if not groups:
        raise InvalidInputError(
            "no record has a token to learn", hint="records need prompt and answer, or text"
        )
    return dict(sorted(groups.items()))


def row_of(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Row:
    """Prompt, answer and the tokenizer's end."""
    asked = list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else []
    said = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return asked + said + end, [IGNORED] * len(asked) + said + end


def tensors(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, labels and mask. Rows are padded on the right, where nothing that is learnt can see it."""
    width = max(len(ids) for ids, _ in rows)
    gaps = [width - len(ids) for ids, _ in rows]
    return (
        torch.tensor([ids + [0] * gap for (ids, _), gap in zip(rows, gaps, strict=True)], device=device),
        torch.tensor(
            [labels + [IGNORED] * gap for (_, labels), gap in zip(rows, gaps, strict=True)], device=device
        ),
        torch.tensor([[1] * (width - gap) + [0] * gap for gap in gaps], device=device),
    )


def loss_of(model: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Nats per learnt token."""
    ids, labels, mask = tensors(rows, model.device)
    loss: torch.Tensor = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
    return loss


def losses_of(model: PreTrainedModel, rows: Sequence[Row], at_once: int) -> Iterator[torch.Tensor]:
    """Nats per learnt token of all rows, in parts that add up to it, of at most ``at_once`` rows each."""
    if len(rows) <= at_once:
        yield loss_of(model, rows)
        return
    whole = learnt(rows)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        yield loss_of(model, part) * (learnt(part) / whole)


def learnt(rows: Sequence[Row]) -> int:
    """Tokens that are learnt: the first of a row has nothing before it."""
    return sum(label != IGNORED for _, labels in rows for label in labels[1:])


def fit(
    model: PreTrainedModel, rows: Sequence[Row], recipe: Mapping[str, Any], seed: int, report: Report, at_once: int
) -> list[float]:  # fmt: skip
    """``steps`` updates on ``batch`` drawn rows each, ``at_once`` of them in one pass; returns every update's loss, in
    nats per learnt token.
    """
    updates = Updates(forms.trained(model), recipe)
    batches = batches_of(rows, recipe["batch"], random.Random(seed))  # noqa: S311 - a training order is no secret
    losses = []
    for step in range(recipe["steps"]):
        losses.append(updates.step_of(losses_of(model, next(batches), at_once)))
        report((step + 1) / recipe["steps"], "training", step=step + 1, loss=round(losses[-1], 4))
    return losses


def batches_of(rows: Sequence[Row], size: int, draw: random.Random) -> Iterator[list[Row]]:
    """Endless batches; every pass over the rows has its own order."""
    left: list[Row] = []
    size = min(size, len(rows))
    while True:
        while len(left) < size:
            left += draw.sample(rows, len(rows))
        yield left[:size]
        left = left[size:]


def finish(
    order: Order, model: PreTrainedModel, recipe: Mapping[str, Any], losses: Sequence[float], records: int
) -> dict[str, str]:
    """Write the bundle's parts; returns what the run claims about itself."""
    forms.save(model, recipe, order.champion, order.out / "model")
    lines = data.read_lines(order.data / "train.jsonl")
    data.write_records(order.out / "data" / "train.jsonl", [line.value for line in lines])
    return loss_claims(losses, records)
