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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker import data
from sandbox.worker.learners import Order, forms, loss_claims, memory, recipes
from sandbox.worker.learners.language.pairs import Row, learnt
from sandbox.worker.learners.language.rehearsal import ROWS, chances, divergence, rehearsals
from sandbox.worker.learners.language.sampling import (
    Said,
    load_tokenizer,
    log_likelihoods,
    of_pairs,
    sample,
    texts,
)
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.questions import (
    MAX_OPTION,
    MAX_PROMPT,
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

_PROMPTS_AT_A_TIME = 64
_REHEARSALS = 64  # updates with rehearsals of their own; then they come again

Pair = tuple[list[int], list[int], list[int]]
"""Tokens of a prompt, of the answer that was chosen, and of the other."""


def learn(order: Order) -> dict[str, str]:
    """Ask, or train on what was chosen; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.PREFERRED)
    answers = [answer for answer in read_answers(order.data) if answer.kind == "choice"]
    usable = [answer for answer in answers if not answer.skipped and answer.chosen is not None]
    torch.manual_seed(order.seed)
    if not any(answer.fresh for answer in usable):
        asked = _ask(order, recipe, {answer.prompt for answer in answers})
        order.report(1.0, "asked", questions=asked)
        return {}
    return _train(order, recipe, usable)


# --- asking --------------------------------------------------------------------------------


def _ask(order: Order, recipe: dict[str, Any], known: set[str]) -> int:
    """Write as many choices between two answers of the champion as are asked for; returns how many there are."""
    tokenizer = load_tokenizer(order.champion)
    prompts = _prompts(order, known)
    draw = random.Random(order.seed)  # noqa: S311 - a draw to be repeated, not a secret
    looked_at = draw.sample(prompts, min(recipe["pool"], len(prompts)))
    rows = {prompt: tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in looked_at}
    together = min(_PROMPTS_AT_A_TIME, len(looked_at)) * recipe["samples"]
    length = max(map(len, rows.values())) + recipe["answer_tokens"]
    at_once = memory.asking(order, torch.float32).written(together, length, in_step=True)
    order.report(0.0, "loading", prompts=len(looked_at), written_at_once=at_once)
    model = load_model(order.champion, torch.float32).to(order.device)
    generator = torch.Generator().manual_seed(order.seed)
    found: list[Question] = []
    for start in range(0, len(looked_at), _PROMPTS_AT_A_TIME):
        some = looked_at[start : start + _PROMPTS_AT_A_TIME]
        repeated = [rows[prompt] for prompt in some for _ in range(recipe["samples"])]
        said = sample(
            model,
            repeated,
            recipe["answer_tokens"],
            int(tokenizer.eos_token_id),
            recipe["temperature"],
            generator,
            at_once,
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
    plan = _plan(order, recipe, pairs)
    order.report(0.0, "loading", choices=len(pairs), **plan.claims)
    model = plan.applied(forms.prepare(order.champion, recipe, order.device))
    champion = load_model(order.champion, torch.float32).to(order.device)
    kept = _kept(champion, tokenizer, pairs, recipe, order.seed, plan.written)
    updates = Updates(forms.trained(model), recipe)
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    left: list[Pair] = []
    losses = []
    for step in range(recipe["steps"]):
        while len(left) < min(recipe["batch"], len(pairs)):
            left += draw.sample(pairs, len(pairs))
        batch, left = left[: recipe["batch"]], left[recipe["batch"] :]
        at = step * recipe["rehearsed"] % len(kept) if kept else 0
        words = kept[at : at + recipe["rehearsed"]]
        own = Own()
        updates.step_of(loss_in_parts(model, champion, batch, words, recipe, plan, own))
        losses.append(own.loss)
        order.report(
            (step + 1) / recipe["steps"],
            "training",
            step=step + 1,
            loss=round(losses[-1], 4),
            preferred=round(own.preferred / len(batch), 4),
        )
    data.write_records(order.out / "data" / "preferences.jsonl", records)
    forms.save(model, recipe, order.champion, order.out / "model")
    return {**loss_claims(losses, len(records)), **plan.claims}


def _plan(order: Order, recipe: dict[str, Any], pairs: Sequence[Pair]) -> memory.Plan:
    """A row is an answer or words that are rehearsed; the two answers of a choice cannot be parted."""
    answer = max(len(said) for _, *both in pairs for said in both)
    length = max(len(prompt) + len(said) for prompt, *both in pairs for said in both)
    room = memory.training(order, recipe, reference=True)
    rows = 2 * min(recipe["batch"], len(pairs))
    if not _rehearses(recipe):
        return room.plan(rows, length, scored=answer + 1, least=2)
    rows, length = rows + recipe["rehearsed"], length + 1
    written = room.written(ROWS, length, in_step=False)
    return room.plan(rows, length, compared=answer + 1, least=2, written=written)


def _rehearses(recipe: Mapping[str, Any]) -> bool:
    return bool(recipe["rehearsed"] and recipe["keep"])


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
    seed: int, at_once: int,
) -> list[Row]:  # fmt: skip
    """The champion's words that are rehearsed, each at most as long as the longest answer that was chosen."""
    if not _rehearses(recipe):
        return []
    number = recipe["rehearsed"] * min(recipe["steps"], _REHEARSALS)
    longest = max(len(chosen) for _, chosen, _ in pairs)
    return rehearsals(champion, tokenizer, [prompt for prompt, _, _ in pairs], number, longest, seed, at_once)


def _moved(model: PreTrainedModel, champion: PreTrainedModel, rows: Sequence[Row]) -> torch.Tensor:
    """How far the model has moved from the champion's words, in nats a token."""
    with torch.no_grad():
        before = chances(champion, rows)
    return divergence(before, chances(model, rows))


@dataclass
class Own:
    """What an update's parts come to of the choices alone.

    Keeping to the champion's words costs nothing at first, and more whatever is learnt. ``preferred``: the pairs of
    which the model now prefers the chosen one more than its champion does.
    """

    loss: float = 0.0
    preferred: int = 0


def loss_in_parts(
    model: PreTrainedModel,
    champion: PreTrainedModel,
    batch: Sequence[Pair],
    words: Sequence[Row],
    recipe: Mapping[str, Any],
    plan: memory.Plan,
    own: Own,
) -> Iterator[torch.Tensor]:
    """An update's loss in parts that add up to it; they are counted up in ``own`` as they are made."""
    tokens = sum(len(chosen) for _, chosen, _ in batch)
    for pairs, kept in plan.parts(batch, words, size=2):
        parts = []
        if pairs:
            margin, imitated = _compared(model, champion, pairs, recipe["beta"])
            loss = -torch.nn.functional.logsigmoid(margin).sum() / len(batch)
            parts.append(loss + recipe["imitation"] * (-imitated / tokens))
            own.loss += parts[0].item()
            own.preferred += int((margin > 0).sum())
        if kept:
            share = learnt(kept) / learnt(words)
            parts.append(recipe["keep"] * _moved(model, champion, kept) * share)
        yield parts[0] + parts[1] if len(parts) == 2 else parts[0]


def _compared(
    model: PreTrainedModel, champion: PreTrainedModel, pairs: Sequence[Pair], beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much more than its champion the model prefers each pair's chosen answer, and the chosen answers' likelihood."""
    said: Said = of_pairs([(prompt, chosen) for prompt, chosen, _ in pairs] + [(p, r) for p, _, r in pairs])
    with torch.no_grad():
        before = log_likelihoods(champion, said)
    now = log_likelihoods(model, said)
    moved = (now - before).sum(1)
    return beta * (moved[: len(pairs)] - moved[len(pairs) :]), now[: len(pairs)].sum()
