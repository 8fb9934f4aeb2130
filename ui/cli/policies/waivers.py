"""Waivers: signed, dated exceptions for one rule and one bundle."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from guardrails.errors import DeniedError, UnknownNameError, UsageError
from guardrails.records import Action, Role, Surface, Waiver
from ui import presenters
from ui.cli.decide import sign_request
from ui.cli.group import add
from ui.cli.output import empty, marked, table
from ui.cli.policies.groups import waiver
from ui.cli.session import Session
from ui.cli.signing import reason_and_role

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.view import View

_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_IN_FORCE, _OVER = presenters.Mark("✓", "in force", "good"), presenters.Mark("·", "over", "muted")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


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

    person = session.person()
    now = session.now()
    expires = _expiry(until, now)
    with session.view() as view:
        row = view.proposal(id_.upper())
        if row.proposal is None or row.verdict is None:
            raise DeniedError(f"{row.id} is {row.state.value}: there is no verdict to waive anything of")
        rules = [finding.rule for finding in row.verdict.findings]
        if rule not in rules:
            raise UnknownNameError(
                f"{row.id} was not judged by a rule {rule:.80}", hint=f"its rules: {', '.join(rules)}"
            )
        _require_waivable(view, rule)
    value = Waiver(rule, row.proposal.bundle, person.id, expires)
    wish = Intention(Action.WAIVE, row.id, person.id, Role.OPERATOR, reason, Surface.CLI, waiver=value)
    sign_request(session, wish, role)
    session.output.note("`interlock tick` judges again with the waiver, once it is complete")


def _require_waivable(view: View, rule: str) -> None:
    """A waiver for a rule that cannot be waived would only mislead."""
    from guardrails.ledger.in_force import policy_of

    for row in view.policies():
        found = policy_of(row.source).rule(rule)
        if found is not None and not found.waivable:
            raise DeniedError(f"rule {rule} cannot be waived", hint=f"{found.place}: waivable: false")


@add(waiver, "list", help="All waivers that were granted.")
def list_(session: Session) -> None:
    """List waivers."""
    now = session.now()
    with session.view() as view:
        data = [
            {**presenters.waiver_fields(row, now), "owner_name": view.name_of(row.waiver.owner)}
            for row in view.waivers()
        ]

    def draw(console: Console) -> None:
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


def _expiry(text: str, now: str) -> str:
    """A duration from now, or a time with its offset; must lie ahead."""
    from guardrails.decision_log.envelope import format_time, parse_time

    match = _DURATION.fullmatch(text)
    if match:
        return format_time(parse_time(now) + timedelta(**{_UNITS[match[2]]: int(match[1])}))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"--until {text:.40}: neither a duration nor a time", hint="like 72h, or 2027-01-31T12:00:00Z"
        )
    written = format_time(moment)
    if written <= now:
        raise UsageError(f"--until {text:.40} is in the past")
    return written
