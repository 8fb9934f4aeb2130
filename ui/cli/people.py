"""People: who is in the roster, and the everyday changes to it, in one step for a sole root.

Invariants: each change is a new roster version that roots sign; a private key is written only for the person whose
key it is, behind a passphrase of their own, and removed again if the roster was refused; nobody is ever left out
of the roster, keys are revoked instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails import amendment as amendments
from guardrails.decision_log.keys import KDF_ROUNDS, PersonKey, person_keyid
from guardrails.errors import DeniedError, UsageError
from guardrails.records import Role
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import empty, line, pairs, show, table
from ui.cli.rosters import VOID, key_option, one_step, person_fields, public_key, require_root
from ui.cli.session import Session, read_passphrase

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.envelope import Reference
    from guardrails.records import Roster

operator = group("operator", "Add people, list them, revoke and replace their keys.")

PROPOSE = "interlock roster propose"


def _new_passphrase(function: Any) -> Any:
    """Where the passphrase of a key that is made here comes from."""
    file = click.option(
        "--new-passphrase-file", default="", metavar="FILE", help="The new key's passphrase, from a file."
    )
    number = click.option(
        "--new-passphrase-fd", type=click.IntRange(min=0), metavar="N", help="… from a file descriptor."
    )
    return file(number(function))


def _roles(function: Any) -> Any:
    return click.option(
        "--role", "roles", multiple=True, default=("operator",), show_default=True,
        type=click.Choice([role.value for role in Role]), help="What they may do; repeat for several.",
    )(function)  # fmt: skip


# --- joining -------------------------------------------------------------------------------


@add(operator, "add", help="Add a person with a new key; a root signs the new roster.")
@click.argument("name")
@_roles
@_new_passphrase
@key_option
def add_(
    session: Session, name: str, roles: tuple[str, ...], new_passphrase_file: str,
    new_passphrase_fd: int | None, key_file: Path | None,
) -> None:  # fmt: skip
    """Add a person."""
    from ui.setup import new_person

    _require_free(session, name)
    _require_one_root(session, key_file, f"{PROPOSE} --add NAME=KEYFILE --out FILE")
    prompt = f"New passphrase of {presenters.one_line(name, 80)}: "
    secret = read_passphrase(prompt, new_passphrase_file, new_passphrase_fd, fresh=True)
    wanted = tuple(Role(role) for role in dict.fromkeys(roles))
    person, key, opening = new_person(session.workspace, name, secret, wanted, rounds=KDF_ROUNDS)
    try:
        made, _, record = one_step(
            session, lambda known: amendments.with_person(known, person), key_file=key_file,
            otherwise=f"{PROPOSE} --add NAME=KEYFILE --out FILE", openings=(opening,),
        )  # fmt: skip
    except BaseException:
        (session.workspace.people_keys / person.id).unlink(missing_ok=True)
        raise
    _give(session, "operator add", made.roster, record, person.id, opening.text, key.keyid)


@add(
    operator, "import-ssh", help="Add a person by a public key of theirs; the private key stays where it is."
)
@click.argument("name")
@click.option(
    "--public-key", "file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="ssh-ed25519, or sk-ssh-ed25519@openssh.com (a hardware key).",
)  # fmt: skip
@_roles
@key_option
def import_ssh(
    session: Session, name: str, file: Path, roles: tuple[str, ...], key_file: Path | None
) -> None:
    """Add a person by an OpenSSH public key."""
    from ui.setup import person_with

    public = public_key(file)
    _require_free(session, name)
    person, opening = person_with(name, tuple(Role(role) for role in dict.fromkeys(roles)), public)
    made, _, record = one_step(
        session, lambda known: amendments.with_person(known, person), key_file=key_file,
        otherwise=f"{PROPOSE} --add NAME={file} --out FILE", openings=(opening,),
    )  # fmt: skip
    _give(session, "operator import-ssh", made.roster, record, person.id, opening.text, person_keyid(public))
    session.output.note("they sign offline: interlock approve ID --as NAME --reason … --export FILE")


# --- keys that are lost or stolen ----------------------------------------------------------


@add(operator, "revoke", help="Revoke a person's keys: from this record on, nothing that they sign counts.")
@click.argument("name")
@click.option(
    "--fingerprint", default="", metavar="SHA256:…", help="Only this key [every key of the person]."
)
@key_option
def revoke(session: Session, name: str, fingerprint: str, key_file: Path | None) -> None:
    """Revoke keys."""
    with session.proven_view() as view:
        person = view.person_called(name)
        told = view.name_of(person.id)
    keys = [person_keyid(key.public) for key in person.keys if not key.revoked]
    if not keys:
        raise DeniedError(f"every key of {told} is revoked already")
    made, _, record = one_step(
        session, lambda known: amendments.without_keys(known, person.id, fingerprint), key_file=key_file,
        otherwise=f"{PROPOSE} --revoke NAME --out FILE",
    )  # fmt: skip
    _give(session, "operator revoke", made.roster, record, person.id, told, "")


@add(
    operator, "rekey", help="Revoke a person's keys and give them a new one: made here, or their public key."
)
@click.argument("name")
@click.option(
    "--public-key",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Their new OpenSSH public key.",
)
@_new_passphrase
@key_option
def rekey(
    session: Session, name: str, file: Path | None, new_passphrase_file: str, new_passphrase_fd: int | None,
    key_file: Path | None,
) -> None:  # fmt: skip
    """Replace a person's key."""
    from ui.setup import require_passphrase

    with session.proven_view() as view:
        person = view.person_called(name)
        told = view.name_of(person.id)
    otherwise = f"{PROPOSE} --revoke NAME --add-key NAME=KEYFILE --out FILE"
    _require_one_root(session, key_file, otherwise)
    place = session.workspace.people_keys / person.id
    incoming = place.with_name(f"{person.id}.next")
    fresh: PersonKey | None = None
    if file is None:
        prompt = f"New passphrase of {presenters.one_line(told, 80)}: "
        secret = read_passphrase(prompt, new_passphrase_file, new_passphrase_fd, fresh=True)
        require_passphrase(secret)
        fresh = PersonKey.generate()
        incoming.unlink(missing_ok=True)
        fresh.save(incoming, secret, rounds=KDF_ROUNDS)
    public = fresh.public if fresh else public_key(file or Path())
    try:
        made, _, record = one_step(
            session,
            lambda known: amendments.with_key(amendments.without_keys(known, person.id), person.id, public),
            key_file=key_file, otherwise=otherwise,
            also=(fresh,) if fresh and Role.ROOT in person.roles else (),
        )  # fmt: skip
    except BaseException:
        incoming.unlink(missing_ok=True)
        raise
    if fresh:
        incoming.replace(place)
    else:
        place.unlink(missing_ok=True)
    _give(session, "operator rekey", made.roster, record, person.id, told, person_keyid(public))


