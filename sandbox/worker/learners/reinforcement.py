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

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker import data
from sandbox.worker.environments import lava
from sandbox.worker.environments.episodes import Episode, play, rate
from sandbox.worker.environments.policy import Encoder, Policy, action_logits
from sandbox.worker.learners import Learner, Order, recipes
from sandbox.worker.learners.games import expert_iteration as in_games
from sandbox.worker.learners.games import self_play
from sandbox.worker.learners.levels import expert_iteration as in_levels
from sandbox.worker.learners.levels import load_champion, save
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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

    def to(self, device: torch.device) -> Experience:
        """The same, there."""
        return Experience(*(getattr(self, part.name).to(device) for part in fields(self)))


def learn(order: Order) -> dict[str, str]:
    """Improve the champion on the layouts of ``order.data``; returns what the run claims about itself.

    With ``method = self_play`` a player learns from games against itself instead; with ``method = expert_iteration``
    it imitates what a search found, or in levels its own episodes that ended well.
    """
    if "method" in order.recipe:
        settings = dict(order.recipe)
        return _learner_of(settings.pop("method"), order.data)(replace(order, recipe=settings))
    recipe = read_recipe(order.recipe, recipes.RETURN_AND_COST)
    lines = _read_layouts(order.data)
    order.report(0.0, "loading", layouts=len(lines))
    model, encoder = load_champion(order)
    played: dict[str, None] = {}
    history = _train(model, encoder, sorted(lines), recipe, order, played)
    save(order, model, [lines[layout] for layout in sorted(played)])
    first, last = history[0], history[-1]
    return {
        "first_success": decimal(rate(first, "success")),
        "last_success": decimal(rate(last, "success")),
        "first_unsafe": decimal(rate(first, "unsafe")),
        "last_unsafe": decimal(rate(last, "unsafe")),
        "layouts": str(len(played)),
    }


def _learner_of(method: str, records: Path) -> Learner:
    """The learner of another method than this module's; what the first record holds tells a game from a level."""
    if method == recipes.SELF_PLAY:
        return self_play.learn
    if method == recipes.EXPERT_ITERATION:
        is_game = any("opening" in line.value for line in data.read_directory(records)[:1])
        return in_games.learn if is_game else in_levels.learn
    raise InvalidInputError(
        f"recipe: method = {method!r:.40}: one of {recipes.EXPERT_ITERATION}, {recipes.SELF_PLAY}",
        hint="without it, an action model learns from return and cost",
    )


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
    experience, losses = experience.to(model.device), []
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
