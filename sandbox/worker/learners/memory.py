"""Memory: how many rows a model learns from or writes at once, and whether it keeps or recomputes what learning needs.

Invariants:
- It is decided by declared numbers alone, before anything is loaded: the job's memory limit, the headers of the
  champion's weights, its configuration, the recipe, and the data's longest row. What happens to be free is never asked;
  on a GPU, whose memory nothing limits, the limit is what was free there when the job started.
- An update stays what the recipe says: its gradient is added up, in float32, over as many parts as are needed.
- A limit under which not even one row would fit is a failure with both numbers, not a job that is ended half-way.

Whole batches are taken where they fit, else halves, quarters and so on; only where one row alone is too much are
activations recomputed (gradient checkpointing), for that costs a third more work. The numbers are an estimate, calibrated
on models of 1 and 135 million parameters, and meant to be too high rather than too low.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from guardrails.errors import InvalidInputError
from sandbox.worker import devices, weights
from sandbox.worker.learners import Order, forms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

USABLE = 0.9
"""Share of the limit that is planned with."""
RUNTIME = 400 << 20
"""What torch, transformers and peft take once they are imported: 382 MiB were measured."""
MASTER, GRADIENT, ADAM = 4, 4, 8
"""Bytes of a trained number: itself, its gradient, two moments."""
TABLE = 16
"""Bytes of a token's row of the vocabulary: scores, their logarithms, and both gradients."""
COMPARED = 20
"""Bytes more where that row is compared with the champion's: its logarithms, probabilities, products, gradients."""
HEAP = 1.3
"""What rows take where freed memory is kept for later, over what is in use: 1.25 was measured."""
_GIVE_BACK, _FROM = -3, 128 << 10
"""glibc's M_MMAP_THRESHOLD, and the bytes from which on memory goes back to the system as soon as it is free."""
_WIDE, _INNER = 12, 5
"""How many vectors of a layer's width, and of its inner width, are kept of a token."""

_First = TypeVar("_First")
_Second = TypeVar("_Second")


