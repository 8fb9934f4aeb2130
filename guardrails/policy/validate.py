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
from guardrails.policy import advice
from guardrails.policy.schema import MAX_RULES, policy_schema
from guardrails.policy.settings import DURATION_PATTERN, UNBUILT
from guardrails.policy.when import nearest, nearest_name
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
_NAMED = 20
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
    own = {"pattern": _pattern, "allOf": _branches}
    strict = validators.extend(Draft7Validator, own)  # type: ignore[no-untyped-call]
    return strict(schema)


def _branches(validator: Any, branches: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """``allOf`` over branches that each begin with a choice of one word: only that word's branch can bind.

    There is a branch a check and a policy of many rules, so trying all of them took most of the time.
    """
    for index, branch in enumerate(branches):
        if not _is_elsewhere(branch, instance):
            yield from validator.descend(instance, branch, schema_path=index)


def _is_elsewhere(branch: Any, instance: Any) -> bool:
    """Whether the condition of a branch surely does not hold; False where that is not plain to see."""
    condition = branch.get("if", {})
    if not isinstance(instance, dict) or set(condition) != {"properties", "required"}:
        return False
    return any(
        key in instance
        and isinstance(instance[key], str)
        and instance[key] not in (choice.get("enum") or (instance[key],))
        for key, choice in condition["properties"].items()
    )


def breaches(tree: Tree, validator: Any) -> list[Problem]:
    """Every way in which a document breaks a schema, in file order."""
    errors = list(validator.iter_errors(tree.value))
    misspelt = {
        slip for error in errors if error.validator == "additionalProperties" for slip in _slips(error)
    }
    # What could not be read at all is said once, by the reader.
    unread = {(problem.line, problem.column) for problem in tree.problems}
    found = [problem for error in errors for problem in _problems(tree, error, misspelt)]
    return [problem for problem in found if (problem.line, problem.column) not in unread]


def _slips(error: Any) -> Iterator[tuple[Path, str]]:
    """Known keys that somebody meant by the unknown ones: they are not missing, only misspelt."""
    known = list(error.schema.get("properties", {}))
    for key in [key for key in error.instance if key not in known][:_NAMED]:
        close = nearest_name(key, known)
        if close:
            yield tuple(error.absolute_path), close


def _problems(tree: Tree, error: Any, misspelt: set[tuple[Path, str]]) -> list[Problem]:
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
        if (path, own) in misspelt:
            return []
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
            _instead(error.instance, path, key, known) if i < _NAMED else "",
        )
        for i, key in enumerate(unknown)
    ]


def _instead(instance: dict[str, Any], path: Path, key: str, known: list[str]) -> str:
    if not path and key in ("waivers", "exceptions"):
        return "exceptions are signed, never text in a file: interlock waiver add"
    return advice.split_number(instance, key) or (nearest(key, known) if known else "no keys are known here")


def _explain(error: Any) -> tuple[str, str]:
    value, limit = error.instance, error.validator_value
    kind = str(error.validator)
    if kind == "anyOf" and "enum" in limit[0]:  # an own name, or one of another form; own names are nearer
        kind, limit = "enum", limit[0]["enum"]
    about = str(error.schema.get("description", "")) if isinstance(error.schema, dict) else ""
    if error.validator == "type":
        wanted = [limit] if isinstance(limit, str) else list(limit)
        needed = " or ".join(_TYPES[name] for name in wanted)
        key = next((str(part) for part in reversed(error.absolute_path) if isinstance(part, str)), "")
        if error.schema.get("pattern") == DURATION_PATTERN:
            return f"{shown(value)} is not a time", advice.duration(value) or about
        return f"{shown(value)} is not {needed}", _type_hint(value, wanted, key) or about
    if kind == "enum":
        words = [str(word) for word in limit]
        if isinstance(value, str):
            return f"{shown(value)} is not known here", nearest(value, words)
        if value is None:
            return f"a value is missing after the colon: one of {', '.join(words)}", about
        return f"{shown(value)} is not one of {', '.join(words)}", about
    if error.validator == "pattern":
        meant = advice.duration(value) if limit == DURATION_PATTERN else ""
        return f"{shown(value)} does not have the needed form", meant or about
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
    if error.validator == "exclusiveMaximum" and limit == 1 and 1 < value <= 100:
        about = f"did you mean {value / 100:.10g}? {about}"
    return sentences.get(str(error.validator), f"{shown(value)} is not allowed"), about


def _type_hint(value: Any, wanted: list[str], key: str) -> str:
    if isinstance(value, str) and {"number", "integer"} & set(wanted):
        return advice.amount(value, key)
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
