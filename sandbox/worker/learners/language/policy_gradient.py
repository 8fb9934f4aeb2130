"""Policy gradient: say several things to a prompt, and make likelier what was rewarded above its group's mean.

Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with one update a batch, so that there is no
ratio to clip, and a penalty for moving away from the champion (k3 estimator, Schulman 2020).

Invariants:
- The reward is a program's, from the right answer in the record (``rewards``); no model judges.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError
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
from sandbox.worker.weights import load_model

if TYPE_CHECKING:
    from sandbox.worker.learners.language.sampling import Puzzle

DEFAULTS: dict[str, Any] = {
    "reward": "places",  # rewards.REWARDS
    "steps": 40,  # updates
    "prompts": 32,  # prompts in one update
    "group": 8,  # answers to each of them
    "answer_tokens": 8,  # how long an answer may be
    "temperature": 0.6,  # of sampling and of the loss
    "kl": 0.05,  # price of a nat away from the champion, per token
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
_LEAST_SPREAD = 1e-4


def learn(order: Order) -> dict[str, str]:
    """Sample, reward, update; returns what the run claims about itself."""
    recipe = _checked(read_recipe(order.recipe, DEFAULTS))
    reward = reward_of(recipe["reward"])
    tokenizer = load_tokenizer(order.champion)
    puzzles = read_puzzles(order.data, tokenizer)
    order.report(0.0, "loading", records=len(puzzles))
    torch.manual_seed(order.seed)
    model = forms.prepare(order.champion, recipe)
    champion = load_model(order.champion, torch.float32) if recipe["kl"] else None
    updates = Updates(forms.trained(model), recipe)
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    generator = torch.Generator().manual_seed(order.seed)
    means, used = [], {}
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
        rewards = _rewards(texts(said, tokenizer), chosen, recipe, reward)
        spread = rewards.std(1, unbiased=False, keepdim=True).clamp(min=_LEAST_SPREAD)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten()
        now = log_likelihoods(model, said, recipe["temperature"])
        loss = -(advantages[:, None] * now).sum() / said.spoken.sum()
        if champion is not None:
            with torch.no_grad():
                before = log_likelihoods(champion, said, recipe["temperature"])
            away = (before - now).exp() - (before - now) - 1
            loss = loss + recipe["kl"] * away.sum() / said.spoken.sum()
        value = updates.step(loss)
        means.append(rewards.mean().item())
        order.report(
            (step + 1) / recipe["steps"],
            "training",
            step=step + 1,
            reward=round(means[-1], 4),
            loss=round(value, 4),
        )
    data.write_records(order.out / "data" / "train.jsonl", [used[place] for place in sorted(used)])
    forms.save(model, recipe, order.champion, order.out / "model")
    tail = means[-max(1, len(means) // 8) :]
    return {
        "first_reward": decimal(means[0]),
        "last_reward": decimal(sum(tail) / len(tail)),
        "records": str(len(used)),
        "steps": str(recipe["steps"]),
    }


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    require(recipe, _WHOLE, _POSITIVE)
    if recipe["group"] < 2:
        raise InvalidInputError(
            "recipe: group must be at least 2: one answer has nothing to be compared with"
        )
    if not 0 <= recipe["kl"] < 1e6:
        raise InvalidInputError(f"recipe: kl = {recipe['kl']} must be a finite number, not below zero")
    return recipe


def _rewards(
    answers: list[str | None], chosen: list[Puzzle], recipe: dict[str, Any], reward: Any
) -> torch.Tensor:
    """One row a prompt; an answer that has not ended earns nothing."""
    group = recipe["group"]
    return torch.tensor(
        [
            0.0 if said is None else reward(said, chosen[number // group].answer)
            for number, said in enumerate(answers)
        ]
    ).view(-1, group)
