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

from collections.abc import Iterator, Mapping, Sequence
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
_LOWEST = -1e4  # in place of -inf, whose product with a probability of 0 would be NaN
CHUNK = 1 << 16  # probabilities compared at a time
BINS = 10  # of confidence, for calibration


@dataclass(frozen=True)
class Encoded:
    """One item's tokens, and the bytes of text that the measured ones stand for."""

    name: str
    ids: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Reading:
    """What one model made of one item."""

    nll: float
    entropy: float
    brier: float
    right: tuple[bool, ...]
    gaps: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What the models made of one item; per token where it is a tuple."""

    candidate: Reading
    champion: Reading
    js: float
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
    tables = {"champion": _logits(models.champion, ids), "candidate": _logits(models.candidate, ids)}
    apart = models.original is not None and models.original is not models.champion
    if models.original is not None and apart:
        tables["original"] = _logits(models.original, ids)
    lengths = [len(item.ids) - 1 for item in batch]
    places = torch.cat([torch.arange(length) + row * width for row, length in enumerate(lengths)])
    tokens = _tokens({name: table.flatten(0, 1) for name, table in tables.items()}, places, ids.flatten())
    by_item = {name: column.split(lengths) for name, column in tokens.items()}
    for row in range(len(batch)):
        yield _measured({name: parts[row] for name, parts in by_item.items()}, models, apart=apart)


def _tokens(
    tables: Mapping[str, torch.Tensor], places: torch.Tensor, ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is read off the distributions at these places, of each of which the next one holds the true token."""
    import torch

    # A few tokens at a time: a vocabulary is wide, and what stays in the cache is read several times as fast.
    step = max(1, CHUNK // tables["champion"].shape[-1])
    chunks = []
    for some in places.split(step):
        logs = {name: table[some].float().log_softmax(-1) for name, table in tables.items()}
        chunks.append(_compare(logs["champion"], logs["candidate"], logs.get("original"), ids[some + 1]))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _measured(tokens: dict[str, torch.Tensor], models: Models, *, apart: bool) -> Measured:
    kl = tuple(tokens["kl"].tolist())
    kl_original = tuple(tokens["kl_original"].tolist()) if apart else kl
    return Measured(
        candidate=_reading(tokens, "candidate"),
        champion=_reading(tokens, "champion"),
        js=float(tokens["js"].mean()),
        kl=kl,
        kl_original=kl_original if models.original is not None else None,
    )


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _compare(
    before: torch.Tensor, after: torch.Tensor, original: torch.Tensor | None, target: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One number per token for everything that is read off the distributions, from log-probabilities."""
    import torch

    p, q = before.exp(), after.exp()
    kl = _divergence(p, before, after)
    h_before, h_after = _entropy(p, before), _entropy(q, after)
    middle = p.add_(q).div_(2.0)
    h_middle = _entropy(middle, middle.log())
    js = (h_middle - (h_before + h_after) / 2.0).clamp(min=0.0)
    # Of equal rows rounding would leave a little more than nothing.
    found = {"kl": kl, "js": torch.zeros_like(js) if torch.equal(before, after) else js}
    if original is not None:
        found["kl_original"] = divergence(original, after)
    for name, table, entropy in (("champion", before, h_before), ("candidate", after, h_after)):
        best, choice = table.max(-1)
        found |= {
            f"nll_{name}": -table.gather(-1, target[:, None]).squeeze(-1).double(),
            f"entropy_{name}": entropy,
            f"confidence_{name}": best.double().exp(),
            f"right_{name}": choice == target,
        }
    return found


def _entropy(probabilities: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    import torch

    found = -torch.linalg.vecdot(probabilities, logs)
    if not bool(found.isfinite().all()):
        # 0 times minus infinity, which counts as 0; what is NaN for another reason stays NaN.
        found = -torch.linalg.vecdot(probabilities, logs.clamp(min=_LOWEST))
    return found.double()


def _reading(tokens: Mapping[str, torch.Tensor], name: str) -> Reading:
    """Surprise and calibration of one model on one item."""
    import torch

    confidence, right = tokens[f"confidence_{name}"], tokens[f"right_{name}"]
    gap = confidence - right.double()
    # Equal tenths; a confidence of 1 belongs to the last.
    tenth = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, tenth, gap)
    return Reading(
        nll=float(tokens[f"nll_{name}"].sum()),
        entropy=float(tokens[f"entropy_{name}"].mean()),
        brier=float(gap.square().mean()),
        right=tuple(right.tolist()),
        gaps=tuple(gaps.tolist()),
    )


def divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """KL(before ‖ after) in nats for each row of two tables of log-probabilities."""
    return _divergence(before.exp(), before, after)


def _divergence(p: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    import torch

    kl = torch.linalg.vecdot(p, before - after).double()
    return kl.clamp(min=0.0)  # below zero is rounding; NaN stays NaN


def _series(suite: str, encoded: Sequence[Encoded], measured: Sequence[Measured]) -> tuple[Series, ...]:
    columns = {
        "tokens": tuple(float(len(item.ids) - 1) for item in encoded),
        "bytes": tuple(float(item.bytes) for item in encoded),
        "nll_candidate": tuple(row.candidate.nll for row in measured),
        "nll_champion": tuple(row.champion.nll for row in measured),
        "kl_mean": tuple(sum(row.kl) / len(row.kl) for row in measured),
        "js_mean": tuple(row.js for row in measured),
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
        Series("skill", suite, names, _skill(measured)),
    )


def _skill(measured: Sequence[Measured]) -> dict[str, tuple[float, ...]]:
    columns = {
        "tokens": tuple(float(len(row.kl)) for row in measured),
        "flips": tuple(
            float(
                sum(had and not has for had, has in zip(row.champion.right, row.candidate.right, strict=True))
            )
            for row in measured
        ),
    }
    for name in ("candidate", "champion"):
        readings: list[Reading] = [getattr(row, name) for row in measured]
        columns[f"right_{name}"] = tuple(float(sum(reading.right)) for reading in readings)
        columns[f"brier_{name}"] = tuple(reading.brier for reading in readings)
        columns[f"entropy_{name}"] = tuple(reading.entropy for reading in readings)
        for tenth in range(BINS):
            columns[f"gap{tenth}_{name}"] = tuple(reading.gaps[tenth] for reading in readings)
    return columns
