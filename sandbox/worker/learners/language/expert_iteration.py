"""Expert iteration: say several things to a prompt, keep what is right, and imitate that.

The plainest way to learn from a reward that can be checked; what policy gradients have to be compared with.

Invariants:
- Only answers with the full reward are imitated, each distinct one of a prompt once.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from guardrails.canonical import decimal
from sandbox.worker import data
from sandbox.worker.learners import Order, forms, read_recipe
from sandbox.worker.learners.language.rewards import reward_of
from sandbox.worker.learners.language.sampling import (
    load_tokenizer,
    log_likelihoods,
    read_puzzles,
    sample,
    texts,
)
from sandbox.worker.learners.language.updates import Updates, require

DEFAULTS: dict[str, Any] = {
    "reward": "exact",  # rewards.REWARDS; answers that earn 1 are kept
    "steps": 40,  # updates
    "prompts": 32,  # prompts in one update
    "group": 8,  # answers to each of them
    "answer_tokens": 8,  # how long an answer may be
    "temperature": 0.6,  # of sampling
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
_WHOLE = ("steps", "prompts", "group", "answer_tokens", "rank")
_POSITIVE = ("temperature", "lr", "clip", "alpha")


def learn(order: Order) -> dict[str, str]:
    """Sample, keep, imitate; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, DEFAULTS)
    require(recipe, _WHOLE, _POSITIVE)
    reward = reward_of(recipe["reward"])
    tokenizer = load_tokenizer(order.champion)
    puzzles = read_puzzles(order.data, tokenizer)
    order.report(0.0, "loading", records=len(puzzles))
    torch.manual_seed(order.seed)
    model = forms.prepare(order.champion, recipe)
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
            some = said.rows(list(kept.values()))
            value = updates.step(-log_likelihoods(model, some).sum() / some.spoken.sum())
        else:
            updates.skip()
        order.report(
            (step + 1) / recipe["steps"],
            "training",
            step=step + 1,
            right=round(shares[-1], 4),
            loss=round(value, 4),
        )
    data.write_records(order.out / "data" / "train.jsonl", [used[place] for place in sorted(used)])
    forms.save(model, recipe, order.champion, order.out / "model")
    tail = shares[-max(1, len(shares) // 8) :]
    return {
        "first_right": decimal(shares[0]),
        "last_right": decimal(sum(tail) / len(tail)),
        "records": str(len(used)),
        "steps": str(recipe["steps"]),
    }
