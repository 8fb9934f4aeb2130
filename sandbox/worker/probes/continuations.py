"""What the models write when they are let: several drawn texts per prompt, and what stands in them.

Invariants:
- Every prompt is continued ``DRAWN`` times by each model at temperature 1, from the whole distribution: what is seldom
  written is written in proportion. The worst of the texts counts, not their mean.
- The draw depends on the item alone, so the champion's numbers can be kept from one measurement to the next, and both
  models draw with the same random numbers: two equal models write the same.
- No generation settings that lie beside a model have a say.

Items are ``{"id", "begin"}``, a text to continue, or ``{"id", "prompt"}``, a request to answer (in the model's own chat
form). Series ``continuations``, one row per item, for both models: ``length_*`` (tokens, mean), ``entropy_*`` (nats per
token: of the distributions drawn from, mean), ``distinct_2_*`` (distinct pairs of words over pairs, in all texts of the
item together), ``pii_*`` and ``secrets_*`` (texts with personal data, with a secret), and, where all items are
requests, ``toxicity_*`` (the highest score of the texts; see ``toxicity``). Where an item says ``embedded`` (how many texts,
at least 2), series ``outputs`` as well: how far apart the texts lie in meaning (see ``outputs``).

What it cannot see: what is written less often than about once in ``DRAWN`` texts, or after ``NEW_TOKENS`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from guardrails.canonical import digest, encode
from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from sandbox.worker.data import Line, words
from sandbox.worker.probes import Item, Models, Report, Scalars, outputs, personal_data, toxicity
from sandbox.worker.probes.generation import prompt_ids
from sandbox.worker.probes.records_quality import with_secrets

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DRAWN = 25
NEW_TOKENS = 48
NAME = "continuations"
_NUMBERS = ("length", "entropy", "distinct_2", "pii", "secrets")


@dataclass(frozen=True)
class Written:
    """The texts that a model wrote for one item, and what was counted while it wrote."""

    texts: tuple[str, ...]
    length: float
    entropy: float


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Let both models write; the champion only where it is not known already what it writes."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    numbers = (*_NUMBERS, "toxicity") if all("prompt" in item for item in items) else _NUMBERS
    rows: dict[str, list[dict[str, float]]] = {"candidate": [], "champion": []}
    counts = [outputs.embedded(item, suite, DRAWN) for item in items]
    for number, (item, count) in enumerate(zip(items, counts, strict=True)):
        rows["candidate"].append(
            _look(write(models.candidate, models.tokenizer, item, suite), numbers, count)
        )
        known = scalars.get(NAME, item)
        if known is None or not {*numbers, *outputs.names(count)} <= set(known):
            known = _look(write(models.champion, models.tokenizer, item, suite), numbers, count)
            scalars.put(NAME, item, known)
        rows["champion"].append(known)
        report((number + 1) / len(items), suite)
    ids = tuple(str(item["id"]) for item in items)
    columns = {
        f"{name}_{model}": tuple(row[name] for row in found)
        for name in numbers
        for model, found in rows.items()
    }
    apart = outputs.series(items, counts, rows["candidate"], rows["champion"], suite)
    return (Series(NAME, suite, ids, columns), *apart)


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """The worst text of each model: one with personal data or a secret, else the highest score, else the first."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer")
    found = []
    for item in items:
        champion, candidate = (
            _worst(write(model, models.tokenizer, item, suite), "prompt" in item)
            for model in (models.champion, models.candidate)
        )
        found.append(Sample(suite, str(item.get("prompt", item.get("begin"))), champion, candidate))
    return tuple(found)


def _worst(written: Written, judged: bool) -> str:
    leaks = {line.value["text"] for line in with_secrets(_lines(written))}
    leaks |= {text for text in written.texts if any(True for _ in personal_data.find(text))}
    return max(written.texts, key=lambda text: (text in leaks, toxicity.score(text) if judged else 0.0))


def _lines(written: Written) -> list[Line]:
    return [Line(f"text:{number}", {"text": text}) for number, text in enumerate(written.texts, 1)]


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, item: Item, suite: str) -> Written:
    """``DRAWN`` texts for an item; the prompt is read once."""
    import torch

    ids = _prompt(tokenizer, item, suite)
    draw = torch.Generator().manual_seed(int(digest(encode(dict(item))).hex[:12], 16))
    chances = torch.rand((NEW_TOKENS, DRAWN), generator=draw, dtype=torch.float64)
    end = tokenizer.eos_token_id
    live = torch.ones(DRAWN, dtype=torch.bool)
    tokens: list[torch.Tensor] = []
    nats, steps = 0.0, 0
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), use_cache=True)
        memory, logits = output.past_key_values, output.logits[:, -1].expand(DRAWN, -1)
        memory.batch_repeat_interleave(DRAWN)
        for step in range(NEW_TOKENS):
            table = logits.double().log_softmax(-1)
            chosen, entropy = _drawn(table, chances[step])
            nats += float(entropy[live].sum())
            steps += int(live.sum())
            tokens.append(chosen)
            live = live & (chosen != end) if end is not None else live
            if not bool(live.any()) or step == NEW_TOKENS - 1:
                break
            output = model(input_ids=chosen[:, None], past_key_values=memory, use_cache=True)
            memory, logits = output.past_key_values, output.logits[:, -1]
    written = [_cut(row, end) for row in torch.stack(tokens, dim=1).tolist()]
    texts = tuple(str(tokenizer.decode(row, skip_special_tokens=True)) for row in written)
    return Written(texts, sum(map(len, written)) / DRAWN, nats / steps)


def _drawn(table: torch.Tensor, chances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each row by inversion of its distribution, and the distributions' entropies in nats."""
    shares = table.exp()
    sums = shares.cumsum(-1)
    # The last sum is 1 but for rounding; a chance beyond it draws the last token.
    places = (sums < chances[:, None] * sums[:, -1:]).sum(-1).clamp(max=table.shape[-1] - 1)
    return places, -(shares * table.clamp(min=-1e4)).sum(-1)


def _cut(row: list[int], end: int | None) -> list[int]:
    return row[: row.index(end)] if end is not None and end in row else row


def _prompt(tokenizer: PreTrainedTokenizerBase, item: Item, suite: str) -> list[int]:
    texts = [(name, item[name]) for name in ("begin", "prompt") if name in item]
    if len(texts) != 1 or not isinstance(texts[0][1], str) or not texts[0][1]:
        raise InvalidInputError(f"suite {suite}: item {item['id']!r:.60} needs a begin or a prompt")
    name, text = texts[0]
    if name == "prompt":
        return prompt_ids(tokenizer, text)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _look(written: Written, numbers: Sequence[str], embedded: int) -> dict[str, float]:
    """What stands in the texts of one item, and what the first ``embedded`` of them mean."""
    pairs = [pair for text in written.texts for pair in pairwise(words(text))]
    found = {
        "length": written.length,
        "entropy": written.entropy,
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "pii": float(sum(any(True for _ in personal_data.find(text)) for text in written.texts)),
        "secrets": float(len(with_secrets(_lines(written)))),
    }
    if "toxicity" in numbers:
        found["toxicity"] = max(map(toxicity.score, written.texts))
    return found | outputs.meanings(written.texts[:embedded])
