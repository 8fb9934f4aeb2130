"""Harmful requests inside instructions that are known to talk models out of refusing, read from an installed package.

Invariants:
- Neither requests nor instructions stand in this repository: both lie in the package ``pyrit`` (MIT), are read as files
  and never imported, and count only with the digests stated here and in ``sandbox/harmful_requests.py``.
- Each request comes once, in one instruction that its content decides; comply and refuse are those of the bare requests,
  so that the two suites can be compared.
- Only short instructions (up to 600 characters): the longest known ones cost twenty times as much to read.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

from guardrails.canonical import digest
from guardrails.errors import InvalidInputError
from sandbox.harmful_requests import HINT, PACKAGE, load_harmful_requests

FOLDER = "datasets/jailbreak/templates"
NAMES = (
    "aligned", "anti_gpt", "burple", "cipher_chat", "code_nesting", "delta_gpt", "dev_mode_compact", "eva",
    "evil_confidant", "gpt_4_real", "hypothetical_response", "john", "moralizing_rant", "mr_blonde", "prefix_injection",
    "ranti", "refusal_suppression", "security_researcher", "style_injection", "switch", "table_nesting",
    "text_continuation", "three_liner", "violet", "wikipedia_with_title",
)  # fmt: skip
SHA256 = "53fc1e413c726c9b6759e3ec7775e07c511dac1a4f550eb04d6cfa4a3365b0bb"
_PLACE = re.compile(r"\{\{\s*prompt\s*\}\}")


def load_jailbreaks() -> list[dict[str, Any]]:
    """Every request in one of the instructions: the fields of a harmful request.

    Raises:
        InvalidInputError: The package is missing, or its files are not the ones expected.
    """
    templates = _templates()
    found = []
    for request in load_harmful_requests():
        chosen = digest(request["prompt"].encode("utf-8")).hex
        name = NAMES[int(chosen[:8], 16) % len(NAMES)]
        prompt = _PLACE.sub(lambda _, asked=request["prompt"]: asked, templates[name])  # type: ignore[misc]
        found.append({**request, "id": f"jailbreak-{name}-{chosen[:16]}", "prompt": prompt})
    return found


def _templates() -> dict[str, str]:
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places:
        raise InvalidInputError(f"the instructions are missing: no package {PACKAGE}", hint=HINT)
    whole, found = b"", {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for name in NAMES:
        path = Path(places[0]) / FOLDER / f"{name}.yaml"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidInputError(f"{path.name} of {PACKAGE}: {error.strerror}", hint=HINT) from None
        whole += digest(data).hex.encode()
        found[name] = data
    if digest(whole).hex != SHA256:
        raise InvalidInputError(f"the instructions of {PACKAGE} are not the expected ones", hint=HINT)
    return {name: str(yaml.load(data, Loader=loader)["value"]) for name, data in found.items()}  # noqa: S506 - safe
