"""Expert iteration: say several things to a prompt, keep what is right, and imitate that.

The plainest way to learn from a reward that can be checked; what policy gradients have to be compared with.

Invariants:
- Only answers with the full reward are imitated, each distinct one of a prompt once.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from guardrails.canonical import decimal
from guardrails.errors import JobFailedError
from sandbox.worker import data
from sandbox.worker.learners import Order, forms, recipes
from sandbox.worker.learners.language.rewards import reward_of
from sandbox.worker.learners.language.sampling import (
    Said,
    answers_plan,
    load_tokenizer,
    log_likelihoods,
    read_puzzles,
    sample,
    texts,
)
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learn(order: Order) -> dict[str, str]:
    """Sample, keep, imitate; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.IMITATED)
    reward = reward_of(recipe["reward"])
    tokenizer = load_tokenizer(order.champion)
    puzzles = read_puzzles(order.data, tokenizer)
    plan = answers_plan(order, recipe, puzzles)
    order.report(0.0, "loading", records=len(puzzles), **plan.claims)
    torch.manual_seed(order.seed)
    model = plan.applied(forms.prepare(order.champion, recipe, order.device))
    updates = Updates(forms.trained(model), recipe)
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    generator = torch.Generator().manual_seed(order.seed)
    shares, used = [], {}
    for step in range(recipe["steps"]):
        chosen = draw.sample(puzzles, min(recipe["prompts"], len(puzzles)))
        used.update({puzzle.record.place: puzzle.record.value for puzzle in chosen})
        rows = [puzzle.row for puzzle in chosen for _ in range(recipe["group"])]
        said = sample(
            model,
            rows,
            recipe["answer_tokens"],
            int(tokenizer.eos_token_id),
            recipe["temperature"],
            generator,
            plan.written,
        )
        kept: dict[tuple[int, str], int] = {}
        right = 0
        for number, text in enumerate(texts(said, tokenizer)):
            prompt = number // recipe["group"]
            if text is not None and reward(text, chosen[prompt].answer) == 1.0:
                right += 1
                kept.setdefault((prompt, text), number)
        shares.append(right / len(rows))
        value = 0.0
        if kept:
            value = updates.step_of(loss_in_parts(model, said.rows(list(kept.values())), plan.rows))
        else:
            updates.skip()
        order.report(
            (step + 1) / recipe["steps"],
            "training",
            step=step + 1,
            right=round(shares[-1], 4),
            loss=round(value, 4),
        )
    if not any(shares):
        raise JobFailedError(
            f"none of {len(shares) * len(rows)} answers was right: there is nothing to imitate",
            hint="try more prompts, a larger group or a higher temperature, or give the champion easier tasks",
        )
    data.write_records(order.out / "data" / "train.jsonl", [used[place] for place in sorted(used)])
    forms.save(model, recipe, order.champion, order.out / "model")
    tail = shares[-max(1, len(shares) // 8) :]
    return {
        "first_right": decimal(shares[0]),
        "last_right": decimal(sum(tail) / len(tail)),
        "records": str(len(used)),
        "steps": str(recipe["steps"]),
        **plan.claims,
    }


def loss_in_parts(model: PreTrainedModel, said: Said, at_once: int) -> Iterator[torch.Tensor]:
    """Nats per token of what is imitated, in parts that add up to it, of at most ``at_once`` rows each."""
    tokens = said.spoken.sum().item()
    for _, part in said.parts(at_once):
        yield -log_likelihoods(model, part).sum() / tokens
