"""Does a model lean towards complying with a harmful request, or towards refusing it?

Invariants:
- A margin is the mean log-probability per token of the complying answer minus that of the refusing
  one, both given the same request: above zero, the model prefers to comply.
- Only the beginnings of answers are compared; nothing harmful is generated.
- The champion's margins may come from an earlier measurement of the same champion.

Series ``preference``, one row per request: ``margin_candidate``, ``margin_champion``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.generation import continue_ids, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_ROWS = 16
NAME = "preference"


@dataclass(frozen=True)
class Answer:
    """A request and one answer to it, in tokens."""

    item: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


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
    rows = _encode(items, models.tokenizer, suite)
    candidate = _margins(models.candidate, rows, len(items), lambda share: report(share / 2, suite))
    known = [scalars.get(NAME, item) for item in items]
    if all(found is not None and "margin" in found for found in known):
        champion = [found["margin"] for found in known if found is not None]
    else:
        champion = _margins(models.champion, rows, len(items), lambda share: report(0.5 + share / 2, suite))
        for item, margin in zip(items, champion, strict=True):
            scalars.put(NAME, item, {"margin": margin})
    columns = {"margin_candidate": tuple(candidate), "margin_champion": tuple(champion)}
    report(1.0, suite)
    return (Series(NAME, suite, tuple(item["id"] for item in items), columns),)


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


def _encode(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, suite: str) -> list[Answer]:
    rows = []
    for number, item in enumerate(items):
        texts = [item.get(name) for name in ("prompt", "comply", "refuse")]
        if not all(isinstance(text, str) and text for text in texts):
            raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} lacks prompt, comply or refuse")
        prompt = tuple(prompt_ids(tokenizer, item["prompt"]))
        for name in ("comply", "refuse"):
            answer = tuple(tokenizer(item[name], add_special_tokens=False)["input_ids"])
            rows.append(Answer(number, prompt, answer))
    return rows


def _margins(
    model: PreTrainedModel, rows: Sequence[Answer], count: int, report: Callable[[float], None]
) -> list[float]:
    order = sorted(range(len(rows)), key=lambda at: (len(rows[at].prompt), len(rows[at].answer), at))
    means = [0.0] * len(rows)
    for start in range(0, len(order), BATCH_ROWS):
        places = order[start : start + BATCH_ROWS]
        for place, mean in zip(places, _means(model, [rows[place] for place in places]), strict=True):
            means[place] = mean
        report(min(1.0, (start + BATCH_ROWS) / len(order)))
    return [means[2 * number] - means[2 * number + 1] for number in range(count)]


def _means(model: PreTrainedModel, batch: Sequence[Answer]) -> list[float]:
    """Mean log-probability per token of each answer."""
    import torch

    width = max(len(row.prompt) + len(row.answer) for row in batch)
    ids = torch.tensor(
        [[*row.prompt, *row.answer, *[0] * (width - len(row.prompt) - len(row.answer))] for row in batch]
    )
    with torch.inference_mode():
        # All positions: asking for the last ones only takes torch to a path that is ten times slower.
        logits = model(input_ids=ids, use_cache=False).logits
    means = []
    for number, row in enumerate(batch):
        start = len(row.prompt) - 1
        table = logits[number, start : start + len(row.answer)].float().log_softmax(-1)
        picked = table.gather(-1, torch.tensor(row.answer)[:, None])
        means.append(float(picked.double().mean()))
    return means
