"""The difference between candidate and champion on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from guardrails.errors import InterlockError
from ui import presenters
from ui.cli.output import heading, line, pairs, show, table

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.ledger.rows import ProposalRow
    from ui.cli.session import Session

_MOST_ROWS = 12


def compared(session: Session, row: ProposalRow) -> dict[str, Any] | None:
    """The JSON fields of the difference, or the reason why there is none to be had."""
    from ui.comparison import compare_models

    if row.proposal is None:
        return None
    champion = row.evidence.champion if row.evidence else row.proposal.champion
    try:
        fields = compare_models(session.workspace.store, champion, row.proposal.bundle).fields()
    except InterlockError as error:
        return {"error": str(error)}
    for item in fields["farthest"]:
        item["relative"] = item["relative"] if math.isfinite(item["relative"]) else None
    if fields["relative_change"] is not None and not math.isfinite(fields["relative_change"]):
        fields["relative_change"] = None
    return {"against": str(champion), **fields}


def draw(console: Console, diff: dict[str, Any] | None) -> None:
    """Files, settings and weights that changed."""
    if diff is None:
        return
    show(console, "", heading("Difference to the champion"))
    if "error" in diff:
        console.print(line(presenters.Mark("✕", f"cannot be shown: {diff['error']}", "bad")))
        return
    weights = f"{diff['tensors_changed']} of {presenters.counted(diff['tensors'], 'tensor')} changed"
    if diff["relative_change"] is not None:
        weights += f", by {100 * diff['relative_change']:.3g} % of their norm in all"
    files = ", ".join(f"{item['path']} ({item['change']})" for item in diff["files"]) or "none"
    items = [("against", diff["against"]), ("files changed", f"{files}; {diff['files_unchanged']} unchanged")]
    if diff["tensors"]:
        items.append(("weights", weights))
    if diff["farthest"]:
        far = ", ".join(
            f"{item['name']} {'new or reshaped' if item['relative'] is None else f'''{100 * item['relative']:.3g} %'''}"
            for item in diff["farthest"][:3]
        )
        items.append(("moved farthest", far))
    items += [("note", note) for note in diff["notes"]]
    console.print(pairs(items))
    if diff["settings"]:
        rows = [
            (item["file"], item["key"], _shown(item["before"]), _shown(item["after"]))
            for item in diff["settings"][:_MOST_ROWS]
        ]
        console.print(table(("File", "Setting", "Champion", "Candidate"), rows))
        if len(diff["settings"]) > _MOST_ROWS:
            console.print(f"… and {len(diff['settings']) - _MOST_ROWS} more settings")


def _shown(value: Any) -> str:
    return "–" if value is None else presenters.one_line(str(value), 60)
