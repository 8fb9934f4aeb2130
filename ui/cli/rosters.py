"""The roster: show it, change it with as many roots as it asks for, give a service a new key.

Invariants:
- What a root is asked to sign is shown first, as the difference to the roster in force, computed from the very
  bytes that are signed.
- A proposed roster travels as one file and gathers signatures; only ``commit`` touches the log, and the ledger
  decides. A key that was made for a change that did not come about is never left in force.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails import amendment as amendments
from guardrails.amendment import Amendment
from guardrails.decision_log.keys import HeldSignature, PersonKey, ServiceKey, person_keyid
from guardrails.decision_log.sshsig import PublicKey
from guardrails.errors import DeniedError, RecordError, StaleError, UsageError
from guardrails.ledger.people import SERVICES
from guardrails.ledger.roster import roots_of
from guardrails.records import Role
from ui import presenters
from ui.cli.group import add, group
from ui.cli.log.source import Source, reading, source_options
from ui.cli.offline import SIGNATURE, read_file, write_new
from ui.cli.output import empty, heading, line, pairs, show, table
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.envelope import Reference
    from guardrails.records import Opening, Person, Roster
    from guardrails.view import View

roster = group("roster", "Show and change who may decide what.")

Edit = Callable[["Roster"], "Roster"]


def key_option(function: Any) -> Any:
    """The option of every command that a root signs."""
    return click.option(
        "--key", "key_file", type=click.Path(path_type=Path), metavar="FILE",
        help="A root's private key that lies elsewhere, such as the recovery key.",
    )(function)  # fmt: skip


# --- looking -------------------------------------------------------------------------------


@add(roster, "show", help="The roster in force: people, roles, keys, service keys.")
@source_options
def show_(session: Session, source: Source) -> None:
    """Show the roster."""
    with reading(session, source) if source.bundle else session.proven_view() as view:
        current = view.roster
        here = None if source.bundle else session.workspace.people_keys
        people = [person_fields(person, name, here) for person, name in view.people()]
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
        roots = len(roots_of(current))
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


def person_fields(person: Person, name: str, people_keys: Path | None) -> dict[str, Any]:
    """One person for programs; ``people_keys`` is the workspace's folder of private keys, where there is one."""
    return {
        "id": person.id,
        "name": name,
        "roles": [role.value for role in person.roles],
        "keys": [person_keyid(key.public) + (" (revoked)" if key.revoked else "") for key in person.keys],
        "public_keys": [key.public for key in person.keys if not key.revoked],
        "key_here": people_keys is not None and (people_keys / person.id).is_file(),
    }


# --- several roots -------------------------------------------------------------------------


