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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker import data, weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import LOST, WON, Game, Model, legal_mask, play
from sandbox.worker.environments.policy import Encoder, Policy
from sandbox.worker.learners import Order, forms, read_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

METHOD = "self_play"
DEFAULTS: dict[str, Any] = {
    "method": METHOD,
    "iterations": 28,  # rounds of playing and updating
    "games": 128,  # games in one iteration
    "pool": 0.5,  # share of them against the pool; 0: only against oneself
    "keep_every": 6,  # iterations after which a copy of the learner joins the pool; 0: the champion alone is in it
    "epochs": 2,  # passes over one iteration's positions
    "batch": 256,  # positions in one update
    "lr": 1.5e-3,  # highest learning rate; rises over the first tenth, then falls to zero in a line
    "clip": 0.2,  # how far a probability ratio may move in one iteration
    "entropy": 0.01,  # reward for keeping options open
    "trace": 0.9,  # lambda: 1 trusts the ends of games alone, 0 the next position's value alone
    "value": 0.5,  # weight of the value's loss
    "temperature": 1.0,  # of sampling and of the loss
}
_POSITIVE = ("iterations", "games", "epochs", "batch", "lr", "clip", "temperature")
_SHARES = ("pool", "trace")
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


def learn(order: Order) -> dict[str, str]:
    """Improve the champion by games against itself; returns what the run claims about itself."""
    recipe = checked(read_recipe(order.recipe, DEFAULTS))
    lines = read_openings(order.data)
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError("the champion has no tokenizer", hint="a player needs one to read positions")
    order.report(0.0, "loading", openings=len(lines))
    torch.manual_seed(order.seed)
    model = weights.load_model(order.champion, torch.float32).requires_grad_(True)
    encoder = Encoder(tokenizer, (*c4.ACTIONS, WON, LOST))
    run = _Run(model, encoder, Encoder(tokenizer, c4.ACTIONS), recipe, order)
    history = run.train(sorted(lines))
    _save(order, model, [lines[opening] for opening in sorted(run.played)])
    return {
        "games": str(recipe["iterations"] * recipe["games"]),
        "first_score_against_pool": decimal(history[0]),
        "last_score_against_pool": decimal(history[-1]),
        "openings": str(len(run.played)),
    }


def checked(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, if every number in it makes sense; raises InvalidInputError."""
    if recipe["method"] != METHOD:
        raise InvalidInputError(f"recipe: method = {recipe['method']!r:.40} is not {METHOD}")
    for name, value in recipe.items():
        if name == "method":
            continue
        if not math.isfinite(value) or value < 0:
            raise InvalidInputError(f"recipe: {name} = {value} must be a finite number, not below zero")
        if value == 0 and name in _POSITIVE:
            raise InvalidInputError(f"recipe: {name} = {value} must be above zero")
        if name in _SHARES and value > 1:
            raise InvalidInputError(f"recipe: {name} = {value} must not be above 1")
    if recipe["games"] < 4:
        raise InvalidInputError("recipe: games must be at least 4: two sides against two kinds of opponent")
    return recipe


def read_openings(directory: Path) -> dict[str, dict[str, Any]]:
    """Opening → its record, each once, all of them legal and not over."""
    found: dict[str, dict[str, Any]] = {}
    for line in data.read_directory(directory):
        opening = line.value.get("opening")
        if not isinstance(opening, str):
            raise InvalidInputError(f"{line.place}: the record has no text field 'opening'")
        try:
            over = c4.parse_moves(opening).is_over
        except InvalidInputError as error:
            raise InvalidInputError(f"{line.place}: {error.message}") from None
        if over:
            raise InvalidInputError(f"{line.place}: the game is over after {opening!r:.60}")
        found.setdefault(opening, dict(line.value))
    if not found:
        raise InvalidInputError(
            "no opening to play from", hint="records look like {'id': …, 'opening': '4432'}"
        )
    return found


class _Run:
    """One training run: the model as it changes, the pool, and the openings that were played."""

    def __init__(
        self, model: PreTrainedModel, speech: Encoder, moves: Encoder, recipe: Mapping[str, Any], order: Order
    ) -> None:
        self.played: dict[str, None] = {}
        self._model, self._speech, self._moves, self._recipe, self._task = model, speech, moves, recipe, order
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
            self._task.report(
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
        ids = self._speech.encode([c4.observe(position) for position in positions])
        legal = legal_mask(positions)
        scores = torch.cat([self._scores(rows) for rows in ids.split(self._recipe["batch"])])
        chances, value = self._read(scores, legal)
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
    def _scores(self, ids: torch.Tensor) -> torch.Tensor:
        return self._forward(ids)

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        output = self._model(input_ids=ids, use_cache=False, logits_to_keep=1)
        scores: torch.Tensor = output.logits[:, -1, self._speech.actions].float()
        return scores

    def _read(self, scores: torch.Tensor, legal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the columns, and values in -1..1."""
        columns = scores[:, : c4.COLUMNS] / self._recipe["temperature"]
        value = torch.tanh((scores[:, -2] - scores[:, -1]) / 2)  # P(+) - P(-)
        return columns.masked_fill(~legal, -1e9).log_softmax(1), value

    def _update(self, seen: Experience) -> float:
        """Climb the clipped objective for a few passes; returns the mean loss."""
        losses = []
        for _ in range(self._recipe["epochs"]):
            for rows in torch.randperm(len(seen.ids), generator=self._sampler).split(self._recipe["batch"]):
                chances, value = self._read(self._forward(seen.ids[rows]), seen.legal[rows])
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


def _save(order: Order, model: PreTrainedModel, records: Sequence[dict[str, Any]]) -> None:
    """Write the model, and the records that it learnt from."""
    forms.save(model, {"form": forms.FULL}, order.champion, order.out / "model")
    data.write_records(order.out / "data" / "openings.jsonl", records)
