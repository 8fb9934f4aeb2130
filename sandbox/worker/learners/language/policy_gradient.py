"""Policy gradient: say several things to a prompt, and make likelier what was rewarded above its group's mean.

Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with one update a batch, so that there is no
ratio to clip, and a penalty for moving away from the champion (k3 estimator, Schulman 2020).

Invariants:
- The reward is a program's, from the right answer in the record (``rewards``); no model judges.
- What is said, and what is learnt from it, is the same however many rows memory leaves room for at once, but for
  rounding.
- Two runs with the same champion, records, recipe and seed write the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from sandbox.worker import data
from sandbox.worker.learners import Order, forms, recipes
from sandbox.worker.learners.language.rewards import reward_of
from sandbox.worker.learners.language.sampling import (
    answers_plan,
    load_tokenizer,
    log_likelihoods,
    read_puzzles,
    sample,
    texts,
)
from sandbox.worker.learners.language.updates import Updates
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.weights import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sandbox.worker.learners.language.sampling import Puzzle, Said

_LEAST_SPREAD = 1e-4


def learn(order: Order) -> dict[str, str]:
    """Sample, reward, update; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.REWARDED)
    reward = reward_of(recipe["reward"])
    tokenizer = load_tokenizer(order.champion)
    puzzles = read_puzzles(order.data, tokenizer)
    plan = answers_plan(order, recipe, puzzles, reference=recipe["kl"] > 0)
    order.report(0.0, "loading", records=len(puzzles), **plan.claims)
    torch.manual_seed(order.seed)
    model = plan.applied(forms.prepare(order.champion, recipe, order.device))
    champion = load_model(order.champion, torch.float32).to(order.device) if recipe["kl"] else None
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
            plan.written,
        )
        rewards = _rewards(texts(said, tokenizer), chosen, recipe, reward)
        spread = rewards.std(1, unbiased=False, keepdim=True).clamp(min=_LEAST_SPREAD)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten()
        value = updates.step_of(loss_in_parts(model, champion, said, advantages, recipe, plan.rows))
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
        **plan.claims,
    }


def loss_in_parts(
    model: PreTrainedModel,
    champion: PreTrainedModel | None,
    said: Said,
    advantages: torch.Tensor,
    recipe: Mapping[str, Any],
    at_once: int,
) -> Iterator[torch.Tensor]:
    """The loss of everything said, in parts that add up to it, of at most ``at_once`` rows each."""
    tokens = said.spoken.sum().item()
    for at, part in said.parts(at_once):
        if champion is not None:
            with torch.no_grad():
                before = log_likelihoods(champion, part, recipe["temperature"])
        now = log_likelihoods(model, part, recipe["temperature"])
        loss = -(advantages[at, None].to(now.device) * now).sum() / tokens
        if champion is not None:
            away = (before - now).exp() - (before - now) - 1
            loss = loss + recipe["kl"] * away.sum() / tokens
        yield loss


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
