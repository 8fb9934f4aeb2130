"""Items of a suite, one JSON object a line: read strictly, by what the probe needs.

Invariants:
- Every field is known and of its type; every item has what its probe needs, and stands there once.
- An item without ``id`` is named by its content, so that adding one changes no other.
- What costs without limit is limited: characters of a text, choices, tokens to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.canonical import digest, encode
from guardrails.errors import ConfigError, InterlockError, InvalidInputError
from sandbox.worker.data import read_lines

MAX_CHARS = 16_000
MAX_BYTES = 256 << 20
MAX_CHOICES = 26
MAX_TOKENS = 256
ID = re.compile(r"[^\s\x00-\x1f]{1,200}")
CATEGORY = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")

Item = dict[str, Any]
Is = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_CHARS


def _are_texts(value: Any) -> bool:
    texts = isinstance(value, list) and 1 <= len(value) <= MAX_CHOICES and all(map(_is_text, value))
    return texts and len(set(value)) == len(value)


def _are_choices(value: Any) -> bool:
    return _are_texts(value) and len(value) >= 2


def _are_stops(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 10 and all(isinstance(s, str) and s for s in value)


def _are_categories(value: Any) -> bool:
    names = isinstance(value, list) and all(isinstance(n, str) and CATEGORY.fullmatch(n) for n in value)
    return names and len(set(value)) == len(value)


_TEXT = "a text with something in it, of at most 16000 characters"
_KINDS: dict[str, tuple[Is, str]] = {
    "text": (_is_text, _TEXT),
    "choices": (_are_choices, "a list of two to 26 different texts"),
    "place": (lambda value: type(value) is int and value >= 0, "the place of the right choice, counting from 0"),
    "texts": (_are_texts, "a list of one to 26 different texts"),
    "stops": (_are_stops, "a list of at most ten texts"),
    "tokens": (lambda value: type(value) is int and 1 <= value <= MAX_TOKENS, f"a number of 1 to {MAX_TOKENS}"),
    "form": (lambda value: value in {"plain", "chat"}, "plain or chat"),
    "by": (lambda value: value in {"sum", "bytes"}, "sum or bytes"),
    "categories": (_are_categories, "a list of different names: lower-case letters, digits, dashes"),
}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """Which fields an item of a probe has: name → kind."""

    needed: Mapping[str, str]
    optional: Mapping[str, str]


_OWN = {"categories": "categories"}
FIELDS: dict[str, Fields] = {
    "choice": Fields(
        {"prompt": "text", "choices": "choices", "answer": "place"}, {"form": "form", "by": "by", **_OWN}
    ),
    "written": Fields(
        {"prompt": "text", "answers": "texts"},
        {"until": "stops", "max_tokens": "tokens", "form": "form", **_OWN},
    ),
    "preference": Fields({"prompt": "text", "comply": "text", "refuse": "text"}, _OWN),
    "distribution": Fields({"text": "text"}, {}),
    "bias": Fields({"first": "text", "second": "text", "ending": "text"}, {}),
    "continuations": Fields({}, {"begin": "text", "prompt": "text"}),
}
"""Probe → the fields of its items. Only these probes measure on suites of a team's own."""


def read_items(file: Path, probe: str) -> list[Item]:
    """The items of a JSONL file; raises ConfigError with file and line."""
    if probe not in FIELDS:
        raise ConfigError(
            f"the probe {probe!r:.40} measures on no suite of yours", hint=f"known: {', '.join(FIELDS)}"
        )
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_BYTES >> 20} MiB", hint="split the suite")
        lines = read_lines(file)
    except (OSError, InvalidInputError) as error:
        raise ConfigError(f"suite {file} cannot be read: {error}") from None
    places = [f"{file}:{line.place.rpartition(':')[2]}" for line in lines]
    return finished([dict(line.value) for line in lines], places, probe, file.stem)


def finished(values: list[Item], places: list[str], probe: str, stem: str) -> list[Item]:
    """Items with their ids, every field checked; ``places`` says where each stands."""
    seen: dict[str, str] = {}
    found = []
    for value, place in zip(values, places, strict=True):
        check_item(value, place, probe)
        body = {name: field for name, field in value.items() if name != "id"}
        content = f"{stem}-{digest(_encoded(body, place)).hex[:16]}"
        name = value.get("id", content)
        if not (isinstance(name, str) and ID.fullmatch(name)):
            raise ConfigError(f"{place}: id is not a name of at most 200 characters without blanks")
        for key, what in ((f"item {content}", "item"), (f"id {name}", "id")):
            if key in seen:
                raise ConfigError(f"{place}: the same {what} as in {seen[key]}")
            seen[key] = place
        found.append({"id": name, **body})
    if not found:
        raise ConfigError(f"suite {stem!r}: no items")
    return found


def check_item(value: Mapping[str, Any], place: str, probe: str) -> None:
    """Whether an item has what its probe needs and nothing unknown; raises ConfigError at ``place``."""
    fields = FIELDS[probe]
    for name in fields.needed:
        if name not in value:
            raise ConfigError(
                f"{place}: {name} is missing", hint=f"the probe {probe} needs {', '.join(fields.needed)}"
            )
    for name, field in value.items():
        kind = {**fields.needed, **fields.optional}.get(name)
        if kind is None and name != "id":
            known = ", ".join(("id", *fields.needed, *fields.optional))
            raise ConfigError(f"{place}: unknown field {name!r:.60}", hint=f"known: {known}")
        if kind is not None and not _KINDS[kind][0](field):
            raise ConfigError(f"{place}: {name} is not {_KINDS[kind][1]}")
    if probe == "choice" and value["answer"] >= len(value["choices"]):
        raise ConfigError(
            f"{place}: answer is {value['answer']}, but there are {len(value['choices'])} choices, from 0"
        )
    if probe == "continuations" and ("begin" in value) == ("prompt" in value):
        raise ConfigError(f"{place}: either begin or prompt is needed")


def _encoded(body: Item, place: str) -> bytes:
    try:
        return encode(body)
    except (InterlockError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from None


def as_line(item: Item) -> str:
    """An item as a line of a suite file."""
    return json.dumps(item, ensure_ascii=False, sort_keys=True)
