"""Preferences: people choose between two answers of the model, and it learns to say what they prefer.

Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) against the champion, with a share of plain
imitation of what was chosen, without which both answers of a pair may become less likely. Pairs of one skill say
nothing of the others: beside them the champion's own words after other prompts are kept (``rehearsal``).

Invariants:
- Without a choice that is new it asks, and proposes nothing; with one it trains on all choices so far.
- Of the training data only prompts are read: an answer that happens to stand beside one is not looked at.
- Every record written says that people decided, and which question it was.
- Two runs with the same champion, records, choices, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker import data
from sandbox.worker.learners import Order, forms, loss_claims, read_recipe
from sandbox.worker.learners.language.pairs import Row
from sandbox.worker.learners.language.rehearsal import chances, divergence, rehearsals
from sandbox.worker.learners.language.sampling import (
    Said,
    load_tokenizer,
    log_likelihoods,
    of_pairs,
    sample,
    texts,
)
from sandbox.worker.learners.language.updates import Updates, require
from sandbox.worker.questions import (
    MAX_OPTION,
    MAX_PROMPT,
    MAX_QUESTIONS,
    PERSON,
    Answer,
    Question,
    question_id,
    read_answers,
    write_questions,
)
from sandbox.worker.weights import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULTS: dict[str, Any] = {
    "ask": 100,  # choices asked for in one round
    "pool": 400,  # prompts that are looked at for them; asked about is where the model is most divided
    "samples": 8,  # answers drawn to a prompt; the two most frequent are the choice
    "answer_tokens": 24,  # how long an answer may be
    "temperature": 0.7,  # of sampling
    "beta": 0.1,  # how dear it is to move away from the champion
    "imitation": 0.2,  # weight of imitating what was chosen
    "rehearsed": 32,  # of the champion's words in one update, to which it is kept; 0: none
    "keep": 1.0,  # weight of keeping to them
    "steps": 40,  # updates
    "batch": 32,  # choices in one update
    "lr": 2e-4,  # highest learning rate
    "warmup": 0.15,  # share of the steps in which the rate rises; then it falls to zero in a line
    "weight_decay": 0.0,
    "clip": 1.0,  # highest norm of a gradient
    "form": "full",  # adapter | full
    "rank": 16,
    "alpha": 32,
    "targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    "dtype": "auto",  # of the frozen weights under an adapter
}
_WHOLE = ("ask", "pool", "answer_tokens", "steps", "batch", "rank")
_POSITIVE = ("temperature", "beta", "lr", "clip", "alpha")
_PROMPTS_AT_A_TIME = 64
_REHEARSALS = 64  # updates with rehearsals of their own; then they come again

Pair = tuple[list[int], list[int], list[int]]
"""Tokens of a prompt, of the answer that was chosen, and of the other."""


def learn(order: Order) -> dict[str, str]:
    """Ask, or train on what was chosen; returns what the run claims about itself."""
    recipe = _checked(read_recipe(order.recipe, DEFAULTS))
    answers = [answer for answer in read_answers(order.data) if answer.kind == "choice"]
    usable = [answer for answer in answers if not answer.skipped and answer.chosen is not None]
    torch.manual_seed(order.seed)
    if not any(answer.fresh for answer in usable):
        asked = _ask(order, recipe, {answer.prompt for answer in answers})
        order.report(1.0, "asked", questions=asked)
        return {}
    return _train(order, recipe, usable)


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    require(recipe, _WHOLE, _POSITIVE)
    if recipe["samples"] < 2:
        raise InvalidInputError("recipe: samples must be at least 2: a choice is between two")
    if recipe["ask"] > MAX_QUESTIONS:
        raise InvalidInputError(f"recipe: ask = {recipe['ask']}; people are asked {MAX_QUESTIONS} at most")
    if not 0 <= recipe["imitation"] < 1e6:
        raise InvalidInputError(f"recipe: imitation = {recipe['imitation']} must not be below zero")
    if recipe["rehearsed"] < 0 or not 0 <= recipe["keep"] < 1e6:
        raise InvalidInputError("recipe: rehearsed and keep must not be below zero")
    return recipe


# --- asking --------------------------------------------------------------------------------


def _ask(order: Order, recipe: dict[str, Any], known: set[str]) -> int:
    """Write as many choices between two answers of the champion as are asked for; returns how many there are."""
    tokenizer = load_tokenizer(order.champion)
    prompts = _prompts(order, known)
    draw = random.Random(order.seed)  # noqa: S311 - a draw to be repeated, not a secret
    looked_at = draw.sample(prompts, min(recipe["pool"], len(prompts)))
    model = load_model(order.champion, torch.float32)
    generator = torch.Generator().manual_seed(order.seed)
    found: list[Question] = []
    for start in range(0, len(looked_at), _PROMPTS_AT_A_TIME):
        some = looked_at[start : start + _PROMPTS_AT_A_TIME]
        rows = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in some]
        repeated = [row for row in rows for _ in range(recipe["samples"])]
        said = sample(
            model,
            repeated,
            recipe["answer_tokens"],
            int(tokenizer.eos_token_id),
            recipe["temperature"],
            generator,
        )
        answers = texts(said, tokenizer)
        for number, prompt in enumerate(some):
            own = answers[number * recipe["samples"] : (number + 1) * recipe["samples"]]
            found += _question(prompt, own)
        order.report(min(1.0, (start + len(some)) / len(looked_at)), "looking", questions=len(found))
    if not found:
        raise InvalidInputError("the model says the same to every prompt, however often: nothing to choose")
    found.sort(key=lambda question: -(question.uncertainty or 0.0))
    return write_questions(order.out, found[: recipe["ask"]])


def _prompts(order: Order, known: set[str]) -> list[str]:
    """The distinct prompts that nobody was asked about."""
    lines = data.read_lines(order.data / "train.jsonl")
    values = [line.value.get("prompt") for line in lines if "replay" not in line.value]
    usable = {
        text: None for text in values if isinstance(text, str) and text.strip() and len(text) <= MAX_PROMPT
    }
    if not usable:
        raise InvalidInputError("no record has a prompt to ask people about", hint="a record needs a prompt")
    left = [prompt for prompt in usable if prompt not in known]
    if not left:
        raise InvalidInputError("people were asked about every prompt there is", hint="add training data")
    return left


def _question(prompt: str, answers: Sequence[str | None]) -> list[Question]:
    """A choice between the two most frequent answers; none where there are no two."""
    counts = Counter(text for text in answers if text and text.strip() and len(text) <= MAX_OPTION)
    if len(counts) < 2:
        return []
    (first, often), (second, rarer) = counts.most_common(2)
    if " ".join(first.split()) == " ".join(second.split()):
        return []
    why = f"of {len(answers)} tries {often} and {rarer} gave these"
    share = round(rarer / often, 4)
    options = (first, second)
    return [Question(question_id(prompt, options), "choice", prompt, options, why=why, uncertainty=share)]


# --- training ------------------------------------------------------------------------------


def _train(order: Order, recipe: dict[str, Any], choices: Sequence[Answer]) -> dict[str, str]:
    tokenizer = load_tokenizer(order.champion)
    records = [_record(choice) for choice in choices]
    pairs = [_pair(tokenizer, record) for record in records]
    order.report(0.0, "loading", choices=len(pairs))
    model = forms.prepare(order.champion, recipe)
    champion = load_model(order.champion, torch.float32)
    kept = _kept(champion, tokenizer, pairs, recipe, order.seed)
    updates = Updates(forms.trained(model), recipe)
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    left: list[Pair] = []
    losses = []
    for step in range(recipe["steps"]):
        while len(left) < min(recipe["batch"], len(pairs)):
            left += draw.sample(pairs, len(pairs))
        batch, left = left[: recipe["batch"]], left[recipe["batch"] :]
        loss, preferred = _loss(model, champion, batch, recipe)
        # Of the choices alone: keeping to the champion's words costs nothing at first, and more whatever is learnt.
        losses.append(loss.item())
        if kept:
            at = step * recipe["rehearsed"] % len(kept)
            loss = loss + recipe["keep"] * _moved(model, champion, kept[at : at + recipe["rehearsed"]])
        updates.step(loss)
        order.report(
            (step + 1) / recipe["steps"],
            "training",
            step=step + 1,
            loss=round(losses[-1], 4),
            preferred=preferred,
        )
    data.write_records(order.out / "data" / "preferences.jsonl", records)
    forms.save(model, recipe, order.champion, order.out / "model")
    return loss_claims(losses, len(records))


def _record(choice: Answer) -> dict[str, Any]:
    chosen = choice.options[choice.chosen or 0]
    rejected = choice.options[1 - (choice.chosen or 0)]
    return {
        "id": choice.id, "prompt": choice.prompt, "chosen": chosen, "rejected": rejected,
        "text": choice.prompt + chosen, "origin": PERSON,
    }  # fmt: skip


def _pair(tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]) -> Pair:
    prompt, chosen, rejected = (
        list(tokenizer(record[name], add_special_tokens=False)["input_ids"])
        for name in ("prompt", "chosen", "rejected")
    )
    return prompt, [*chosen, int(tokenizer.eos_token_id)], [*rejected, int(tokenizer.eos_token_id)]


def _kept(
    champion: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], recipe: dict[str, Any],
    seed: int,
) -> list[Row]:  # fmt: skip
    """The champion's words that are rehearsed, each at most as long as the longest answer that was chosen."""
    number = recipe["rehearsed"] * min(recipe["steps"], _REHEARSALS)
    if not (number and recipe["keep"]):
        return []
    longest = max(len(chosen) for _, chosen, _ in pairs)
    return rehearsals(champion, tokenizer, [prompt for prompt, _, _ in pairs], number, longest, seed)


def _moved(model: PreTrainedModel, champion: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """How far the model has moved from the champion's words, in nats a token."""
    with torch.no_grad():
        before = chances(champion, rows)
    return divergence(before, chances(model, rows))


def _loss(
    model: PreTrainedModel, champion: PreTrainedModel, batch: Sequence[Pair], recipe: dict[str, Any]
) -> tuple[torch.Tensor, float]:
    """The loss, and the share of pairs of which the model now prefers the chosen one more than its champion does."""
    said: Said = of_pairs([(prompt, chosen) for prompt, chosen, _ in batch] + [(p, r) for p, _, r in batch])
    now = log_likelihoods(model, said)
    with torch.no_grad():
        before = log_likelihoods(champion, said)
    moved = (now - before).sum(1)
    margin = recipe["beta"] * (moved[: len(batch)] - moved[len(batch) :])
    imitated = -now[: len(batch)].sum() / said.spoken[: len(batch)].sum()
    loss = -torch.nn.functional.logsigmoid(margin).mean() + recipe["imitation"] * imitated
    return loss, round((margin > 0).float().mean().item(), 4)
