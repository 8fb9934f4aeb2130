"""Reading the log: its newest records, those about one thing, one in full, one decision told on a page.

Invariants: opened for reading, without a key; what people and models wrote is shown as text, never interpreted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import UnknownNameError, UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.log.source import Source, reading, source_options
from ui.cli.output import empty, heading, line, pairs, show, table
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console


@add(log, "show", help="The newest records; those about ID (P-…, R-…); or one record in full, by its number.")
@click.argument("id_", metavar="[ID]", required=False, default="")
@click.option(
    "--limit", type=click.IntRange(min=1), default=40, show_default=True, help="At most so many records."
)
@click.option("--report", is_flag=True, help="Tell the whole story of one proposal (P-…) on one page.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["md", "json"]),
    default="md",
    show_default=True,
    help="Of a report.",
)
@source_options
def show_(session: Session, id_: str, limit: int, report: bool, form: str, source: Source) -> None:
    """Show records."""
    if report:
        _report(session, id_, form, source)
        return
    if id_.isascii() and id_.isdigit():
        _show_one(session, int(id_[:18]), source)
        return
    with reading(session, source) as view:
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


def _show_one(session: Session, seq: int, source: Source) -> None:
    with reading(session, source) as view:
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
        items += [("signature", _claimed(item)) for item in data["signed"] if item["touched"] is not None]
        if data["surface"]:
            items.append(("surface", f"{presenters.one_line(data['surface'], 40)}, as the signer says"))
        items += [("rests on", rests), *((name, digest) for name, digest in data["subjects"].items())]
        console.print(pairs(items))
        body = json.dumps(data["body"], indent=2, ensure_ascii=False, sort_keys=True)
        show(console, heading("Body"), line(body))

    session.output.result("log show", data, draw)


def _claimed(signed: dict[str, Any]) -> str:
    """What a hardware key says of itself."""
    touched = "touched" if signed["touched"] else "nobody touched it"
    checked = "a PIN or finger was checked" if signed["verified"] else "no PIN was checked"
    return f"hardware key: {touched}, {checked}, its counter says {signed['counter']}"


def _report(session: Session, id_: str, form: str, source: Source) -> None:
    from ui.presenters.report import report_fields
    from ui.presenters.report_page import page

    if not id_:
        raise UsageError(
            "a report is about one proposal: name it", hint="`interlock log show P-0001 --report`"
        )
    with reading(session, source) as view:
        data = report_fields(view, id_.upper())
    if form == "json" and not session.output.json:
        text = json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False)
    else:
        text = page(data)
    session.output.result(
        "log show", {"report": data, "markdown": page(data)}, lambda console: _raw(console, text)
    )


def _raw(console: Console, text: str) -> None:
    """A page as it is: no wrapping, so that it can be written to a file."""
    console.file.write(text if text.endswith("\n") else text + "\n")
