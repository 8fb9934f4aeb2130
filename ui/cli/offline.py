"""Decisions signed elsewhere: ``--export``, then ``ssh-keygen -Y sign``, then ``--import``.

Invariants:
- An export is bound and shown like any decision, and what is written is to the byte what the signature covers; the
  text that is shown with it is made from these very bytes.
- An import takes nothing on trust: the statement must belong to this log and to this command, its texts must open
  its commitments, the signature must hold; then the ledger decides as for every decision.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails import offline
from guardrails.decision_log.envelope import NAMESPACE
from guardrails.errors import DeniedError, InvalidInputError, RecordError, UsageError
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import heading, line, pairs, show
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.envelope import Statement
    from guardrails.decision_log.keys import HeldSignature
    from guardrails.decisions import Draft, Receipt
    from guardrails.records import Decision, Opening

OPENINGS = ".openings"
SIGNATURE = ".sig"

decision = group("decision", "Decisions that are signed offline.")


@add(decision, "show", help="Print what an exported statement says, from the very bytes that are signed.")
@click.argument("file", type=click.Path(path_type=Path))
def show_(session: Session, file: Path) -> None:
    """Show an exported statement."""
    data = read_file(file)
    statement = offline.read_statement(data, str(file))
    beside = file.with_name(file.name + OPENINGS)
    texts = offline.read_openings(read_file(beside), statement, str(beside)) if beside.exists() else ()
    signature = file.with_name(file.name + SIGNATURE)
    held = _held(signature) if signature.exists() else None
    if held is not None:
        held.sign(data)
    session.output.result("decision show", statement_fields(statement, texts, held), lambda console: draw_statement(
        console, statement, texts, held))  # fmt: skip


# --- out -----------------------------------------------------------------------------------


def give_export(session: Session, draft: Draft, to: Path) -> None:
    """Write a draft for signing elsewhere, show it from its bytes, and end the command."""
    data = offline.export_statement(draft.payload)
    beside = to.with_name(to.name + OPENINGS)
    statement = offline.read_statement(data, str(to))
    write_new(beside, offline.export_openings(draft.openings))
    try:
        write_new(to, data)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fields = {
        **statement_fields(statement, draft.openings, None),
        "file": str(to),
        "openings": str(beside),
        "namespace": NAMESPACE,
    }

    def draw(console: Console) -> None:
        draw_statement(console, statement, draft.openings, None)
        show(
            console,
            "",
            line(f"sign it: ssh-keygen -Y sign -n {NAMESPACE} -f KEY {to}"),
            line(f"then:    the same command with --import {to}{SIGNATURE}"),
        )

    session.output.result("decision export", fields, draw)
    raise Finished(0)


# --- back ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """What came back: the draft as it was exported, and the signature over it."""

    draft: Draft
    signature: HeldSignature


def returned(session: Session, file: Path) -> Returned:
    """Read a signature, and the statement and the texts that lie beside it.

    Raises:
        InvalidInputError: one of the three is missing, damaged, or about another log.
        DeniedError: the signature does not hold over the statement.
    """
    if file.suffix != SIGNATURE:
        raise UsageError(
            f"{file} does not end in {SIGNATURE}", hint="give the file that ssh-keygen -Y sign wrote"
        )
    held = _held(file)
    statement = file.with_suffix("")
    beside = statement.with_name(statement.name + OPENINGS)
    data = read_file(statement)
    draft = offline.take_back(data, read_file(beside), session.workspace.log.origin, str(statement))
    held.sign(data)
    return Returned(draft, held)


def commit(session: Session, back: Returned) -> Receipt:
    """Append a decision that was signed elsewhere."""
    _require_theirs(session, back)
    try:
        return session.workspace.gate.commit(back.draft, back.signature)
    except RecordError as error:
        raise DeniedError(f"{error.message}; it cannot be imported twice, or does not fit this log") from None


def require_for(command: str, arguments: Mapping[str, Any], decided: Decision) -> None:
    """Refuse a decision that is another one than the command and its arguments name."""
    from guardrails.ledger.forms import REQUESTED

    action = _COMMANDS.get(command, command)
    named = arguments.get("id_") or arguments.get("model") or arguments.get("name")
    is_request = isinstance(named, str) and named.upper().startswith("R-")
    about = {decided.target.upper(), decided.request.upper()}
    if (
        (
            decided.action.value != action
            and not (is_request and action == "approve" and decided.action in REQUESTED)
        )
        or (isinstance(named, str) and named.upper() not in about)
        or not _fits(arguments, decided)
    ):
        raise UsageError(
            f"what was signed is: {decided.action.value} {decided.target}",
            hint="give the command that the statement was exported with",
        )


def _fits(arguments: Mapping[str, Any], decided: Decision) -> bool:
    """Whether what else was given (a rule, a former champion, a policy file) is what was signed."""
    from guardrails.policy import load_policy

    if arguments.get("rule") and (decided.waiver is None or decided.waiver.rule != arguments["rule"]):
        return False
    start = str(arguments.get("to") or "").lower().removeprefix("sha256:")
    if start and (decided.digest is None or not decided.digest.hex.startswith(start)):
        return False
    return "file" not in arguments or load_policy(arguments["file"]).source == decided.policy


_COMMANDS = {"add": "waive", "confirm": "set-clock"}
"""Command → action, where the words differ."""


def _require_theirs(session: Session, back: Returned) -> None:
    """Name the key early; the ledger would refuse it too, without saying whose it is."""
    decided = back.draft.decision
    with session.view() as view:
        owner = next(
            (person for person, _ in view.people()
             if any(key.public == back.signature.public for key in person.keys)), None,
        )  # fmt: skip
        name = view.name_of(decided.person)
        other = view.name_of(owner.id) if owner else ""
    if owner is None:
        raise DeniedError(
            f"signed by {back.signature.keyid}, a key that is not in the roster",
            hint=f"the statement is {name}'s to sign; interlock roster show lists the keys",
        )
    if owner.id != decided.person:
        raise DeniedError(f"the statement is {name}'s, the signature is {other}'s")


# --- words ---------------------------------------------------------------------------------


def statement_fields(
    statement: Statement, texts: tuple[Opening, ...], held: HeldSignature | None
) -> dict[str, Any]:
    """A statement for programs: all of it, and the texts that it commits to."""
    return {
        "record": statement.record,
        "log": statement.log,
        "time": statement.time,
        "subjects": {name: str(digest) for name, digest in statement.subjects.items()},
        "body": dict(statement.body),
        "texts": [opening.text for opening in texts],
        "signed_by": None if held is None else signature_fields(held),
    }


def signature_fields(held: HeldSignature) -> dict[str, Any]:
    """A signature for programs: the key, and what a hardware token said."""
    claims = held.claims
    fields: dict[str, Any] = {"key": claims.key.keyid, "type": claims.key.kind}
    if claims.present is not None:
        fields |= {"touched": claims.present, "verified": claims.verified, "counter": claims.counter}
    return fields


def draw_statement(
    console: Console, statement: Statement, texts: tuple[Opening, ...], held: HeldSignature | None
) -> None:
    """A statement for people, field by field, nothing left out."""
    items = [("record", statement.record), ("log", statement.log), ("time", statement.time)]
    items += [(f"about: {name}", str(digest)) for name, digest in statement.subjects.items()]
    items += list(_flat("", statement.body))
    items += [("rests on", f"record {item.seq} {item.sha256}") for item in statement.references]
    by_commitment = {opening.commitment().sha256: opening.text for opening in texts}
    show(console, line(heading("This is what is signed")))
    console.print(pairs([
        (name, f"“{presenters.one_line(by_commitment[value], 2000)}” ({value})" if value in by_commitment else value)
        for name, value in items
    ]))  # fmt: skip
    if held is not None:
        told = signature_fields(held)
        token = ", ".join(f"{name} {value}" for name, value in told.items() if name not in ("key", "type"))
        console.print(
            pairs([("signed by", f"{told['key']} ({told['type']}{', ' + token if token else ''})")])
        )


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    """A JSON value as lines ``a.b.c`` → text."""
    if isinstance(value, dict) and value:
        return [item for key in sorted(value) for item in _flat(f"{prefix}.{key}".lstrip("."), value[key])]
    if isinstance(value, list) and value and any(isinstance(item, (dict, list)) for item in value):
        return [item for index, part in enumerate(value) for item in _flat(f"{prefix}[{index}]", part)]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value) or "none")]
    return [(prefix, str(value) if value != {} else "none")]


# --- files ---------------------------------------------------------------------------------


def read_file(path: Path) -> bytes:
    """A small file; raises InvalidInputError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(offline.MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from None


def write_new(path: Path, data: bytes) -> None:
    """A new file that only its owner can read (texts are personal data); raises UsageError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _held(path: Path) -> HeldSignature:
    from guardrails.decision_log.keys import HeldSignature

    return HeldSignature.parse(read_file(path).decode("utf-8", "replace"), str(path))
