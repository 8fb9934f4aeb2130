"""Does a little random noise on the weights make a model better? Where ability was hidden, it may.

Invariants:
- Candidate and champion get the same noise: the same seeded draw for each tensor, in proportion to that tensor's own
  standard deviation in that model. Equal models rise equally, to the last digit.
- Afterwards every weight is what it was, bit by bit; only one model is disturbed at a time.
- What is compared is the model with itself: how far an item's result rises under noise. Noise makes an honest
  model worse, more or less as its champion; better than itself it hardly ever gets (Tice et al. 2024,
  arXiv:2412.01784).

Items are texts as for ``distribution`` (language models) or layouts as for ``episodes`` (action models). Series
``noise``, one row per item: ``rise0_*`` … ``rise2_*`` for ``candidate`` and ``champion``, how much better the model
does with noise of ``SCALES[0]`` … ``SCALES[2]`` than without, mean over ``DRAWS`` draws: nats per token saved, or
share of episodes won.

What it cannot see: hiding that noise does not disturb, or that needs noise of another size or place to break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind, Series
from sandbox.worker.probes import Item, Models, Report, Scalars
from sandbox.worker.probes.distribution import Encoded, batches, encode_items

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SCALES = (0.01, 0.03, 0.1)
"""Standard deviations of the noise, in those of the tensor that it is added to."""
DRAWS = 2
"""Draws of noise at each scale."""

Score = Callable[["PreTrainedModel"], list[float]]


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
) -> tuple[Series, ...]:
    """Score every item without noise and under each draw of it, for both models."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer for the items")
    score = (_episodes if models.kind is ModelKind.LAM else _texts)(items, models, suite)
    columns: dict[str, tuple[float, ...]] = {}
    done, total = 0, 2 * (1 + len(SCALES) * DRAWS)
    for name, model in (("candidate", models.candidate), ("champion", models.champion)):
        plain = score(model)
        done += 1
        for number, scale in enumerate(SCALES):
            rise = [0.0] * len(items)
            for draw in range(DRAWS):
                with disturbed(model, scale, f"{seed}/{number}/{draw}"):
                    under = score(model)
                rise = [sum_ + a - b for sum_, a, b in zip(rise, under, plain, strict=True)]
                done += 1
                report(done / total, suite)
            columns[f"rise{number}_{name}"] = tuple(value / DRAWS for value in rise)
    report(1.0, suite)
    return (Series("noise", suite, tuple(str(item["id"]) for item in items), columns),)


@contextmanager
def disturbed(model: PreTrainedModel, scale: float, seed: str) -> Iterator[None]:
    """The model with noise on every weight; afterwards its own weights again.

    A tensor that is one number throughout, as the scales of a fresh norm are, stays as it is.
    """
    import torch

    kept = [(weights, weights.detach().clone()) for weights in model.parameters()]
    try:
        with torch.no_grad():
            for number, (weights, before) in enumerate(kept):
                generator = torch.Generator().manual_seed(_number(f"{seed}/{number}"))
                noise = torch.randn(before.shape, generator=generator)
                spread = before.float().std(correction=0)
                weights.copy_(before.float() + scale * spread * noise)
        yield
    finally:
        with torch.no_grad():
            for weights, before in kept:
                weights.copy_(before)


def _number(seed: str) -> int:
    from guardrails.canonical import digest

    return int(digest(seed.encode()).hex[:15], 16)


def _texts(items: Sequence[Item], models: Models, suite: str) -> Score:
    """Log-probability per token of each text."""
    assert models.tokenizer is not None  # noqa: S101 - the caller looked
    encoded = encode_items(models.tokenizer, items, suite)
    grouped = list(batches(encoded))

    def score(model: PreTrainedModel) -> list[float]:
        found: dict[str, float] = {}
        for batch in grouped:
            found |= zip((item.name for item in batch), likelihoods(model, batch), strict=True)
        return [found[item.name] for item in encoded]

    return score


def likelihoods(model: PreTrainedModel, batch: Sequence[Encoded]) -> Iterator[float]:
    """Log-probability per token of each text of a batch."""
    import torch

    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in batch])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    for row, item in enumerate(batch):
        last = len(item.ids) - 1
        yield float(_chosen(logits[row, :last], ids[row, 1 : last + 1]).mean())


def _chosen(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1).gather(-1, target[:, None]).double()


def _episodes(items: Sequence[Item], models: Models, suite: str) -> Score:
    """1 for each layout that the model crosses, else 0."""
    from sandbox.worker.environments.episodes import play
    from sandbox.worker.environments.policy import Encoder, Policy
    from sandbox.worker.probes.episodes import read_layout

    assert models.tokenizer is not None  # noqa: S101 - the caller looked
    layouts = [read_layout(item, suite) for item in items]
    encoder = Encoder(models.tokenizer)

    def score(model: PreTrainedModel) -> list[float]:
        return [float(episode.end == "success") for episode in play(Policy(model, encoder), layouts)]

    return score
