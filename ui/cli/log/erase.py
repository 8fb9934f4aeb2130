"""Erasing names and free text on lawful request: a signed record says so, then the texts are gone.

Invariants: the roots' threshold signs; the record holds commitments, never the texts; the log verifies as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guardrails.errors import UsageError
from guardrails.records import Action, Commitment, Role, Surface
from ui import presenters
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.output import line
from ui.cli.session import Session
from ui.cli.signing import give_receipt, sign

if TYPE_CHECKING:
    from guardrails.view import View


@add(
    log, "erase",
    help="Erase the names and free text in records, or all of one person's: signed by roots, the log stays whole.",
)  # fmt: skip
@click.argument("records", metavar="[SEQ]...", nargs=-1, type=click.IntRange(min=0))
@click.option(
    "--person", default="", metavar="PERSON", help="The name of a person, and every reason that they gave."
)
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept, so name nobody in it.")
@click.option("--scrub", is_flag=True, help="Only remove the last traces of what was erased from the files.")
def erase(session: Session, records: tuple[int, ...], person: str, reason: str, scrub: bool) -> None:
    """Erase texts."""
    if scrub:
        if records or person:
            raise UsageError("--scrub stands alone")
        session.workspace.gate.log.scrub()
        told = "nothing of what was erased is left in the database's files"
        session.output.result("log erase", {"scrubbed": True}, lambda console: console.print(line(told)))
        return
    if not (records or person):
        raise UsageError("say what: record numbers, or --person")
    if not reason:
        raise UsageError("a reason is needed: --reason TEXT; it is kept, so name nobody in it")
    from guardrails.decisions import Intention
    from guardrails.ledger.erasure import digest_of_list
    from guardrails.ledger.requests import WORKSPACE

    signer = session.person()
    with session.proven_view() as view:
        chosen = _chosen(view, records, person)
        name = view.name_of(signer.id)
    wish = Intention(
        Action.ERASE, WORKSPACE, signer.id, Role.ROOT, reason, Surface.CLI, digest=digest_of_list(chosen), erase=chosen,
    )  # fmt: skip
    draft = session.workspace.gate.draft(wish)
    session.output.announce(
        f"{presenters.counted(len(chosen), 'text')} will be erased; no erased text comes back"
    )
    receipt = sign(session, draft, signer, name)
    if receipt.state == "done":
        session.workspace.gate.log.scrub()
    give_receipt(session, "log erase", receipt, texts=len(chosen), scrubbed=receipt.state == "done")


def _chosen(view: View, records: tuple[int, ...], person: str) -> tuple[Commitment, ...]:
    """The commitments that still have a text, in the named records and of the named person."""
    from guardrails.decision_log.texts import commitments

    wanted = set(records)
    found: set[str] = set()
    who = _person_id(view, person) if person else ""
    for entry in view.snapshot.entries():
        body = entry.statement.body
        if entry.seq in wanted:
            found |= {item.sha256 for item in commitments(body)}
        if who and entry.statement.record == "roster":
            for listed in body.get("people", []):
                if listed.get("id") == who:
                    found |= {item.sha256 for item in commitments(listed)}
        if who and (body.get("person") == who or body.get("proposer") == who):
            found |= {item.sha256 for key in ("reason", "intent") for item in commitments(body.get(key))}
    for seq in sorted(wanted):
        view.snapshot.entry(seq)  # raises where there is no such record
    kept = sorted(name for name in found if view.snapshot.opening(Commitment(name)) is not None)
    if not kept:
        raise UsageError("there is no text to erase in that", hint="`interlock log show SEQ`")
    return tuple(Commitment(name) for name in kept)


def _person_id(view: View, person: str) -> str:
    """The id of somebody in the roster, or an id as it is: who left can still ask."""
    return person if person.startswith("p-") else view.person_called(person).id
