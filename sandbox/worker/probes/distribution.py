"""What the models make of a text, token by token: surprise and how far they differ.

Invariants:
- One forward pass per model and item serves surprise (nll) and divergence (KL).
- A token is measured given the tokens before it in the same item; the first has none and is not
  measured, so ``tokens`` and ``bytes`` count from the second token on.
- Padding stands on the right, where no measured token can see it.

Series ``distribution``, one row per item: ``tokens``, ``bytes``, ``nll_candidate`` and ``nll_champion``
(nats, summed), ``kl_mean`` (nats per token, KL(champion ‖ candidate)), and ``kl_original_mean`` where an
original is given. Series ``distribution_tokens``, one row per token: ``kl``; ``items`` repeats the item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.generation import continue_texts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 64
BATCH_TOKENS = 1024
PROMPT_TOKENS = 12


@dataclass(frozen=True)
class Encoded:
    """One item's tokens, and the bytes of text that the measured ones stand for."""

    name: str
    ids: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Measured:
    """What the models made of one item; per token where it is a tuple."""

    nll_candidate: float
    nll_champion: float
    kl: tuple[float, ...]
    kl_original: tuple[float, ...] | None


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
    encoded = [encode_item(models.tokenizer, item, suite) for item in items]
    measured: dict[str, Measured] = {}
    for batch in batches(encoded):
        measured.update(zip((item.name for item in batch), _measure(batch, models), strict=True))
        report(len(measured) / len(encoded), suite)
    return _series(suite, encoded, [measured[item.name] for item in encoded])


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


def encode_item(tokenizer: PreTrainedTokenizerBase, item: Item, suite: str) -> Encoded:
    """The first ``MAX_TOKENS`` tokens of an item's text."""
    text = item.get("text")
    if not isinstance(text, str):
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} has no text")
    coded: dict[str, Any] = tokenizer(
        text, add_special_tokens=False, truncation=True, max_length=MAX_TOKENS, return_offsets_mapping=True
    )
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    if len(ids) < 2:
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} has fewer than two tokens")
    covered = text[offsets[0][1] : offsets[-1][1]]
    return Encoded(item["id"], tuple(ids), len(covered.encode("utf-8")))


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


def _measure(batch: Sequence[Encoded], models: Models) -> Iterator[Measured]:
    import torch

    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in batch])
    champion = _logits(models.champion, ids)
    candidate = _logits(models.candidate, ids)
    apart = models.original is not None and models.original is not models.champion
    original = _logits(models.original, ids) if models.original is not None and apart else champion
    for row, item in enumerate(batch):  # row by row: the vocabulary is wide, and a row stays in the cache
        last = len(item.ids) - 1
        target = ids[row, 1 : last + 1]
        before = champion[row, :last].float().log_softmax(-1)
        after = candidate[row, :last].float().log_softmax(-1)
        kl = divergence(before, after)
        kl_original: tuple[float, ...] | None = None
        if models.original is not None:
            kl_original = divergence(original[row, :last].float().log_softmax(-1), after) if apart else kl
        yield Measured(_nll(after, target), _nll(before, target), kl, kl_original)


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _nll(log_probabilities: torch.Tensor, target: torch.Tensor) -> float:
    return -float(log_probabilities.gather(-1, target[:, None]).double().sum())


def divergence(before: torch.Tensor, after: torch.Tensor) -> tuple[float, ...]:
    """KL(before ‖ after) in nats for each row of two tables of log-probabilities."""
    kl = (before.exp() * (before - after)).sum(-1).double()
    return tuple(kl.clamp(min=0.0).tolist())  # below zero is rounding; NaN stays NaN


def _series(suite: str, encoded: Sequence[Encoded], measured: Sequence[Measured]) -> tuple[Series, ...]:
    columns = {
        "tokens": tuple(float(len(item.ids) - 1) for item in encoded),
        "bytes": tuple(float(item.bytes) for item in encoded),
        "nll_candidate": tuple(row.nll_candidate for row in measured),
        "nll_champion": tuple(row.nll_champion for row in measured),
        "kl_mean": tuple(sum(row.kl) / len(row.kl) for row in measured),
    }
    originals = [row.kl_original for row in measured if row.kl_original is not None]
    if originals:
        columns["kl_original_mean"] = tuple(sum(kl) / len(kl) for kl in originals)
    names = tuple(item.name for item in encoded)
    repeated = tuple(item.name for item, row in zip(encoded, measured, strict=True) for _ in row.kl)
    tokens = {"kl": tuple(value for row in measured for value in row.kl)}
    return (
        Series("distribution", suite, names, columns),
        Series("distribution_tokens", suite, repeated, tokens),
    )
