"""Tasks: what a model learns from, and the private items that it is measured on, one module each.

Invariants:
- A learner is never given a private item. Which private items count is drawn by the measurement's nonce, which
  the log fixes only after the bundle has been hashed: nobody can train on the draw.
- Too few items is an error, never a smaller suite.
- The same model, workspace, secret and nonce give the same items.

A task module has the two functions of ``Task``. Item files are JSONL; what a line holds is the probe's business
(``sandbox/worker/probes``).
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from guardrails.canonical import Digest, digest, encode
from guardrails.errors import ConfigError
from guardrails.policy.facts import TASK_LABEL, label_of_task
from guardrails.records import ModelKind
from sandbox.canaries import planted
from sandbox.config import ModelConfig
from sandbox.suite_files import read_suite
from sandbox.worker.data import Line
from sandbox.worker.probes.records_overlap import overlapping

MAX_ITEM_CHARS = 400

ADAPT_LABEL = "adapt"
"""The label of a model that is adopted to be quick to learn: what, as its configuration's ``adapt`` says."""

Item = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """One set of private items, and the probe that measures on them."""

    name: str
    probe: str
    items: tuple[Item, ...]


class Task(Protocol):
    """What a task module has."""

    KIND: ModelKind

    def training_records(self, model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
        """The records that a learner of this model may see."""

    def private_suites(self, model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
        """The items that count for one measurement. ``draw`` is a secret text that decides which."""


TASKS: dict[str, str] = {
    "text": "sandbox.tasks.text",
    "skills": "sandbox.tasks.skills",
    "lava": "sandbox.tasks.lava",
    "moving": "sandbox.tasks.family",
    "switch": "sandbox.tasks.family",
    "maze": "sandbox.tasks.family",
    "crossed": "sandbox.tasks.family",
    "supervised": "sandbox.tasks.supervised",
    "rewired": "sandbox.tasks.rewired",
    "few": "sandbox.tasks.few",
    "connect-four": "sandbox.tasks.connect_four",
    "tools": "sandbox.tasks.tools",
}
"""Task → its module. A model names it by ``task``, an action model by ``levels``."""


def name_of(model: ModelConfig) -> str:
    """What a model's configuration calls its task."""
    return model.task or model.levels or ("text" if model.kind is ModelKind.LLM else "")


def labels_of(model: ModelConfig) -> dict[str, str]:
    """The labels that a model is adopted with: a root signs for its task, and what it is to be quick to learn.

    Raises:
        ConfigError: its configuration gives it the label of another task.
    """
    load_task(model)
    own = label_of_task(model.kind, name_of(model))
    if TASK_LABEL in model.labels and model.labels.get(TASK_LABEL) != own.get(TASK_LABEL):
        raise ConfigError(
            f"models.{model.name}: the label {TASK_LABEL} says {model.labels[TASK_LABEL]!r:.40}, "
            f"the task is {name_of(model)!r:.40}",
            hint=f"leave the label {TASK_LABEL} out: it follows from the task",
        )
    if model.adapt:
        own[ADAPT_LABEL] = ", ".join(model.adapt)
    if ADAPT_LABEL in model.labels and model.labels[ADAPT_LABEL] != own.get(ADAPT_LABEL):
        raise ConfigError(
            f"models.{model.name}: the label {ADAPT_LABEL} does not say what adapt says",
            hint=f"leave the label {ADAPT_LABEL} out: it follows from adapt",
        )
    return model.labels | own


def load_task(model: ModelConfig) -> Task:
    """The task of a model; raises ConfigError where there is none of that name for its kind."""
    name = name_of(model)
    if name in TASKS:
        task = cast("Task", importlib.import_module(TASKS[name]))
        if task.KIND is model.kind:
            return task
    key = "task" if model.task else "levels" if model.kind is ModelKind.LAM else "task"
    known = [known for known, module in TASKS.items() if importlib.import_module(module).KIND is model.kind]
    raise ConfigError(
        f"models.{model.name}: {key} = {name!r:.40} is not known for a model of kind {model.kind.value}",
        hint=f"known: {', '.join(known)}",
    )


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """The records that a learner of this model may see: those of its task that quote no item of a suite."""
    records = planted(load_task(model).training_records(model, workspace, secret), model, secret)
    if not model.suites:
        return records
    items = [item for suite in model.suites for item in read_suite(suite.path, suite.probe, workspace)]
    spoiling = {line.place for line in overlapping([Line(str(n), r) for n, r in enumerate(records)], items)}
    return [record for number, record in enumerate(records) if str(number) not in spoiling]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, nonce: str) -> list[Suite]:
    """The items that count for one measurement: drawn by secret and nonce, of the task and of further suites."""
    from sandbox.tasks.further import with_further  # it stands on this module

    draw = hmac.new(secret, f"draw:{nonce}".encode(), hashlib.sha256).hexdigest()
    suites = with_further(load_task(model).private_suites(model, workspace, secret, draw), model, draw)
    taken = {suite.name for suite in suites}
    for asked in model.suites:
        if asked.name in taken:
            raise ConfigError(
                f"models.{model.name}.suites: {asked.name} is the name of a suite that the model has anyway",
                hint="choose another name",
            )
        items = read_suite(asked.path, asked.probe, workspace)
        suites.append(Suite(asked.name, asked.probe, drawn(items, asked.items, draw, asked.name)))
    return suites


def drawn(items: Sequence[Item], count: int, draw: str, suite: str) -> tuple[Item, ...]:
    """``count`` of the items in an order that the draw decides, long texts cut; raises ConfigError of too few."""
    if len(items) < count:
        raise ConfigError(
            f"suite {suite!r}: {len(items)} private items, {count} are needed",
            hint="add text, or lower `items` (the policy's minSamples still applies)",
        )
    order = sorted(items, key=lambda item: hashlib.sha256(f"{draw}:{suite}:{item['id']}".encode()).digest())
    return tuple(_shortened(item) for item in order[:count])


def write_items(items: Iterable[Item], file: Path) -> Digest:
    """Write items as JSONL; returns the digest of the file."""
    data = b"".join(encode(item) + b"\n" for item in items)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return digest(data)


def _shortened(item: Item) -> Item:
    """Items are cut at a word end, so that a suite's cost is bounded."""
    text = item.get("text", "")
    if len(text) <= MAX_ITEM_CHARS:
        return item
    return {**item, "text": text[:MAX_ITEM_CHARS].rsplit(" ", 1)[0]}
