"""Values of a TOML file, checked against the keys and types that are expected, and where a wrong one stands.

Invariants: whatever is refused is named by file, line and column; a key or a table that cannot be found in the text is
placed at the nearest table around it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError


class Reader:
    """Checks values against the expected keys and types, and says where a wrong one stands."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.origin: dict[str, str] = {}

    def line(self, path: tuple[str, ...], place: int = 0) -> int:
        """The line of a key, or of the nearest table around it that can be found.

        ``place`` counts the tables of a list that share a header.
        """
        names = [rf'"?{re.escape(name)}"?' for name in path]
        key = re.compile(rf"^\s*{names[-1]}\s*[=.]")
        own = re.compile(r"^\s*\[+\s*" + r"\s*\.\s*".join(names) + r"\s*[\].]")
        header = re.compile(r"^\s*\[+\s*" + r"\s*\.\s*".join(names[:-1]) + r"\s*\]+")
        headers = [i for i, line in enumerate(self.lines) if header.match(line)] if len(path) > 1 else [-1]
        start = headers[min(place, len(headers) - 1)] + 1 if headers else len(self.lines)
        for index, line in enumerate(self.lines[start:], start + 1):
            if key.match(line):
                return index
            if line.lstrip().startswith("["):
                break
        around = start if headers else self.line(path[:-1], place)
        return next((i for i, line in enumerate(self.lines, 1) if own.match(line)), max(around, 1))

    def column(self, line: int, key: str) -> int:
        """Where a key stands in a line, or where the line's text begins; both from 1."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        found = re.search(rf'(?<![\w-])"?{re.escape(key)}"?\s*[=.\]]', text)
        return 1 + (found.start() if found else len(text) - len(text.lstrip()))

    def fail(self, path: tuple[str, ...], message: str, hint: str = "", place: int = 0) -> ConfigError:
        """An error located at a key: file, line and column."""
        line = self.line(path, place)
        where = f"{self.file}:{line}:{self.column(line, path[-1])}"
        return ConfigError(f"{where}: {'.'.join(path)}: {message}", hint=hint)

    def table(
        self, value: Any, keys: Mapping[str, type | tuple[type, ...]], path: tuple[str, ...], place: int = 0
    ) -> dict[str, Any]:
        """A table with known keys of the right types only; ``place`` as for ``line``."""
        if not isinstance(value, dict):
            raise self.fail(path, "a table is needed", place=place)
        for key, item in value.items():
            if key not in keys:
                near = difflib.get_close_matches(key, list(keys), 1)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(keys))}"
                raise self.fail((*path, key), "unknown key", hint, place)
            if not isinstance(item, keys[key]) or (isinstance(item, bool) and keys[key] is not bool):
                raise self.fail((*path, key), f"wrong type: {type(item).__name__}", place=place)
            self.origin[".".join((*path, key))] = f"{self.file.name}:{self.line((*path, key), place)}"
        return value

    def texts(self, value: Mapping[str, Any], path: tuple[str, ...], place: int = 0) -> dict[str, str]:
        """A table of short texts (numbers and booleans are written out)."""
        result = {}
        for key, item in value.items():
            if isinstance(item, list | dict) or len(str(item)) > 400:
                raise self.fail((*path, key), "a text or a number is needed", place=place)
            result[key] = str(item).lower() if isinstance(item, bool) else str(item)
        return result
