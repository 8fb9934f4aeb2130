"""Active learning of a language model: prompts that it is least sure of go to people; it trains on their answers.

Invariants:
- Of the training data only prompts are read: an answer that happens to stand beside one is not looked at.
- Without an answer that is new it asks, and proposes nothing; with one it trains on all answers so far.
- Only a low-rank adapter is trained, and only on what comes after a prompt. Beside it the champion's own words after
  prompts in which one token was exchanged are kept as they are, so that what nobody asked about is not forgotten.
- Two runs with the same champion, records, answers, recipe and seed write the same bytes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import adapters, data, weights
from sandbox.worker.learners import Order, forms, loss_claims, read_recipe
from sandbox.worker.learners.language.pairs import IGNORED, Row, batches_of, loss_of, row_of
from sandbox.worker.learners.language.rehearsal import ROWS, chances, divergence, greedy, rehearsals
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.questions import (
    MAX_PROMPT,
    MAX_QUESTIONS,
    PERSON,
    Answer,
    Question,
    question_id,
    read_answers,
    write_questions,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULTS: dict[str, Any] = {
    "query": "uncertainty",  # which prompts are asked about: uncertainty | random
    "ask": 64,  # questions in one round
    "pool": 1000,  # prompts that are looked at for them
    "answer_tokens": 24,  # how much of the model's own answer is looked at
    "steps": 60,  # updates
    "batch": 32,  # answers in one update
    "rehearsed": 32,  # rows in one update on which it is kept as it was; 0: none
    "keep": 1.0,  # weight of keeping it as it was
    "lr": 2e-3,  # highest learning rate
    "warmup": 0.1,  # share of the steps in which the rate rises; then it falls to zero in a line
    "weight_decay": 0.0,
    "clip": 1.0,  # highest norm of a gradient
    "rank": 16,
    "alpha": 32,
    "targets": "q_proj,k_proj,v_proj,o_proj,up_proj,down_proj,gate_proj",  # projections that get an adapter
    "dtype": "auto",  # of the frozen weights; the adapter is always float32
}
QUERIES = ("uncertainty", "random")
SHOWN = 60
_REHEARSALS = 64


@dataclass(frozen=True)
class Said:
    """What the model would say to a prompt, and how likely it holds that (0..1)."""

    prompt: str
    answer: str
    chance: float


def learn(order: Order) -> dict[str, str]:
    """Ask, or train an adapter on the answers; returns what the run claims about itself."""
    recipe = _checked(read_recipe(order.recipe, DEFAULTS))
    answers = read_answers(order.data)
    usable = [answer for answer in answers if not answer.skipped and answer.kind == "answer"]
    if not any(answer.fresh for answer in usable):
        asked = _ask(order, recipe, {answer.id for answer in answers})
        order.report(1.0, "asked", questions=asked)
        return {}
    return _train(order, recipe, usable)


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    for name in ("ask", "pool", "answer_tokens", "steps", "batch", "rank"):
        if recipe[name] < 1:
            raise InvalidInputError(f"recipe: {name} = {recipe[name]} must be at least 1")
    if recipe["ask"] > MAX_QUESTIONS:
        raise InvalidInputError(f"recipe: ask = {recipe['ask']}; people are asked {MAX_QUESTIONS} at most")
    for name in ("rehearsed", "keep"):
        if not (math.isfinite(recipe[name]) and recipe[name] >= 0):
            raise InvalidInputError(f"recipe: {name} = {recipe[name]} must not be below zero")
    for name in ("lr", "clip", "alpha"):
        if not (math.isfinite(recipe[name]) and recipe[name] > 0):
            raise InvalidInputError(f"recipe: {name} = {recipe[name]} must be above zero")
    if not 0 <= recipe["warmup"] <= 1:
        raise InvalidInputError(f"recipe: warmup = {recipe['warmup']} must lie between 0 and 1")
    if recipe["query"] not in QUERIES:
        raise InvalidInputError(f"recipe: query = {recipe['query']!r:.40}: one of {', '.join(QUERIES)}")
    return recipe


# --- asking --------------------------------------------------------------------------------


def _ask(order: Order, recipe: dict[str, Any], known: set[str]) -> int:
    """Write the questions of this round; returns how many."""
    prompts = _pool(order, known)
    draw = random.Random(order.seed)  # noqa: S311 - a draw to be repeated, not a secret
    looked_at = draw.sample(prompts, min(recipe["pool"], len(prompts)))
    order.report(0.0, "loading", prompts=len(looked_at))
    if recipe["query"] == "random":
        looked_at = looked_at[: recipe["ask"]]
    said = _answers_of(order, recipe, looked_at)
    chosen = sorted(said, key=lambda one: one.chance)[: recipe["ask"]]
    return write_questions(order.out, map(_question, chosen))


def _pool(order: Order, known: set[str]) -> list[str]:
    """The distinct prompts that nobody was asked about."""
    found = {}
    for line in data.read_lines(order.data / "train.jsonl"):
        prompt = None if "replay" in line.value else line.value.get("prompt")
        if isinstance(prompt, str) and prompt.strip() and len(prompt) <= MAX_PROMPT:
            found[question_id(prompt)] = prompt
    if not found:
        raise InvalidInputError(
            "no record has a prompt to ask people about", hint="a record needs a field prompt"
        )
    left = [prompt for name, prompt in found.items() if name not in known]
    if not left:
        raise InvalidInputError(
            "people were asked about every prompt there is", hint="add training data with new prompts"
        )
    return left


def _question(said: Said) -> Question:
    shown = said.answer if len(said.answer) <= SHOWN else f"{said.answer[:SHOWN]}…"
    return Question(
        question_id(said.prompt), "answer", said.prompt,
        why=f"it would say {shown!r} and gives that {100 * said.chance:.0f} %", uncertainty=round(1 - said.chance, 4),
    )  # fmt: skip


def _answers_of(order: Order, recipe: dict[str, Any], prompts: Sequence[str]) -> list[Said]:
    import torch

    torch.manual_seed(order.seed)
    tokenizer = _tokenizer(order)
    model = weights.load_model(order.champion, forms.frozen_dtype(order.champion, recipe["dtype"]))
    model.eval()
    rows = {prompt: tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts}
    said = []
    # Prompts of one length go together: then nothing has to be padded.
    for group in _of_one_length([prompt for prompt in prompts if rows[prompt]], rows):
        ids = torch.tensor([rows[prompt] for prompt in group])
        written, likely = greedy(model, ids, recipe["answer_tokens"], tokenizer.eos_token_id)
        said += [
            Said(prompt, tokenizer.decode(tokens, skip_special_tokens=True), chance)
            for prompt, tokens, chance in zip(group, written, likely, strict=True)
        ]
        order.report(len(said) / len(prompts), "looking", prompts=len(said))
    return said


def _of_one_length(prompts: Sequence[str], rows: dict[str, list[int]]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for prompt in prompts:
        groups.setdefault(len(rows[prompt]), []).append(prompt)
    return [group[at : at + ROWS] for _, group in sorted(groups.items()) for at in range(0, len(group), ROWS)]


# --- training ------------------------------------------------------------------------------


def _train(order: Order, recipe: dict[str, Any], answers: Sequence[Answer]) -> dict[str, str]:
    import torch

    torch.manual_seed(order.seed)
    tokenizer = _tokenizer(order)
    order.report(0.0, "loading", answers=len(answers))
    rows = [row_of(tokenizer, answer.prompt, answer.answer) for answer in answers]
    model = weights.load_model(order.champion, forms.frozen_dtype(order.champion, recipe["dtype"]))
    kept = _rehearsal(model, tokenizer, rows, recipe, order.seed) if recipe["rehearsed"] else []
    model = adapters.with_adapter(model, recipe)
    losses = _fit(model, rows, kept, recipe, order)
    lines = [
        {"id": a.id, "prompt": a.prompt, "answer": a.answer, "text": a.prompt + a.answer, "origin": PERSON}
        for a in answers
    ]
    data.write_records(order.out / "data" / "answers.jsonl", lines)
    forms.save(model, {"form": forms.ADAPTER}, order.champion, order.out / "model")
    return {**loss_claims(losses, len(rows)), "dtype": str(model.dtype).removeprefix("torch.")}


def _rehearsal(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: dict[str, Any], seed: int
) -> list[Row]:  # fmt: skip
    """What the champion says after other prompts, at most as long as the longest answer."""
    longest = max(sum(label != IGNORED for label in labels) for _, labels in rows)
    prompts = [[token for token, label in zip(*row, strict=True) if label == IGNORED] for row in rows]
    number = recipe["rehearsed"] * min(recipe["steps"], _REHEARSALS)
    return rehearsals(model, tokenizer, prompts, number, longest, seed)


def _distance(model: PreTrainedModel, batch: Sequence[Row]) -> torch.Tensor:
    """How far the adapter moves what is said after these prompts: the mean divergence from the champion, in nats."""
    import torch

    with torch.no_grad(), model.disable_adapter():
        before = chances(model, batch)
    return divergence(before, chances(model, batch))


def _fit(
    model: PreTrainedModel, rows: list[Row], kept: list[Row], recipe: dict[str, Any], order: Order
) -> list[float]:

    updates = Updates(forms.trained(model), recipe)
    batches = batches_of(rows, recipe["batch"], random.Random(order.seed))  # noqa: S311 - a training order is no secret
    losses = []
    model.train()
    for step in range(recipe["steps"]):
        loss = loss_of(model, next(batches))
        # Of the answers alone: keeping to the champion's words costs nothing at first, and more whatever is learnt.
        losses.append(loss.item())
        if kept:
            at = step * recipe["rehearsed"] % len(kept)
            loss = loss + recipe["keep"] * _distance(model, kept[at : at + recipe["rehearsed"]])
        updates.step(loss)
        order.report((step + 1) / recipe["steps"], "training", step=step + 1, loss=round(losses[-1], 4))
    return losses


def _tokenizer(order: Order) -> PreTrainedTokenizerBase:
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError("the champion has no tokenizer", hint="text cannot be learnt without one")
    return tokenizer
