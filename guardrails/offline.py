"""Decisions that are signed where the key is: bytes out, ``ssh-keygen -Y sign`` over them, a signature back.

Invariants:
- The exported file *is* what the signature covers (DSSE pre-authentication encoding), so plain ``ssh-keygen``
  signs it and whoever reads it reads exactly what is signed.
- Texts travel beside it, as openings; on the way back each must open a commitment of the statement, and every
  commitment must be opened.
- A statement is taken back only by the log that it names, and only if it says ``offline``: the surface is part
  of what is signed. Whether it still holds is the ledger's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NoReturn

from guardrails.codec import decode_record
from guardrails.decision_log.envelope import PAYLOAD_TYPE, SCHEMA, Statement, pae, parse_statement, unpae
from guardrails.decision_log.texts import commitments
from guardrails.decisions import Draft
from guardrails.errors import InvalidInputError, RecordError
from guardrails.records import Decision, Opening, Surface

KIND = "openings"
MAX_BYTES = 200_000


def export_statement(payload: bytes) -> bytes:
    """The file to be signed."""
    return pae(PAYLOAD_TYPE, payload)


def export_openings(openings: Iterable[Opening]) -> bytes:
    """The file that travels beside it: the texts that the statement commits to."""
    texts = [{"salt": item.salt, "text": item.text} for item in openings]
    value = {"schema": SCHEMA, "kind": KIND, "openings": texts}
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def read_statement(data: bytes, where: str) -> Statement:
    """The statement in an exported file; raises InvalidInputError where it is none."""
    try:
        kind, payload = unpae(data[:MAX_BYTES])
        return _refused(f"its type is {kind!r:.80}") if kind != PAYLOAD_TYPE else parse_statement(payload)
    except RecordError as error:
        raise InvalidInputError(
            f"{where}: not a statement as Interlock exports it: {error.message}",
            hint="sign the exported file as it is, to the byte; export again if it was edited",
        ) from None


def read_openings(data: bytes, statement: Statement, where: str) -> tuple[Opening, ...]:
    """The texts of a statement, each checked against the commitment that it opens.

    Raises:
        InvalidInputError: not such a file, a text that the statement does not commit to, or one missing.
    """
    try:
        value = json.loads(data[: MAX_BYTES + 1])
        named = (value["schema"], value["kind"])
        openings = tuple(Opening(str(item["salt"]), str(item["text"])) for item in value["openings"])
        opened = {opening.commitment() for opening in openings}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInputError(f"{where}: not the openings that Interlock exported") from None
    wanted = set(commitments(statement.body))
    if named != (SCHEMA, KIND) or opened != wanted:
        raise InvalidInputError(
            f"{where}: a text in it is not the one that the statement commits to, or one is missing",
            hint="take the openings file that was exported together with this statement",
        )
    return openings


def take_back(data: bytes, openings: bytes, origin: str, where: str) -> Draft:
    """The draft that was exported, ready to be committed with the signature that was made over it.

    Raises:
        InvalidInputError: not an exported decision, changed, or of another log.
    """
    statement = read_statement(data, where)
    if statement.record != "decision":
        raise InvalidInputError(f"{where}: it holds a {statement.record}, not a decision")
    if statement.log != origin:
        raise InvalidInputError(f"{where}: it is for the log {statement.log:.80}, this is {origin}")
    try:
        decision = decode_record(Decision, dict(statement.body))
    except RecordError as error:
        raise InvalidInputError(f"{where}: {error.message}") from None
    if decision.surface is not Surface.OFFLINE:
        raise InvalidInputError(f"{where}: it says that it was made at the {decision.surface}, not offline")
    return Draft(decision, statement.encode(), read_openings(openings, statement, f"{where}.openings"))


def _refused(reason: str) -> NoReturn:
    raise RecordError(reason)
