"""The public-domain texts that come with Interlock, as records.

Invariants:
- A text is used only if its bytes have the digest that ``sources.json`` states.
- Reading them needs no network and nothing heavy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guardrails.canonical import digest
from guardrails.errors import InvalidInputError, UnknownNameError

DIRECTORY = Path(__file__).parent


def sources() -> dict[str, dict[str, Any]]:
    """What is known of each text: title, author, licence, source, records, sha256; by name."""
    found: dict[str, dict[str, Any]] = json.loads((DIRECTORY / "sources.json").read_text("utf-8"))
    return found


def path_of(name: str) -> Path:
    """The JSONL file of a text, after its digest was compared; one record a line.

    Raises:
        UnknownNameError: There is no text of that name.
        InvalidInputError: The file was changed or is gone.
    """
    known = sources()
    if name not in known:
        raise UnknownNameError(f"no text is called {name!r:.40}", hint=f"known: {', '.join(sorted(known))}")
    path = DIRECTORY / f"{name}.jsonl"
    if not path.is_file() or digest(path.read_bytes()).hex != known[name]["sha256"]:
        raise InvalidInputError(f"{path.name} is not the file that sources.json describes", hint="reinstall")
    return path


def load(name: str) -> list[dict[str, str]]:
    """The records of a text, in the order of the book: ``id``, ``source``, ``text``."""
    return [json.loads(line) for line in path_of(name).read_text("utf-8").splitlines()]
