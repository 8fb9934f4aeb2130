"""What the models make of a text, token by token: surprise and how far they differ.

Invariants:
- One forward pass per model and item serves surprise (nll) and divergence (KL).
- A token is measured given the tokens before it in the same item; the first has none and is not
  measured, so ``tokens`` and ``bytes`` count from the second token on.
- Padding stands on the right, where no measured token can see it.

Series ``distribution``, one row per item: ``tokens``, ``bytes``, ``nll_candidate`` and ``nll_champion``
(nats, summed), ``kl_mean`` (nats per token, KL(champion ‖ candidate)), ``js_mean`` (nats per token,
Jensen-Shannon), and ``kl_original_mean`` where an original is given. Series ``distribution_tokens``, one row
per token: ``kl``; ``items`` repeats the item. Series ``skill``, one row per item, for both models: ``right_*``
(tokens where the likeliest token is the true one), ``flips`` (tokens that the champion had right and the
candidate has wrong), ``brier_*`` (mean over tokens of (confidence - right)²), ``entropy_*`` (nats per token)
and ``gap0_*`` … ``gap9_*`` (confidence less right, summed over the tokens whose confidence lies in that tenth).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.comparison import compare
from sandbox.worker.probes.generation import continue_texts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Column = np.ndarray[Any, np.dtype[Any]]
    """One number per token."""

MAX_TOKENS = 64
BATCH_TOKENS = 1024
PROMPT_TOKENS = 12
BINS = 10  # of confidence, for calibration


@dataclass(frozen=True)
class Encoded:
    """One item's tokens, and the bytes of text that the measured ones stand for."""

    name: str
    ids: tuple[int, ...]
    bytes: int


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Measure every item; the rows stand in the order of the items."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for texts")
    encoded = encode_items(models.tokenizer, items, suite)
    order: list[Encoded] = []
    parts = []
    for batch in batches(encoded):
        parts.append(_measure(batch, models))
        order += batch
        report(len(order) / len(encoded), suite)
    return _series(suite, encoded, _in_order(parts, order, encoded))


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """How champion and candidate go on from the first words of each item."""
    tokenizer = models.tokenizer
    if tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for texts")
    prompts = []
    for item in items:
        ids = tokenizer(item["text"], add_special_tokens=False, truncation=True, max_length=PROMPT_TOKENS)
        prompts.append(tokenizer.decode(ids["input_ids"]))
    champion = continue_texts(models.champion, tokenizer, prompts)
    candidate = continue_texts(models.candidate, tokenizer, prompts)
    return tuple(Sample(suite, *row) for row in zip(prompts, champion, candidate, strict=True))


def encode_items(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], suite: str) -> list[Encoded]:
    """The first ``MAX_TOKENS`` tokens of each item's text."""
    for item in items:
        if not isinstance(item.get("text"), str):
            raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} has no text")
    if not items:
        return []
    rows = [item["text"] for item in items]
    coded = tokenizer(rows, add_special_tokens=False, truncation=True, max_length=MAX_TOKENS)
    found = []
    for place, (item, ids) in enumerate(zip(items, coded["input_ids"], strict=True)):
        if len(ids) < 2:
            raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} has fewer than two tokens")
        first, last = (coded.token_to_chars(place, token) for token in (0, len(ids) - 1))
        covered = item["text"][first.end : last.end]
        found.append(Encoded(item["id"], tuple(ids), len(covered.encode("utf-8"))))
    return found


def batches(encoded: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Items of like length together, at most ``BATCH_TOKENS`` tokens with padding."""
    batch: list[Encoded] = []
    for item in sorted(encoded, key=lambda item: (len(item.ids), item.name)):
        if batch and (len(batch) + 1) * len(item.ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _measure(batch: Sequence[Encoded], models: Models) -> dict[str, Column]:
    """What is read off the models' distributions (see ``comparison``), token after token of item after item."""
    import torch

    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in batch])
    tables = {"champion": _logits(models.champion, ids), "candidate": _logits(models.candidate, ids)}
    if models.original is not None and models.original is not models.champion:
        tables["original"] = _logits(models.original, ids)
    columns = compare(tables, ids.flatten().roll(-1))  # the next place holds the true token of each
    if models.original is models.champion:
        columns["kl_original"] = columns["kl"]
    places = torch.cat([torch.arange(len(item.ids) - 1) + row * width for row, item in enumerate(batch)])
    return {name: column[places].numpy() for name, column in columns.items()}


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """One row for each token."""
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)


def _in_order(
    parts: Sequence[dict[str, Column]], order: Sequence[Encoded], encoded: Sequence[Encoded]
) -> dict[str, Column]:
    """The columns of all batches as one, the tokens in the order of the items."""
    import numpy as np

    begins = dict(zip((item.name for item in order), _begins(order), strict=True))
    places = np.concatenate([np.arange(len(item.ids) - 1) + begins[item.name] for item in encoded])
    return {name: np.concatenate([part[name] for part in parts])[places] for name in parts[0]}


def _begins(encoded: Sequence[Encoded]) -> list[int]:
    """Where each item's tokens begin, item after item."""
    return list(accumulate((len(item.ids) - 1 for item in encoded), initial=0))[:-1]


def _series(suite: str, encoded: Sequence[Encoded], tokens: dict[str, Column]) -> tuple[Series, ...]:
    import numpy as np

    begins = _begins(encoded)
    counts = np.array([len(item.ids) - 1 for item in encoded], dtype=np.float64)

    def sums(column: Column) -> tuple[float, ...]:
        return tuple(np.add.reduceat(column, begins, dtype=np.float64).tolist())

    def means(column: Column) -> tuple[float, ...]:
        return tuple((np.add.reduceat(column, begins, dtype=np.float64) / counts).tolist())

    columns = {
        "tokens": tuple(counts.tolist()),
        "bytes": tuple(float(item.bytes) for item in encoded),
        "nll_candidate": sums(tokens["nll_candidate"]),
        "nll_champion": sums(tokens["nll_champion"]),
        "kl_mean": means(tokens["kl"]),
        "js_mean": means(tokens["js"]),
    }
    if "kl_original" in tokens:
        columns["kl_original_mean"] = means(tokens["kl_original"])
    had, has = tokens["right_champion"], tokens["right_candidate"]
    skill = {"tokens": columns["tokens"], "flips": sums(had * (1.0 - has))}
    for name in ("candidate", "champion"):
        confidence, right = tokens[f"confidence_{name}"], tokens[f"right_{name}"]
        gap = confidence - right
        skill[f"right_{name}"] = sums(right)
        skill[f"brier_{name}"] = means(gap * gap)
        skill[f"entropy_{name}"] = means(tokens[f"entropy_{name}"])
        # Equal tenths; a confidence of 1 belongs to the last.
        tenths = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        for tenth in range(BINS):
            skill[f"gap{tenth}_{name}"] = sums(np.where((tenths == tenth) | np.isnan(gap), gap, 0.0))
    names = tuple(item.name for item in encoded)
    repeated = tuple(item.name for item in encoded for _ in item.ids[1:])
    return (
        Series("distribution", suite, names, columns),
        Series("distribution_tokens", suite, repeated, {"kl": tuple(tokens["kl"].tolist())}),
        Series("skill", suite, names, skill),
    )
