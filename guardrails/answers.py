"""What people hand in, to the byte: a statement in the artifact store, which a signed record of the log names.

    {"schema": "interlock/answers/v2", "log", "model", "asker", "person", "roster", "salt", "answers": [{…}, …]}

Invariants:
- A statement has one encoding (canonical JSON), and the record follows from it: it cannot say something else.
- Its salt keeps the digest in the log from telling short answers to whoever guesses them, once they are erased.
- The person signs the record, which binds the statement by its digest; so the signature outlives an erased text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest, digest
from guardrails.codec import encode_record
from guardrails.errors import RecordError
from guardrails.records import Answers

SCHEMA = "interlock/answers/v2"
_FIELDS = {
    "schema": str, "log": str, "model": str, "asker": str, "person": str, "roster": int, "salt": str, "answers": list,
}  # fmt: skip
_ANSWER = {"question": str, "answer": str, "chosen": int, "skipped": bool, "at": str}


def encode_statement(
    log: str,
    model: str,
    asker: str,
    person: str,
    roster: int,
    salt: str,
    answers: Sequence[Mapping[str, Any]],
) -> bytes:
    """The statement of one person's answers to one asker. ``salt``: 16 random bytes in hexadecimal."""
    return canonical.encode({
        "schema": SCHEMA, "log": log, "model": model, "asker": asker, "person": person, "roster": roster,
        "salt": salt, "answers": [dict(answer) for answer in answers],
    })  # fmt: skip


def parse_statement(data: bytes) -> dict[str, Any]:
    """What a statement says; raises RecordError if it is none."""
    value = canonical.parse(data)
    if not _has(value, _FIELDS) or value["schema"] != SCHEMA:
        raise RecordError(f"not a statement of answers ({SCHEMA})")
    if not all(_has(answer, _ANSWER) for answer in value["answers"]):
        raise RecordError("a statement whose answers are not well-formed")
    for answer in value["answers"]:
        Digest.parse(answer["question"])
    said: dict[str, Any] = value
    return said


def _has(value: Any, fields: Mapping[str, type]) -> bool:
    """Whether a value is an object with exactly these fields, of these types."""
    return (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(type(value[name]) is kind for name, kind in fields.items())
    )


def record_of(log: str, data: bytes) -> Answers:
    """The record that a statement leads to in this log; raises RecordError if it belongs to another."""
    value = parse_statement(data)
    if value["log"] != log:
        raise RecordError(f"the statement belongs to another log: {value['log']!r:.80}")
    skipped = sum(answer["skipped"] for answer in value["answers"])
    return Answers(
        value["model"], value["asker"], value["person"], digest(data), len(value["answers"]), skipped, value["roster"]
    )  # fmt: skip


def require_as_recorded(log: str, data: bytes, row: Mapping[str, Any]) -> None:
    """Refuse a statement that says something else than the row of the record that names it; raises RecordError."""
    said = encode_record(record_of(log, data), lean=True)
    for name, value in said.items():
        if row.get(name) != value:
            raise RecordError(f"the statement says {name} {value!a:.60}, its record {row.get(name)!a:.60}")
