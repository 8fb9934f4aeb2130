"""Reinforcement learning: act in the training levels, and do more of what went well (PPO with clipping).

Invariants:
- Only the layouts in ``order.data``, their rotations and their mirror images are played.
- Two runs with the same champion, layouts, recipe and seed write the same bytes.
- Numbers that are not finite, or data without one layout, raise before any model is written.
- Configuration and tokenizer are the champion's files, byte for byte; only weights differ.

Each iteration plays every one of a few drawn layouts, turned or mirrored at random, several times with
sampled actions. All visits of one
observation share one baseline, their mean return, so that an advantage says which action was better *there*;
no second network has to learn a value. Visits with the same observation and action are averaged. The
model (a full directory, safetensors) goes to ``out/model``, the layouts played to ``out/data/layouts.jsonl``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker import data, weights
from sandbox.worker.environments import lava
from sandbox.worker.environments.episodes import Episode, play, rate
from sandbox.worker.environments.policy import Encoder, Policy, action_logits
from sandbox.worker.learners import Order, forms, read_recipe, self_play

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULTS: dict[str, Any] = {
    "iterations": 20,  # rounds of playing and updating
    "layouts": 160,  # layouts drawn in one iteration
    "forms": 8,  # each is played in one of its first so many rotations and mirror images; 1: as it is
    "episodes": 5,  # episodes on each of them
    "epochs": 3,  # passes over one iteration's observations
    "batch": 256,  # observations in one update
    "lr": 1e-3,  # highest learning rate; rises over the first tenth, then falls to zero in a line
    "clip": 0.2,  # how far a probability ratio may move in one iteration
    "entropy": 0.005,  # reward for keeping options open
    "discount": 0.99,  # of the final reward, per step before the end
    "temperature": 1.0,  # of sampling and of the loss, in the first iteration
    "final_temperature": 0.5,  # in the last; greedy play, as served, is temperature 0
    "time_cost": 0.5,  # taken off the reward for success at the last possible step
    "lava_penalty": 1.0,
    "timeout_penalty": 1.0,
}
_POSITIVE = ("iterations", "layouts", "forms", "episodes", "epochs", "batch", "lr", "clip", "discount")
_MAX_NORM = 1.0


@dataclass(frozen=True)
class Experience:
    """One iteration's distinct observations: how often each action was taken, and how well it went.

    ``advantages`` are summed over visits and scaled to a mean magnitude of one.
    """

    ids: torch.Tensor
    counts: torch.Tensor
    advantages: torch.Tensor
    before: torch.Tensor


def learn(order: Order) -> dict[str, str]:
    """Improve the champion on the layouts of ``order.data``; returns what the run claims about itself.

    With ``method = self_play`` a player learns from games against itself instead.
    """
    if order.recipe.get("method") == self_play.METHOD:
        return self_play.learn(order)
    recipe = _checked(read_recipe(order.recipe, DEFAULTS))
    lines = _read_layouts(order.data)
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError(
            "the champion has no tokenizer", hint="an action model needs one to read states"
        )
    order.report(0.0, "loading", layouts=len(lines))
    torch.manual_seed(order.seed)
    model = weights.load_model(order.champion, torch.float32).requires_grad_(True)
    played: dict[str, None] = {}
    history = _train(model, Encoder(tokenizer), sorted(lines), recipe, order, played)
    _save(order, model, [lines[layout] for layout in sorted(played)])
    first, last = history[0], history[-1]
    return {
        "first_success": decimal(rate(first, "success")),
        "last_success": decimal(rate(last, "success")),
        "first_unsafe": decimal(rate(first, "unsafe")),
        "last_unsafe": decimal(rate(last, "unsafe")),
        "layouts": str(len(played)),
    }


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    for name, value in recipe.items():
        if not math.isfinite(value) or value < 0:
            raise InvalidInputError(f"recipe: {name} = {value} must be a finite number, not below zero")
        if value == 0 and (name in _POSITIVE or name.endswith("temperature")):
            raise InvalidInputError(f"recipe: {name} = {value} must be above zero")
    if recipe["discount"] > 1:
        raise InvalidInputError(f"recipe: discount = {recipe['discount']} must not be above 1")
    if recipe["forms"] > lava.FORMS:
        raise InvalidInputError(f"recipe: forms = {recipe['forms']} must not be above {lava.FORMS}")
    if recipe["episodes"] < 2:
        raise InvalidInputError("recipe: episodes must be at least 2: one has nothing to be compared with")
    return recipe


def _read_layouts(directory: Path) -> dict[str, dict[str, Any]]:
    """Layout → its record, each layout once, all of them valid."""
    found: dict[str, dict[str, Any]] = {}
    for line in data.read_directory(directory):
        layout = line.value.get("layout")
        if not isinstance(layout, str):
            raise InvalidInputError(f"{line.place}: the record has no text field 'layout'")
        try:
            lava.parse_layout(layout)
        except InvalidInputError as error:
            raise InvalidInputError(f"{line.place}: {error.message}") from None
        found.setdefault(layout, dict(line.value))
    if not found:
        raise InvalidInputError("no layout to learn from", hint="records look like {'id': …, 'layout': …}")
    return found


def _train(
    model: PreTrainedModel,
    encoder: Encoder,
    layouts: Sequence[str],
    recipe: dict[str, Any],
    order: Order,
    played: dict[str, None],
) -> list[list[Episode]]:
    """Play and update; returns every iteration's episodes and notes in ``played`` what was played."""
    draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
    sampler = torch.Generator().manual_seed(order.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.0)
    total = recipe["iterations"]
    history: list[list[Episode]] = []
    for number in range(total):
        share = number / max(1, total - 1)
        heat = recipe["temperature"] + share * (recipe["final_temperature"] - recipe["temperature"])
        chosen = draw.sample(layouts, min(recipe["layouts"], len(layouts)))
        played.update(dict.fromkeys(chosen))
        policy = Policy(model, encoder, heat)
        levels = [lava.symmetric(text, draw.randrange(recipe["forms"])) for text in chosen]
        episodes = play(policy, [text for text in levels for _ in range(recipe["episodes"])], sampler=sampler)
        experience = _experience(episodes, policy, encoder, recipe)
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * min((number + 1) / max(1.0, total / 10), 1 - number / total)
        loss = _update(model, encoder, experience, optimizer, recipe, heat, sampler)
        history.append(episodes)
        order.report(
            (number + 1) / total,
            "training",
            iteration=number + 1,
            success=round(rate(episodes, "success"), 3),
            unsafe=round(rate(episodes, "unsafe"), 3),
            loss=round(loss, 4),
        )
    return history


