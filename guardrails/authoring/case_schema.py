"""The JSON Schema (draft-07) of case files: evidence, and what a policy must say of it.

Invariants: ``additionalProperties`` is false wherever keys are words of the format; names of rules and
metrics are checked against the policy afterwards, where the nearest valid name can be told.
"""

from __future__ import annotations

from typing import Any

from guardrails.records import ModelKind, Outcome, VerdictKind

API_VERSION = "interlock/v1"
KIND = "PolicyCases"
WAIVED = "waived"
OUTCOMES = (*(outcome.value for outcome in Outcome), WAIVED)
_JSON_FILE = r"^[A-Za-z0-9_][A-Za-z0-9._-]*\.json$"

Json = dict[str, Any]


def cases_schema() -> Json:
    """The whole schema."""
    shared = _shared()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:interlock:policy-cases:v1",
        "title": "Cases of an Interlock policy",
        **_object(
            {
                "apiVersion": {"enum": [API_VERSION], "description": "The version of this format."},
                "kind": {"enum": [KIND], "description": "A file of cases."},
                "include": _list(
                    {"type": "string", "minLength": 1, "maxLength": 200},
                    "Other case files, relative to this one; `evidence` here fills what they leave open.",
                ),
                **shared,
                "cases": {
                    "type": "array",
                    "maxItems": 500,
                    "items": _case(shared),
                    "description": "Each case: evidence, and what the policy must say of it.",
                },
            },
            ["apiVersion", "kind"],
        ),
    }


def _case(shared: Json) -> Json:
    return _object(
        {
            "name": {"type": "string", "minLength": 1, "maxLength": 200, "description": "What happens."},
            **shared,
            "recorded": {
                "type": "string",
                "pattern": _JSON_FILE,
                "description": "A file beside this one with a real proposal's evidence (`policy record`).",
            },
            "unmeasured": {"type": "boolean", "description": "True: there is no evidence at all."},
            "verdict": {
                "enum": [kind.value for kind in VerdictKind],
                "description": "What all rules together must come to.",
            },
            "findings": {
                "type": "object",
                "additionalProperties": {"enum": list(OUTCOMES)},
                "description": "Rule to outcome. Rules that are not named must pass or be skipped.",
            },
        },
        ["name", "verdict"],
    )


def _shared() -> Json:
    """What a file can state for all of its cases, and a case for itself."""
    text = {"type": "string", "maxLength": 100}
    return {
        "model": _object(
            {
                "name": {**text, "description": "The model's name (appliesTo.name)."},
                "kind": {"enum": [kind.value for kind in ModelKind], "description": "llm or lam."},
                "labels": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "The model's labels.",
                },
            },
            about="Which model the proposal is for.",
        ),
        "proposal": _object(
            {
                "technique": {**text, "description": "The learner; 'submitted' if trained elsewhere."},
                "submitted": {"type": "boolean", "description": "True if it was trained elsewhere."},
                "seed": {"type": "integer", "minimum": 0, "description": "The learner's seed."},
                "isolation": {**text, "description": "The level that the learner ran at."},
                "measuredAt": {**text, "description": "The level that the measurement ran at."},
                "proposer": {**text, "description": "'loop' or a person."},
            },
            about="What is known of the proposal.",
        ),
        "attempt": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "description": "The k-th proposal since the last promotion.",
        },
        "waivers": _list({"type": "string", "minLength": 1}, "Rules with a waiver in force."),
        "evidence": {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": _estimate()},
            "description": "Rule, then metric, then the number with its interval.",
        },
        "measurements": _measurements(),
    }


def _estimate() -> Json:
    number = {"type": "number"}
    interval = _object(
        {
            "value": {**number, "description": "What was observed."},
            "lower": {**number, "description": "Lower end of the interval."},
            "upper": {**number, "description": "Upper end of the interval."},
            "n": {"type": "integer", "minimum": 0, "description": "How many independent items."},
        },
        ["value", "lower", "upper", "n"],
    )
    return {
        "if": {"type": "object"},
        "then": interval,
        "else": {
            "type": ["number", "string"],
            "description": "A number for an exact metric; a text says why nothing was measured.",
        },
    }


def _measurements() -> Json:
    numbers = {"type": "array", "items": {"type": "number"}, "maxItems": 2000}
    series = _object(
        {
            "probe": {"type": "string", "minLength": 1, "description": "What was measured."},
            "suite": {"type": "string", "minLength": 1, "description": "On which items."},
            "columns": {
                "type": "object",
                "additionalProperties": numbers,
                "description": "Name to one number per item.",
            },
        },
        ["probe", "suite", "columns"],
    )
    return _object(
        {
            "facts": {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "description": "Exact values: integrity.*, data.*, compute.*, control.*",
            },
            "series": {"type": "array", "items": series, "maxItems": 50, "description": "Numbers per item."},
        },
        about="Numbers per item, for the checks to read; what `evidence` states goes before them.",
    )


def _object(properties: Json, required: list[str] | None = None, about: str = "") -> Json:
    result: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    if required:
        result["required"] = required
    if about:
        result["description"] = about
    return result


def _list(items: Json, about: str) -> Json:
    return {"type": "array", "items": items, "uniqueItems": True, "maxItems": 50, "description": about}
