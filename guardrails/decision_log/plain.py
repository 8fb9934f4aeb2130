"""A statement in its usual bytes, taken apart by patterns: of most records only the body needs a parser.

Invariant: what ``split`` takes apart is what the parser would read, whenever the body by itself is a canonical object:
what stands around the body is canonical JSON by its pattern, and has its fields in their only order. Everything
unusual (escapes, texts beyond ASCII, whatever is malformed) is None here, and for the parser to judge.
"""

from __future__ import annotations

import re
from typing import NamedTuple

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX = "urn:interlock:predicate:"
PREDICATE_VERSION = ":v1"
SCHEMA = "interlock/v1"
KIND = r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*"
MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
BODY_DEPTH = 2
"""So many objects stand around the body."""

_TEXT = r"[ !#-\[\]-~]+"
_REFERENCE = r'\{{"seq":{0}0|[1-9][0-9]{{0,14}}),"sha256":"{0}[0-9a-f]{{64}})"\}}'
_SUBJECT = r'\{{"digest":\{{"sha256":"{0}[0-9a-f]{{64}})"\}},"name":"{0}%s)"\}}' % _TEXT  # noqa: UP031
_EACH_REFERENCE, _EACH_SUBJECT = re.compile(_REFERENCE.format("(")), re.compile(_SUBJECT.format("("))


def _one_or_more(item: str) -> str:
    bare = item.format("(?:")
    return f"{bare}(?:,{bare})*"


_BEFORE = f'{{"_type":"{STATEMENT_TYPE}","predicate":{{"body":'.encode()
_AFTER = b',"log":"'
_BEHIND = re.compile(
    rf',"log":"({_TEXT})","references":\[((?:{_one_or_more(_REFERENCE)})?)\],"schema":"{re.escape(SCHEMA)}",'
    rf'"time":"({MOMENT})"\}},"predicateType":"{PREDICATE_PREFIX}({KIND}){PREDICATE_VERSION}",'
    rf'"subject":\[({_one_or_more(_SUBJECT)})\]\}}'
)


class Parts(NamedTuple):
    """A statement's parts: references as position and hash, subjects as hash and name, each as it is written."""

    body: bytes
    log: str
    references: list[tuple[str, str]]
    time: str
    record: str
    subjects: list[tuple[str, str]]


def split(payload: bytes) -> Parts | None:
    """The parts of a statement in its usual bytes; None where a parser has to look."""
    end = _end_of_body(payload)
    if end < 0 or not payload.startswith(_BEFORE):
        return None
    behind = _BEHIND.fullmatch(payload[end:].decode("utf-8", "replace"))
    if behind is None:
        return None
    log, references, time, record, subjects = behind.groups()
    return Parts(
        payload[len(_BEFORE) : end], log, _EACH_REFERENCE.findall(references), time, record,
        _EACH_SUBJECT.findall(subjects),
    )  # fmt: skip


def body_of(payload: bytes) -> bytes:
    """The canonical bytes of a statement's body: those in a payload that ``parse_statement`` has taken."""
    return payload[len(_BEFORE) : _end_of_body(payload)]


def _end_of_body(payload: bytes) -> int:
    # After the body nothing else is followed by a key "log", and in texts quotes are escaped.
    return payload.rfind(_AFTER)
