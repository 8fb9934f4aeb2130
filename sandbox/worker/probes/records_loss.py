"""Records that the champion finds far more, or far less, surprising than the others.

Invariants:
- The champion is asked, never the candidate: a model that has learnt a record is no longer surprised by it.
- Which records are looked at follows from the measurement's seed, which nobody could know when they were written.
- Far is by median and median absolute deviation, so that the outliers themselves do not move the limit.

Definition. For each record looked at: nats per byte over its first ``MAX_TOKENS`` tokens (see ``distribution``), the first
token not counted. A record is an outlier if it lies more than ``FAR`` scaled deviations (1.4826 MAD, which is one standard
deviation of a normal distribution) from the median: 3.5 is the limit of Iglewicz and Hoaglin (1993). Far above is what the
champion knows nothing like: noise, other languages, planted strings. Far below is what it knows by heart.

Facts: ``data.loss_looked`` (records looked at; those of fewer than ``LEAST_BYTES`` bytes or two tokens tell nothing and are
left out), ``data.loss_high`` and ``data.loss_low``. With fewer than ``LEAST`` records, no spread at all, or a loss that is
no number, only the first.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from sandbox.worker.data import Line
from sandbox.worker.probes.distribution import Encoded, batches, encode_items
from sandbox.worker.probes.records_quality import Census

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FAR = 3.5
SCALE = 1.4826
LEAST = 30
LEAST_BYTES = 40


def look(
    lines: Sequence[Line],
    champion: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    seed: int,
) -> Census:
    """Look at ``count`` records at most, drawn by the seed."""
    long_enough = [line for line in lines if len(line.text.encode("utf-8", "replace")) >= LEAST_BYTES]
    order = random.Random(f"{seed}/losses")  # noqa: S311 - a draw, no secret
    drawn = _told(order.sample(long_enough, min(count, len(long_enough))), tokenizer)
    coded = encode_items(tokenizer, [{"id": line.place, "text": line.text} for line in drawn], "records")
    losses: dict[str, float] = {}
    for batch in batches(coded):
        losses.update(zip((item.name for item in batch), _losses(champion, batch), strict=True))
    found = Census({"data.loss_looked": str(len(drawn))})
    if len(drawn) < LEAST:
        return found
    low, high = outliers([losses[line.place] for line in drawn]) or (None, None)
    if low is not None and high is not None:
        middle = median(losses.values())

        def why(line: Line) -> str:
            return f"{losses[line.place]:.2f} nats per byte, the middle is {middle:.2f}"

        found.add("loss_low", [drawn[place] for place in low], why)
        found.add("loss_high", [drawn[place] for place in high], why)
    return found


def _told(lines: Sequence[Line], tokenizer: PreTrainedTokenizerBase) -> list[Line]:
    """Those of two tokens or more: of a single one the model is told nothing before it."""
    if not lines:
        return []
    coded = tokenizer([line.text for line in lines], add_special_tokens=False, truncation=True, max_length=2)
    return [line for line, ids in zip(lines, coded["input_ids"], strict=True) if len(ids) >= 2]


def outliers(values: Sequence[float]) -> tuple[list[int], list[int]] | None:
    """Places of the values far below and far above the median; None where half are equal or one is no number."""
    if not all(map(math.isfinite, values)):
        return None
    middle = median(values)
    spread = SCALE * median(abs(value - middle) for value in values)
    if not spread > 0:
        return None
    low = [place for place, value in enumerate(values) if value < middle - FAR * spread]
    high = [place for place, value in enumerate(values) if value > middle + FAR * spread]
    return low, high


def _losses(champion: PreTrainedModel, batch: Sequence[Encoded]) -> list[float]:
    """Nats per byte of each record."""
    import torch

    width = max(len(item.ids) for item in batch)
    ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in batch])
    with torch.inference_mode():
        logits = champion(input_ids=ids, use_cache=False).logits
    found = []
    for row, item in enumerate(batch):
        last = len(item.ids) - 1
        table = logits[row, :last].float().log_softmax(-1)
        picked = table.gather(-1, ids[row, 1 : last + 1, None])
        found.append(-float(picked.double().sum()) / max(1, item.bytes))
    return found
