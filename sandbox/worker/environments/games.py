"""Playing many games of Connect Four at once, and the model as a player of it.

Invariants:
- A player sees observations only, and only legal columns can be played: probability on others is lost to the rest.
- Greedy play, as a model is served, is a function of model and position alone; ties go to the left column.
- Sampled play is a function of model, openings and the generator's state.
- The value of a position is the model's own: the weight of ``+`` against ``-`` as the next token. Play does not use
  it; learners do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.connect_four import Position
from sandbox.worker.environments.policy import PAD, UNKNOWN, Encoder, Policy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WON, LOST = "+", "-"
"""The tokens of a value: that whoever is to move wins, or loses."""


class Player(Protocol):
    """Whoever chooses columns."""

    def choose(self, positions: Sequence[Position]) -> list[int]:
        """One legal column for each position; none of them is over."""


@dataclass
class Game:
    """One game from an opening: the moves played after it, and how it ended for whoever moved first there."""

    opening: str
    positions: list[Position] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    score: float = 0.5

    @property
    def text(self) -> str:
        """All moves from the empty board."""
        return self.opening + "".join(c4.ACTIONS[move] for move in self.moves)


def play(first: Player, second: Player, openings: Sequence[str]) -> list[Game]:
    """Play one game from each opening side by side; ``first`` moves first in each."""
    games = [Game(opening) for opening in openings]
    boards = [c4.parse_moves(opening) for opening in openings]
    live = [index for index, board in enumerate(boards) if not board.is_over]
    mover, waiting = first, second
    while live:
        for index, column in zip(live, mover.choose([boards[index] for index in live]), strict=True):
            games[index].positions.append(boards[index])
            games[index].moves.append(column)
            boards[index] = boards[index].play(column)
        mover, waiting = waiting, mover
        live = [index for index in live if not boards[index].is_over]
    for game, board in zip(games, boards, strict=True):
        if board.is_lost:
            game.score = 1.0 if len(game.moves) % 2 else 0.0
    return games


class Model:
    """A model as a player: greedy, or sampled where a generator is given."""

    def __init__(self, policy: Policy, sampler: torch.Generator | None = None) -> None:
        self._policy = policy
        self._sampler = sampler

    def choose(self, positions: Sequence[Position]) -> list[int]:
        """The likeliest legal column, or one drawn by the model's probabilities of the legal ones."""
        scores = self._policy.log_probabilities([c4.observe(position) for position in positions])
        scores = scores.masked_fill(~legal_mask(positions), -torch.inf)
        if self._sampler is None:
            return [int(column) for column in scores.argmax(1)]
        drawn = torch.multinomial(scores.softmax(1), 1, generator=self._sampler)[:, 0]
        return [int(column) for column in drawn]


class Minimax:
    """A fixed opponent that looks ``depth`` moves ahead and chooses at random among what seems equal; 0: random."""

    def __init__(self, depth: int, seed: int | str) -> None:
        self._depth = depth
        self._draw = random.Random(f"minimax:{seed}")  # noqa: S311 - reproducible play, not a secret

    def choose(self, positions: Sequence[Position]) -> list[int]:
        """One of the best moves of each position."""
        return [
            self._draw.choice(c4.best_moves(p, self._depth) if self._depth else p.legal()) for p in positions
        ]


def mean_score(player: Player, opponent: Player, openings: Sequence[str]) -> float:
    """The player's mean score over the openings, each played from both sides."""
    before = [game.score for game in play(player, opponent, openings)]
    after = [1.0 - game.score for game in play(opponent, player, openings)]
    return sum(before + after) / (2 * len(openings))


def legal_mask(positions: Sequence[Position]) -> torch.Tensor:
    """True where a column takes a stone, one row for each position."""
    mask = torch.zeros(len(positions), c4.COLUMNS, dtype=torch.bool)
    for row, position in enumerate(positions):
        mask[row, list(position.legal())] = True
    return mask


def encoder_for(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Reads observations and knows the seven columns; raises JobFailedError where the tokenizer does not."""
    return Encoder(tokenizer, c4.ACTIONS)


def build_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of Connect Four models: a token for each filling of a column, each action, turn and value."""
    from transformers import PreTrainedTokenizerFast

    fillings = [""]
    for _ in range(c4.ROWS):
        fillings += [f + sign for f in fillings if len(f) == len(fillings[-1]) for sign in (c4.OWN, c4.OTHER)]
    columns = [filling.ljust(c4.ROWS, c4.EMPTY) for filling in fillings]
    vocabulary = [PAD, UNKNOWN, *columns, *c4.ACTIONS, c4.TURN, WON, LOST]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"[XO.]{{{c4.ROWS}}}|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=c4.COLUMNS + 2
    )