# --- looking -------------------------------------------------------------------------------


@add(operator, "list", help="Everybody in the roster.")
def list_(session: Session) -> None:
    """List people."""
    with session.view() as view:
        data = [person_fields(person, name, session.workspace.people_keys) for person, name in view.people()]

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
                item["keys"][-1],
            )
            for item in data
        ]
        console.print(table(("Name", "ID", "Roles", "Key lies", "Fingerprint"), cells))

    session.output.result("operator list", data, draw)


# --- inside --------------------------------------------------------------------------------


def _require_free(session: Session, name: str) -> None:
    with session.view() as view:
        taken = {own.casefold() for _, own in view.people()}
    if " ".join(name.split()).casefold() in taken:
        raise UsageError(f"somebody is called {name:.80} already")


def _require_one_root(session: Session, key_file: Path | None, otherwise: str) -> None:
    """Refuse before a key is made where one root's signature would not do, or is not to be had."""
    if key_file is None:
        require_root(session)
    with session.view() as view:
        if view.roster is not None and view.roster.threshold > 1:
            raise DeniedError(
                f"the roster is changed by {view.roster.threshold} roots together",
                hint=f"prepare it with: {otherwise}",
            )


def _give(
    session: Session, kind: str, roster: Roster, record: Reference, person_id: str, name: str, keyid: str
) -> None:
    person = next(person for person in roster.people if person.id == person_id)
    data: dict[str, Any] = {
        "id": person_id, "name": name, "roles": [role.value for role in person.roles], "key": keyid or None,
        "roster": roster.version, "record": {"seq": record.seq, "sha256": record.sha256},
    }  # fmt: skip

    def draw(console: Console) -> None:
        told = {
            "operator revoke": f"keys of {name} are revoked from record {record.seq} on",
            "operator rekey": f"{name} has a new key in roster {roster.version}",
        }.get(kind, f"{name} is in roster {roster.version}")
        show(console, line(presenters.Mark("✓", told, "good")))
        console.print(
            pairs([("id", person_id), ("roles", ", ".join(data["roles"])), ("key", keyid or "none")])
        )

    session.output.result(kind, data, draw)
    session.output.note(VOID)
