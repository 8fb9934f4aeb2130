"""What is in force: show it, and sign what should be. Editing a file changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrails.errors import UnknownNameError
from guardrails.records import Action, Role, Surface
from ui import presenters
from ui.cli.decide import sign_request
from ui.cli.group import add
from ui.cli.output import empty, heading, line, pairs, show, table
from ui.cli.policies.groups import policy
from ui.cli.session import Session
from ui.cli.signing import reason_and_role

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.authoring.on_disk import Apart
    from guardrails.policy import Policy
    from guardrails.view import View


@add(policy, "show", help="The policies in force; or one of them, as it was signed.")
@click.argument("name", required=False, default="", metavar="[NAME]")
@click.option(
    "--effective", is_flag=True, help="Every value that holds, and the policy line that it comes from."
)
@click.option("--model", default="", metavar="NAME", help="With --effective: for this model.")
def show_(session: Session, name: str, effective: bool, model: str) -> None:
    """Show policies in force."""
    if effective:
        from ui.cli.policies.effective import show_effective

        show_effective(session, name, model)
        return
    from guardrails.authoring.on_disk import apart, files_in
    from guardrails.ledger.in_force import policy_of

    with session.view() as view:
        rows = view.policies()
    differing = apart(rows, files_in(session.workspace.policy_folders()))
    if not name:
        now = session.now()
        data = [
            {
                **presenters.policy_fields(row),
                "mode": policy_of(row.source).mode,
                "rules": len(policy_of(row.source).rules),
                "differing_files": [
                    presenters.apart_fields(one) for one in differing if one.name == row.name
                ],
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
            draw_apart(console, differing)

        session.output.result("policy show", data, draw_all)
        return
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        known = ", ".join(row.name for row in rows) or "none"
        raise UnknownNameError(f"no policy called {name:.80} is in force", hint=f"in force: {known}")
    differing = [one for one in differing if one.name == name]
    fields = {
        **presenters.policy_fields(row), "texts": dict(row.source.files),
        "differing_files": [presenters.apart_fields(one) for one in differing],
    }  # fmt: skip

    def draw(console: Console) -> None:
        console.print(
            pairs([("digest", str(row.source.digest)), ("activated", f"{row.activated_at} by {row.request}")])
        )
        for file in row.source.order:
            show(console, "", heading(file), line(row.source.files[file]))
        draw_apart(console, differing)

    session.output.result("policy show", fields, draw)


def draw_apart(console: Console, found: Sequence[Apart]) -> None:
    """Which files are not what is in force, and what activating them would change."""
    for one in found:
        console.print(line(presenters.Mark("▲", one.sentence, "caution")), soft_wrap=True)
        for change in one.changes:
            told = f"{change.path}: {change.before or '–'} → {change.after or '–'} ({change.direction})"
            console.print(line("   ", told), soft_wrap=True)


@add(policy, "activate", help="Put a policy in force: sign its exact bytes. Loosening needs more people.")
@click.argument("file", type=click.Path(path_type=Path))
@reason_and_role
def activate(session: Session, file: Path, reason: str, role: str | None) -> None:
    """Activate a policy."""
    from guardrails.decisions import Intention
    from guardrails.policy import lint, load_policy
    from sandbox.tasks import TASKS
    from ui.cli.policies.files import known_suites  # it stands on this module

    loaded = load_policy(file)
    person = session.person()
    with session.proven_view() as view:
        _announce(session, view, loaded.policy.name, loaded.policy)
    for problem in lint(loaded.policy, TASKS, known_suites(session)):
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
    with session.proven_view() as view:
        if name not in {row.name for row in view.policies()}:
            known = ", ".join(row.name for row in view.policies()) or "none"
            raise UnknownNameError(f"no policy called {name:.80} is in force", hint=f"in force: {known}")
        _announce(session, view, name, None)
    wish = Intention(Action.DEACTIVATE, name, person.id, Role.OPERATOR, reason, Surface.CLI)
    sign_request(session, wish, role)


def _announce(session: Session, view: View, name: str, new: Policy | None) -> None:
    """Say what a change of policies would change, before anybody signs."""
    from guardrails.ledger.in_force import policy_of
    from guardrails.policy import compare, contradictions, unknown_waivers

    in_force = {row.name: policy_of(row.source) for row in view.policies()}
    others = [known for own, known in in_force.items() if own != name]
    after = [*others, new] if new is not None else others
    for problem in contradictions(after):
        session.output.warn(str(problem))
    granted = [(row.id, row.waiver.rule) for row in view.waivers() if not row.revoked]
    for told in unknown_waivers(after, granted):
        session.output.warn(told)
    changes = compare(in_force.get(name), new, others)
    for change in changes:
        if change.loosens:
            session.output.warn(str(change))
        else:
            session.output.note(str(change))
    if not changes:
        session.output.note(f"{name}: no rule and no setting changes")
