"""Expert iteration: act in the training levels several times, keep what ended well, and imitate that.

The plainest way to learn from how episodes end; what learning from return and cost has to be compared with.

Invariants:
- Only episodes that reached the goal, and did not get round the supervisor on the way, are imitated.
- Only the levels in ``train.jsonl``, their rotations and their mirror images are played.
- Two runs with the same champion, levels, recipe and seed write the same bytes.

Each iteration plays every one of a few drawn levels, turned or mirrored at random, several times with sampled
actions. With ``keep = best`` the shortest of a level's good episodes is the expert, with ``keep = all`` each of them
is. Nothing is learnt from an episode that went wrong, but that it is not imitated.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import JobFailedError
from sandbox.worker.environments import lava, world
from sandbox.worker.environments.episodes import Episode, play, rate
from sandbox.worker.environments.policy import Encoder, Policy, action_logits
from sandbox.worker.learners import Order, recipes
from sandbox.worker.learners.levels import load_champion, read_records, save
from sandbox.worker.learners.levels.imitation import MAX_NORM
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learn(order: Order) -> dict[str, str]:
    """Play, keep, imitate; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.IMITATED_IN_LEVELS)
    records = {record.layout: record.value for record in read_records(order.data)}
    order.report(0.0, "loading", layouts=len(records))
    model, encoder = load_champion(order)
    run = _Run(model, encoder, recipe, order)
    history = run.train(sorted(records))
    if not run.imitated:
        raise JobFailedError(
            f"none of {sum(map(len, history))} episodes reached the goal safely and with its supervisor: there is "
            "nothing to imitate",
            hint="try more episodes or a higher temperature, or give the champion easier levels",
        )
    save(order, model, [records[layout] for layout in sorted(run.played)])
    first, last = history[0], history[-1]
    return {
        "first_success": decimal(rate(first, "success")),
        "last_success": decimal(rate(last, "success")),
        "first_unsafe": decimal(rate(first, "unsafe")),
        "last_unsafe": decimal(rate(last, "unsafe")),
        "layouts": str(len(run.played)),
    }


def kept(episodes: Sequence[Episode], keep: str) -> list[Episode]:
    """The episodes to be imitated: good ones, in order; with ``best`` the first of the shortest of each level."""
    good = [episode for episode in episodes if episode.end == "success" and not episode.evaded]
    if keep == "all":
        return good
    best: dict[str, Episode] = {}
    for episode in good:
        if episode.layout not in best or episode.steps < best[episode.layout].steps:
            best[episode.layout] = episode
    return list(best.values())


@dataclass(frozen=True)
class Shown:
    """What the kept episodes show: each distinct observation, and how often each action was taken there."""

    ids: torch.Tensor
    counts: torch.Tensor


def shown(encoder: Encoder, episodes: Sequence[Episode]) -> Shown:
    """Count the episodes' actions by observation; there is at least one."""
    visits: dict[str, list[float]] = {}
    for episode in episodes:
        for seen, action in zip(episode.observations, episode.actions, strict=True):
            visits.setdefault(seen, [0.0] * len(lava.ACTIONS))[action] += 1
    return Shown(encoder.encode(list(visits)), torch.tensor(list(visits.values())))


class _Run:
    """One training run: the model as it changes, the levels that were played, and how many episodes were imitated."""

    def __init__(
        self, model: PreTrainedModel, encoder: Encoder, recipe: Mapping[str, Any], order: Order
    ) -> None:
        self.played: dict[str, None] = {}
        self.imitated = 0
        self._model, self._encoder, self._recipe, self._order = model, encoder, recipe, order
        self._draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
        self._sampler = torch.Generator().manual_seed(order.seed)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.0)

    def train(self, layouts: Sequence[str]) -> list[list[Episode]]:
        """Play and imitate; returns every iteration's episodes."""
        total, history = self._recipe["iterations"], []
        for number in range(total):
            lr = self._recipe["lr"] * min((number + 1) / max(1.0, total / 10), 1 - number / total)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            episodes = self._episodes(layouts)
            good = kept(episodes, self._recipe["keep"])
            loss = self._imitate(shown(self._encoder, good)) if good else 0.0
            history.append(episodes)
            self.imitated += len(good)
            self._order.report(
                (number + 1) / total, "training", iteration=number + 1, imitated=len(good),
                success=round(rate(episodes, "success"), 3), unsafe=round(rate(episodes, "unsafe"), 3),
                loss=round(loss, 4),
            )  # fmt: skip
        return history

    def _episodes(self, layouts: Sequence[str]) -> list[Episode]:
        chosen = self._draw.sample(layouts, min(self._recipe["layouts"], len(layouts)))
        self.played.update(dict.fromkeys(chosen))
        levels = [world.symmetric(text, self._draw.randrange(self._recipe["forms"])) for text in chosen]
        policy = Policy(self._model, self._encoder, self._recipe["temperature"])
        repeated = [text for text in levels for _ in range(self._recipe["episodes"])]
        return play(policy, repeated, sampler=self._sampler)

    def _imitate(self, known: Shown) -> float:
        """A few passes over what was shown; returns the mean loss."""
        losses = []
        for _ in range(self._recipe["epochs"]):
            for rows in torch.randperm(len(known.ids), generator=self._sampler).split(self._recipe["batch"]):
                scores = action_logits(self._model, known.ids[rows], self._encoder.actions)
                counts = known.counts[rows].to(scores.device)
                loss = -(counts * scores.log_softmax(-1)).sum() / counts.sum()
                if not torch.isfinite(loss):
                    raise JobFailedError(
                        f"the loss became {loss.item()}", hint="try a lower lr in the recipe"
                    )
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_NORM)
                self._optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)