@add(roster, "propose", help="Prepare the next roster as a file, for as many roots to sign as it needs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A new file.")
@click.option(
    "--add", "added", multiple=True, metavar="NAME=KEYFILE", help="A person, by an OpenSSH public key."
)
@click.option("--roles", multiple=True, metavar="NAME=ROLE,…", help="All roles of a person from now on.")
@click.option("--add-key", "keys", multiple=True, metavar="NAME=KEYFILE", help="One more key of a person.")
@click.option("--revoke", "revoked", multiple=True, metavar="NAME", help="Revoke every key of a person.")
@click.option("--revoke-key", "revoked_keys", multiple=True, metavar="SHA256:…", help="Revoke one key.")
@click.option("--threshold", type=click.IntRange(min=1), metavar="N", help="How many roots a change needs.")
@click.option("--service", "services", multiple=True, type=click.Choice(SERVICES), help="Give it a new key.")
def propose(
    session: Session, out: Path, added: tuple[str, ...], roles: tuple[str, ...], keys: tuple[str, ...],
    revoked: tuple[str, ...], revoked_keys: tuple[str, ...], threshold: int | None, services: tuple[str, ...],
) -> None:  # fmt: skip
    """Prepare a change of the roster."""
    from ui.setup import person_with

    if out.exists():
        raise UsageError(f"{out} exists already; nothing was written")
    openings: list[Opening] = []
    with session.proven_view() as view:
        current = in_force(view)
        taken = {name: person.id for person, name in view.people()}
        ids = {**taken, **{person.id: person.id for person, _ in view.people()}}
    changed = amendments.following(current)
    for name, file in _named(added, "--add"):
        if name.casefold() in {known.casefold() for known in taken}:
            raise UsageError(f"somebody is called {name:.80} already")
        person, opening = person_with(name, (Role.OPERATOR,), public_key(Path(file)))
        changed, ids[name] = amendments.with_person(changed, person), person.id
        openings.append(opening)
    for name in revoked:
        changed = amendments.without_keys(changed, _id(ids, name))
    for keyid in revoked_keys:
        owner = next((p.id for p in changed.people for k in p.keys if person_keyid(k.public) == keyid), "")
        changed = amendments.without_keys(changed, owner, keyid)
    for name, file in _named(keys, "--add-key"):
        changed = amendments.with_key(changed, _id(ids, name), public_key(Path(file)))
    for name, listed in _named(roles, "--roles"):
        changed = amendments.with_roles(changed, _id(ids, name), _roles(listed))
    if threshold is not None:
        changed = replace(changed, threshold=threshold)
    for service in services:
        changed = amendments.with_service(changed, service, successor(session, service).public_base64)
    amendments.require_acceptable(current, changed)
    made = Amendment(session.workspace.gate.draft_roster(changed), openings=tuple(openings))
    write_new(out, made.encode())
    _give(session, "roster propose", made, current, out)


@add(roster, "sign", help="Read a proposed roster and add your signature: here, or offline with ssh-keygen.")
@click.argument("file", type=click.Path(path_type=Path))
@key_option
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="FILE", help="Write the exact bytes to sign."
)
@click.option(
    "--import", "import_", type=click.Path(path_type=Path), metavar="FILE.sig", help="Take a signature."
)
def sign(
    session: Session, file: Path, key_file: Path | None, export: Path | None, import_: Path | None
) -> None:
    """Sign a proposed roster."""
    if sum(item is not None for item in (key_file, export, import_)) > 1:
        raise UsageError("give one of --key, --export and --import")
    made, current = read_amendment(session, file)
    if export is not None:
        write_new(export, made.message)
        _give(session, "roster sign", made, current, file, exported=export)
        return
    if import_ is None:
        draw_amendment(session.output.console(sys.stderr), _fields(session, made, current))
    signer: PersonKey | HeldSignature
    if import_ is not None:
        signer = HeldSignature.parse(read_file(import_).decode("utf-8", "replace"), str(import_))
        signer.sign(made.message)
    else:
        signer = root_key(session, key_file)
    roots = (*roots_of(current), *roots_of(made.roster))
    if signer.public not in {key.public for person in roots for key in person.keys if not key.revoked}:
        raise DeniedError(
            f"{signer.keyid} is not the key of a root, neither now nor in what is proposed",
            hint="interlock roster show",
        )
    signed = made.signed(signer)
    incoming = file.with_name(f"{file.name}.new")
    incoming.unlink(missing_ok=True)
    write_new(incoming, signed.encode())
    incoming.replace(file)
    _give(session, "roster sign", signed, current, file)


@add(roster, "commit", help="Put a proposed roster in force, once every root that it needs has signed.")
@click.argument("file", type=click.Path(path_type=Path))
def commit(session: Session, file: Path) -> None:
    """Commit a proposed roster."""
    made, current = read_amendment(session, file)
    reference = put_in_force(session, made, current)
    _give(session, "roster commit", made, current, file, record=reference)
    session.output.note(VOID)


