"""Active learning of a language model: prompts that it is least sure of go to people; it trains on their answers.

Invariants:
- Of the training data only prompts are read: an answer that happens to stand beside one is not looked at.
- Without an answer that is new it asks, and proposes nothing; with one it trains on all answers so far.
- Only a low-rank adapter is trained, and only on what comes after a prompt. Beside it the champion's own words after
  prompts in which one token was exchanged are kept as they are, so that what nobody asked about is not forgotten.
- Two runs with the same champion, records, answers, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import adapters, data, devices, weights
from sandbox.worker.learners import Order, forms, loss_claims, memory, recipes
from sandbox.worker.learners.language.pairs import IGNORED, Row, batches_of, learnt, loss_of, row_of
from sandbox.worker.learners.language.rehearsal import ROWS, chances, divergence, greedy, rehearsals
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.questions import (
    MAX_PROMPT,
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
    recipe = read_recipe(order.recipe, recipes.ASKING_TEXTS)
    answers = read_answers(order.data)
    usable = [answer for answer in answers if not answer.skipped and answer.kind == "answer"]
    if not any(answer.fresh for answer in usable):
        asked = _ask(order, recipe, {answer.id for answer in answers})
        order.report(1.0, "asked", questions=asked)
        return {}
    return _train(order, recipe, usable)


# --- asking --------------------------------------------------------------------------------


def _ask(order: Order, recipe: dict[str, Any], known: set[str]) -> int:
    """Write the questions of this round; returns how many."""
    prompts = _pool(order, known)
    draw = random.Random(order.seed)  # noqa: S311 - a draw to be repeated, not a secret
    looked_at = draw.sample(prompts, min(recipe["pool"], len(prompts)))
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
    rows = {prompt: tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts}
    dtype = forms.frozen_dtype(order.champion, recipe["dtype"], order.device)
    length = max(map(len, rows.values())) + recipe["answer_tokens"]
    at_once = memory.asking(order, dtype).written(min(ROWS, len(prompts)), length, in_step=False)
    order.report(0.0, "loading", prompts=len(prompts), written_at_once=at_once)
    model = weights.load_model(order.champion, dtype).to(order.device)
    model.eval()
    said = []
    # Prompts of one length go together: then nothing has to be padded.
    for group in _of_one_length([prompt for prompt in prompts if rows[prompt]], rows, at_once):
        ids = torch.tensor([rows[prompt] for prompt in group])
        written, likely = greedy(model, ids, recipe["answer_tokens"], tokenizer.eos_token_id)
        said += [
            Said(prompt, tokenizer.decode(tokens, skip_special_tokens=True), chance)
            for prompt, tokens, chance in zip(group, written, likely, strict=True)
        ]
        order.report(len(said) / len(prompts), "looking", prompts=len(said))
    return said


def _of_one_length(prompts: Sequence[str], rows: dict[str, list[int]], at_once: int) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for prompt in prompts:
        groups.setdefault(len(rows[prompt]), []).append(prompt)
    return [
        group[at : at + at_once]
        for _, group in sorted(groups.items())
        for at in range(0, len(group), at_once)
    ]


# --- training ------------------------------------------------------------------------------


def _train(order: Order, recipe: dict[str, Any], answers: Sequence[Answer]) -> dict[str, str]:
    import torch

    torch.manual_seed(order.seed)
    tokenizer = _tokenizer(order)
    rows = [row_of(tokenizer, answer.prompt, answer.answer) for answer in answers]
    plan = _plan(order, recipe, rows)
    order.report(0.0, "loading", answers=len(answers), **plan.claims)
    dtype = forms.frozen_dtype(order.champion, recipe["dtype"], order.device)
    model = weights.load_model(order.champion, dtype).to(order.device)
    kept = _rehearsal(model, tokenizer, rows, recipe, order.seed, plan) if recipe["rehearsed"] else []
    model = adapters.with_adapter(model.to(devices.CPU), recipe).to(order.device)
    losses = _fit(plan.applied(model), rows, kept, recipe, order, plan)
    lines = [
        {"id": a.id, "prompt": a.prompt, "answer": a.answer, "text": a.prompt + a.answer, "origin": PERSON}
        for a in answers
    ]
    data.write_records(order.out / "data" / "answers.jsonl", lines)
    forms.save(model, {"form": forms.ADAPTER}, order.champion, order.out / "model")
    dtype_claim = str(model.dtype).removeprefix("torch.")
    return {**loss_claims(losses, len(rows)), **plan.claims, "dtype": dtype_claim}


def _plan(order: Order, recipe: dict[str, Any], rows: Sequence[Row]) -> memory.Plan:
    """A row is an answer, or words that are rehearsed, which may be as long as the longest answer, and an end."""
    room = memory.training(order, {**recipe, "form": forms.ADAPTER})
    number = min(recipe["batch"], len(rows))
    if not recipe["rehearsed"]:
        return room.plan(number, max(len(ids) for ids, _ in rows))
    words = _longest(rows) + 1
    length = max(map(len, _prompts(rows))) + words
    written = room.written(ROWS, length, in_step=False)
    return room.plan(number + recipe["rehearsed"], length, compared=words, written=written)


def _rehearsal(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: dict[str, Any],
    seed: int, plan: memory.Plan,
) -> list[Row]:  # fmt: skip
    """What the champion says after other prompts, at most as long as the longest answer."""
    number = recipe["rehearsed"] * min(recipe["steps"], _REHEARSALS)
    return rehearsals(model, tokenizer, _prompts(rows), number, _longest(rows), seed, plan.written)


def _prompts(rows: Sequence[Row]) -> list[list[int]]:
    return [[token for token, label in zip(*row, strict=True) if label == IGNORED] for row in rows]


def _longest(rows: Sequence[Row]) -> int:
    """Tokens of the longest answer, its end included."""
    return max(sum(label != IGNORED for label in labels) for _, labels in rows)


def _distance(model: PreTrainedModel, batch: Sequence[Row]) -> torch.Tensor:
    """How far the adapter moves what is said after these prompts: the mean divergence from the champion, in nats."""
    import torch

    with torch.no_grad(), model.disable_adapter():
        before = chances(model, batch)
    return divergence(before, chances(model, batch))


def _fit(
    model: PreTrainedModel,
    rows: list[Row],
    kept: list[Row],
    recipe: dict[str, Any],
    order: Order,
    plan: memory.Plan,
) -> list[float]:
    """Every update's loss, of the answers alone: keeping to the champion's words costs nothing at first, and more whatever
    is learnt.
    """
    updates = Updates(forms.trained(model), recipe)
    batches = batches_of(rows, recipe["batch"], random.Random(order.seed))  # noqa: S311 - a training order is no secret
    losses: list[float] = []
    model.train()
    for step in range(recipe["steps"]):
        at = step * recipe["rehearsed"] % len(kept) if kept else 0
        words = kept[at : at + recipe["rehearsed"]]
        losses.append(0.0)
        updates.step_of(loss_in_parts(model, next(batches), words, recipe["keep"], plan, losses))
        order.report((step + 1) / recipe["steps"], "training", step=step + 1, loss=round(losses[-1], 4))
    return losses


def loss_in_parts(
    model: PreTrainedModel,
    batch: Sequence[Row],
    words: Sequence[Row],
    keep: float,
    plan: memory.Plan,
    losses: list[float],
) -> Iterator[torch.Tensor]:
    """An update's loss in parts that add up to it; what they are of the answers is added to the last of ``losses``."""
    for answers, kept in plan.parts(batch, words):
        parts = []
        if answers:
            parts.append(loss_of(model, answers) * (learnt(answers) / learnt(batch)))
            losses[-1] += parts[0].item()
        if kept:
            parts.append(keep * _distance(model, kept) * (learnt(kept) / learnt(words)))
        yield parts[0] + parts[1] if len(parts) == 2 else parts[0]


def _tokenizer(order: Order) -> PreTrainedTokenizerBase:
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError("the champion has no tokenizer", hint="text cannot be learnt without one")
    return tokenizer
