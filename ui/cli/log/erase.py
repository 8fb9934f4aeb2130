"""Erasing names, free text and answers on lawful request: a signed record says so, then the texts are gone.

Invariants: the roots' threshold signs; the record holds commitments and digests of statements, never the texts; the log
verifies as before.
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
    from guardrails.ledger.rows import AnswersRow
    from guardrails.view import View


@add(
    log, "erase",
    help="Erase the names, free text and answers in records, or all of one person's: signed by roots, the log stays whole.",
)  # fmt: skip
@click.argument("records", metavar="[SEQ]...", nargs=-1, type=click.IntRange(min=0))
@click.option(
    "--person",
    default="",
    metavar="PERSON",
    help="The name of a person, every reason that they gave and all that they handed in.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept, so name nobody in it.")
@click.option("--scrub", is_flag=True, help="Only remove the last traces of what was erased from the files.")
def erase(session: Session, records: tuple[int, ...], person: str, reason: str, scrub: bool) -> None:
    """Erase texts."""
    if scrub:
        if records or person:
            raise UsageError("--scrub stands alone")
        _finish(session)
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
        shaken = _set_aside(view, chosen)
        names = {row.person: view.name_of(row.person) for row in shaken}
    wish = Intention(
        Action.ERASE, WORKSPACE, signer.id, Role.ROOT, reason, Surface.CLI, digest=digest_of_list(chosen), erase=chosen,
    )  # fmt: skip
    draft = session.workspace.gate.draft(wish)
    session.output.announce(
        f"{presenters.counted(len(chosen), 'text')} will be erased; no erased text comes back"
    )
    for row in shaken:
        session.output.announce(
            f"record {row.seq}: {presenters.counted(row.answers, 'answer')} of {names[row.person]} to {row.asker} about"
            f" {row.model} will count no more until handed in again: what is erased may have corrected them"
        )
    receipt = sign(session, draft, signer, name)
    if receipt.state == "done":
        _finish(session)
    give_receipt(
        session, "log erase", receipt, texts=len(chosen), scrubbed=receipt.state == "done",
        set_aside=[row.seq for row in shaken],
    )  # fmt: skip


def _set_aside(view: View, chosen: tuple[Commitment, ...]) -> list[AnswersRow]:
    """What is not erased, counts now, and would count no more once the chosen texts are erased."""
    from guardrails.ledger.answers import standing
    from guardrails.ledger.rows import require_roster

    tables = view.snapshot.tables
    roster, gone = require_roster(tables), {item.sha256 for item in chosen}
    counts = {row.seq for row, why in standing(tables, roster) if not why}
    return [
        row for row, why in standing(tables, roster, erased=gone)
        if why and row.seq in counts and row.statement.hex not in gone
    ]  # fmt: skip


def _finish(session: Session) -> None:
    """Remove from files what records erased: traces in the database, statements of answers and drafts of them."""
    from sandbox.answers.forgetting import forget_erased

    workspace = session.workspace
    workspace.gate.log.scrub()
    with session.proven_view() as view:
        forget_erased(workspace.path, view.snapshot, workspace.store)


def _chosen(view: View, records: tuple[int, ...], person: str) -> tuple[Commitment, ...]:
    """What still has a text, in the named records and of the named person: commitments, and statements of answers.

    A statement that is lost is erased as well: a model's answers rest on it no more, and a backup may bring it back.
    """
    from guardrails.decision_log.tables import ERASED_TABLE
    from guardrails.decision_log.texts import commitments
    from guardrails.ledger.rows import AnswersRow, read_all

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
    kept = {name for name in found if view.snapshot.opening(Commitment(name)) is not None}
    kept |= {
        row.statement.hex for row in read_all(view.snapshot.tables, AnswersRow)
        if (row.seq in wanted or row.person == who)
        and view.snapshot.tables.get(ERASED_TABLE, row.statement.hex) is None
    }  # fmt: skip
    if not kept:
        raise UsageError("there is no text to erase in that", hint="`interlock log show SEQ`")
    return tuple(Commitment(name) for name in sorted(kept))


def _person_id(view: View, person: str) -> str:
    """The id of somebody in the roster, or an id as it is: who left can still ask."""
    return person if person.startswith("p-") else view.person_called(person).id
