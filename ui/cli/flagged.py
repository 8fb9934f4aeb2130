"""``interlock samples ID --flagged``: the training records that data checks flagged, each with the reason."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ui import presenters
from ui.cli.output import empty, heading, line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.ledger.rows import ProposalRow

ALL = "all"
AT_ONCE = 20
_CHARS = 600


def show_flagged(session: Session, row: ProposalRow, check: str, start: int, limit: int, bare: bool) -> None:
    """List the records of one check, or of each; ``start`` counts from 1."""
    from guardrails.ledger.judging import read_measurements
    from sandbox import flagged

    measured = read_measurements(session.workspace.store, row)
    counts = flagged.counts(measured)
    if check != ALL:
        name = flagged.named(measured, check)
        counts = {name: counts[name]}
    assert row.proposal is not None  # noqa: S101 - what was measured was proposed
    records = flagged.Records.of(session.workspace.store, row.proposal)
    pages = {name: flagged.page(records, measured, name, start - 1, limit, bare=bare) for name in counts}
    data: dict[str, Any] = {
        "id": row.id, "masked": not bare, "from": start, "counts": counts,
        "records": [asdict(record) for found in pages.values() for record in found],
    }  # fmt: skip

    def draw(console: Console) -> None:
        if not counts:
            empty(console, f"No check flagged a record of {row.id}.", f"interlock samples {row.id}")
        for name, found in pages.items():
            _draw(console, row.id, name, counts[name], start, found)

    session.output.result("flagged", data, draw)


def _draw(console: Console, id_: str, name: str, count: int, start: int, found: list[Any]) -> None:
    last = start + len(found) - 1
    shown = f"{start} to {last} of {count:,}" if len(found) < count else presenters.counted(count, "record")
    show(console, heading(f"{name} · {shown}"))
    for record in found:
        text = "not kept here any more" if record.text is None else presenters.plain(record.text, _CHARS)
        why = [("why", presenters.one_line(record.reason))] if record.reason else []
        console.print(
            pairs([("record", presenters.one_line(record.place)), *why, ("text", text or "(empty)")])
        )
    if last < count:
        short = name.removeprefix("data.")
        console.print(line(f"next: interlock samples {id_} --flagged {short} --from {last + 1}"))
