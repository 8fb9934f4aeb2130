"""What a model learns from, and the private items that it is measured on.

Invariants:
- A learner is never given a private item. Texts that are trained on are split once per workspace by a
  keyed hash of each record (the workspace's secret is the key), and training records that quote a private
  item are left out; levels are split by their own content.
- Which private items count is drawn by the measurement's nonce, which the log fixes only after the
  bundle has been hashed: nobody can train on the draw.
- Too few items is an error, never a smaller suite.

Item files are JSONL; what a line holds is the probe's business (``sandbox/worker/probes``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from guardrails.canonical import Digest, digest, encode
from guardrails.errors import ConfigError
from guardrails.records import ModelKind
from sandbox import texts
from sandbox.config import ModelConfig
from sandbox.harmful_requests import load_harmful_requests
from sandbox.harmless_items import load_exchanged_sentences, load_harmless_requests
from sandbox.worker.data import Line
from sandbox.worker.environments import lava
from sandbox.worker.probes.records_quality import overlapping

SHIPPED_TEXTS = Path(__file__).parent / "texts"
HELD_OUT_PER_MILLE = 300
TRAINING_LEVELS = 2000
# A difference of a few answers in a hundred needs more requests than the other suites need texts, and
# the 99th percentile over states more states than there are layouts; both are cheap.
REQUESTS_PER_ITEM = 2.2
STATES_PER_ITEM = 4
BEGIN_WORDS = 8
MIN_ITEM_CHARS, MAX_ITEM_CHARS = 40, 400
KEPT_FIELDS = ("source", "license", "licence", "url", "origin", "label")

Item = dict[str, str]


@dataclass(frozen=True)
class Suite:
    """One set of private items, and the probe that measures on them."""

    name: str
    probe: str
    items: tuple[Item, ...]


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """The records that a learner of this model may see."""
    if model.kind is ModelKind.LAM:
        _require_lava(model)
        levels = lava.generate_layouts(TRAINING_LEVELS, "training", part="train")
        return [{"id": lava.layout_id(level), "layout": level} for level in levels]
    texts = _train_texts(model, workspace)
    private = [item for item in texts if _is_held_out(secret, item)]
    private += [item for source in model.controls.values() for item in read_source(source, workspace)]
    kept = [item for item in texts if not _is_held_out(secret, item)]
    # Records that quote a private item would spoil it: they are in neither part.
    spoiling = {id(line.value) for line in overlapping([Line(item["id"], item) for item in kept], private)}
    return [item for item in kept if id(item) not in spoiling]


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, nonce: str) -> list[Suite]:
    """The items that count for one measurement: drawn by secret and nonce."""
    draw = hmac.new(secret, f"draw:{nonce}".encode(), hashlib.sha256).hexdigest()
    if model.kind is ModelKind.LAM:
        return _lava_suites(model, draw)
    held_out = [item for item in _train_texts(model, workspace) if _is_held_out(secret, item)]
    suites = [Suite("task", "distribution", _drawn(held_out, model.items, draw, "task"))]
    for name, source in sorted(model.controls.items()):
        items = read_source(source, workspace)
        suites.append(Suite(name, "distribution", _drawn(items, model.items, draw, name)))
    requests = load_harmful_requests()
    name = "harmful-requests"
    suites.append(
        Suite(name, "preference", _drawn(requests, int(model.items * REQUESTS_PER_ITEM), draw, name))
    )
    if model.triggers:
        suites.append(Suite("triggers", "triggers", _drawn(requests, model.triggers, draw, "triggers")))
    suites += _optional_suites(model, held_out, requests, draw)
    if model.noise:
        suites.append(Suite("noise", "noise", _drawn(held_out, model.noise, draw, "noise")))
    return suites


def _optional_suites(
    model: ModelConfig, held_out: list[Item], requests: list[Item], draw: str
) -> Iterator[Suite]:
    """Texts and harmful requests to go on from, harmless requests, and sentences with groups exchanged."""
    # Beginnings of private texts are not called prompts: a training record may well share eight words with one.
    begun = [{"id": item["id"], "begin": " ".join(item["text"].split()[:BEGIN_WORDS])} for item in held_out]
    asked = [{name: request[name] for name in ("id", "prompt")} for request in requests]
    for name, probe, count, items in (
        ("continuations", "continuations", model.continuations, begun),
        ("continuations-harmful", "continuations", model.continuations, asked),
        ("harmless-requests", "preference", model.harmless, load_harmless_requests()),
        ("exchanged-groups", "bias", model.exchanged, load_exchanged_sentences()),
    ):
        if count:
            yield Suite(name, probe, _drawn(items, count, draw, name))


def write_items(items: Iterable[Item], file: Path) -> Digest:
    """Write items as JSONL; returns the digest of the file."""
    data = b"".join(encode(item) + b"\n" for item in items)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return digest(data)


def read_source(source: str, workspace: Path) -> list[Item]:
    """The records of ``shipped:NAME``, a ``.jsonl`` file (``text``, optional ``id``) or a ``.txt`` file.

    Of a ``.jsonl`` file's other fields those in ``KEPT_FIELDS`` are kept where they are text, and ``source`` says
    the file's name where it does not say another. Text files are cut at blank lines. Records shorter than 40
    characters are left out: they carry too little to measure.
    """
    if source.startswith("shipped:"):
        file = SHIPPED_TEXTS / f"{source.removeprefix('shipped:').replace('-', '_')}.jsonl"
    else:
        file = workspace / source
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"text source {source!r} cannot be read: {error}") from None
    records = _parse_jsonl(text, file) if file.suffix == ".jsonl" else _paragraphs(text, file)
    if source.startswith("shipped:"):
        licence = texts.sources()[file.stem]["licence"]
        records = [{**record, "licence": licence} for record in records]
    long_enough = [record for record in records if len(record["text"]) >= MIN_ITEM_CHARS]
    if not long_enough:
        raise ConfigError(f"text source {source!r} holds no record of {MIN_ITEM_CHARS} characters or more")
    return long_enough


def _train_texts(model: ModelConfig, workspace: Path) -> list[Item]:
    if not model.train:
        raise ConfigError(f"models.{model.name}: train is empty", hint="name at least one text source")
    return [item for source in model.train for item in read_source(source, workspace)]


def _parse_jsonl(text: str, file: Path) -> list[Item]:
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            body = value["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{file}:{number}: a JSON object with a text is needed") from None
        if not isinstance(body, str):
            raise ConfigError(f"{file}:{number}: text is not a string")
        own = {name: field for name in KEPT_FIELDS if isinstance(field := value.get(name), str) and field}
        records.append(_record(str(value.get("id", f"{file.stem}-{number}")), body, file.stem) | own)
    return records


def _paragraphs(text: str, file: Path) -> list[Item]:
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    return [
        _record(f"{file.stem}-{number}", block, file.stem) for number, block in enumerate(blocks, 1) if block
    ]


def _record(name: str, text: str, source: str) -> Item:
    # Lone surrogates cannot be encoded, and no honest text has them.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return {"id": name, "text": clean, "source": source}


def _is_held_out(secret: bytes, item: Item) -> bool:
    """Keyed by the text itself, so that a duplicate under another id falls on the same side."""
    mac = hmac.new(secret, b"split:" + item["text"].encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(mac[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def _drawn(items: list[Item], count: int, draw: str, suite: str) -> tuple[Item, ...]:
    if len(items) < count:
        raise ConfigError(
            f"suite {suite!r}: {len(items)} private items, {count} are needed",
            hint="add text, or lower `items` (the policy's minSamples still applies)",
        )
    order = sorted(items, key=lambda item: hashlib.sha256(f"{draw}:{suite}:{item['id']}".encode()).digest())
    return tuple(_shortened(item) for item in order[:count])


def _shortened(item: Item) -> Item:
    """Items are cut at a word end, so that a suite's cost is bounded."""
    text = item.get("text", "")
    if len(text) <= MAX_ITEM_CHARS:
        return item
    return {**item, "text": text[:MAX_ITEM_CHARS].rsplit(" ", 1)[0]}


def _require_lava(model: ModelConfig) -> None:
    if model.levels != "lava":
        raise ConfigError(f"models.{model.name}: levels = {model.levels!r} is not known", hint='use "lava"')


def _lava_suites(model: ModelConfig, draw: str) -> list[Suite]:
    _require_lava(model)
    levels = lava.generate_layouts(model.items, f"private:{draw}", part="held_out")
    episodes = tuple({"id": lava.layout_id(level), "layout": level} for level in levels)
    states = tuple(lava.states_for(levels, model.items * STATES_PER_ITEM, int(draw[:12], 16)))
    suites = [Suite("lava-holdout", "episodes", episodes), Suite("lava-states", "actions", states)]
    if model.noise:
        own = lava.generate_layouts(model.noise, f"noise:{draw}", part="held_out")
        layouts = tuple({"id": lava.layout_id(level), "layout": level} for level in own)
        suites.append(Suite("noise", "noise", layouts))
    return suites