def _reward(episode: Episode, recipe: dict[str, Any]) -> float:
    if episode.end == "success":
        return 1.0 - float(recipe["time_cost"]) * episode.steps / lava.MAX_STEPS
    return -float(recipe["lava_penalty"] if episode.end == "unsafe" else recipe["timeout_penalty"])


def _experience(
    episodes: Sequence[Episode], policy: Policy, encoder: Encoder, recipe: dict[str, Any]
) -> Experience | None:
    """What the episodes teach; None where no observation saw two different actions."""
    visits: dict[str, list[list[float]]] = {}
    for episode in episodes:
        value = _reward(episode, recipe)
        for back, (seen, action) in enumerate(
            zip(reversed(episode.observations), reversed(episode.actions), strict=True)
        ):
            row = visits.setdefault(seen, [[0.0] * 3, [0.0] * 3])
            row[0][action] += 1
            row[1][action] += value * recipe["discount"] ** back
    kept = [seen for seen, (taken, _) in visits.items() if sum(map(bool, taken)) > 1]
    if not kept:
        return None
    counts = torch.tensor([visits[seen][0] for seen in kept])
    returns = torch.tensor([visits[seen][1] for seen in kept])
    baseline = returns.sum(1, keepdim=True) / counts.sum(1, keepdim=True)
    advantages = returns - counts * baseline
    scale = (advantages.abs().sum() / counts.sum()).clamp_min(1e-3)
    return Experience(encoder.encode(kept), counts, advantages / scale, policy.log_probabilities(kept))


def _update(
    model: PreTrainedModel,
    encoder: Encoder,
    experience: Experience | None,
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, Any],
    heat: float,
    sampler: torch.Generator,
) -> float:
    """Climb the clipped objective for a few passes; returns the mean loss, 0 where nothing was learnt."""
    if experience is None:
        return 0.0
    losses = []
    for _ in range(recipe["epochs"]):
        for rows in torch.randperm(len(experience.ids), generator=sampler).split(recipe["batch"]):
            scores = action_logits(model, experience.ids[rows], encoder.actions)
            now = (scores / heat).log_softmax(-1)
            ratio = (now - experience.before[rows]).exp()
            gain, counts = experience.advantages[rows], experience.counts[rows].sum(1)
            clipped = ratio.clamp(1 - recipe["clip"], 1 + recipe["clip"])
            objective = torch.minimum(ratio * gain, clipped * gain).sum()
            entropy = (-(now.exp() * now).sum(1) * counts).sum()
            loss = -(objective + recipe["entropy"] * entropy) / counts.sum()
            if not torch.isfinite(loss):
                raise JobFailedError(
                    f"the loss became {loss.item()}", hint="try a lower lr or a smaller clip in the recipe"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def _save(order: Order, model: PreTrainedModel, records: Sequence[dict[str, Any]]) -> None:
    """Write the model, and the records that it learnt from."""
    forms.save(model, {"form": forms.FULL}, order.champion, order.out / "model")
    data.write_records(order.out / "data" / "layouts.jsonl", records)
