"""Text sources: ``shipped:NAME``, or a file of the user's.

Invariants:
- A source is read whole or refused with file and line; nothing in it is skipped silently but records that are
  too short to measure.
- Every record has ``id``, ``text`` and ``source``; all fields are text.
"""

from __future__ import annotations

import json
from pathlib import Path

from guardrails.errors import ConfigError
from sandbox import texts
from sandbox.tasks import Item

SHIPPED_TEXTS = Path(texts.__file__).parent
MIN_ITEM_CHARS = 40
KEPT_FIELDS = ("source", "license", "licence", "url", "origin", "label")


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
