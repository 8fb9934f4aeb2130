"""Reinforcement learning by self-play: play Connect Four against oneself and former selves, do more of what won.

Invariants:
- Only openings in ``order.data`` and their mirror images are played.
- Two runs with the same champion, openings, recipe and seed write the same bytes.
- Numbers that are not finite, or data without one opening, raise before any model is written.
- Configuration and tokenizer are the champion's files, byte for byte; only weights differ.

A share of the games is played against a pool: the champion, and the learner as it was every few iterations. Whoever
plays only against the self of today forgets how to beat that of yesterday and goes round in circles; whoever plays
only against the champion may come to know nothing but its mistakes (in one round that was not seen:
docs/techniques.md). Both sides' moves of a game between equals are learnt from; of a game against the pool only
the learner's own. What a move was worth is told by the ends of games and by the model's own
value of positions (tokens ``+`` and ``-``), mixed as in TD(lambda); the update is PPO with clipping (Schulman and others
2017). The model goes to ``out/model``, the openings played to ``out/data/openings.jsonl``.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import JobFailedError
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import Game, Model, legal_mask, play
from sandbox.worker.environments.policy import Encoder, Policy
from sandbox.worker.learners import Order, recipes
from sandbox.worker.learners.games import Reader, load_player, read_openings, save
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_NORM = 1.0


@dataclass(frozen=True)
class Experience:
    """The positions of one iteration: what was played there, and what for. One row for each.

    ``returns`` are in -1..1 for whoever is to move; ``advantages`` are scaled to a deviation of one.
    """

    ids: torch.Tensor
    legal: torch.Tensor
    moves: torch.Tensor
    before: torch.Tensor
    returns: torch.Tensor
    advantages: torch.Tensor

    def to(self, device: torch.device) -> Experience:
        """The same, there."""
        return Experience(*(getattr(self, part.name).to(device) for part in fields(self)))


def learn(order: Order) -> dict[str, str]:
    """Improve the champion by games against itself; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.PLAYED_AGAINST_ITSELF)
    lines = read_openings(order.data)
    order.report(0.0, "loading", openings=len(lines))
    model, tokenizer = load_player(order)
    run = _Run(model, tokenizer, recipe, order)
    history = run.train(sorted(lines))
    save(order, model, [lines[opening] for opening in sorted(run.played)])
    return {
        "games": str(recipe["iterations"] * recipe["games"]),
        "first_score_against_pool": decimal(history[0]),
        "last_score_against_pool": decimal(history[-1]),
        "openings": str(len(run.played)),
    }


