"""The JSON Schema (draft-07) of a policy, generated from the checks and the settings.

Invariants:
- ``additionalProperties`` is false throughout, so that no misspelt key is ever silently ignored.
- It is data for editors and the first pass of the loader; what it cannot say (does the expression
  parse, does the limit have a bound) the second pass says.
- ``policies/policy.v1.schema.json`` is this, written out; a test keeps them equal.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from guardrails.checks import CHECKS, Check
from guardrails.policy.settings import SETTINGS, UNBUILT, Json
from guardrails.records import ModelKind, Severity

API_VERSION = "interlock/v1"
MAX_RULES = 80  # about what the findings of one verdict have room for in one log entry
OPERATORS = ("<", "<=", ">", ">=", "==")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
FILE_PATTERN = f"^{_PART}(/{_PART})*$"
_SUITE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"

_WHEN: Json = {
    "type": "string",
    "minLength": 1,
    "description": "CEL over model.* and proposal.*; the rule is skipped where it is false.",
}


def policy_schema() -> Json:
    """The whole schema."""
    schema = _object(
        required=["apiVersion", "kind", "metadata"],
        apiVersion={"enum": [API_VERSION]},
        kind={"enum": ["Policy"]},
        metadata=_object(
            required=["name"],
            name={"type": "string", "pattern": NAME_PATTERN, "description": "Letters, digits, . _ -"},
            version={"type": "integer", "minimum": 1},
            owners=_list({"type": "string", "minLength": 1}),
            description={"type": "string"},
        ),
        mode={"enum": ["enforce", "shadow"], "description": "shadow: judged and logged, never binding."},
        extends=_list(
            {
                "type": "string",
                "pattern": FILE_PATTERN,
                "description": "A file beside this one or in a folder below: base.yaml, team/base.yaml.",
            }
        ),
        appliesTo=_object(
            kind=_list({"enum": [kind.value for kind in ModelKind]}, least=1),
            name=_list({"type": "string", "minLength": 1, "maxLength": 100}, least=1),
            labels={"type": "object", "additionalProperties": {"type": "string"}},
        ),
        rules={"type": "array", "maxItems": MAX_RULES, "items": _rule()},
    )
    for setting in SETTINGS:
        _place(schema, setting.path, setting.schema or _cumulative_drift())
    for path, members in UNBUILT.items():
        _place(schema, path, _neutral(members))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:interlock:policy:v1",
        "title": "Interlock policy",
        **schema,
    }


def _neutral(members: tuple[str, ...]) -> Json:
    """Nothing, said in any of the ways in which the format can say it."""
    zero: Json = {"minimum": 0, "maximum": 0, "maxItems": 0}
    inner: Json = {"type": ["number", "array", "null"], **zero}
    return {
        "additionalProperties": False,
        "properties": dict.fromkeys(members, inner),
        **zero,
        "type": ["object", "number", "array", "null"],
        "description": "Not built yet: only the neutral value is accepted.",
    }


def _rule() -> Json:
    rule = _object(
        required=["id", "check", "require", "severity"],
        id={
            "type": "string",
            "pattern": r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$",
            "description": "A letter, then letters, digits, '.', '_', '-'.",
        },
        check={"enum": sorted(CHECKS)},
        params={"type": "object"},
        when=_WHEN,
        require=_object(
            required=["metric", "op", "value"],
            metric={"type": "string"},
            bound={"enum": ["upper", "lower"], "description": "Which end of the interval; none if exact."},
            op={"enum": list(OPERATORS)},
            value={"type": "number"},
        ),
        severity={"enum": [severity.value for severity in Severity], "description": "What a fail means."},
        waivable={"type": "boolean"},
        rationale={"type": "string"},
    )
    rule["allOf"] = [_branch(check) for check in CHECKS.values()]
    return rule


def _branch(check: Check) -> Json:
    """What the parameters and metrics are, given the check."""
    params = params_schema(check.params)
    metrics = {"properties": {"metric": {"enum": list(check.metrics), "description": _metric_docs(check)}}}
    then: Json = {"properties": {"params": params, "require": metrics}}
    if params.get("required"):
        then["required"] = ["params"]
    name = {"enum": [check.name], "description": check.doc}
    return {"if": {"properties": {"check": name}, "required": ["check"]}, "then": then}


def _metric_docs(check: Check) -> str:
    return "; ".join(f"{name}: {metric.doc}" for name, metric in check.metrics.items())


def params_schema(params: type) -> Json:
    """The schema of a check's parameter class: text fields, choices, and which are required."""
    hints = typing.get_type_hints(params)
    properties: Json = {}
    required = []
    for item in dataclasses.fields(params):
        hint = hints[item.name]
        if typing.get_origin(hint) is typing.Literal:
            properties[item.name] = {"enum": list(typing.get_args(hint))}
        elif hint is str:
            properties[item.name] = {"type": "string", "pattern": _SUITE_PATTERN, "description": "A name."}
        else:
            raise TypeError(f"{params.__name__}.{item.name}: parameters are text or a choice, not {hint}")
        if item.default is dataclasses.MISSING:
            required.append(item.name)
    return _object(required=required, **properties)


def _cumulative_drift() -> Json:
    check = CHECKS["drift.output_kl"]
    one = _object(
        required=["check", "suite", "reference", "metric", "max"],
        check={"enum": [check.name]},
        suite={"type": "string", "pattern": _SUITE_PATTERN, "description": "A name."},
        reference={"enum": ["original"], "description": "Cumulative: since the first champion."},
        metric={"enum": list(check.metrics)},
        max={"type": "number", "minimum": 0},
        when=_WHEN,
    )
    return {"if": {"type": "array"}, "then": {"items": one}, "else": one}


def _object(*, required: list[str] | None = None, **properties: Any) -> Json:
    result: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        result["required"] = required
    return result


def _list(items: Json, *, least: int = 0) -> Json:
    return {"type": "array", "items": items, "uniqueItems": True, "minItems": least, "maxItems": 50}


def _place(schema: Json, path: str, leaf: Json) -> None:
    """Put a leaf at a dotted path, creating the objects on the way."""
    *parents, name = path.split(".")
    node = schema
    for parent in parents:
        node = node["properties"].setdefault(parent, _object())
    node["properties"][name] = leaf
