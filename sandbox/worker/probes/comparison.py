"""What models' distributions over one vocabulary say of the true tokens, and how far they lie apart: token by token.

Invariants:
- A token's numbers follow from its own logits alone.
- Equal logits lie exactly 0 apart; no divergence is below 0; what is not a number stays none.
- Entries of probability 0 count as nothing, so masked ones (minus infinity) do no harm; where the candidate rules out
  what the other finds possible, KL is infinite.

Sums over the vocabulary are of 32 bits, what is made of them of 64. For p = exp(x) / S with x the logits less their
greatest and S the sum of exp(x), all follow from sums that need no probability by itself:

    H(p) = log S - sum(exp(x) x) / S        KL(p | q) = sum(exp(x) (x - y)) / S + log S' - log S
    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

Rows of which a sum is not finite (masked entries, logits a hundred apart) are computed again, plainly and in 64 bits.
The others lie within 5e-6 nats (JS within 2e-6) of what 64 bits give, or within a millionth of it where that is more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 16  # logits of a model at work at a time: what stays in the cache is read several times as fast
PIECE = 4096  # products summed in 32 bits

Columns = dict[str, "torch.Tensor"]
"""One number per token under each name."""


def compare(tables: Mapping[str, torch.Tensor], targets: torch.Tensor) -> Columns:
    """What is read off rows of logits, where ``targets`` are the true tokens.

    ``tables`` holds the logits of ``candidate`` and ``champion``, and of ``original`` where it is a model of its own. The
    columns: ``kl`` and ``kl_original`` (nats, of the champion and of the original from the candidate), ``js`` (nats, of
    champion and candidate), and of these two each ``nll_*`` and ``entropy_*`` (nats), ``confidence_*`` (the probability
    of the likeliest token) and ``right_*`` (1 where that is the true one, of several the first; 0 where it is not).
    """
    import numpy as np
    import torch

    references = [name for name in ("original", "champion") if name in tables]
    step = max(1, BLOCK // tables["candidate"].shape[-1])
    pieces = {name: table.split(step) for name, table in tables.items()}
    buffers = [torch.empty(pieces["candidate"][0].shape) for _ in range(4)]
    with torch.inference_mode(), np.errstate(invalid="ignore"):  # what is not finite is mended below
        blocks = [
            _sums({name: pieces[name][number] for name in tables}, references, buffers)
            for number in range(len(pieces["candidate"]))
        ]
        sums = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        columns = _columns(sums, references, tables, targets)
        _mend(columns, tables, references)
    return columns


def _sums(
    tables: Mapping[str, torch.Tensor], references: Sequence[str], buffers: Sequence[torch.Tensor]
) -> Columns:
    """The sums over the vocabulary; the buffers are written over."""
    import torch

    rows = len(tables["candidate"])
    after, after_weights, before, before_weights = (buffer[:rows] for buffer in buffers)
    sums = _softmax("candidate", tables["candidate"], after, after_weights)
    for name in references:  # the champion is the last, and is mixed with the candidate
        sums |= _softmax(name, tables[name], before, before_weights)
        before.sub_(after)
        sums[f"gap_{name}"] = _dot(before_weights, before)
    # Of the two weighed alike, as the champion's weights are.
    after_weights.mul_((sums["total_champion"] / sums["total_candidate"])[:, None])
    mixed = before_weights.add_(after_weights)
    sums["mixed"] = _dot(mixed, torch.log(mixed, out=before))
    return sums


def _softmax(name: str, table: torch.Tensor, logits: torch.Tensor, weights: torch.Tensor) -> Columns:
    """One model's sums; leaves its logits less their greatest, and the exponentials of those, in the buffers."""
    import torch

    logits.copy_(table)
    best = torch.from_numpy(logits.numpy().argmax(-1))  # torch's own takes ten times as long
    logits.sub_(logits.gather(-1, best[:, None]))
    torch.exp(logits, out=weights)
    return {f"best_{name}": best, f"total_{name}": weights.sum(-1), f"spread_{name}": _dot(weights, logits)}


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The sum of products of each row; long rows in pieces, because the error of a sum grows with its length."""
    import numpy as np
    import torch

    pieces = zip(one.split(PIECE, -1), other.split(PIECE, -1), strict=True)
    products = [torch.from_numpy(np.vecdot(a.numpy(), b.numpy())) for a, b in pieces]
    return products[0] if len(products) == 1 else torch.stack(products).double().sum(0)


def _columns(
    sums: Columns, references: Sequence[str], tables: Mapping[str, torch.Tensor], targets: torch.Tensor
) -> Columns:
    total = {name: sums[f"total_{name}"].double() for name in (*references, "candidate")}
    logs = {name: values.log() for name, values in total.items()}
    columns = {}
    for name in references:
        kl = sums[f"gap_{name}"] / total[name] - logs[name] + logs["candidate"]
        columns["kl" if name == "champion" else f"kl_{name}"] = kl.clamp(min=0.0)  # below is rounding
    for name in ("champion", "candidate"):
        best, true = (
            tables[name].gather(-1, chosen[:, None]).squeeze(-1).double()
            for chosen in (sums[f"best_{name}"], targets)
        )
        columns |= {
            f"nll_{name}": logs[name] + (best - true),
            f"entropy_{name}": logs[name] - sums[f"spread_{name}"] / total[name],
            f"confidence_{name}": 1.0 / total[name],
            # Where scores are no numbers none is the greatest, though the first is called so.
            f"right_{name}": (sums[f"best_{name}"] == targets).double() + 0.0 * total[name],
        }
    # H((p + q) / 2), where the weights that were mixed sum up to twice the champion's total.
    middle = logs["champion"] + math.log(2.0) - sums["mixed"] / total["champion"] / 2.0
    js = middle - (columns["entropy_champion"] + columns["entropy_candidate"]) / 2.0
    # JS is never above 0.35 KL; what rounding leaves of it where KL is nothing goes too.
    columns["js"] = js.clamp(min=0.0).masked_fill(columns["kl"] == 0.0, 0.0)
    return columns


def _mend(columns: Columns, tables: Mapping[str, torch.Tensor], references: Sequence[str]) -> None:
    """Compute again, in 64 bits, what came out not finite."""
    import torch

    fragile = [name for name in columns if name.startswith(("kl", "js", "entropy"))]
    broken = (~torch.stack([columns[name] for name in fragile]).isfinite()).any(0).nonzero().squeeze(-1)
    for some in broken.split(max(1, BLOCK // tables["candidate"].shape[-1])):
        logs = {name: table.index_select(0, some).double().log_softmax(-1) for name, table in tables.items()}
        after, before = logs["candidate"], logs["champion"]
        for name in references:
            kl = _weighted(logs[name], logs[name] - after).clamp(min=0.0)
            columns["kl" if name == "champion" else f"kl_{name}"][some] = kl
        columns["entropy_champion"][some] = -_weighted(before, before)
        columns["entropy_candidate"][some] = -_weighted(after, after)
        middle = torch.logaddexp(before, after) - math.log(2.0)
        js = (_weighted(before, before - middle) + _weighted(after, after - middle)) / 2.0
        columns["js"][some] = js.clamp(min=0.0).masked_fill(columns["kl"][some] == 0.0, 0.0)


def _weighted(logs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The expectation of each row; 0 times what is infinite counts as 0, NaN stays."""
    chances = logs.exp()
    return (chances * values).masked_fill(chances == 0.0, 0.0).sum(-1)