@dataclass(frozen=True)
class Plan:
    """``rows`` that go through the model at once; ``checkpointing``: each layer is computed again on the way back.

    ``written``: rows that are continued at once by a learner that lets the model write; 0: it does not. ``tight``: there is
    no room for keeping freed memory, which saves a fifth of the time.
    """

    rows: int
    checkpointing: bool = False
    written: int = 0
    tight: bool = field(default=False, compare=False)

    @property
    def claims(self) -> dict[str, str]:
        """What is said of it beside the proposal."""
        written = {"written_at_once": str(self.written)} if self.written else {}
        checkpointing = "yes" if self.checkpointing else "no"
        return {"rows_at_once": str(self.rows), "checkpointing": checkpointing, **written}

    def applied(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, told to recompute where the plan says so; from now on memory goes back where there is little."""
        if self.tight:
            _give_back()
        if self.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def parts(
        self, first: Sequence[_First], second: Sequence[_Second], size: int = 1
    ) -> Iterator[tuple[Sequence[_First], Sequence[_Second]]]:
        """Both together where they fit, else parts of the first, then of the second; one of the first is ``size`` rows."""
        if size * len(first) + len(second) <= self.rows:
            yield first, second
            return
        step = self.rows // size
        for at in range(0, len(first), step):
            yield first[at : at + step], ()
        for at in range(0, len(second), self.rows):
            yield (), second[at : at + self.rows]


@dataclass(frozen=True)
class Room:
    """What a job's limit leaves for rows beside its models; ``sizes`` None: it has no limit, or nobody knows the sizes."""

    limit: int
    sizes: _Sizes | None
    advice: str = ""
    device: str = devices.CPU

    def plan(
        self, rows: int, length: int, *, scored: int = 0, compared: int = 0, least: int = 1, written: int = 0
    ) -> Plan:
        """How to learn from ``rows`` of at most ``length`` tokens in one update.

        Args:
            rows: In one update.
            length: Tokens of the longest row.
            scored: Tokens of it of which scores over the vocabulary are made; 0: all of them.
            compared: Tokens of it whose scores are compared with the champion's.
            least: Rows that cannot be parted.
            written: What is written at once, to stand in the plan.

        Raises:
            InvalidInputError: the limit is too small for ``least`` rows.
        """
        if self.sizes is None:
            return Plan(rows, written=written)
        table = self.sizes.vocabulary * ((scored or length) * TABLE + compared * COMPARED)
        for checkpointing in (False, True):
            row = length * self.sizes.token(checkpointing) + table
            if not checkpointing and rows * row * HEAP <= self._left:
                return Plan(rows, written=written)
            for some in _halves(rows, least):
                if some * row <= self._left:
                    return Plan(some, checkpointing, written, tight=True)
        raise self._refusal(least, length, "learn from", row * least)

    def written(self, rows: int, length: int, *, in_step: bool) -> int:
        """How many of ``rows`` to continue at once, to ``length`` tokens each.

        ``in_step``: all of them go on token by token together, and what is remembered of all is held, though only some
        are read at once.

        Raises:
            InvalidInputError: the limit is too small for a single row, or for what is held.
        """
        if self.sizes is None:
            return rows
        sizes, held = self.sizes, 0
        row = length * sizes.kept
        memory = length * sizes.remembered + sizes.vocabulary * TABLE
        if in_step:  # of a prompt each token is scored
            held, row = rows * memory, row + length * sizes.vocabulary * sizes.computed
        else:
            row += memory
        for some in _halves(rows, 1):
            if (held + some * row) * HEAP <= self._left:
                return some
        raise self._refusal(rows if held else 1, length, "write", math.ceil((held + row) * HEAP))

    @property
    def _left(self) -> float:
        return self.limit * USABLE - (self.sizes.fixed if self.sizes else 0)

    def _refusal(self, rows: int, length: int, purpose: str, room: int) -> InvalidInputError:
        needed = math.ceil((room + self.limit * USABLE - self._left) / USABLE)
        many = "one row" if rows == 1 else f"{rows} rows"
        needs = "needs" if rows == 1 else "need"
        more = "raise memory_bytes in [models.NAME.limits]"
        if self.device != devices.CPU:
            more = "end what else takes memory of the GPU"
        return InvalidInputError(
            f"{many} of {length} tokens {needs} about {needed >> 20} MiB to {purpose}, the job has {self.limit >> 20}",
            hint=f"{more}, or take fewer or shorter rows{self.advice}",
        )


def training(order: Order, recipe: Mapping[str, Any], *, reference: bool = False) -> Room:
    """The room for rows beside what the recipe trains; ``reference``: and beside the champion in float32."""
    form = weights.architecture(order.champion)
    if not order.memory_bytes or form is None:
        return Room(order.memory_bytes, None)
    sizes = _sizes(order, recipe, form)
    if reference:
        sizes = replace(sizes, fixed=sizes.fixed + _numbers(order.champion) * MASTER)
    advice = "" if recipe["form"] == forms.ADAPTER else '; form = "adapter" needs least'
    return Room(order.memory_bytes, sizes, advice, order.device)


def asking(order: Order, dtype: torch.dtype) -> Room:
    """The room for rows beside the champion alone, which is only let write."""
    form = weights.architecture(order.champion)
    if not order.memory_bytes or form is None:
        return Room(order.memory_bytes, None)
    frozen = _numbers(order.champion) * dtype.itemsize
    sizes = _rows(form, dtype.itemsize, RUNTIME + _stored(order.champion) + frozen)
    return Room(order.memory_bytes, sizes, device=order.device)


def plan(order: Order, recipe: Mapping[str, Any], rows: int, length: int) -> Plan:
    """How to learn from ``rows`` of at most ``length`` tokens in one update.

    All of them at once where the job was given no limit, or the champion's configuration does not say its sizes.

    Raises:
        InvalidInputError: the job's limit is too small for a single row.
    """
    return training(order, recipe).plan(rows, length)


def _give_back() -> None:
    """Let freed memory go back to the system at once. Where the C library is another than glibc, nothing happens."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_GIVE_BACK, _FROM)


def _halves(rows: int, least: int) -> Iterator[int]:
    """All rows, half of them, and so on."""
    for parts in range(rows.bit_length() + 1):
        yield max(least, -(-rows // 2**parts))


@dataclass(frozen=True)
class _Sizes:
    """Bytes: ``fixed`` whatever the rows; of a token ``kept`` and ``carried`` in a layer, ``remembered`` in all of them."""

    fixed: int
    layers: int
    vocabulary: int
    computed: int
    kept: int
    carried: int
    remembered: int

    def token(self, checkpointing: bool) -> int:
        if checkpointing:
            return self.layers * self.carried + self.kept
        return self.layers * self.kept


def _sizes(order: Order, recipe: Mapping[str, Any], form: weights.Architecture) -> _Sizes:
    champion = order.champion
    numbers = _numbers(champion)
    if recipe["form"] == forms.ADAPTER:
        computed = forms.frozen_dtype(champion, recipe["dtype"], order.device).itemsize
        trained, frozen = _adapted(weights.shapes(champion), recipe), numbers * computed
    else:  # a table of tokens that two layers share has two gradients for a moment
        computed, trained, frozen = MASTER, numbers, form.width * form.vocabulary * GRADIENT
    learning = frozen + trained * (MASTER + GRADIENT + ADAM)
    return _rows(form, computed, RUNTIME + _stored(champion) + learning)


def _rows(form: weights.Architecture, computed: int, fixed: int) -> _Sizes:
    return _Sizes(
        fixed=fixed,
        layers=form.layers,
        vocabulary=form.vocabulary,
        computed=computed,
        kept=(_WIDE * form.width + _INNER * form.inner) * computed,
        carried=form.width * computed,
        remembered=form.layers * form.remembered * computed,
    )


def _stored(champion: Path) -> int:
    return sum(file.stat().st_size for file in weights.weight_files(champion))


def _numbers(champion: Path) -> int:
    return sum(math.prod(shape) for _, shape in weights.shapes(champion).values())


def _adapted(shapes: Mapping[str, tuple[str, tuple[int, ...]]], recipe: Mapping[str, Any]) -> int:
    """How many numbers the adapter has."""
    targets = {name.strip() for name in recipe["targets"].split(",")}
    return sum(
        recipe["rank"] * sum(shape)
        for name, (_, shape) in shapes.items()
        if len(shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in targets
    )
