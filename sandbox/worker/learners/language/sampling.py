"""What a language model says to prompts, drawn by its own probabilities, and how likely it holds what was said.

Invariants:
- The same model, prompts and generator give the same answers.
- An answer ends with the model's end token, or is cut: then it has not ended, and ``texts`` says so by None.
- All of it lies on the processor; only what the model is asked goes to where it computes.
- Prompts stand on the left, padded there; a position counts from a prompt's own first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import data, weights
from sandbox.worker.learners import Order, memory
from sandbox.worker.learners.memory import Plan

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

    def parts(self, at_once: int) -> Iterator[tuple[slice, Said]]:
        """At most ``at_once`` rows each, and which they are."""
        for start in range(0, len(self.ids), at_once):
            at = slice(start, start + at_once)
            yield at, Said(self.ids[at], self.seen[at], self.spoken[at])


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


def answers_plan(
    order: Order, recipe: Mapping[str, Any], puzzles: Sequence[Puzzle], *, reference: bool = False
) -> Plan:
    """How many of an update's answers are drawn, and learnt from, at once: ``group`` to each of ``prompts``."""
    rows = min(recipe["prompts"], len(puzzles)) * recipe["group"]
    length = max(len(puzzle.row) for puzzle in puzzles) + recipe["answer_tokens"]
    room = memory.training(order, recipe, reference=reference)
    written = room.written(rows, length, in_step=True)
    return room.plan(rows, length, scored=recipe["answer_tokens"] + 1, written=written)


def sample(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], tokens: int, end: int, temperature: float,
    generator: torch.Generator, at_once: int,
) -> Said:  # fmt: skip
    """Draw one answer of at most ``tokens`` tokens to each row; the same ones however many are read ``at_once``.

    All rows go on token by token together, so that each step's draw is one over all of them.
    """
    import torch

    was = model.training
    model.eval()  # a model that recomputes in training remembers nothing, and none is drawn from with dropout
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    parts = [slice(at, at + at_once) for at in range(0, len(rows), at_once)]
    caches: list[Any] = [None] * len(parts)
    spoken: list[torch.Tensor] = []
    alive = torch.ones(len(ids), dtype=torch.bool)
    step = ids
    with torch.no_grad():
        for _ in range(tokens):
            chances = [
                _next(model, step[part], seen[part], temperature, caches, number)
                for number, part in enumerate(parts)
            ]
            step = torch.multinomial(torch.cat(chances), 1, generator=generator)
            ids, seen = torch.cat([ids, step], 1), torch.cat([seen, torch.ones_like(step)], 1)
            spoken.append(alive.long())
            alive = alive & (step[:, 0] != end)
            if not bool(alive.any()):
                break
    model.train(was)
    return Said(ids, seen, torch.stack(spoken, 1))


def _next(
    model: PreTrainedModel, step: torch.Tensor, seen: torch.Tensor, temperature: float, caches: list[Any], number: int
) -> torch.Tensor:  # fmt: skip
    """The probabilities of the next token of some rows, on the processor; what they remember is put into ``caches``."""
    at = model.device
    output = model(
        input_ids=step.to(at), attention_mask=seen.to(at), past_key_values=caches[number], use_cache=True,
        position_ids=_positions(seen)[:, -step.shape[1] :].to(at),
    )  # fmt: skip
    caches[number] = output.past_key_values
    return (output.logits[:, -1].float() / temperature).softmax(-1).cpu()


def texts(said: Said, tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Each answer without its end; None where it has not ended."""
    found: list[str | None] = []
    for row, spoken in zip(said.ids[:, -said.tokens :].tolist(), said.spoken.tolist(), strict=True):
        own = [token for token, counts in zip(row, spoken, strict=True) if counts]
        ended = own[-1] == tokenizer.eos_token_id
        found.append(str(tokenizer.decode(own[:-1])) if ended else None)
    return found


def log_likelihoods(model: PreTrainedModel, said: Said, temperature: float = 1.0) -> torch.Tensor:
    """The logarithm of each token's probability, where the model computes; 0 where nothing was said any more."""
    ids, seen, spoken = (part.to(model.device) for part in (said.ids, said.seen, said.spoken))
    with scored_in_one(model):
        output = model(
            input_ids=ids, attention_mask=seen, position_ids=_positions(seen), use_cache=False,
            logits_to_keep=said.tokens + 1,
        )  # fmt: skip
    table = (output.logits[:, :-1].float() / temperature).log_softmax(-1)
    found: torch.Tensor = table.gather(-1, ids[:, -said.tokens :, None])[..., 0] * spoken
    return found


@contextmanager
def scored_in_one(model: PreTrainedModel) -> Iterator[None]:
    """Scores over the vocabulary, of some of the tokens, in one product also in bfloat16.

    Some tokens of each row do not lie together in memory. PyTorch 2.13 multiplies such rows one by one, in bfloat16 on a
    processor each with a copy of the table of its own: for 16 rows and 49,152 words 880 MiB instead of 14, and 100 times as
    long.
    """
    import torch

    def together(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (hidden,) = arguments
        half = hidden.dtype is torch.bfloat16 or torch.is_autocast_enabled(hidden.device.type)
        return (hidden.contiguous(),) if half else (hidden,)

    hook = model.get_output_embeddings().register_forward_pre_hook(together)
    try:
        yield
    finally:
        hook.remove()


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
