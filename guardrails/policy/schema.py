"""The JSON Schema (draft-07) of a policy, generated from the checks and the settings.

Invariants:
- ``additionalProperties`` is false throughout, so that no misspelt key is ever silently ignored.
- It is data for editors and the first pass of the loader; what it cannot say (does the expression
  parse, does the limit have a bound) the second pass says.
- ``policies/policy.v1.schema.json`` is this, written out; a test keeps them equal.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any

from guardrails.checks import CHECKS, Check
from guardrails.policy.settings import DOCS, SETTINGS, UNBUILT, Json
from guardrails.records import ModelKind, Severity
from guardrails.third_party import REFERENCE

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
        apiVersion={"enum": [API_VERSION], "description": "The version of this format."},
        kind={"enum": ["Policy"], "description": "A policy."},
        metadata=_object(
            "What the policy says of itself.",
            required=["name"],
            name={"type": "string", "pattern": NAME_PATTERN, "description": "Letters, digits, . _ -"},
            version={
                "type": "integer",
                "minimum": 1,
                "description": "For people; what binds is the digest of the bytes.",
            },
            owners=_list({"type": "string", "minLength": 1}, "Who answers for it."),
            description={"type": "string", "description": "What it is for, in a few sentences."},
        ),
        mode={"enum": ["enforce", "shadow"], "description": "shadow: judged and logged, never binding."},
        extends=_list(
            {
                "type": "string",
                "pattern": FILE_PATTERN,
                "description": "A file beside this one or in a folder below: base.yaml, team/base.yaml.",
            },
            "Policies that hold here too; this one may tighten them and never loosen.",
        ),
        appliesTo=_object(
            "Which models it speaks of; what is left out means any.",
            kind=_list({"enum": [kind.value for kind in ModelKind]}, "llm writes text, lam acts.", least=1),
            name=_list(
                {"type": "string", "minLength": 1, "maxLength": 100},
                "Names of models; * stands for anything.",
                least=1,
            ),
            labels={
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Labels that the model must carry, with these values.",
            },
        ),
        rules={
            "type": "array",
            "maxItems": MAX_RULES,
            "items": _rule(),
            "description": "What must hold. All of them must; the worst decides.",
        },
    )
    for setting in SETTINGS:
        leaf = setting.schema or _cumulative_drift()
        about = " ".join(part for part in (DOCS[setting.path], leaf.get("description", "")) if part)
        _place(schema, setting.path, {**leaf, "description": about})
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
    inner: Json = {
        "type": ["number", "array", "null"],
        **zero,
        "description": "Not built yet: only 0, [] or null.",
    }
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
        check={
            "anyOf": [{"enum": sorted(CHECKS)}, {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}],
            "description": "Which number is read, and from what; DISTRIBUTION:NAME for one that is brought.",
        },
        params={"type": "object", "description": "The check's own parameters."},
        when=_WHEN,
        require=_object(
            "When the rule passes.",
            required=["metric", "op", "value"],
            metric={"type": "string", "description": "Which of the check's numbers."},
            bound={"enum": ["upper", "lower"], "description": "Which end of the interval; none if exact."},
            op={"enum": list(OPERATORS), "description": "How it must compare with the value."},
            value={"type": "number", "description": "The limit, in the metric's unit."},
        ),
        severity={
            "enum": [severity.value for severity in Severity],
            "description": "What a fail means: warn is shown, review needs more people, block nobody can approve.",
        },
        waivable={
            "type": "boolean",
            "description": "Whether people may sign an exception; true if left out.",
        },
        rationale={"type": "string", "description": "Why this number, for whoever reads it later."},
    )
    rule["allOf"] = [_branch(check) for check in CHECKS.values()]
    return rule


def _branch(check: Check) -> Json:
    """What the parameters and metrics are, given the check."""
    params = params_schema(check.params)
    metrics: Json = {
        "properties": {"metric": {"enum": list(check.metrics), "description": _metric_docs(check)}}
    }
    params["description"] = f"Parameters of {check.name}."
    metrics["description"] = "When the rule passes."
    then: Json = {"properties": {"params": params, "require": metrics}}
    if params.get("required"):
        then["required"] = ["params"]
    name = {"enum": [check.name], "description": check.doc}
    return {"if": {"properties": {"check": name}, "required": ["check"]}, "then": then}


def _metric_docs(check: Check) -> str:
    return "; ".join(
        f"{name}: {metric.doc}{f' ({metric.unit})' if metric.unit else ''}"
        for name, metric in check.metrics.items()
    )


def param_docs(params: type) -> dict[str, str]:
    """What each parameter of a check is, from its class's docstring; raises TypeError where one is missing."""
    _, _, section = inspect.cleandoc(params.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, flags=re.MULTILINE)
    found = {name: " ".join(text.replace("``", "").split()) for name, text in entries}
    missing = [item.name for item in dataclasses.fields(params) if item.name not in found]
    if missing:
        raise TypeError(f"{params.__name__}.{missing[0]} is not described under 'Attributes:'")
    return found


