"""Taking the log elsewhere: a bundle that is verified offline, records alone, a table for a spreadsheet.

Invariants: a file that exists is never overwritten; a bundle is written whole or not at all; a cell of a CSV
file can start no formula.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.log.proof import write_new
from ui.cli.log.source import Source, reading, source_options
from ui.cli.output import line
from ui.cli.session import Session

if TYPE_CHECKING:
    from guardrails.view import View

_FILE = click.Path(path_type=Path)


@add(
    log, "export",
    help="Write the log to one new file, that `log verify --bundle` checks offline with nothing else at hand.",
)  # fmt: skip
@click.argument("file", type=_FILE, required=False)
@click.option("--no-texts", is_flag=True, help="Leave names and free text out of the bundle.")
@click.option("--to", type=_FILE, metavar="FILE", help="Records and the newest checkpoint alone, as JSONL.")
@click.option("--csv", "csv", type=_FILE, metavar="FILE", help="One line a record, for a spreadsheet.")
@source_options
def export(
    session: Session, file: Path | None, no_texts: bool, to: Path | None, csv: Path | None, source: Source
) -> None:
    """Export the log."""
    chosen = [path for path in (file, to, csv) if path is not None]
    if len(chosen) != 1:
        raise UsageError("name one file: FILE for a bundle, or --to FILE, or --csv FILE")
    if source.bundle is not None and csv is None:
        raise UsageError("of a bundle only --csv FILE is made", hint="the bundle itself is the rest")
    with reading(session, source) as view:
        size = view.snapshot.size
        if file is not None:
            from guardrails.decision_log import bundle

            bundle.write(view.snapshot, file, texts=not no_texts)
        elif to is not None:
            _records(view, to)
        elif csv is not None:
            from ui.presenters.spreadsheet import csv_text

            rows = (
                presenters.log_fields(entry, view.name_of, view.text) for entry in view.snapshot.entries()
            )
            write_new(csv, csv_text(rows).encode("utf-8"))
    kind = "bundle" if file else "records" if to else "csv"
    data = {"file": str(chosen[0]), "entries": size, "format": kind}
    told = f"{presenters.counted(size, 'record')} written to {chosen[0]} ({kind})"
    session.output.result("log export", data, lambda console: console.print(line(told)))


def _records(view: View, to: Path) -> None:
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            for entry in view.snapshot.entries():
                envelope = base64.b64encode(entry.envelope).decode("ascii")
                stream.write(json.dumps({"seq": entry.seq, "leaf": entry.leaf, "envelope": envelope}) + "\n")
            stream.write(json.dumps({"checkpoint": view.snapshot.checkpoint()}) + "\n")
    except FileExistsError:
        raise UsageError(f"{to} exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None


@add(log, "rebuild", help="Make every table anew from the records.")
def rebuild(session: Session) -> None:
    """Rebuild the projection."""
    count = session.workspace.gate.log.rebuild()
    told = f"tables made anew from {presenters.counted(count, 'record')}"
    data: dict[str, Any] = {"entries": count}
    session.output.result("log rebuild", data, lambda console: console.print(line(told)))
