"""People: who is in the roster, and adding somebody to it.

Invariants: each change is a new roster version signed by a root; a private key is written only for the
person being added, behind a passphrase of their own, and removed again if the roster was refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from guardrails.decision_log.keys import KDF_ROUNDS, person_keyid
from guardrails.errors import DeniedError, UsageError
from guardrails.records import Role
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import empty, line, pairs, show, table
from ui.cli.session import Session, read_passphrase

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.records import Person
    from guardrails.view import View

operator = group("operator", "Add and list people.")
roster = group("roster", "Show who may decide what.")


@add(operator, "add", help="Add a person with a new key; a root signs the new roster.")
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, default=("operator",), show_default=True,
    type=click.Choice([role.value for role in Role]), help="What they may do; repeat for several.",
)  # fmt: skip
@click.option(
    "--new-passphrase-file", default="", metavar="FILE", help="The new person's passphrase, from a file."
)
@click.option(
    "--new-passphrase-fd", type=click.IntRange(min=0), metavar="N", help="… from a file descriptor."
)
def add_(
    session: Session,
    name: str,
    roles: tuple[str, ...],
    new_passphrase_file: str,
    new_passphrase_fd: int | None,
) -> None:
    """Add a person."""
    from ui.setup import new_person

    signer = session.person()
    with session.view() as view:
        current = view.roster
        signer_name = view.name_of(signer.id)
        taken = {own.casefold() for _, own in view.people()}
    if current is None or Role.ROOT not in signer.roles:
        raise DeniedError(
            f"only a root can change the roster; {signer_name} is none", hint="interlock roster show"
        )
    if " ".join(name.split()).casefold() in taken:
        raise UsageError(f"somebody is called {name:.80} already")
    root_key = session.unlock(signer, signer_name)
    prompt = f"New passphrase of {presenters.one_line(name, 80)}: "
    secret = read_passphrase(prompt, new_passphrase_file, new_passphrase_fd, fresh=True)
    wanted = tuple(Role(role) for role in dict.fromkeys(roles))
    person, key, opening = new_person(session.workspace, name, secret, wanted, rounds=KDF_ROUNDS)
    try:
        following = replace(current, version=current.version + 1, people=(*current.people, person))
        record = session.workspace.gate.record_roster(following, root_key, [opening])
    except BaseException:
        (session.workspace.people_keys / person.id).unlink(missing_ok=True)
        raise
    data: dict[str, Any] = {
        "id": person.id, "name": opening.text, "roles": [role.value for role in wanted], "key": key.keyid,
        "roster": following.version, "record": {"seq": record.seq, "sha256": record.sha256},
    }  # fmt: skip

    def draw(console: Console) -> None:
        show(console, line(presenters.Mark("✓", f"{opening.text} is in roster {following.version}", "good")))
        console.print(pairs([("id", person.id), ("roles", ", ".join(data["roles"])), ("key", key.keyid)]))

    session.output.result("operator add", data, draw)
    session.output.note("approvals given under the former roster no longer count where the policy says so")


@add(operator, "list", help="Everybody in the roster.")
def list_(session: Session) -> None:
    """List people."""
    with session.view() as view:
        data = [_person_fields(session, view, person, name) for person, name in view.people()]

    def draw(console: Console) -> None:
        if not data:
            empty(console, "Nobody has been set up yet.", "interlock init --operator NAME")
            return
        cells = [
            (
                item["name"],
                item["id"],
                ", ".join(item["roles"]),
                "here" if item["key_here"] else "elsewhere",
                item["keys"][0],
            )
            for item in data
        ]
        console.print(table(("Name", "ID", "Roles", "Key lies", "Fingerprint"), cells))

    session.output.result("operator list", data, draw)


@add(roster, "show", help="The roster in force: people, roles, keys, service keys.")
def show_(session: Session) -> None:
    """Show the roster."""
    with session.view() as view:
        current = view.roster
        people = [_person_fields(session, view, person, name) for person, name in view.people()]
    data: dict[str, Any] = {
        "version": current.version if current else 0,
        "threshold": current.threshold if current else 0,
        "people": people,
        "services": dict(current.services) if current else {},
    }

    def draw(console: Console) -> None:
        if current is None:
            empty(console, "There is no roster yet.", "interlock init --operator NAME")
            return
        roots = sum(Role.ROOT in person.roles for person in current.people)
        console.print(pairs([
            ("version", str(current.version)),
            ("changed by", f"{current.threshold} of {presenters.counted(roots, 'root')}"),
        ]))  # fmt: skip
        cells = [
            (item["name"], item["id"], ", ".join(item["roles"]), "\n".join(item["keys"])) for item in people
        ]
        console.print(table(("Name", "ID", "Roles", "Keys"), cells))
        console.print(table(("Service", "Public key (Ed25519, base64)"), sorted(current.services.items())))
        if roots == 1:
            console.print(
                line("Only one root: if that key is lost, nobody can change the roster. Add a second.")
            )

    session.output.result("roster show", data, draw)


def _person_fields(session: Session, view: View, person: Person, name: str) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": name,
        "roles": [role.value for role in person.roles],
        "keys": [person_keyid(key.public) + (" (revoked)" if key.revoked else "") for key in person.keys],
        "public_keys": [key.public for key in person.keys if not key.revoked],
        "key_here": (session.workspace.people_keys / person.id).is_file(),
    }