def params_schema(params: type) -> Json:
    """The schema of a check's parameter class, field by field, and which are required.

    A field is text (a suite's name, or what ``metadata["pattern"]`` of the field says), a choice, a positive
    number or count, or a tuple of texts, which is a list without repetitions; its default, no entry, cannot be written.
    """
    hints = typing.get_type_hints(params)
    docs = param_docs(params)
    properties: Json = {}
    required = []
    for item in dataclasses.fields(params):
        shape = _param(hints[item.name], item.metadata.get("pattern", _SUITE_PATTERN))
        if shape is None:
            raise TypeError(
                f"{params.__name__}.{item.name}: parameters are text, a choice, a number or a tuple of texts, "
                f"not {hints[item.name]}"
            )
        properties[item.name] = {**shape, "description": docs[item.name]}
        if item.default is dataclasses.MISSING:
            required.append(item.name)
    return _object(required=required, **properties)


def _param(hint: Any, pattern: str) -> Json | None:
    text: Json = {"type": "string", "pattern": pattern}
    if typing.get_origin(hint) is typing.Literal:
        return {"enum": list(typing.get_args(hint))}
    if hint is str:
        return text
    if hint is float:
        return {"type": "number", "exclusiveMinimum": 0}
    if hint is int:
        return {"type": "integer", "minimum": 1}
    if hint == tuple[str, ...]:
        return {"type": "array", "items": text, "uniqueItems": True, "minItems": 1, "maxItems": 50}
    return None


def _cumulative_drift() -> Json:
    check = CHECKS["drift.output_kl"]
    one = _object(
        required=["check", "suite", "reference", "metric", "max"],
        check={"enum": [check.name], "description": check.doc},
        suite={
            "type": "string",
            "pattern": _SUITE_PATTERN,
            "description": "Name of the suite of control items.",
        },
        reference={"enum": ["original"], "description": "Cumulative: since the first champion."},
        metric={"enum": list(check.metrics), "description": _metric_docs(check)},
        max={"type": "number", "minimum": 0, "description": "The largest upper bound that passes."},
        when=_WHEN,
    )
    return {"if": {"type": "array"}, "then": {"items": one}, "else": one}


def _object(about: str = "", *, required: list[str] | None = None, **properties: Any) -> Json:
    result: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        result["required"] = required
    if about:
        result["description"] = about
    return result


def _list(items: Json, about: str, *, least: int = 0) -> Json:
    return {
        "type": "array", "items": items, "uniqueItems": True, "minItems": least, "maxItems": 50, "description": about,
    }  # fmt: skip


_GROUPS = {
    "isolation": "How strongly jobs are isolated.",
    "defaults": "What holds for every rule.",
    "budgets": "How much may happen before people look.",
    "compute": "CPU time.",
    "proposals": "How many proposals.",
    "promotions": "How many promotions.",
    "errorBudget": "How often trying again may mislead.",
    "approval": "Who must sign, where, and having seen what.",
    "activation": "Who may change policies.",
    "retention": "What is kept, and how long.",
}


def _place(schema: Json, path: str, leaf: Json) -> None:
    """Put a leaf at a dotted path, creating the objects on the way."""
    *parents, name = path.split(".")
    node = schema
    for parent in parents:
        node = node["properties"].setdefault(parent, _object(_GROUPS[parent]))
    node["properties"][name] = leaf
