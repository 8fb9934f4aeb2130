"""What the learners of action models in levels share: reading records, the champion, and writing the bundle's parts.

Invariants:
- Only what lies in ``train.jsonl`` is learnt from; a record without a valid level is refused with file and line.
- Configuration and tokenizer are the champion's files, byte for byte; only weights differ.
- Weights that are not finite are never written.

Records are ``{"id", "layout"}``. A record may hold ``actions``, what somebody said step by step from the level's
start (``"FFRF"``), and ``family``, the name of the group of levels that it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guardrails.errors import InvalidInputError
from sandbox.worker import data, weights
from sandbox.worker.environments import lava, world
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.learners import Order, forms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Step = tuple[str, str]
"""An observation, and what was said to it."""


@dataclass(frozen=True)
class Record:
    """One record: a level, what somebody said in it ('' where nobody did), its family, and the line as it stood."""

    layout: str
    actions: str
    family: str
    value: Mapping[str, Any]


def read_records(directory: Path) -> list[Record]:
    """The records of ``train.jsonl``, in order, each level once for each recording of it.

    Raises:
        InvalidInputError: A record has no valid level, its actions cannot be played, or there is none at all.
    """
    found: dict[tuple[str, str], Record] = {}
    for line in data.read_lines(directory / "train.jsonl"):
        layout, actions, family = (line.value.get(name, "") for name in ("layout", "actions", "family"))
        if not (isinstance(layout, str) and layout):
            raise InvalidInputError(f"{line.place}: the record has no text field 'layout'")
        if not (isinstance(actions, str) and isinstance(family, str) and set(actions) <= set(lava.ACTIONS)):
            raise InvalidInputError(f"{line.place}: actions must be a text of L, R and F, family a text")
        try:
            world.parse_level(layout)
        except InvalidInputError as error:
            raise InvalidInputError(f"{line.place}: {error.message}") from None
        found.setdefault((layout, actions), Record(layout, actions, family, dict(line.value)))
    if not found:
        raise InvalidInputError("no level to learn from", hint="records look like {'id': …, 'layout': …}")
    return list(found.values())


def recorded(records: Sequence[Record]) -> list[Record]:
    """The records that somebody acted in; raises InvalidInputError where there is none."""
    acted = [record for record in records if record.actions]
    if not acted:
        raise InvalidInputError(
            "no record says what was done in its level", hint="records with demonstrations have 'actions'"
        )
    return acted


def steps_of(record: Record, form: int = 0) -> Iterator[Step]:
    """What was seen and said along a recording, in one of the level's eight forms.

    A mirrored level takes mirrored turns; what has to be said for them depends on the wiring.
    """
    level = world.parse_level(world.symmetric(record.layout, form))
    now = level.start
    for said in record.actions:
        done = level.does(said)
        if form >= 4:
            done = _MIRRORED[done]
        yield world.observe(level, now), level.says(done)
        now, event = world.advance(level, now, done)
        if world.ends(level, event):
            return


_MIRRORED = {"L": "R", "R": "L", "F": "F"}


def load_champion(order: Order) -> tuple[PreTrainedModel, Encoder]:
    """The champion on the order's device, ready to learn, and the reader of its observations."""
    tokenizer = weights.load_tokenizer(order.champion)
    if tokenizer is None:
        raise InvalidInputError(
            "the champion has no tokenizer", hint="an action model needs one to read states"
        )
    torch.manual_seed(order.seed)
    model = weights.load_model(order.champion, torch.float32).requires_grad_(True)
    return model.to(order.device), Encoder(tokenizer)


def save(order: Order, model: PreTrainedModel, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the model, and the records that it learnt from."""
    forms.save(model, {"form": forms.FULL}, order.champion, order.out / "model")
    data.write_records(order.out / "data" / "layouts.jsonl", records)
