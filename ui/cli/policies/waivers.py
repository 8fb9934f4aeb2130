"""Waivers: signed, dated exceptions for one rule and one bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guardrails.errors import DeniedError
from guardrails.records import Action, Role, Surface, Waiver
from ui import presenters
from ui.cli.decide import sign_request
from ui.cli.group import add
from ui.cli.output import empty, line, marked, table
from ui.cli.policies.groups import waiver
from ui.cli.session import Session
from ui.cli.signing import read_end, reason_and_role

if TYPE_CHECKING:
    from rich.console import Console

_IN_FORCE, _OVER = presenters.Mark("✓", "in force", "good"), presenters.Mark("·", "over", "muted")


@add(waiver, "add", help="Waive one rule for one proposal's bundle until a time; its verdict becomes review.")
@click.argument("id_", metavar="ID")
@click.option("--rule", required=True, metavar="RULE", help="The rule that failed.")
@click.option(
    "--until",
    required=True,
    metavar="TIME",
    help="How long: 90m, 72h, 7d, or a time like 2027-01-31T12:00:00Z.",
)
@reason_and_role
def add_(session: Session, id_: str, rule: str, until: str, reason: str, role: str | None) -> None:
    """Grant a waiver."""
    from guardrails.decisions import Intention
    from guardrails.ledger.waivers import require_waivable

    person = session.person()
    now = session.now()
    expires = read_end(until, now, "--until")
    with session.proven_view() as view:
        row = view.proposal(id_.upper())
        if row.proposal is None or row.verdict is None:
            raise DeniedError(f"{row.id} is {row.state.value}: there is no verdict to waive anything of")
        require_waivable(view.snapshot.tables, row, rule)
    value = Waiver(rule, row.proposal.bundle, person.id, expires)
    wish = Intention(Action.WAIVE, row.id, person.id, Role.OPERATOR, reason, Surface.CLI, waiver=value)
    sign_request(session, wish, role)
    session.output.note("`interlock tick` judges again with the waiver, once it is complete")


@add(waiver, "list", help="All waivers that were granted.")
def list_(session: Session) -> None:
    """List waivers."""
    now = session.now()
    with session.view() as view:
        data = [
            {**presenters.waiver_fields(row, now), "owner_name": view.name_of(row.waiver.owner)}
            for row in view.waivers()
        ]
        asked = [
            row.id for row in view.requests()
            if row.action is Action.WAIVE and view.request_state(row, now) == "open"
        ]  # fmt: skip

    def draw(console: Console) -> None:
        if asked:
            told = f"asked for, and not granted yet: {', '.join(asked)}; see `interlock list --requests`"
            console.print(line(presenters.Mark("▲", told, "caution")), soft_wrap=True)
        if not data:
            empty(console, "No waivers.", "interlock waiver add ID --rule RULE --until 72h --reason …")
            return
        cells = [
            (
                item["id"], item["rule"], item["bundle"][:19], item["owner_name"], item["expires_at"],
                marked(_IN_FORCE if item["in_force"] else _OVER),
            )
            for item in data
        ]  # fmt: skip
        console.print(table(("ID", "Rule", "Bundle", "Owner", "Until", "State"), cells))

    session.output.result("waiver list", data, draw)


@add(waiver, "revoke", help="End a waiver before its time; one of those who could grant it is enough.")
@click.argument("id_", metavar="WAIVER")
@reason_and_role
def revoke(session: Session, id_: str, reason: str, role: str | None) -> None:
    """Revoke a waiver."""
    from guardrails.decisions import Intention

    person = session.person()
    with session.view() as view:
        granted = any(row.id == id_.upper() for row in view.waivers())
        asked = any(row.id == id_.upper() and row.action is Action.WAIVE for row in view.requests())
    if asked and not granted:
        raise DeniedError(
            f"{id_.upper()} was asked for, and never granted",
            hint=f"interlock withdraw {id_.upper()} --reason …",
        )
    wish = Intention(Action.REVOKE, id_.upper(), person.id, Role.OPERATOR, reason, Surface.CLI)
    sign_request(session, wish, role)
    session.output.note("`interlock tick` judges again without it")
