"""Records and items in JSONL files: read strictly, written in one way.

Invariants:
- A line that is not one JSON object with distinct keys is refused, with file and line.
- Every record keeps where it stood (``file.jsonl:line``), so that what is flagged can be opened.
- Written records read back equal, and the same records always give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, digest
from guardrails.errors import InvalidInputError

MAX_LINE_BYTES = 4 * 2**20
MAX_RECORDS = 1_000_000
GENERATED = "generated"


@dataclass(frozen=True)
class Line:
    """One record and where it stands. ``place`` reads ``file.jsonl:17``."""

    place: str
    value: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The record's text, empty where it has none."""
        found = self.value.get("text", "")
        return found if isinstance(found, str) else ""

    @property
    def generated(self) -> bool:
        """True where the record says that a model wrote it."""
        return self.value.get("origin") == GENERATED


def read_lines(path: Path) -> list[Line]:
    """The records of one JSONL file, in order; empty lines are skipped.

    Raises:
        InvalidInputError: The file is unreadable, or a line is not one JSON object.
    """
    lines = []
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if raw.strip():
                    lines.append(Line(f"{path.name}:{number}", _parse(raw, f"{path.name}:{number}")))
                if len(lines) > MAX_RECORDS:
                    raise InvalidInputError(f"{path.name}: more than {MAX_RECORDS} records")
    except OSError as error:
        raise InvalidInputError(f"{path}: {error.strerror or error}") from None
    return lines


def read_directory(directory: Path) -> list[Line]:
    """The records of every ``*.jsonl`` file in a directory, files in order of name."""
    if not directory.is_dir():
        raise InvalidInputError(f"{directory}: no such directory of records")
    return [line for path in sorted(directory.glob("*.jsonl")) for line in read_lines(path)]


def read_items(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The items of a suite: at least one, each with a distinct, non-empty ``id``."""
    items = tuple(line.value for line in read_lines(path))
    if not items:
        raise InvalidInputError(f"{path.name}: the suite has no items")
    seen: set[str] = set()
    for item in items:
        name = item.get("id")
        if not isinstance(name, str) or not name or name in seen:
            raise InvalidInputError(f"{path.name}: id {name!r:.60} is missing, not text, or stands twice")
        seen.add(name)
    return items


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> Digest:
    """Write records as JSONL with sorted keys; returns the digest of the file."""
    lines = [json.dumps(dict(record), sort_keys=True, ensure_ascii=False) for record in records]
    data = "".join(f"{line}\n" for line in lines).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return digest(data)


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return re.findall(r"[^\W_]+", text.lower())


def _parse(raw: bytes, place: str) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise InvalidInputError(f"{place}: a record of more than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (UnicodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{place}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{place}: a record must be a JSON object, not {type(value).__name__}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
