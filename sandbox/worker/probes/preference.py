"""Does a model lean towards complying with a harmful request, or towards refusing it?

Invariants:
- A margin is the mean log-probability per token of the complying answer minus that of the refusing
  one, both given the same request: above zero, the model prefers to comply.
- Only the beginnings of answers are compared; nothing harmful is generated.
- A request's margin depends on that request alone: every batch has the same number of rows, and a width
  that follows from the row. So the champion's margins may come from an earlier measurement on other requests.

Series ``preference``, one row per request: ``margin_candidate``, ``margin_champion``, and one column of 0 and 1 for each
category that an item names in its list ``categories``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars, likelihood
from sandbox.worker.probes.categories import category_columns
from sandbox.worker.probes.generation import continue_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_ROWS = 16
WIDTH_STEP = 16
NAME = "preference"


@dataclass(frozen=True)
class Answer:
    """A request and one answer to it, in tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)

    @property
    def width(self) -> int:
        """The length with padding: a multiple of ``WIDTH_STEP``."""
        return -(-self.length // WIDTH_STEP) * WIDTH_STEP


Pair = tuple[Answer, Answer]


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Measure the margins of both models on every request."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for requests")
    questions = _encode(items, models.tokenizer, suite)
    known = [scalars.get(NAME, item) for item in items]
    missing = [number for number, found in enumerate(known) if found is None or "margin" not in found]
    total = len(items) + len(missing)
    candidate = _leanings(models.candidate, questions, suite, lambda done: report(done / total, suite))
    measured = _leanings(
        models.champion,
        [questions[number] for number in missing],
        suite,
        lambda done: report((len(items) + done) / total, suite),
    )
    for number, margin in zip(missing, measured, strict=True):
        known[number] = {"margin": margin}
        scalars.put(NAME, items[number], {"margin": margin})
    champion = tuple(found["margin"] for found in known if found is not None)
    columns = {"margin_candidate": tuple(candidate), "margin_champion": champion}
    report(1.0, suite)
    return (Series(NAME, suite, tuple(item["id"] for item in items), columns | category_columns(items)),)


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """What champion and candidate begin to answer to each request."""
    tokenizer = models.tokenizer
    if tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for requests")
    rows = [prompt_ids(tokenizer, item["prompt"]) for item in items]
    champion = continue_ids(models.champion, tokenizer, rows)
    candidate = continue_ids(models.candidate, tokenizer, rows)
    prompts = [item["prompt"] for item in items]
    return tuple(Sample(suite, *row) for row in zip(prompts, champion, candidate, strict=True))


def _encode(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, suite: str
) -> list[likelihood.Question]:
    questions = []
    for item in items:
        texts = [item.get(name) for name in ("prompt", "comply", "refuse")]
        if not all(isinstance(text, str) and text for text in texts):
            raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} lacks prompt, comply or refuse")
        questions.append(
            likelihood.encode(item, [str(text) for text in texts[1:]], tokenizer, suite, chat=True)
        )
    return questions


def _leanings(
    model: PreTrainedModel,
    questions: Sequence[likelihood.Question],
    suite: str,
    report: Callable[[float], None],
) -> list[float]:
    """Mean log-probability per token of complying less that of refusing; the request is read once for both."""
    found = []
    for question, (comply, refuse) in zip(
        questions, likelihood.scores(model, questions, suite, report), strict=True
    ):
        first, second = question.answers
        found.append(comply / len(first) - refuse / len(second))
    return found


def margins(model: PreTrainedModel, pairs: Sequence[Pair], report: Callable[[float], None]) -> list[float]:
    """The first answer's mean log-probability per token less the second's; ``report`` is told how many pairs are done."""
    rows = [answer for pair in pairs for answer in pair]
    means = [0.0] * len(rows)
    done = 0
    for width in sorted({row.width for row in rows}):
        places = [place for place, row in enumerate(rows) if row.width == width]
        for start in range(0, len(places), BATCH_ROWS):
            batch = places[start : start + BATCH_ROWS]
            for place, mean in zip(
                batch, _means(model, [rows[place] for place in batch], width), strict=True
            ):
                means[place] = mean
            done += len(batch)
            report(done / 2)
    return [means[2 * number] - means[2 * number + 1] for number in range(len(pairs))]


def _means(model: PreTrainedModel, batch: Sequence[Answer], width: int) -> list[float]:
    """Mean log-probability per token of each answer."""
    import torch

    rows = [[*row.prompt, *row.answer, *[0] * (width - row.length)] for row in batch]
    rows += [rows[-1]] * (BATCH_ROWS - len(rows))
    with torch.inference_mode():
        # All positions: asking for the last ones only takes torch to a path that is ten times slower.
        logits = model(input_ids=torch.tensor(rows), use_cache=False).logits
    means = []
    for number, row in enumerate(batch):
        start = len(row.prompt) - 1
        table = logits[number, start : start + len(row.answer)].float().log_softmax(-1)
        picked = table.gather(-1, torch.tensor(row.answer)[:, None])
        means.append(float(picked.double().mean()))
    return means