class _Run:
    """One training run: the model as it changes, the pool, and the openings that were played."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Mapping[str, Any],
        order: Order,
    ) -> None:
        self.played: dict[str, None] = {}
        self._model, self._recipe, self._order = model, recipe, order
        self._reader, self._moves = Reader(model, tokenizer), Encoder(tokenizer, c4.ACTIONS)
        self._draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
        self._sampler = torch.Generator().manual_seed(order.seed)
        self._pool = [self._player(copy.deepcopy(model))]
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.0)

    def train(self, openings: Sequence[str]) -> list[float]:
        """Play and update; returns each iteration's mean score against the pool (1/2 where none was played)."""
        total, history = self._recipe["iterations"], []
        for number in range(total):
            lr = self._recipe["lr"] * min((number + 1) / max(1.0, total / 10), 1 - number / total)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            even, against, score = self._games(openings)
            loss = self._update(self._experience(even, against))
            every = self._recipe["keep_every"]
            if every and (number + 1) % every == 0:
                self._pool.append(self._player(copy.deepcopy(self._model)))
            history.append(score)
            self._order.report(
                (number + 1) / total, "self-play",
                iteration=number + 1, score=round(score, 3), loss=round(loss, 4), pool=len(self._pool),
            )  # fmt: skip
        return history

    def _player(self, model: PreTrainedModel) -> Model:
        return Model(Policy(model, self._moves, self._recipe["temperature"]), self._sampler)

    def _games(self, openings: Sequence[str]) -> tuple[list[Game], list[tuple[Game, int]], float]:
        """Games between equals, games against the pool with the learner's side (0: moves first), and its score."""
        against = 2 * round(self._recipe["games"] * self._recipe["pool"] / 2)
        learner = self._player(self._model)
        even = play(learner, learner, self._chosen(openings, self._recipe["games"] - against))
        opponent = self._draw.choice(self._pool)
        if not against:
            return even, [], 0.5
        starts = self._chosen(openings, against // 2)
        first, second = play(learner, opponent, starts), play(opponent, learner, starts)
        score = math.fsum([g.score for g in first] + [1 - g.score for g in second]) / against
        return even, [(game, 0) for game in first] + [(game, 1) for game in second], score

    def _chosen(self, openings: Sequence[str], count: int) -> list[str]:
        chosen = [self._draw.choice(openings) for _ in range(count)]
        self.played.update(dict.fromkeys(chosen))
        return [_mirrored(text) if self._draw.random() < 0.5 else text for text in chosen]

    def _experience(self, even: Sequence[Game], against: Sequence[tuple[Game, int]]) -> Experience:
        sides = [(game, {0, 1}) for game in even] + [(game, {side}) for game, side in against]
        positions = [position for game, _ in sides for position in game.positions]
        ids = self._reader.encode(positions)
        legal = legal_mask(positions)
        chances, value = self._judged(ids, legal)
        moves = torch.tensor([move for game, _ in sides for move in game.moves])
        returns = torch.tensor(
            [
                target
                for (game, _), values in zip(
                    sides, value.split([len(g.moves) for g, _ in sides]), strict=True
                )
                for target in traced(values.tolist(), game.score, self._recipe["trace"])
            ]
        )
        kept = torch.tensor([ply % 2 in own for game, own in sides for ply in range(len(game.moves))])
        gain = (returns - value)[kept]
        gain = (gain - gain.mean()) / gain.std().clamp_min(1e-3)
        before = chances.gather(1, moves[:, None])[:, 0]
        return Experience(ids[kept], legal[kept], moves[kept], before[kept], returns[kept], gain)

    @torch.no_grad()
    def _judged(self, ids: torch.Tensor, legal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model says before it is changed, on the processor."""
        size, heat = self._recipe["batch"], self._recipe["temperature"]
        parts = zip(ids.split(size), legal.split(size), strict=True)
        chances, values = zip(*(self._reader.read(*rows, heat) for rows in parts), strict=True)
        return torch.cat(chances).cpu(), torch.cat(values).cpu()

    def _update(self, seen: Experience) -> float:
        """Climb the clipped objective for a few passes; returns the mean loss."""
        seen, losses = seen.to(self._model.device), []
        for _ in range(self._recipe["epochs"]):
            for rows in torch.randperm(len(seen.ids), generator=self._sampler).split(self._recipe["batch"]):
                chances, value = self._reader.read(
                    seen.ids[rows], seen.legal[rows], self._recipe["temperature"]
                )
                ratio = (chances.gather(1, seen.moves[rows][:, None])[:, 0] - seen.before[rows]).exp()
                clipped = ratio.clamp(1 - self._recipe["clip"], 1 + self._recipe["clip"])
                gain = torch.minimum(ratio * seen.advantages[rows], clipped * seen.advantages[rows]).mean()
                entropy = -(chances.exp() * chances).sum(1).mean()
                miss = ((value - seen.returns[rows]) ** 2).mean()
                loss = self._recipe["value"] * miss - gain - self._recipe["entropy"] * entropy
                if not torch.isfinite(loss):
                    raise JobFailedError(
                        f"the loss became {loss.item()}",
                        hint="try a lower lr or a smaller clip in the recipe",
                    )
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_NORM)
                self._optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)


def traced(values: Sequence[float], score: float, trace: float) -> list[float]:
    """What each position of a game was worth to whoever moved there, in -1..1.

    ``values`` are the model's own, each for whoever is to move; ``score`` is the first mover's (0, 1/2, 1).
    A position is worth the negative of the next one, for the other moves there.
    """
    last = len(values) - 1
    worth = (2 * score - 1) * (1 if last % 2 == 0 else -1)
    found = [worth]
    for ply in range(last - 1, -1, -1):
        worth = -((1 - trace) * values[ply + 1] + trace * worth)
        found.append(worth)
    return found[::-1]


def _mirrored(opening: str) -> str:
    return "".join(c4.ACTIONS[c4.COLUMNS - int(sign)] for sign in opening)
