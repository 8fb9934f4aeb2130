"""What learners of games for two share: the player, openings, what it says of positions, and the bundle's parts.

Invariants: only legal columns have a chance; a value is in -1..1 for whoever is to move; only legal openings of games that
are not over are played; configuration and tokenizer are the champion's files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker import data, weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import LOST, WON, legal_mask
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.learners import Order, forms

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


def load_player(order: Order) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The champion on the order's device, ready to learn, and its tokenizer."""
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError("the champion has no tokenizer", hint="a player needs one to read positions")
    torch.manual_seed(order.seed)
    model = weights.load_model(order.champion, torch.float32).requires_grad_(True)
    return model.to(order.device), tokenizer


def save(order: Order, model: PreTrainedModel, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the model, and the records that it learnt from."""
    forms.save(model, {"form": forms.FULL}, order.champion, order.out / "model")
    data.write_records(order.out / "data" / "openings.jsonl", records)


class Reader:
    """A model as it reads positions: the chances of its moves, and what it holds them to be worth."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._encoder = Encoder(tokenizer, (*c4.ACTIONS, WON, LOST))

    def encode(self, positions: Sequence[c4.Position]) -> torch.Tensor:
        """Token ids, one row for each position."""
        return self._encoder.encode([c4.observe(position) for position in positions])

    def read(
        self, ids: torch.Tensor, legal: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the columns at a temperature, and values, where the model computes."""
        device = self._model.device
        output = self._model(input_ids=ids.to(device), use_cache=False, logits_to_keep=1)
        scores = output.logits[:, -1, self._encoder.actions].float()
        value = torch.tanh((scores[:, -2] - scores[:, -1]) / 2)  # P(+) - P(-)
        columns = scores[:, : c4.COLUMNS] / temperature
        return columns.masked_fill(~legal.to(device), -1e9).log_softmax(1), value

    @torch.no_grad()
    def __call__(self, positions: Sequence[c4.Position]) -> list[tuple[list[float], float]]:
        """Probabilities of the seven columns, and the value, of each position: a judge for a tree search."""
        chances, values = self.read(self.encode(positions), legal_mask(positions))
        if not (torch.isfinite(chances).all() and torch.isfinite(values).all()):
            raise JobFailedError(
                "what the model says of positions is not a finite number",
                hint="its training diverged: try a lower lr in the recipe",
            )
        return list(zip(chances.exp().tolist(), values.tolist(), strict=True))
