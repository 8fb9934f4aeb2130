"""Memory: how many rows a model can learn from at once, and whether it keeps or recomputes what it needs for that.

Invariants:
- It is decided by declared numbers alone, before anything is loaded: the job's memory limit, the headers of the
  champion's weights, its configuration, and the recipe. What happens to be free is never asked.
- An update stays what the recipe says: its gradient is added up, in float32, over as many parts as are needed.
- A limit under which not even one row would fit is a failure with both numbers, not a job that is ended half-way.

Whole batches are taken where they fit, else halves, quarters and so on; only where one row alone is too much are
activations recomputed (gradient checkpointing), for that costs a third more work. The numbers are an estimate, calibrated
on models of 1 and 135 million parameters, and meant to be too high rather than too low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import weights
from sandbox.worker.learners import Order, forms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

USABLE = 0.9
"""Share of the limit that is planned with."""
RUNTIME = 400 << 20
"""What torch, transformers and peft take once they are imported: 382 MiB were measured."""
MASTER, GRADIENT, ADAM = 4, 4, 8
"""Bytes of a trained number: itself, its gradient, two moments."""
TABLE = 16
"""Bytes of a token's row of the vocabulary: scores, their logarithms, and both gradients."""
_WIDE, _INNER = 12, 5
"""How many vectors of a layer's width, and of its inner width, are kept of a token."""


@dataclass(frozen=True)
class Plan:
    """``rows`` that go through the model at once; ``checkpointing``: each layer is computed again on the way back."""

    rows: int
    checkpointing: bool = False

    @property
    def claims(self) -> dict[str, str]:
        """What is said of it beside the proposal."""
        return {"rows_at_once": str(self.rows), "checkpointing": "yes" if self.checkpointing else "no"}

    def applied(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, told to recompute where the plan says so."""
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model


def plan(order: Order, recipe: Mapping[str, Any], rows: int, length: int) -> Plan:
    """How to learn from ``rows`` of at most ``length`` tokens in one update.

    All of them at once where the job was given no limit, or the champion's configuration does not say its sizes.

    Raises:
        InvalidInputError: the job's limit is too small for a single row.
    """
    form = weights.architecture(order.champion)
    if not order.memory_bytes or form is None:
        return Plan(rows)
    sizes = _sizes(order.champion, recipe, form)
    room = order.memory_bytes * USABLE - sizes.fixed
    for checkpointing in (False, True):
        row = length * sizes.token(checkpointing)
        for parts in range(rows.bit_length() + 1):
            some = -(-rows // 2**parts)
            if some * row <= room:
                return Plan(some, checkpointing)
    needed = math.ceil((sizes.fixed + length * sizes.token(True)) / USABLE)
    raise InvalidInputError(
        f"one row of {length} tokens needs about {needed >> 20} MiB to learn from, the job has {order.memory_bytes >> 20}",
        hint='raise memory_bytes in [models.NAME.limits], or lower length; form = "adapter" needs least',
    )


@dataclass(frozen=True)
class _Sizes:
    """Bytes: ``fixed`` whatever is learnt from; ``table`` of each token; ``kept`` and ``carried`` of it in each layer."""

    fixed: int
    layers: int
    table: int
    kept: int
    carried: int

    def token(self, checkpointing: bool) -> int:
        if checkpointing:
            return self.layers * self.carried + self.kept + self.table
        return self.layers * self.kept + self.table


def _sizes(champion: Path, recipe: Mapping[str, Any], form: weights.Architecture) -> _Sizes:
    shapes = weights.shapes(champion)
    numbers = sum(math.prod(shape) for _, shape in shapes.values())
    stored = sum(file.stat().st_size for file in weights.weight_files(champion))
    if recipe["form"] == forms.ADAPTER:
        computed = forms.frozen_dtype(champion, recipe["dtype"]).itemsize
        trained, frozen = _adapted(shapes, recipe), numbers * computed
    else:  # a table of tokens that two layers share has two gradients for a moment
        computed, trained, frozen = MASTER, numbers, form.width * form.vocabulary * GRADIENT
    return _Sizes(
        fixed=RUNTIME + stored + frozen + trained * (MASTER + GRADIENT + ADAM),
        layers=form.layers,
        table=form.vocabulary * TABLE,
        kept=(_WIDE * form.width + _INNER * form.inner) * computed,
        carried=form.width * computed,
    )


def _adapted(shapes: Mapping[str, tuple[str, tuple[int, ...]]], recipe: Mapping[str, Any]) -> int:
    """How many numbers the adapter has."""
    targets = {name.strip() for name in recipe["targets"].split(",")}
    return sum(
        recipe["rank"] * sum(shape)
        for name, (_, shape) in shapes.items()
        if len(shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in targets
    )
