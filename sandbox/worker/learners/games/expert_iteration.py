"""Expert iteration: look ahead with a tree search, imitate what it chose, and look ahead with what came of that.

Invariants:
- Only openings in ``order.data`` are played; half of what is seen is learnt mirrored.
- Two runs with the same champion, openings, recipe and seed write the same bytes.
- Numbers that are not finite, or data without one opening, raise before any model is written.
- Configuration and tokenizer are the champion's files, byte for byte; only weights differ.

The expert is the model itself with ``simulations`` steps of tree search before each move (``tree_search``); it plays
both sides. The apprentice, the model alone, learns how often the search took each move, and from the model's own value and
the game's end what the position was worth (Anthony and others 2017; Silver and others 2017). Only the apprentice is
measured and served: no search is made then. The model goes to ``out/model``, the openings to ``out/data/openings.jsonl``.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from guardrails.canonical import decimal
from guardrails.errors import JobFailedError
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import legal_mask
from sandbox.worker.environments.tree_search import Node, blend, grow
from sandbox.worker.learners import Order, recipes
from sandbox.worker.learners.games import Reader, load_player, read_openings, save
from sandbox.worker.learners.settings import read_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_NORM = 1.0
_SPREAD = 1.0  # of the noise: every mixture of the moves is as likely as any other


@dataclass
class Searched:
    """A game that the expert played: positions, how often it looked at each column there, and what they were worth.

    Worths are the search's own, for whoever is to move; ``score`` is the end for whoever moved first (-1, 0, 1).
    """

    root: Node
    positions: list[c4.Position] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    worths: list[float] = field(default_factory=list)
    score: float = 0.0

    def play(self, column: int) -> None:
        """Note what the search found, and make a move."""
        self.positions.append(self.root.position)
        self.shares.append(self.root.shares())
        self.worths.append(self.root.worth)
        self.root = self.root.after(column)
        if self.root.position.is_lost:
            self.score = 1.0 if len(self.positions) % 2 else -1.0

    def targets(self, trace: float) -> list[float]:
        """What each position was worth to whoever moved there, in -1..1."""
        ends = [self.score if ply % 2 == 0 else -self.score for ply in range(len(self.positions))]
        return [trace * end + (1 - trace) * worth for end, worth in zip(ends, self.worths, strict=True)]


@dataclass(frozen=True)
class Lesson:
    """Positions as rows, and what the search made of each."""

    ids: torch.Tensor
    legal: torch.Tensor
    shares: torch.Tensor
    worths: torch.Tensor

    @staticmethod
    def joined(lessons: Sequence[Lesson]) -> Lesson:
        """All of them as one."""
        columns = zip(
            *((lesson.ids, lesson.legal, lesson.shares, lesson.worths) for lesson in lessons), strict=True
        )
        return Lesson(*(torch.cat(parts) for parts in columns))


def learn(order: Order) -> dict[str, str]:
    """Search, imitate, repeat; returns what the run claims about itself."""
    recipe = read_recipe(order.recipe, recipes.SEARCHED)
    lines = read_openings(order.data)
    order.report(0.0, "loading", openings=len(lines))
    model, tokenizer = load_player(order)
    run = _Run(model, Reader(model, tokenizer), recipe, order)
    losses = run.train(sorted(lines))
    save(order, model, [lines[one] for one in sorted(run.played)])
    return {
        "games": str(recipe["iterations"] * recipe["games"]),
        "first_loss": decimal(losses[0]),
        "last_loss": decimal(losses[-1]),
        "openings": str(len(run.played)),
    }


class _Run:
    """One training run: the model as it changes, the latest lessons, and the openings that were played."""

    def __init__(
        self, model: PreTrainedModel, reader: Reader, recipe: Mapping[str, Any], order: Order
    ) -> None:
        self.played: dict[str, None] = {}
        self._model, self._reader, self._recipe, self._order = model, reader, recipe, order
        self._draw = random.Random(order.seed)  # noqa: S311 - a training order is no secret
        self._sampler = torch.Generator().manual_seed(order.seed)
        self._lessons: deque[Lesson] = deque(maxlen=recipe["window"])
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.0)

    def train(self, openings: Sequence[str]) -> list[float]:
        """Play and imitate; returns each iteration's mean loss."""
        total, losses = self._recipe["iterations"], []
        for number in range(total):
            lr = self._recipe["lr"] * min((number + 1) / max(1.0, total / 10), 1 - number / total)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            games = self._games(openings)
            self._lessons.append(self._lesson(games))
            losses.append(self._imitate(Lesson.joined(self._lessons)))
            self._order.report(
                (number + 1) / total, "expert iteration", iteration=number + 1, loss=round(losses[-1], 4),
                moves=sum(len(game.positions) for game in games),
            )  # fmt: skip
        return losses

    def _games(self, openings: Sequence[str]) -> list[Searched]:
        """Games of the expert against itself, side by side."""
        chosen = [self._draw.choice(openings) for _ in range(self._recipe["games"])]
        self.played.update(dict.fromkeys(chosen))
        games = [Searched(Node(c4.parse_moves(text))) for text in chosen]
        live = games
        while live:
            roots = [game.root for game in live]
            grow(roots, self._reader, 0, self._recipe["curiosity"])
            for root in roots:
                blend(root, self._noise(len(root.moves)), self._recipe["noise"])
            grow(roots, self._reader, self._recipe["simulations"], self._recipe["curiosity"])
            for game in live:
                game.play(self._draw.choices(range(c4.COLUMNS), game.root.shares())[0])
            live = [game for game in live if not game.root.position.is_over]
        return games

    def _noise(self, count: int) -> list[float]:
        """A draw from the Dirichlet distribution."""
        parts = [self._draw.gammavariate(_SPREAD, 1.0) for _ in range(count)]
        return [part / sum(parts) for part in parts]

    def _lesson(self, games: Sequence[Searched]) -> Lesson:
        """What the games teach, half of the positions mirrored."""
        positions, shares = [], []
        for game in games:
            for position, taken in zip(game.positions, game.shares, strict=True):
                turned = self._draw.random() < 0.5
                positions.append(position.mirrored() if turned else position)
                shares.append(taken[::-1] if turned else taken)
        worths = [worth for game in games for worth in game.targets(self._recipe["trace"])]
        return Lesson(
            self._reader.encode(positions), legal_mask(positions), torch.tensor(shares), torch.tensor(worths)
        )

    def _imitate(self, known: Lesson) -> float:
        """A few passes over what the searches found; returns the mean loss."""
        losses = []
        for _ in range(self._recipe["epochs"]):
            for rows in torch.randperm(len(known.ids), generator=self._sampler).split(self._recipe["batch"]):
                chances, value = self._reader.read(known.ids[rows], known.legal[rows])
                shares, worths = (part[rows].to(value.device) for part in (known.shares, known.worths))
                chosen = -(shares * chances).sum(1).mean()
                miss = ((value - worths) ** 2).mean()
                loss = chosen + self._recipe["value"] * miss
                if not torch.isfinite(loss):
                    raise JobFailedError(
                        f"the loss became {loss.item()}", hint="try a lower lr in the recipe"
                    )
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_NORM)
                self._optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)
