"""What people say without deciding: comments, and the time of the workspace set right.

Invariants: every word is signed and kept in the decision log, like a decision; a comment moves nothing.
"""

from __future__ import annotations

import click

from guardrails.records import Action, Role, Surface
from ui.cli.decide import sign_request
from ui.cli.group import add, command, group
from ui.cli.session import Session
from ui.cli.signing import reason_and_role, signed_text, speak

clock = group("clock", "Set the log's time right, by the roots.")


@command("comment", help="Say something of a proposal (P-…) or a request (R-…); it decides nothing.")
@click.argument("id_", metavar="ID")
@signed_text("text", "What you have to say; it goes into the record.")
def comment(session: Session, id_: str, text: str, role: str | None) -> None:
    """Comment on a proposal or a request."""
    speak(session, Action.COMMENT, id_.upper(), text, role)


@add(clock, "confirm", help="Say, as a root, that this machine's time is right; the log goes on from it.")
@reason_and_role
def confirm(session: Session, reason: str, role: str | None) -> None:
    """Set the log's clock to the time of this machine."""
    from guardrails.decisions import Intention
    from guardrails.ledger.requests import WORKSPACE

    person = session.person()
    wish = Intention(Action.SET_CLOCK, WORKSPACE, person.id, Role.ROOT, reason, Surface.CLI)
    session.output.note(f"this machine says it is {session.now()}")
    sign_request(session, wish, role)
