"""Which of several answers a model finds likeliest, and by how much.

Invariants:
- The margin is kept beside the right or wrong that it decides: ability fades in margins before an answer changes.
- A tie is not right.
- An item's margin depends on that item alone, so the champion's may come from an earlier measurement.

Items are ``{"id", "prompt", "choices", "answer"}``, ``answer`` being the place of the right choice (from 0); optional
``form``: ``plain`` (one text, the default) or ``chat`` (the model's own chat form); ``by``: ``sum`` (log-probability of
the whole choice, the default; accuracy as lm-evaluation-harness's ``acc``) or ``bytes`` (per byte of the choice,
``acc_norm``); ``categories``. Series ``choice``, one row per item, for both models: ``success_*`` (0 or 1) and
``margin_*`` (nats, or nats per byte: the right choice's score less the best wrong one's), and one column of 0 and 1 for
each category.

What it cannot see: whether the model would write the answer that it finds likeliest among those given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars, likelihood
from sandbox.worker.probes.categories import category_columns

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "choice"


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Measure the margins of both models on every item; nothing is drawn at random."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    known = [scalars.get(NAME, item) for item in items]
    missing = [place for place, found in enumerate(known) if found is None or "margin" not in found]
    total = len(items) + len(missing)
    questions = [_question(item, models.tokenizer, suite) for item in items]
    candidate = _margins(models.candidate, items, questions, suite, lambda done: report(done / total, suite))
    fresh = _margins(
        models.champion,
        [items[place] for place in missing],
        [questions[place] for place in missing],
        suite,
        lambda done: report((len(items) + done) / total, suite),
    )
    for place, margin in zip(missing, fresh, strict=True):
        known[place] = {"margin": margin}
        scalars.put(NAME, items[place], {"margin": margin})
    margins = {
        "candidate": tuple(candidate),
        "champion": tuple(found["margin"] for found in known if found is not None),
    }
    columns = {f"margin_{model}": row for model, row in margins.items()}
    columns |= {f"success_{model}": tuple(float(m > 0) for m in row) for model, row in margins.items()}
    columns |= category_columns(items)
    return (Series(NAME, suite, tuple(str(item["id"]) for item in items), columns),)


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """Which choice each model finds likeliest, for each item."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    questions = [_question(item, models.tokenizer, suite) for item in items]
    chosen = []
    for model in (models.champion, models.candidate):
        rows = _scores(model, items, questions, suite, lambda done: None)
        chosen.append([item["choices"][row.index(max(row))] for item, row in zip(items, rows, strict=True)])
    prompts = (str(item["prompt"]) for item in items)
    return tuple(Sample(suite, *row) for row in zip(prompts, *chosen, strict=True))


def _margins(
    model: PreTrainedModel,
    items: Sequence[Item],
    questions: Sequence[likelihood.Question],
    suite: str,
    report: Callable[[float], None],
) -> list[float]:
    margins = []
    for item, row in zip(items, _scores(model, items, questions, suite, report), strict=True):
        right = row[item["answer"]]
        margins.append(right - max(score for place, score in enumerate(row) if place != item["answer"]))
    return margins


def _scores(
    model: PreTrainedModel,
    items: Sequence[Item],
    questions: Sequence[likelihood.Question],
    suite: str,
    report: Callable[[float], None],
) -> list[tuple[float, ...]]:
    """What decides between the choices: their log-probabilities, or those per byte."""
    found = []
    for item, sums in zip(items, likelihood.scores(model, questions, suite, report), strict=True):
        by_bytes = item.get("by") == "bytes"
        sizes = [len(choice.encode("utf-8")) if by_bytes else 1 for choice in item["choices"]]
        found.append(tuple(one / size for one, size in zip(sums, sizes, strict=True)))
    return found


def _question(item: Item, tokenizer: PreTrainedTokenizerBase, suite: str) -> likelihood.Question:
    choices, answer = item.get("choices"), item.get("answer")
    texts = isinstance(choices, list) and all(isinstance(text, str) and text for text in choices)
    placed = texts and type(answer) is int and len(choices or ()) >= 2 and 0 <= answer < len(choices or ())
    if not placed or not isinstance(item.get("prompt"), str) or not isinstance(choices, list):
        raise InvalidInputError(
            f"suite {suite}: item {item['id']!r:.60} needs a prompt, two choices or more and the place of the right one"
        )
    return likelihood.encode(item, choices, tokenizer, suite, chat=item.get("form") == "chat")