@add(roster, "rotate-service", help="Give a service a new key; a log key is handed over by both keys.")
@click.argument("name", type=click.Choice(SERVICES))
@key_option
def rotate_service(session: Session, name: str, key_file: Path | None) -> None:
    """Rotate the key of a service."""
    made, _, reference = one_step(
        session, lambda known: amendments.with_service(known, name, successor(session, name).public_base64),
        key_file=key_file, otherwise=f"interlock roster propose --service {name} --out FILE",
    )  # fmt: skip
    data = {
        "service": name, "public_key": made.roster.services[name], "roster": made.roster.version,
        "record": {"seq": reference.seq, "sha256": reference.sha256},
    }  # fmt: skip
    told = presenters.Mark("✓", f"the {name} service has a new key in roster {made.roster.version}", "good")
    session.output.result("roster rotate-service", data, lambda console: show(console, line(told)))
    session.output.note("restart what runs on this workspace (loop, console): it still has the former key")


# --- the steps -----------------------------------------------------------------------------

VOID = "approvals given under the former roster no longer count where the policy says so"


def one_step(
    session: Session, edit: Edit, *, key_file: Path | None, otherwise: str, openings: tuple[Opening, ...] = (),
    also: tuple[PersonKey, ...] = (),
) -> tuple[Amendment, Roster, Reference]:  # fmt: skip
    """Change the roster with one root's signature; where it needs more, say which command to use instead."""
    with session.proven_view() as view:
        current = in_force(view)
    if key_file is None:
        require_root(session)
    if current.threshold > 1:
        raise DeniedError(
            f"the roster is changed by {current.threshold} roots together",
            hint=f"prepare it with: {otherwise}",
        )
    changed = edit(amendments.following(current))
    amendments.require_acceptable(current, changed)
    key = root_key(session, key_file)
    made = Amendment(session.workspace.gate.draft_roster(changed), openings=openings).signed(key, *also)
    return made, current, put_in_force(session, made, current)


def put_in_force(session: Session, made: Amendment, current: Roster) -> Reference:
    """Append a roster that is signed as it must be, and bring the keys of its services into their place."""
    from ui.wiring import Workspace

    old, new = made.missing(current)
    if old or new:
        raise DeniedError(
            f"signatures are missing: {_missing(old, new)}",
            hint="each signs with: interlock roster sign FILE",
        )
    workspace = session.workspace
    following = {
        name: workspace.service_key(name, following=True)
        for name, public in made.roster.services.items()
        if current.services.get(name) != public
    }
    successors = {name: ServiceKey.load(path) for name, path in following.items() if path.is_file()}
    reference = workspace.gate.commit_roster(made.envelope(), made.openings, successors)
    if successors:
        Workspace(workspace.path).gate.log.close()  # opening it moves each new key into its place
    return reference


def root_key(session: Session, key_file: Path | None) -> PersonKey:
    """The unlocked key of the root who acts: from a file that was given, or from this workspace."""
    if key_file is not None:
        return PersonKey.load(key_file, session.passphrase(f"Passphrase of {key_file}: "))
    person, name = require_root(session)
    return session.unlock(person, name)


def require_root(session: Session) -> tuple[Person, str]:
    """Who acts, if they are a root; raises DeniedError."""
    person = session.person()
    with session.view() as view:
        name = view.name_of(person.id)
    if Role.ROOT not in person.roles:
        raise DeniedError(f"only a root can change the roster; {name} is none", hint="interlock roster show")
    return person, name


def successor(session: Session, name: str) -> ServiceKey:
    """The next key of a service; one that was made for a change that did not come about is used again."""
    path = session.workspace.service_key(name, following=True)
    if not path.exists():
        ServiceKey.generate().save(path)
    return ServiceKey.load(path)


def in_force(view: View) -> Roster:
    """The roster in force; raises DeniedError before set-up."""
    if view.roster is None:
        raise DeniedError("nobody has been set up yet", hint="interlock init --operator NAME")
    return view.roster


