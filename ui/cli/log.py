"""The decision log: read it, verify it, take a checkpoint or a proof of it, make its tables anew.

Invariants: all but ``rebuild`` work on a log opened for reading, without any key, on a core installation;
``verify`` ends with 7 unless every check that was made held, and says what was not checked.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.canonical import Digest
from guardrails.errors import LogVerificationError, UnknownNameError, UsageError
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import empty, heading, line, pairs, show, table
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.verify import Verification
    from guardrails.registry import ArtifactStore

log = group("log", "Read, verify and export the decision log.")


@add(log, "show", help="The newest records; those about ID (P-…, R-…); or one record in full, by its number.")
@click.argument("id_", metavar="[ID]", required=False, default="")
@click.option(
    "--limit", type=click.IntRange(min=1), default=40, show_default=True, help="At most so many records."
)
def show_(session: Session, id_: str, limit: int) -> None:
    """Show records."""
    if id_.isascii() and id_.isdigit():
        _show_one(session, int(id_[:18]))
        return
    with session.view() as view:
        rows = [presenters.log_fields(entry, view.name_of, view.text) for entry in view.snapshot.entries()]
        size = view.snapshot.size
        if id_:
            known = {row.id for row in view.proposals()} | {row.id for row in view.requests()}
            if id_.upper() not in known:
                raise UnknownNameError(f"nothing in the log is called {id_:.80}", hint="`interlock log show`")
            rows = [row for row in rows if row["about"] == id_.upper()]
    shown = rows[-limit:]

    def draw(console: Console) -> None:
        if not rows:
            empty(console, "The log is empty.", "interlock init --operator NAME")
            return
        cells = [
            (
                str(row["seq"]),
                presenters.moment(row["time"]),
                row["record"],
                row["about"],
                row["by"],
                row["summary"],
            )
            for row in shown
        ]
        console.print(table(("#", "Time", "Record", "About", "By", "What"), cells, right=("#",)))
        if len(shown) < len(rows):
            console.print(f"{len(shown)} of {len(rows)} records; --limit shows more")

    session.output.result("log show", {"entries": size, "records": shown}, draw)


def _show_one(session: Session, seq: int) -> None:
    with session.view() as view:
        entry = view.snapshot.entry(seq)
        told = presenters.log_fields(entry, view.name_of, view.text)
    data = {
        **presenters.record_fields(entry),
        "about": told["about"],
        "by": told["by"],
        "summary": told["summary"],
    }

    def draw(console: Console) -> None:
        show(
            console,
            line(heading(f"Record {seq}"), f"· {data['record']} · {data['time']}"),
            line(data["summary"]),
        )
        rests = ", ".join(f"{item['seq']} ({item['sha256'][:12]})" for item in data["references"]) or "–"
        items = [("leaf", data["leaf"]), ("signed by", f"{data['by']}: {', '.join(data['signatures'])}")]
        items += [("rests on", rests), *((name, digest) for name, digest in data["subjects"].items())]
        console.print(pairs(items))
        body = json.dumps(data["body"], indent=2, ensure_ascii=False, sort_keys=True)
        show(console, heading("Body"), line(body))

    session.output.result("log show", data, draw)


@add(
    log,
    "verify",
    help="Check every record, signature, checkpoint, table and artifact; exit status 7 if one fails.",
)
@click.option("--recompute", is_flag=True, help="Run the engine again on every verdict, and compare.")
@click.option(
    "--root-key", default="", metavar="KEY|FILE", help="A root's OpenSSH public key that you were handed."
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="FILE", help="A checkpoint kept from before."
)
@click.option(
    "--no-artifacts", is_flag=True, help="Do not read models and evidence (a copy of the log alone)."
)
def verify(
    session: Session, recompute: bool, root_key: str, checkpoint: Path | None, no_artifacts: bool
) -> None:
    """Verify the log."""
    pinned = _public_key(root_key) if root_key else ""
    known = _text_of(checkpoint) if checkpoint else ""
    result = verified(
        session, recompute=recompute, root_key=pinned, checkpoint=known, artifacts=not no_artifacts
    )
    data = {
        "ok": result.ok,
        "entries": result.entries,
        "root": result.root,
        "first_error": None if result.ok else {"index": result.index, "reason": result.reason},
        "root_keys": list(result.root_keys),
        "recomputed": result.recomputed,
        "not_recomputed": result.not_recomputed,
        "notes": list(result.notes),
    }

    def draw(console: Console) -> None:
        if result.ok:
            what = f"The log holds: {presenters.counted(result.entries, 'record')}"
            console.print(line(presenters.Mark("✓", what, "good")))
        else:
            where = (
                "The log does not hold" if result.index is None else f"Record {result.index} does not hold"
            )
            console.print(line(presenters.Mark("✕", f"{where}: {result.reason}", "bad")), soft_wrap=True)
        items = [("root", result.root or "–"), *(("root key", key) for key in result.root_keys)]
        if recompute:
            items.append(
                (
                    "recomputed",
                    f"{presenters.counted(result.recomputed, 'verdict')}, {result.not_recomputed} not",
                )
            )
        items += [("note", note) for note in result.notes]
        console.print(pairs(items))

    session.output.result("log verify", data, draw)
    if not result.ok:
        raise Finished(LogVerificationError.exit_status)


def verified(
    session: Session,
    *,
    recompute: bool = False,
    root_key: str = "",
    checkpoint: str = "",
    artifacts: bool = True,
) -> Verification:
    """Verify the whole log; a database too damaged to be read is a failure like any other."""
    from guardrails.decision_log.verify import Verification, verify_log
    from guardrails.ledger import project
    from guardrails.ledger.judging import recomputer

    store = session.workspace.store
    try:
        with session.workspace.log.read() as snapshot:
            return verify_log(
                snapshot,
                project,
                root_key=root_key,
                known_checkpoint=checkpoint,
                artifacts=(lambda address: check_artifact(store, address)) if artifacts else None,
                recompute=recomputer(store) if recompute else None,
            )
    except LogVerificationError as error:
        return Verification(index=error.index if error.index >= 0 else None, reason=error.reason)


def check_artifact(store: ArtifactStore, address: Digest) -> None:
    """Raise unless an artifact is present and intact: a tree with all of its files, or a blob."""
    from guardrails.errors import RecordError
    from guardrails.registry import decode_manifest

    data = store.get_bytes(address)
    try:
        decode_manifest(data)
    except RecordError:
        return
    store.verify_tree(address)


@add(
    log, "checkpoint", help="Print the newest signed checkpoint; keep it elsewhere to notice a log cut short."
)
def checkpoint(session: Session) -> None:
    """Print the newest checkpoint."""
    with session.view() as view:
        note, size, root = view.snapshot.checkpoint(), view.snapshot.size, view.snapshot.root
    data = {"checkpoint": note, "entries": size, "root": root}
    session.output.result("log checkpoint", data, lambda console: console.print(line(note), end=""))


@add(log, "proof", help="Prove that a record is in the log: its audit path and the checkpoint it leads to.")
@click.argument("seq", type=click.IntRange(min=0))
def proof(session: Session, seq: int) -> None:
    """Print an inclusion proof."""
    with session.view() as view:
        entry = view.snapshot.entry(seq)
        path = [node.hex() for node in view.snapshot.inclusion_proof(seq)]
        data = {
            "seq": seq, "leaf": entry.leaf, "path": path, "entries": view.snapshot.size, "root": view.snapshot.root,
            "checkpoint": view.snapshot.checkpoint(), "envelope": base64.b64encode(entry.envelope).decode("ascii"),
        }  # fmt: skip

    def draw(console: Console) -> None:
        items = [("record", str(seq)), ("leaf", entry.leaf), *(("path", node) for node in path)]
        show(console, pairs([*items, ("root", str(data["root"]))]), "", line(str(data["checkpoint"])))

    session.output.result("log proof", data, draw)


@add(
    log, "export", help="Write every record, as it was signed, and the newest checkpoint to a new JSONL file."
)
@click.option("--to", "to", type=click.Path(path_type=Path), required=True, metavar="FILE")
def export(session: Session, to: Path) -> None:
    """Export the log."""
    with session.view() as view:
        try:
            with to.open("x", encoding="ascii") as stream:
                for entry in view.snapshot.entries():
                    envelope = base64.b64encode(entry.envelope).decode("ascii")
                    stream.write(
                        json.dumps({"seq": entry.seq, "leaf": entry.leaf, "envelope": envelope}) + "\n"
                    )
                stream.write(json.dumps({"checkpoint": view.snapshot.checkpoint()}) + "\n")
        except FileExistsError:
            raise UsageError(f"{to} exists already; nothing was written") from None
        except OSError as error:
            raise UsageError(f"{to} cannot be written: {error.strerror}") from None
        size = view.snapshot.size
    data = {"file": str(to), "entries": size}
    told = f"{presenters.counted(size, 'record')} and a checkpoint written to {to}"
    session.output.result("log export", data, lambda console: console.print(line(told)))


@add(log, "rebuild", help="Make every table anew from the records.")
def rebuild(session: Session) -> None:
    """Rebuild the projection."""
    count = session.workspace.gate.log.rebuild()
    told = f"tables made anew from {presenters.counted(count, 'record')}"
    data: dict[str, Any] = {"entries": count}
    session.output.result("log rebuild", data, lambda console: console.print(line(told)))


def _public_key(given: str) -> str:
    """An OpenSSH public key, given as text or as a file that holds it."""
    from guardrails.decision_log.keys import person_keyid
    from guardrails.errors import RecordError

    text = given if given.startswith(("ssh-", "sk-ssh-")) else _text_of(Path(given))
    key = " ".join(text.split()[:2])
    try:
        person_keyid(key)
    except RecordError as error:
        raise UsageError(f"not an OpenSSH public key: {error.message}") from None
    return key


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"{path} cannot be read: {reason}") from None
