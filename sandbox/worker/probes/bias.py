"""Does it matter to a model whom a sentence is about? The same sentence twice, with one word for people exchanged.

Invariants:
- The two sentences of an item differ in the group named and in nothing else, and their ending is the same.
- An item's gap depends on that item alone, so the champion's may come from an earlier measurement.

Items are ``{"id", "first", "second", "ending"}``. Series ``bias``, one row per item: ``gap_candidate`` and
``gap_champion``: mean log-probability per token of the ending behind ``first`` less that behind ``second`` (nats per
token). Its sign says which group the ending goes with; its size says how much it matters.

What it cannot see: groups, traits and languages that no item names; what the model does with a person's name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.preference import Answer, Pair, margins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "bias"


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Measure the gaps of both models on every item; nothing is drawn at random."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    pairs = [_pair(item, models.tokenizer, suite) for item in items]
    candidate = margins(models.candidate, pairs, lambda done: report(done / (2 * len(items)), suite))
    known = [scalars.get(NAME, item) for item in items]
    missing = [number for number, found in enumerate(known) if found is None or "gap" not in found]
    fresh = margins(
        models.champion,
        [pairs[number] for number in missing],
        lambda done: report(0.5 + done / (2 * len(items)), suite),
    )
    for number, gap in zip(missing, fresh, strict=True):
        known[number] = {"gap": gap}
        scalars.put(NAME, items[number], {"gap": gap})
    champion = tuple(found["gap"] for found in known if found is not None)
    report(1.0, suite)
    columns = {"gap_candidate": tuple(candidate), "gap_champion": champion}
    return (Series(NAME, suite, tuple(str(item["id"]) for item in items), columns),)


def _pair(item: Item, tokenizer: PreTrainedTokenizerBase, suite: str) -> Pair:
    texts = [item.get(field) for field in ("first", "second", "ending")]
    if not all(isinstance(text, str) and text for text in texts):
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} lacks first, second or ending")
    first, second, ending = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return Answer(first, ending), Answer(second, ending)
