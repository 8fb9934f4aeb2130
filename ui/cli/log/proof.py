"""Checkpoints, what witnesses say of them, and proofs that others check offline.

Invariants: a proof is made from O(log n) stored hashes and always carries a checkpoint that the log signed; a
file that exists is never overwritten; a witness is asked only where the user configured or named one.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import UnknownNameError, UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.log.source import Source, reading, source_options
from ui.cli.output import line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.view import View

_FILE = click.Path(path_type=Path)


@add(
    log, "checkpoint", help="Print the newest signed checkpoint; keep it elsewhere to notice a log cut short."
)
@click.option("--witness", is_flag=True, help="Have the configured witnesses cosign it first.")
@click.option("--all", "every", is_flag=True, help="The sizes that have a checkpoint, and who cosigned them.")
@click.option(
    "--add", "answer", type=_FILE, metavar="FILE", help="Keep a cosignature that a witness wrote to a file."
)
@click.option("--witness-key", default="", metavar="KEY|FILE", help="With --add: the key of that witness.")
@click.option("--to", type=_FILE, metavar="FILE", help="Write it to a new file.")
def checkpoint(
    session: Session, witness: bool, every: bool, answer: Path | None, witness_key: str, to: Path | None
) -> None:
    """Print the newest checkpoint."""
    if answer is not None:
        _keep(session, answer, witness_key)
    if witness:
        _ask(session)
    with session.view() as view:
        note, size, root = view.snapshot.cosigned(), view.snapshot.size, view.snapshot.root
        data: dict[str, Any] = {
            "checkpoint": note,
            "entries": size,
            "root": root,
            "log_key": log_key_of(view),
        }
        if every:
            known = sorted({(size, name) for size, name, _ in view.snapshot.cosignatures()})
            data["sizes"] = [
                {"size": n, "witnesses": [name for size, name in known if size == n]}
                for n in view.snapshot.sizes()
            ]
    if to is not None:
        write_new(to, note.encode("utf-8"))

    def draw(console: Console) -> None:
        for item in data.get("sizes", []):
            console.print(line(f"{item['size']:>8}  {', '.join(item['witnesses'])}"))
        console.print(line(note), end="", soft_wrap=True)

    session.output.result("log checkpoint", data, draw)


def _ask(session: Session) -> None:
    from guardrails.errors import LogVerificationError
    from sandbox.witnessing import ask_all

    configured = session.workspace.config.witnesses
    told = ask_all(session.workspace.gate.log, configured)
    if not configured:
        raise UsageError(
            "no witness is configured", hint="interlock.toml: [[log.witnesses]] with url and key"
        )
    for one in told:
        session.output.note(one.sentence)
    alarms = [one.error for one in told if isinstance(one.error, LogVerificationError)]
    failed = [one.error for one in told if one.error is not None]
    for error in [*alarms, *failed]:
        raise error


def _keep(session: Session, answer: Path, given: str) -> None:
    from guardrails.decision_log import checkpoint as checkpoints
    from guardrails.decision_log.witness_client import accept
    from guardrails.errors import RecordError
    from ui.cli.log.verify import text_of, verifier_key

    if not given:
        raise UsageError("--add needs the key of the witness", hint="--witness-key KEY")
    text = text_of(answer)
    with session.view() as view:
        note = view.snapshot.checkpoint()
        if "\n\n" in text:  # a whole note: its lines belong to the size that it names
            try:
                size = checkpoints.parse(text)[0].size
            except RecordError as error:
                raise UsageError(f"{answer}: {error.message}") from None
            note, text = view.snapshot.checkpoint(size), text.rpartition("\n\n")[2]
    accept(session.workspace.gate.log, note, text, verifier_key(given))


@add(
    log, "proof",
    help="Prove that a record is in the log (its number, or an id), or with --consistency that the log only grew.",
)  # fmt: skip
@click.argument("what", metavar="[SEQ|ID]", required=False, default="")
@click.option(
    "--size", type=click.IntRange(min=0), metavar="N", help="In the tree of this checkpoint [the newest]."
)
@click.option("--consistency", type=click.IntRange(min=0), metavar="M", help="Prove growth from M records.")
@click.option("--to", type=_FILE, metavar="FILE", help="Write the proof to a new file.")
@click.option("--record-to", type=_FILE, metavar="FILE", help="Write the record's exact bytes to a new file.")
@source_options
def proof(
    session: Session,
    what: str,
    size: int | None,
    consistency: int | None,
    to: Path | None,
    record_to: Path | None,
    source: Source,
) -> None:
    """Print a proof."""
    if consistency is not None:
        if record_to is not None:
            raise UsageError("a proof of growth is about no single record")
        upto = size if size is not None else (int(what) if what.isdigit() else None)
        _growth(session, consistency, upto, to, source)
        return
    if not what:
        raise UsageError("name a record: its number, or the id of a proposal or request")
    from guardrails.decision_log.proof import InclusionProof

    with reading(session, source) as view:
        seq = _position(view, what)
        note = view.snapshot.cosigned(size)
        head_size, root = _head(note)
        if seq >= head_size:
            raise UnknownNameError(f"there is no record {seq} in the tree of {head_size}")
        entry = view.snapshot.entry(seq)
        path = view.snapshot.inclusion_proof(seq, head_size)
        text = InclusionProof(seq, tuple(path), note).encode()
        data = {
            "seq": seq, "leaf": entry.leaf, "path": [node.hex() for node in path], "entries": head_size, "root": root,
            "checkpoint": note, "envelope": base64.b64encode(entry.envelope).decode("ascii"), "proof": text,
            "log_key": log_key_of(view),
        }  # fmt: skip
    if to is not None:
        write_new(to, text.encode("utf-8"))
    if record_to is not None:
        write_new(record_to, entry.envelope)
    session.output.result("log proof", data, lambda console: _told(console, text, to))


def _growth(session: Session, old: int, size: int | None, to: Path | None, source: Source) -> None:
    from guardrails.decision_log.proof import ConsistencyProof

    with reading(session, source) as view:
        note = view.snapshot.cosigned(size)
        head_size, root = _head(note)
        if old > head_size:
            raise UnknownNameError(f"a log of {head_size} records cannot have grown from {old}")
        path = view.snapshot.consistency_proof(old, head_size)
        text = ConsistencyProof(old, tuple(path), note).encode()
        data = {
            "from": old, "entries": head_size, "root": root, "path": [node.hex() for node in path],
            "checkpoint": note, "proof": text, "log_key": log_key_of(view),
        }  # fmt: skip
    if to is not None:
        write_new(to, text.encode("utf-8"))
    session.output.result("log proof", data, lambda console: _told(console, text, to))


def _told(console: Console, text: str, to: Path | None) -> None:
    if to is None:
        console.print(line(text), end="", soft_wrap=True)
    else:
        show(console, pairs([("proof", str(to))]))


def _position(view: View, what: str) -> int:
    """The record that a number or an id names: a proposal's own, a request's first signature."""
    if what.isascii() and what.isdigit():
        return int(what[:18])
    wanted = what.upper()
    for row in view.proposals():
        if row.id == wanted and row.proposal_seq >= 0:
            return row.proposal_seq
    for request in view.requests():
        if request.id == wanted and request.votes:
            return request.votes[0].seq
    raise UnknownNameError(
        f"nothing in the log is called {presenters.one_line(what, 80)}", hint="`interlock log show`"
    )


def _head(note: str) -> tuple[int, str]:
    from guardrails.decision_log.checkpoint import parse

    head = parse(note)[0]
    return head.size, head.root


def log_key_of(view: View) -> str:
    """The verifier key of the log in force; empty before set-up."""
    from guardrails.decision_log.cosignature import LOG, VerifierKey

    public = view.roster.services.get("log", "") if view.roster else ""
    return str(VerifierKey.of_public(view.snapshot.origin, public, LOG)) if public else ""


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, readable by its owner only."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except FileExistsError:
        raise UsageError(f"{path} exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
