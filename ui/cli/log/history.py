"""What was in force at a time: models, policies, roster, waivers, answers, and the record that made it so.

Invariants: replayed from the records, no table is asked; nothing is changed and no key is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ui import presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.log.source import Source, reading, source_options
from ui.cli.output import heading, line, pairs, show, table
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.as_of import AsOf
    from guardrails.view import View


@add(log, "as-of", help="Which models, policies, people and waivers were in force at TIME (ISO 8601, UTC).")
@click.argument("time", metavar="TIME")
@source_options
def as_of_(session: Session, time: str, source: Source) -> None:
    """Say what was in force."""
    from guardrails.as_of import as_of, parse_moment
    from guardrails.ledger import project

    moment = parse_moment(time)
    with reading(session, source) as view:
        state = as_of(view.snapshot, project, moment)
        data = _fields(state, view)
    session.output.result("log as-of", data, lambda console: _draw(console, data))


def _fields(state: AsOf, view: View) -> dict[str, Any]:
    roster = state.roster
    last = state.last
    return {
        "time": state.time,
        "entries": state.size,
        "last": {"seq": last.seq, "sha256": last.sha256, "time": state.last_time, "record": state.last_record}
        if last
        else None,
        "checkpoint": state.checkpoint,
        "models": [presenters.model_fields(row) for row in state.models],
        "policies": [presenters.policy_fields(row) for row in state.policies],
        "roster": {
            "version": roster.roster.version,
            "record": str(roster.record),
            "people": [
                {
                    "id": person.id,
                    "name": view.text(person.name),
                    "roles": [role.value for role in person.roles],
                    "keys": sum(not key.revoked for key in person.keys),
                }
                for person in roster.roster.people
            ],
        }
        if roster
        else None,
        "waivers": [presenters.waiver_fields(row, state.time) for row in state.waivers],
        "answers": [
            {
                "seq": row.seq,
                "model": row.model,
                "asker": row.asker,
                "person": view.name_of(row.person),
                "statement": str(row.statement),
                "answers": row.answers,
                "skipped": row.skipped,
                "set_aside": why,
            }
            for row, why in state.answers
        ],
        "halted_by": state.halted_by,
    }


def _draw(console: Console, data: dict[str, Any]) -> None:
    show(console, heading(f"In force at {presenters.moment(data['time'])}"))
    if data["last"] is None:
        console.print(line("Nothing: the log had no record yet."))
        return
    last = data["last"]
    console.print(pairs([
        ("last record", f"{last['seq']} ({last['record']}) of {presenters.moment(last['time'])} · {last['sha256']}"),
        ("halted", data["halted_by"] or "no"),
    ]))  # fmt: skip
    models = [(m["name"], m["champion_digest"], m["history"][-1]["promoted_at"][:19]) for m in data["models"]]
    console.print(table(("Model", "Champion", "Since"), models))
    policies = [(p["name"], p["digest"], p["activated_at"][:19]) for p in data["policies"]]
    console.print(table(("Policy", "Digest", "Since"), policies))
    people = [(p["name"], ", ".join(p["roles"]), p["id"]) for p in (data["roster"] or {}).get("people", [])]
    console.print(
        table((f"Roster {data['roster']['version']}" if data["roster"] else "Roster", "Roles", "Id"), people)
    )
    if data["waivers"]:
        waivers = [(w["id"], w["rule"], w["bundle"][:19], w["expires_at"]) for w in data["waivers"]]
        console.print(table(("Waiver", "Rule", "Bundle", "Until"), waivers))
    if data["answers"]:
        handed = [
            (str(a["seq"]), a["person"], f"{a['model']}, {a['asker']}", str(a["answers"]), a["set_aside"])
            for a in data["answers"]
        ]
        console.print(table(("Handed in", "By", "To", "Answers", "Set aside"), handed))
    show(console, heading("Checkpoint"), line(data["checkpoint"].rstrip("\n")))
