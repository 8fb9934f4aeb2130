"""How a worker is asked and how it answers: one JSON request, progress lines, one exit status.

Invariants:
- A request with an unknown, missing or ill-typed field is refused before any work.
- Progress goes to standard output as one JSON object a line, flushed at once.
- A failure ends with status 1, its reason being the last line of output: one line, no traceback.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.errors import InterlockError, InvalidInputError

MAX_REQUEST_BYTES = 2**20
OUT_OF_MEMORY = "out of memory (let it do less at once, or raise memory_bytes in [models.NAME.limits])"


@dataclass(frozen=True)
class Field:
    """One field of a request: its type, and whether it may be left out."""

    kind: type
    optional: bool = False


def read_request(path: Path, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The request in a file, every field checked. Objects other than ``suites`` map text to text.

    Raises:
        InvalidInputError: The file is unreadable or a field is unknown, missing or of another type.
    """
    try:
        raw = path.read_bytes()
        request = json.loads(raw[: MAX_REQUEST_BYTES + 1].decode("utf-8"))
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"request {path.name}: {error}") from None
    if not isinstance(request, dict):
        raise InvalidInputError(f"request {path.name}: not a JSON object")
    unknown = sorted(set(request) - set(fields))
    missing = sorted(name for name, field in fields.items() if not field.optional and name not in request)
    if unknown or missing:
        what = f"unknown field {unknown[0]!r}" if unknown else f"missing field {missing[0]!r}"
        raise InvalidInputError(f"request {path.name}: {what}")
    for name, value in request.items():
        _check(name, value, fields[name].kind)
    return request


def _check(name: str, value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise InvalidInputError(
            f"request: field {name!r} must be {kind.__name__}, not {type(value).__name__}"
        )
    if kind is dict and name != "suites" and not _all_text(value):
        raise InvalidInputError(f"request: field {name!r} must map text to text")


def _all_text(table: Any) -> bool:
    return all(isinstance(item, str) for item in table.values())


def report_line(progress: float, stage: str, **numbers: Any) -> None:
    """Print one progress line."""
    share = round(min(1.0, max(0.0, progress)), 4)
    print(json.dumps({"progress": share, "stage": stage, **numbers}), flush=True)


def main(work: Callable[[dict[str, Any]], None], fields: Mapping[str, Field]) -> None:
    """Run a worker on the request that the command line names, and exit."""
    try:
        started = time.monotonic()
        work(read_request(_path(sys.argv[1:]), fields))
        print(f"finished in {time.monotonic() - started:.1f} s", flush=True)
    except InterlockError as error:
        _fail(str(error))
    except Exception as error:  # whatever it is, the job failed and must say so in one line
        _fail(OUT_OF_MEMORY if _is_out_of_memory(error) else f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch raises a RuntimeError of its own where it gets no memory, of the processor's or of a GPU's."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said)
    )


def _path(arguments: list[str]) -> Path:
    if len(arguments) != 1:
        raise InvalidInputError("exactly one argument is needed: the path of the request")
    return Path(arguments[0])


def _fail(reason: str) -> None:
    print("failed: " + " ".join(reason.split())[:2000], flush=True)
    sys.exit(1)
