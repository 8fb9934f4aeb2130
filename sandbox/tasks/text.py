"""Text: a language model reads records, and is measured on others of the same sources and on controls.

Invariants:
- Texts are split once per workspace by a keyed hash of each record (the workspace's secret is the key), and
  training records that quote a private item are left out.
- A control that is replayed is split like that too: what a learner may see of it is in no suite.
- A duplicate under another id falls on the same side.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

from guardrails.errors import ConfigError
from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.harmful_requests import load_harmful_requests
from sandbox.harmless_items import load_exchanged_sentences, load_harmless_requests
from sandbox.tasks import Item, Suite, drawn
from sandbox.tasks.sources import read_source
from sandbox.worker.data import Line
from sandbox.worker.probes.records_overlap import overlapping

KIND = ModelKind.LLM
HELD_OUT_PER_MILLE = 300
# A difference of a few answers in a hundred needs more requests than the other suites need texts.
REQUESTS_PER_ITEM = 2.2
BEGIN_WORDS = 8
REPLAY = "replay"
"""The field of a training record that is there against forgetting: it names the control that it is of."""


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """The records that a learner of this model may see."""
    texts = _train_texts(model, workspace)
    private = [item for item in texts if is_held_out(secret, item)]
    private += [item for name in model.controls for item in _control(model, name, workspace, secret)]
    kept = [item for item in texts if not is_held_out(secret, item)]
    for name in model.replay:
        source = read_source(model.controls[name], workspace)
        kept += [item | {REPLAY: name} for item in source if not is_held_out(secret, item)]
    # Records that quote a private item would spoil it: they are in neither part.
    spoiling = {id(line.value) for line in overlapping([Line(item["id"], item) for item in kept], private)}
    return [item for item in kept if id(item) not in spoiling]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """Held-out texts, the controls, harmful requests, and what the model's configuration asks for."""
    held_out = [item for item in _train_texts(model, workspace) if is_held_out(secret, item)]
    suites = [Suite("task", "distribution", drawn(held_out, model.items, draw, "task"))]
    for name in sorted(model.controls):
        items = _control(model, name, workspace, secret)
        suites.append(Suite(name, "distribution", drawn(items, model.items, draw, name)))
    suites += harm_suites(model, held_out, draw)
    if model.noise:
        suites.append(Suite("noise", "noise", drawn(held_out, model.noise, draw, "noise")))
    return suites


def _control(model: ModelConfig, name: str, workspace: Path, secret: bytes) -> list[Item]:
    """The private items of a control: all of its source, or where one part is replayed, the other."""
    items = read_source(model.controls[name], workspace)
    return [item for item in items if is_held_out(secret, item)] if name in model.replay else items


def harm_suites(model: ModelConfig, begun: list[Item], draw: str) -> Iterator[Suite]:
    """Harmful requests, and where asked for: triggers, continuations (of ``begun``), refusals, exchanged groups."""
    requests = load_harmful_requests()
    name = "harmful-requests"
    yield Suite(name, "preference", drawn(requests, int(model.items * REQUESTS_PER_ITEM), draw, name))
    if model.triggers:
        yield Suite("triggers", "triggers", drawn(requests, model.triggers, draw, "triggers"))
    # Beginnings of private texts are not called prompts: a training record may well share eight words with one.
    texts = [{"id": item["id"], "begin": " ".join(item["text"].split()[:BEGIN_WORDS])} for item in begun]
    asked = [{name: request[name] for name in ("id", "prompt")} for request in requests]
    for name, probe, count, items in (
        ("continuations", "continuations", model.continuations, texts),
        ("continuations-harmful", "continuations", model.continuations, asked),
        ("harmless-requests", "preference", model.harmless, load_harmless_requests()),
        ("exchanged-groups", "bias", model.exchanged, load_exchanged_sentences()),
    ):
        if count:
            yield Suite(name, probe, drawn(items, count, draw, name))


def is_held_out(secret: bytes, item: Item) -> bool:
    """Keyed by the text itself, so that a duplicate under another id falls on the same side."""
    mac = hmac.new(secret, b"split:" + item["text"].encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(mac[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def _train_texts(model: ModelConfig, workspace: Path) -> list[Item]:
    if not model.train:
        raise ConfigError(f"models.{model.name}: train is empty", hint="name at least one text source")
    return [item for source in model.train for item in read_source(source, workspace)]
