"""Learning to say what somebody said: the plain supervised step that several techniques build on.

Invariants:
- Two runs with the same model, examples, settings and seed change the weights in the same way.
- A loss that is not finite raises.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker.environments import lava
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.learners.levels import Record, Step, steps_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """Updates, examples in one, highest learning rate (rises over ``warmup``, then falls to zero), smoothing."""

    steps: int
    batch: int
    lr: float
    warmup: float = 0.05
    smoothing: float = 0.05


@dataclass(frozen=True)
class Examples:
    """Observations as rows of token ids, and for each which action was said."""

    ids: torch.Tensor
    said: torch.Tensor

    def __len__(self) -> int:
        return len(self.said)


def examples(encoder: Encoder, steps: Iterable[Step]) -> Examples:
    """Encode steps; raises InvalidInputError where there is none."""
    pairs = list(steps)
    if not pairs:
        raise InvalidInputError("there is no step to learn from")
    said = torch.tensor([lava.ACTIONS.index(action) for _, action in pairs])
    return Examples(encoder.encode([seen for seen, _ in pairs]), said)


def turned(records: Sequence[Record], forms: int, seed: int) -> list[Step]:
    """The steps of all records, each in ``forms`` of its eight rotations and mirror images, drawn by the seed."""
    draw = random.Random(f"forms:{seed}")  # noqa: S311 - a training order is no secret
    return [
        step
        for record in records
        for form in draw.sample(range(lava.FORMS), forms)
        for step in steps_of(record, form)
    ]


def loss_of(model: PreTrainedModel, rows: Examples, encoder: Encoder, smoothing: float) -> torch.Tensor:
    """Minus the log-probability of any action at all, plus that of the action that was said among them."""
    device = model.device
    scores = model(input_ids=rows.ids.to(device), use_cache=False, logits_to_keep=1).logits[:, -1]
    speaks = scores.logsumexp(1) - scores[:, encoder.actions].logsumexp(1)
    chooses = torch.nn.functional.cross_entropy(
        scores[:, encoder.actions], rows.said.to(device), label_smoothing=smoothing, reduction="none"
    )
    loss: torch.Tensor = (speaks + chooses).mean()
    return loss


def imitate(
    model: PreTrainedModel,
    encoder: Encoder,
    known: Examples,
    settings: Settings,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train the model's trainable weights on drawn examples; returns the loss of each update."""
    draw = torch.Generator().manual_seed(seed)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0)
    rising = max(1.0, settings.steps * settings.warmup)
    losses = []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min((step + 1) / rising, 1 - step / settings.steps)
        rows = torch.randint(len(known), (settings.batch,), generator=draw)
        loss = loss_of(model, Examples(known.ids[rows], known.said[rows]), encoder, settings.smoothing)
        if not torch.isfinite(loss):
            raise JobFailedError(f"the loss became {loss.item()}", hint="try a lower lr in the recipe")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
        report(step + 1, losses[-1])
    return losses
