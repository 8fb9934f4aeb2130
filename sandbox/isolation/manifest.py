"""``proposal.json``: what a bundle says about itself.

Invariants:
- A claim is only ever a claim: nothing here is measured, and nothing here decides.
- The JSON Schema beside this module is the contract; unknown fields are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest
from guardrails.errors import BundleError
from sandbox.isolation import formats

NAME = "proposal.json"
SCHEMA = "interlock/bundle/v1"


@dataclass(frozen=True)
class Manifest:
    """What a bundle claims: why, how, from which champion, with which records and settings.

    ``base`` is None where a bundle made elsewhere does not say what it was trained from.
    """

    intent: str
    technique: str
    base: Digest | None
    data: tuple[str, ...] = ()
    objective: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    claims: dict[str, str] = field(default_factory=dict)


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a collected bundle; every data file it names is there.

    Raises:
        BundleError: naming what is wrong.
    """
    try:
        data = (bundle / NAME).read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle / NAME}: cannot be read: {error.strerror}") from None
    manifest = parse_manifest(data)
    for path in manifest.data:
        if not (bundle / path).is_file():
            raise BundleError(f"{NAME}: names {path}, which is not in the bundle", hint="add it")
    return manifest


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes; raises BundleError with each thing that breaks the schema."""
    value = formats.parse_json(data, NAME)
    errors = sorted(_validator().iter_errors(value), key=lambda error: error.json_path)
    if errors:
        listed = "; ".join(f"{error.json_path[:80]} {error.message[:200]}" for error in errors[:5])
        raise BundleError(f"{NAME}: {listed}", hint="see sandbox/isolation/proposal.schema.json")
    base = value.get("base", "")
    return Manifest(
        intent=value["intent"],
        technique=value["technique"],
        base=Digest.parse(base) if base else None,
        data=tuple(value.get("data", ())),
        objective=_objective(value.get("objective", {})),
        seed=value.get("seed", 0),
        claims=value.get("claims", {}),
    )


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of ``proposal.json``."""
    path = Path(__file__).with_name("proposal.schema.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@cache
def _validator() -> Any:
    """Checks the schema, with integers as they are written: JSON Schema takes 7.0 for one, a record does not."""
    from jsonschema import Draft202012Validator, validators

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    checked: Any = validators.extend(Draft202012Validator, type_checker=whole)  # type: ignore[no-untyped-call]
    return checked(schema())


def _objective(value: dict[str, Any] | str) -> dict[str, Any]:
    return {"text": value} if isinstance(value, str) else value
