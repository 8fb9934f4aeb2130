"""A real proposal's evidence as a file: what a recorded case carries.

Invariants: a recording holds what the engine reads and no more: numbers per item, facts, attempt and time; no
sample text, no record's content, no name of a person. It is canonical JSON, so the same proposal gives the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from guardrails import canonical, engine
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log.envelope import format_time, parse_time
from guardrails.errors import RecordError
from guardrails.policy.facts import Subject
from guardrails.records import Measurements, ModelKind

FORMAT = "interlock/recording/1"


@dataclass(frozen=True)
class Recording:
    """What a verdict depends on, besides the policies and waivers."""

    subject: Subject
    attempt: int
    now: datetime
    facts: Mapping[str, str]
    measurements: Measurements


def record_case(case: engine.Case) -> bytes:
    """The bytes of a recording; who proposed is left out, because it is a person's id."""
    if case.measurements is None:
        raise RecordError("there is no evidence to record")
    subject = replace(case.subject, proposer="loop" if case.subject.proposer == "loop" else "a person")
    value: dict[str, Any] = {
        "format": FORMAT,
        "subject": {
            **{name: getattr(subject, name) for name in _TEXTS},
            "kind": subject.kind.value,
            "bundle": str(subject.bundle),
            "submitted": subject.submitted,
            "seed": subject.seed,
            "labels": dict(subject.labels),
        },
        "attempt": case.attempt,
        "now": format_time(case.now),
        "facts": dict(case.facts),
        "measurements": encode_record(Measurements(case.measurements.series, case.measurements.facts)),
    }
    return canonical.encode(value)


def parse_recording(data: bytes) -> Recording:
    """The recording in bytes; raises RecordError on anything else."""
    value = canonical.parse(data.removesuffix(b"\n"))
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise RecordError(f"this is not a recording ({FORMAT})")
    try:
        given = dict(value["subject"])
        kinds = {**dict.fromkeys(_TEXTS, str), "submitted": bool, "seed": int, "labels": dict}
        odd = [name for name, kind in kinds.items() if type(given[name]) is not kind]
        if odd or type(value["attempt"]) is not int:
            raise RecordError(f"the recording is not well formed: {(odd or ['attempt'])[0]}")
        subject = Subject(
            **{
                **given,
                "kind": ModelKind(given["kind"]),
                "bundle": Digest.parse(given["bundle"]),
            }
        )
        return Recording(
            subject,
            value["attempt"],
            parse_time(value["now"]),
            dict(value["facts"]),
            decode_record(Measurements, value["measurements"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"the recording is not well formed: {type(error).__name__}: {error!s:.100}"
        ) from None


_TEXTS = ("proposal", "model", "technique", "isolation", "proposer", "measured_at")
