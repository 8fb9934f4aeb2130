"""First pass: a document against the schema, every violation as a located problem with a fix.

Invariants: all violations are reported, in file order, each with the offending text and, for a name,
the known name nearest to it. A message never repeats raw control characters of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft7Validator, validators
from jsonschema.exceptions import ValidationError

from guardrails.errors import Problem
from guardrails.policy.schema import MAX_RULES, policy_schema
from guardrails.policy.settings import UNBUILT
from guardrails.policy.when import nearest
from guardrails.policy.yaml_tree import Path, Tree

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "nothing",
}
_OLD_BOOLEANS = {"yes", "no", "on", "off", "y", "n"}


@cache
def _validator() -> Any:
    return validator_of(policy_schema())


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re.fullmatch(pattern.removesuffix("$"), instance):
        yield ValidationError(f"{instance!r:.80} does not match")


def validate(tree: Tree) -> list[Problem]:
    """Every way in which the document breaks the schema."""
    value = tree.value
    if not isinstance(value, dict):
        return [
            tree.place(()).problem(
                f"a policy is a mapping, not {shown(value)}", "begin with apiVersion: interlock/v1"
            )
        ]
    if isinstance(value.get("rules"), list) and len(value["rules"]) > MAX_RULES:
        where = tree.key_place(("rules",))
        message = f"{len(value['rules'])} rules; at most {MAX_RULES} are allowed"
        return [where.problem(message, "split the policy")]
    return breaches(tree, _validator())


def validator_of(schema: dict[str, Any]) -> Any:
    """A validator for a schema of our own: of a policy, or of its cases."""
    # Python's "$" also matches before a final line break, which a name must not have.
    strict = validators.extend(Draft7Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return strict(schema)


def breaches(tree: Tree, validator: Any) -> list[Problem]:
    """Every way in which a document breaks a schema, in file order."""
    return [problem for error in validator.iter_errors(tree.value) for problem in _problems(tree, error)]


def _problems(tree: Tree, error: Any) -> list[Problem]:
    path: Path = tuple(error.absolute_path)
    feature = _unbuilt(path)
    if feature:
        message = f"{feature}: the feature is not built yet, so {shown(error.instance)} is not accepted"
        return [tree.key_place(path).problem(message, "only its neutral value: 0, [], null, or leave it out")]
    if error.validator == "additionalProperties":
        return _unknown_keys(tree, path, error)
    if error.validator == "required":
        absent = [key for key in error.validator_value if key not in error.instance]
        # One error per absent key is raised, each listing all required keys: report its own key only.
        own = next((key for key in absent if error.message.startswith(repr(key))), absent[0])
        return [tree.key_place(path).problem(f"key '{own}' is missing{_inside(path)}", f"add '{own}: …'")]
    message, hint = _explain(error)
    return [tree.place(path).problem(f"{dotted(path)}: {message}", hint)]


def _unbuilt(path: Path) -> str:
    text = ".".join(str(part) for part in path)
    return next((key for key in UNBUILT if text == key or text.startswith(f"{key}.")), "")


def _unknown_keys(tree: Tree, path: Path, error: Any) -> list[Problem]:
    known = list(error.schema.get("properties", {}))
    unknown = [key for key in error.instance if key not in known]
    return [
        tree.key_place((*path, key)).problem(
            f"unknown key {shown(key)}{_inside(path)}",
            # The nearest name is worth its time for the first few; a page of them is another mistake.
            (nearest(key, known) if known else "no keys are known here") if i < 20 else "",
        )
        for i, key in enumerate(unknown)
    ]


def _explain(error: Any) -> tuple[str, str]:
    value, limit = error.instance, error.validator_value
    about = str(error.schema.get("description", "")) if isinstance(error.schema, dict) else ""
    if error.validator == "type":
        wanted = [limit] if isinstance(limit, str) else list(limit)
        needed = " or ".join(_TYPES[name] for name in wanted)
        return f"{shown(value)} is not {needed}", _type_hint(value, wanted)
    if error.validator == "enum":
        words = [str(word) for word in limit]
        if isinstance(value, str):
            return f"{shown(value)} is not known here", nearest(value, words)
        return f"{shown(value)} is not one of {', '.join(words)}", about
    if error.validator == "pattern":
        return f"{shown(value)} does not have the needed form", about
    sentences = {
        "minimum": f"{shown(value)} is below the least value {limit}",
        "maximum": f"{shown(value)} is above the largest value {limit}",
        "exclusiveMinimum": f"{shown(value)} must be above {limit}",
        "exclusiveMaximum": f"{shown(value)} must be below {limit}",
        "minItems": f"at least {limit} must be listed",
        "maxItems": f"at most {limit} may be listed",
        "minLength": "the text is empty",
        "maxLength": f"the text is longer than {limit} characters",
        "uniqueItems": "an entry is listed twice",
    }
    return sentences.get(str(error.validator), f"{shown(value)} is not allowed"), about


def _type_hint(value: Any, wanted: list[str]) -> str:
    if "boolean" in wanted and isinstance(value, str) and value.lower() in _OLD_BOOLEANS:
        return "write true or false"
    if "string" in wanted and isinstance(value, bool | int | float):
        return "put it in quotes"
    if "array" in wanted and isinstance(value, str):
        return f"write [{value:.40}]" if value.isprintable() else "write a list"
    if value is None:
        return "a value is missing after the colon"
    return ""


def _inside(path: Path) -> str:
    return f" in '{dotted(path)}'" if path else ""


def dotted(path: Path) -> str:
    """``rules[2].require.value``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part:.60}" if text else f"{part:.60}"
    return text if text.isprintable() else repr(text)


def shown(value: Any) -> str:
    """A value as it may stand in a message: short, and with control characters escaped."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"{repr(value)[:80]}" if isinstance(value, str) else f"{value}"
