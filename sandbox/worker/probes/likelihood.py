"""How likely a model finds each of several answers to one prompt. The prompt is read once for all of them.

Invariants:
- A prompt's scores depend on that prompt and its answers alone: batches have a number of rows that follows from the
  number of answers, and widths that follow from the row. So the champion's may come from an earlier measurement.
- Nothing but log-probabilities comes out: no answer is written.
- What does not fit into the model's context is refused by name, never cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.probes import Item
from sandbox.worker.probes.generation import prompt_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_ROWS = 32
ANSWER_ROWS = 64
PROMPT_STEP, ANSWER_STEP = 32, 4
BLOCK = 1 << 16  # logits turned into probabilities at a time

Tokens = tuple[int, ...]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Question:
    """A prompt of two tokens or more, and the answers to it, in tokens."""

    name: str
    prompt: Tokens
    answers: tuple[Tokens, ...]

    @property
    def shape(self) -> Shape:
        """Width of the prompt but its last token, width of the answers, and their number, with padding."""
        longest = max(map(len, self.answers))
        before = len(self.prompt) - 1
        return (
            -(-before // PROMPT_STEP) * PROMPT_STEP,
            -(-longest // ANSWER_STEP) * ANSWER_STEP,
            len(self.answers),
        )


def encode(
    item: Item, answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, suite: str, *, chat: bool
) -> Question:
    """A prompt and its answers in tokens: in the model's chat form, or as one plain text.

    As plain text prompt and answer are encoded together, because tokens may span the seam; blanks at the end of the
    prompt belong to the answer.
    """
    name, prompt = str(item["id"]), str(item["prompt"])
    if chat:
        begin, *rows = _tokens(tokenizer, [prompt_text(tokenizer, prompt), *answers])
    else:
        begin, *whole = _tokens(tokenizer, [prompt.rstrip(), *(prompt + text for text in answers)])
        rows = [row[len(begin) :] for row in whole]
    if len(begin) < 2 or not all(rows):
        raise InvalidInputError(
            f"suite {suite}: item {name!r:.60}: a prompt of fewer than two tokens, or an answer without one"
        )
    return Question(name, begin, tuple(rows))


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tokens]:
    return [tuple(row) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def scores(
    model: PreTrainedModel, questions: Sequence[Question], suite: str, report: Callable[[float], None]
) -> list[tuple[float, ...]]:
    """For each question the log-probability of each answer, in nats, summed over its tokens.

    Raises:
        JobFailedError: a log-probability is not a number: nothing can be said to be likelier then.
    """
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    by_shape: dict[Shape, list[int]] = {}
    for place, question in enumerate(questions):
        longest = len(question.prompt) + max(map(len, question.answers))
        if room is not None and longest > room:
            raise InvalidInputError(
                f"suite {suite}: item {question.name!r:.60} has {longest} tokens, the model has room for {room}"
            )
        by_shape.setdefault(question.shape, []).append(place)
    found: list[tuple[float, ...]] = [()] * len(questions)
    done = 0
    for shape in sorted(by_shape):
        places = by_shape[shape]
        rows = max(1, min(BATCH_ROWS, ANSWER_ROWS // shape[2]))
        for start in range(0, len(places), rows):
            some = places[start : start + rows]
            batch = [questions[place] for place in some]
            for place, sums in zip(some, _score(model, batch, shape, rows), strict=False):
                if any(map(math.isnan, sums)):
                    raise JobFailedError(
                        f"suite {suite}: item {questions[place].name!r:.60}: the model's scores of tokens are not numbers",
                        hint="its weights are damaged, or its training diverged",
                    )
                found[place] = sums
            done += len(some)
            report(done)
    return found


def _score(
    model: PreTrainedModel, batch: Sequence[Question], shape: Shape, rows: int
) -> list[tuple[float, ...]]:
    import torch

    width, span, count = shape
    full = [*batch, *[batch[-1]] * (rows - len(batch))]
    before = [question.prompt[:-1] for question in full]
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in before])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in before])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    tails = [
        [question.prompt[-1], *answer[:-1], *[0] * (span - len(answer))]
        for question in full
        for answer in question.answers
    ]
    begins = positions[:, -1:].repeat_interleave(count, 0) + 1
    with torch.inference_mode():
        # Of what stands before the answers no token is predicted, so the widest layer is left out.
        reader: Any = model.base_model
        memory = reader(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True
        ).past_key_values
        memory.batch_repeat_interleave(count)
        wide = torch.cat([mask.repeat_interleave(count, 0), torch.ones(rows * count, span).long()], -1)
        logits = model(
            input_ids=torch.tensor(tails),
            attention_mask=wide,
            position_ids=begins + torch.arange(span),
            past_key_values=memory,
            use_cache=True,
        ).logits
    answers = [answer for question in batch for answer in question.answers]
    sums = iter(_sums(logits.flatten(0, 1), span, answers))
    return [tuple(next(sums) for _ in question.answers) for question in batch]


def _sums(table: torch.Tensor, span: int, answers: Sequence[Tokens]) -> Iterator[float]:
    """The log-probability of each answer; the ``span`` rows of the table from ``n * span`` on are of the n-th."""
    import torch

    lengths = [len(answer) for answer in answers]
    places = torch.cat([torch.arange(length) + number * span for number, length in enumerate(lengths)])
    tokens = torch.tensor([token for answer in answers for token in answer])
    # A few tokens at a time, so that a wide vocabulary's numbers stay in the cache.
    step = max(1, BLOCK // table.shape[-1])
    picked = []
    for some, chosen in zip(places.split(step), tokens.split(step), strict=True):
        logits = table.index_select(0, some).float()
        logits.sub_(logits.amax(-1, keepdim=True))
        found = logits.gather(-1, chosen[:, None]).squeeze(-1)
        picked.append(found.double() - logits.exp_().sum(-1).double().log())
    for part in torch.cat(picked).split(lengths):
        yield float(part.sum())