def read_amendment(session: Session, file: Path) -> tuple[Amendment, Roster]:
    """A proposed roster, and the one in force, which it must follow."""
    made = Amendment.decode(read_file(file), str(file))
    with session.proven_view() as view:
        current, origin = in_force(view), view.snapshot.origin
    if made.statement.log != origin:
        raise DeniedError(f"{file}: it is for the log {made.statement.log:.80}, this is {origin}")
    if made.roster.version != current.version + 1:
        raise StaleError(
            f"{file}: it proposes roster {made.roster.version}, but {current.version} is in force",
            hint="prepare it again",
        )
    return made, current


def public_key(path: Path) -> str:
    """An OpenSSH public key from a file, as the roster writes it; refuses what cannot sign decisions."""
    try:
        return PublicKey.parse(read_file(path).decode("utf-8", "replace")).text
    except RecordError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None


def _named(given: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    split = [item.partition("=") for item in given]
    if any(not name or not value for name, _, value in split):
        raise UsageError(f"{option} is written NAME=VALUE")
    return [(name, value) for name, _, value in split]


def _id(ids: dict[str, str], name: str) -> str:
    if name not in ids:
        raise UsageError(f"nobody here is called {name:.80}", hint="interlock roster show")
    return ids[name]


def _roles(listed: str) -> tuple[Role, ...]:
    try:
        return tuple(dict.fromkeys(Role(word.strip()) for word in listed.split(",") if word.strip()))
    except ValueError:
        known = ", ".join(role.value for role in Role)
        raise UsageError(
            f"--roles: {listed:.80} names a role that there is not", hint=f"roles: {known}"
        ) from None


# --- words ---------------------------------------------------------------------------------


def _fields(session: Session, made: Amendment, current: Roster) -> dict[str, Any]:
    texts = {opening.commitment(): opening.text for opening in made.openings}
    joining = {person.id: texts[person.name] for person in made.roster.people if person.name in texts}
    with session.view() as view:
        return amendments.fields_of(made, current, lambda item: joining.get(item) or view.name_of(item))


def _give(
    session: Session, kind: str, made: Amendment, current: Roster, file: Path, *, exported: Path | None = None,
    record: Reference | None = None,
) -> None:  # fmt: skip
    data = {**_fields(session, made, current), "file": str(file)}
    if exported is not None:
        data["exported"] = str(exported)
    if record is not None:
        data["record"] = {"seq": record.seq, "sha256": record.sha256}

    def draw(console: Console) -> None:
        draw_amendment(console, data)
        if record is not None:
            told = presenters.Mark("✓", f"roster {data['version']} is in force, record {record.seq}", "good")
            show(console, line(told))
        elif exported is not None:
            show(console, line(f"sign it: ssh-keygen -Y sign -n interlock-decision -f KEY {exported}"),
                 line(f"then:    interlock roster sign {file} --import {exported}{SIGNATURE}"))  # fmt: skip
        elif data["complete"]:
            show(console, line(f"every signature is there: interlock roster commit {file}"))
        else:
            show(console, line(
                f"missing: {_missing(data['missing_old'], data['missing_new'])}; each: interlock roster sign {file}"
            ))  # fmt: skip

    session.output.result(kind, data, draw)


def draw_amendment(console: Console, data: dict[str, Any]) -> None:
    """What a proposed roster changes, and who has signed it."""
    show(console, line(heading(f"Roster {data['version']} of {data['log']}")))
    for change in data["changes"]:
        show(console, line(f"  {presenters.one_line(change, 300)}"))
    console.print(
        pairs([("prepared", data["time"]), ("signed by", ", ".join(data["signed_by"]) or "nobody yet")])
    )


def _missing(old: int, new: int) -> str:
    """How many roots have yet to sign, of those in force and of those that the roster names."""
    parts = [(old, "of the roots now"), (new, "of the roots that it names")]
    return ", ".join(f"{count} {whose}" for count, whose in parts if count)
