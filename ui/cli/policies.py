"""Policies and waivers: check a file, see what is in force, sign what should be.

Invariants: ``check``, ``show`` and ``schema`` change nothing and need no key; a policy is in force only by a
signed activation of its exact bytes; a waiver is a signed, dated exception, never text in a file.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import DeniedError, PolicyError, Problem, UnknownNameError, UsageError
from guardrails.records import Action, Role, Surface, Waiver
from ui import presenters
from ui.cli.decide import sign_request
from ui.cli.group import add, group
from ui.cli.output import empty, heading, line, marked, pairs, show, table
from ui.cli.session import Finished, Session
from ui.cli.signing import reason_and_role

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.policy import Policy
    from guardrails.view import View

policy = group("policy", "Check, show and activate policies.")
waiver = group("waiver", "Grant and list exceptions.")

_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_IN_FORCE, _OVER = presenters.Mark("✓", "in force", "good"), presenters.Mark("·", "over", "muted")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


# --- files ---------------------------------------------------------------------------------


@add(policy, "check", help="Check policy files; all problems at once, with file, line and column.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
def check(session: Session, files: tuple[Path, ...]) -> None:
    """Check policy files."""
    from guardrails.policy import lint, load_policy

    errors: list[Problem] = []
    warnings: list[Problem] = []
    sound: list[dict[str, Any]] = []
    for file in files:
        try:
            loaded = load_policy(file)
        except PolicyError as error:
            errors.extend(error.problems)
            continue
        warnings.extend(lint(loaded.policy))
        sound.append({
            "file": str(file), "name": loaded.policy.name, "digest": str(loaded.source.digest),
            "rules": len(loaded.policy.rules), "mode": loaded.policy.mode,
        })  # fmt: skip
    data = {
        "ok": not errors,
        "errors": [_problem_fields(problem) for problem in errors],
        "warnings": [_problem_fields(problem) for problem in warnings],
        "policies": sound,
    }

    def draw(console: Console) -> None:
        for found in sound:
            mark = presenters.Mark("✓", f"{found['file']}", "good")
            console.print(
                line(mark, f"{found['name']} · {found['rules']} rules · {found['mode']} · {found['digest']}")
            )
        for tone, word, problems in (("bad", "error", errors), ("caution", "warning", warnings)):
            for problem in problems:
                console.print(
                    line(marked(presenters.Mark("✕" if tone == "bad" else "▲", word, tone)), str(problem)),
                    soft_wrap=True,
                )

    session.output.result("policy check", data, draw)
    if errors:
        raise Finished(PolicyError.exit_status)


def _problem_fields(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message,
        "hint": problem.hint,
    }  # fmt: skip


@add(policy, "schema", help="Print the JSON Schema (draft-07) of policies, for editors.")
def schema(session: Session) -> None:
    """Print the schema."""
    from guardrails.policy import policy_schema

    data = policy_schema()
    session.output.result("policy schema", data, lambda console: click.echo(json.dumps(data, indent=2)))


# --- what is in force ----------------------------------------------------------------------


@add(policy, "show", help="The policies in force; or one of them, as it was signed.")
@click.argument("name", required=False, default="")
def show_(session: Session, name: str) -> None:
    """Show policies in force."""
    from guardrails.ledger.standing import policy_of

    with session.view() as view:
        rows = view.policies()
    if not name:
        now = session.now()
        data = [
            {
                **presenters.policy_fields(row),
                "mode": policy_of(row.source).mode,
                "rules": len(policy_of(row.source).rules),
            }
            for row in rows
        ]

        def draw_all(console: Console) -> None:
            if not rows:
                empty(
                    console,
                    "No policy is in force: everything is blocked.",
                    "interlock policy activate FILE --reason …",
                )
                return
            cells = [
                (
                    item["name"],
                    item["mode"],
                    str(item["rules"]),
                    item["digest"],
                    presenters.age(item["activated_at"], now),
                )
                for item in data
            ]
            console.print(table(("Policy", "Mode", "Rules", "Digest", "In force"), cells, right=("Rules",)))

        session.output.result("policy show", data, draw_all)
        return
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        known = ", ".join(row.name for row in rows) or "none"
        raise UnknownNameError(f"no policy called {name:.80} is in force", hint=f"in force: {known}")
    fields = {**presenters.policy_fields(row), "texts": dict(row.source.files)}

    def draw(console: Console) -> None:
        console.print(
            pairs([("digest", str(row.source.digest)), ("activated", f"{row.activated_at} by {row.request}")])
        )
        for file in row.source.order:
            show(console, "", heading(file), line(row.source.files[file]))

    session.output.result("policy show", fields, draw)


@add(policy, "activate", help="Put a policy in force: sign its exact bytes. Loosening needs more people.")
@click.argument("file", type=click.Path(path_type=Path))
@reason_and_role
def activate(session: Session, file: Path, reason: str, role: str | None) -> None:
    """Activate a policy."""
    from guardrails.decisions import Intention
    from guardrails.policy import lint, load_policy

    loaded = load_policy(file)
    person = session.person()
    with session.view() as view:
        _announce(session, view, loaded.policy.name, loaded.policy)
    for problem in lint(loaded.policy):
        session.output.warn(str(problem))
    wish = Intention(
        Action.ACTIVATE,
        loaded.policy.name,
        person.id,
        Role.OPERATOR,
        reason,
        Surface.CLI,
        policy=loaded.source,
    )
    sign_request(session, wish, role)


@add(policy, "deactivate", help="Take a policy out of force; that counts as loosening.")
@click.argument("name")
@reason_and_role
def deactivate(session: Session, name: str, reason: str, role: str | None) -> None:
    """Deactivate a policy."""
    from guardrails.decisions import Intention

    person = session.person()
    with session.view() as view:
        if name not in {row.name for row in view.policies()}:
            known = ", ".join(row.name for row in view.policies()) or "none"
            raise UnknownNameError(f"no policy called {name:.80} is in force", hint=f"in force: {known}")
        _announce(session, view, name, None)
    wish = Intention(Action.DEACTIVATE, name, person.id, Role.OPERATOR, reason, Surface.CLI)
    sign_request(session, wish, role)


def _announce(session: Session, view: View, name: str, new: Policy | None) -> None:
    """Say what a change of policies would change, before anybody signs."""
    from guardrails.ledger.standing import policy_of
    from guardrails.policy import compare

    in_force = {row.name: policy_of(row.source) for row in view.policies()}
    others = [known for own, known in in_force.items() if own != name]
    changes = compare(in_force.get(name), new, others)
    for change in changes:
        if change.loosens:
            session.output.warn(str(change))
        else:
            session.output.note(str(change))
    if not changes:
        session.output.note(f"{name}: no rule and no setting changes")


# --- waivers -------------------------------------------------------------------------------


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
    from guardrails.ledger.standing import policy_of

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
