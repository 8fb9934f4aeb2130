"""What a language model says to prompts, drawn by its own probabilities, and how likely it holds what was said.

Invariants:
- The same model, prompts and generator give the same answers.
- An answer ends with the model's end token, or is cut: then it has not ended, and ``texts`` says so by None.
- Prompts stand on the left, padded there; a position counts from a prompt's own first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from sandbox.worker import data, weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Puzzle:
    """A prompt in tokens, and the right answer as text."""

    record: data.Line
    row: tuple[int, ...]
    answer: str


@dataclass(frozen=True)
class Said:
    """Prompts with what was said to them, one row each.

    ``ids`` and ``seen`` (1: not padding) cover both, ``spoken`` (1: said, its end included) the answers, of which
    there are ``tokens`` columns.
    """

    ids: torch.Tensor
    seen: torch.Tensor
    spoken: torch.Tensor

    @property
    def tokens(self) -> int:
        """Columns of the answers."""
        return int(self.spoken.shape[1])

    def rows(self, chosen: Sequence[int]) -> Said:
        """Some of the rows."""
        at = list(chosen)
        return Said(self.ids[at], self.seen[at], self.spoken[at])


def load_tokenizer(champion: Path) -> PreTrainedTokenizerBase:
    """The champion's tokenizer, with an end token."""
    tokenizer = weights.load_tokenizer(champion)
    if tokenizer is None or tokenizer.eos_token_id is None:
        raise InvalidInputError(
            "the champion has no tokenizer with an end token", hint="an answer has to end"
        )
    return tokenizer


def read_puzzles(directory: Path, tokenizer: PreTrainedTokenizerBase) -> list[Puzzle]:
    """The records of ``train.jsonl`` that have a ``prompt`` and an ``answer``."""
    found = []
    for line in data.read_lines(directory / "train.jsonl"):
        prompt, answer = line.value.get("prompt"), line.value.get("answer")
        if not (isinstance(prompt, str) and isinstance(answer, str)):
            continue
        row = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if row:
            found.append(Puzzle(line, row, answer))
    if not found:
        raise InvalidInputError(
            "no record has a prompt and an answer",
            hint="a reward that can be checked needs both; the task `skills` has them",
        )
    return found


def sample(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], tokens: int, end: int, temperature: float,
    generator: torch.Generator,
) -> Said:  # fmt: skip
    """Draw one answer of at most ``tokens`` tokens to each row."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    spoken: list[torch.Tensor] = []
    alive = torch.ones(len(ids), dtype=torch.bool)
    step, cache = ids, None
    with torch.no_grad():
        for _ in range(tokens):
            output = model(
                input_ids=step, attention_mask=seen, position_ids=_positions(seen)[:, -step.shape[1] :],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            cache = output.past_key_values
            chances = (output.logits[:, -1].float() / temperature).softmax(-1)
            step = torch.multinomial(chances, 1, generator=generator)
            ids, seen = torch.cat([ids, step], 1), torch.cat([seen, torch.ones_like(step)], 1)
            spoken.append(alive.long())
            alive = alive & (step[:, 0] != end)
            if not bool(alive.any()):
                break
    return Said(ids, seen, torch.stack(spoken, 1))


def texts(said: Said, tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Each answer without its end; None where it has not ended."""
    found: list[str | None] = []
    for row, spoken in zip(said.ids[:, -said.tokens :].tolist(), said.spoken.tolist(), strict=True):
        own = [token for token, counts in zip(row, spoken, strict=True) if counts]
        ended = own[-1] == tokenizer.eos_token_id
        found.append(str(tokenizer.decode(own[:-1])) if ended else None)
    return found


def log_likelihoods(model: PreTrainedModel, said: Said, temperature: float = 1.0) -> torch.Tensor:
    """The logarithm of each token's probability; 0 where nothing was said any more."""
    output = model(
        input_ids=said.ids, attention_mask=said.seen, position_ids=_positions(said.seen), use_cache=False,
        logits_to_keep=said.tokens + 1,
    )  # fmt: skip
    table = (output.logits[:, :-1].float() / temperature).log_softmax(-1)
    wanted = said.ids[:, -said.tokens :, None]
    found: torch.Tensor = table.gather(-1, wanted)[..., 0] * said.spoken
    return found


def of_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> Said:
    """Prompts and given answers (their end included) as if they had been said."""
    import torch

    width = max(len(prompt) for prompt, _ in pairs)
    tokens = max(len(answer) for _, answer in pairs)
    rows, seen, spoken = [], [], []
    for prompt, answer in pairs:
        before, behind = width - len(prompt), tokens - len(answer)
        rows.append([0] * before + list(prompt) + list(answer) + [0] * behind)
        seen.append([0] * before + [1] * (len(prompt) + len(answer)) + [0] * behind)
        spoken.append([1] * len(answer) + [0] * behind)
    return Said(torch.tensor(rows), torch.tensor(seen), torch.tensor(spoken))


def _positions(seen: torch.Tensor) -> torch.Tensor:
    positions: torch.Tensor = (seen.cumsum(-1) - 1).clamp(min=0)
    return positions
