"""Suites of a team's own: items to measure on, from a file, from the public ones that come along, or generated.

Invariants:
- A file is read whole or refused with file and line: a field that is not known, an item that stands twice or one that
  its probe could not use is an error here, before anything is measured.
- Which items count is drawn like all others (``sandbox/tasks``); training records that quote an item are left out.
- Nothing of a suite is ever shown to a learner.

``path`` is ``shipped:NAME``, or a file: JSONL (``items``) or YAML (``lm_eval``: a task of lm-evaluation-harness).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from guardrails.errors import ConfigError
from sandbox.suite_files import items, lm_eval

PUBLIC = Path(__file__).parent.parent.parent / "policies" / "suites"
GENERATED: dict[str, tuple[str, str, str]] = {
    "harmful-requests": ("preference", "sandbox.harmful_requests", "load_harmful_requests"),
    "harmless-requests": ("preference", "sandbox.harmless_items", "load_harmless_requests"),
    "exchanged-groups": ("bias", "sandbox.harmless_items", "load_exchanged_sentences"),
    "jailbreaks": ("preference", "sandbox.suite_files.jailbreaks", "load_jailbreaks"),
    "injections": ("preference", "sandbox.suite_files.injections", "load_injections"),
}
"""``shipped:NAME`` of suites that no file holds → the probe that measures on them, and the function that makes them."""
SHIPPED = "shipped:"

Items = list[dict[str, Any]]


def read_suite(path: str, probe: str, workspace: Path) -> Items:
    """Every item of a suite; raises ConfigError (file and line) or InvalidInputError (a package is missing)."""
    if path.startswith(SHIPPED):
        return _shipped(path.removeprefix(SHIPPED), probe)
    file = workspace / Path(path).expanduser()
    if file.suffix in {".yaml", ".yml"}:
        return lm_eval.read_task(file, probe)
    return items.read_items(file, probe)


def shipped_names() -> list[str]:
    """What may follow ``shipped:``."""
    return sorted([*GENERATED, *(path.stem for path in PUBLIC.glob("*.jsonl"))])


def _shipped(name: str, probe: str) -> Items:
    if name in GENERATED:
        wanted, module, function = GENERATED[name]
        if probe != wanted:
            raise ConfigError(f"suite shipped:{name} is for the probe {wanted}, not {probe}")
        load = cast("Callable[[], Items]", getattr(importlib.import_module(module), function))
        return load()
    if name not in shipped_names():
        raise ConfigError(f"no suite {name!r:.60} comes along", hint=f"known: {', '.join(shipped_names())}")
    return items.read_items(PUBLIC / f"{name}.jsonl", probe)
