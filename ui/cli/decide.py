"""Decisions of people: approve, reject, withdraw, roll back, halt, resume; and what is due.

Invariants: every decision is signed over exactly what was shown; ``approve`` shows findings, difference,
samples and provenance before it asks for the passphrase, and records just these as viewed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from guardrails.canonical import Digest
from guardrails.errors import StaleError, UnknownNameError, UsageError
from guardrails.records import Action, Decision, Surface
from ui import presenters
from ui.cli import comparison, drawing
from ui.cli.group import command
from ui.cli.output import heading, line, show
from ui.cli.session import Session
from ui.cli.signing import (
    draft_of,
    give_receipt,
    offered_role,
    read_end,
    reason_and_role,
    request_role,
    sign,
    speak,
)

if TYPE_CHECKING:
    from guardrails.decisions import Intention
    from guardrails.ledger.rows import ModelRow, ProposalRow
    from guardrails.policy import QuorumRule

VIEWED = ("findings", "diff", "samples", "provenance")


@command("approve", help="Approve a proposal (P-…), or add your signature to a request (R-…).")
@click.argument("id_", metavar="ID")
@click.option(
    "--valid-for",
    "valid_for",
    default="",
    metavar="TIME",
    help="Your approval counts only so long: 90m, 72h, 7d [as long as nothing changes].",
)
@reason_and_role
def approve(session: Session, id_: str, valid_for: str, reason: str, role: str | None) -> None:
    """Approve a proposal or sign a request."""
    if id_.upper().startswith("R-"):
        if valid_for:
            raise UsageError("--valid-for is for approvals; a request has an end of its own")
        _sign_request(session, id_.upper(), reason, role)
    else:
        _decide(session, Action.APPROVE, id_.upper(), reason, role, valid_for)


@command("reject", help="Reject a proposal or a request; one rejection ends it.")
@click.argument("id_", metavar="ID")
@reason_and_role
def reject(session: Session, id_: str, reason: str, role: str | None) -> None:
    """Reject a proposal or a request."""
    _say_no(session, Action.REJECT, id_.upper(), reason, role)


@command(
    "withdraw",
    help="Take back your approval, your request for change or your signature under a request; or, where you gave "
    "none, the proposal itself.",
)
@click.argument("id_", metavar="ID")
@reason_and_role
def withdraw(session: Session, id_: str, reason: str, role: str | None) -> None:
    """Withdraw what one signed, or a proposal."""
    _say_no(session, Action.WITHDRAW, id_.upper(), reason, role)


@command(
    "request-changes",
    help="Ask for a change: nothing is promoted until you approve, or withdraw what you asked for.",
)
@click.argument("id_", metavar="ID")
@reason_and_role
def request_changes(session: Session, id_: str, reason: str, role: str | None) -> None:
    """Hold a proposal up."""
    _decide(session, Action.REQUEST_CHANGES, id_.upper(), reason, role)


@command(
    "rollback", help="Return a model to an earlier champion; what was trained from later ones is quarantined."
)
@click.argument("model")
@click.option(
    "--to",
    "to",
    default="",
    metavar="DIGEST",
    help="A former champion; a unique beginning is enough [the previous one].",
)
@reason_and_role
def rollback(session: Session, model: str, to: str, reason: str, role: str | None) -> None:
    """Roll a model back."""
    with session.proven_view() as view:
        target = _former(view.model(model), to)
    _request(session, Action.ROLLBACK, model, reason, role, digest=target)


@command("halt", help="Stop every job and every promotion now; it holds until somebody resumes.")
@reason_and_role
def halt(session: Session, reason: str, role: str | None) -> None:
    """Halt the workspace."""
    from guardrails.ledger.requests import WORKSPACE

    _request(session, Action.HALT, WORKSPACE, reason, role)


@command("resume", help="Lift a halt.")
@reason_and_role
def resume(session: Session, reason: str, role: str | None) -> None:
    """Lift a halt."""
    from guardrails.ledger.requests import WORKSPACE

    _request(session, Action.RESUME, WORKSPACE, reason, role)


@command(
    "tick", help="Do what is due: promotions after a cool-down, expiries, verdicts under changed policies."
)
def tick(session: Session) -> None:
    """Do what is due."""
    from sandbox.witnessing import ask_all

    workspace = session.workspace
    done = workspace.gate.tick()
    done += [one.sentence for one in ask_all(workspace.gate.log, workspace.config.witnesses)]
    told = done or ["nothing was due"]
    session.output.result(
        "tick", {"done": done}, lambda console: show(console, *(line(text) for text in told))
    )


# --- proposals -----------------------------------------------------------------------------


def _say_no(session: Session, action: Action, target: str, reason: str, chosen: str | None) -> None:
    """Reject or withdraw: a proposal, or a request."""
    if target.startswith("R-"):
        speak(session, action, target, reason, chosen)
    else:
        _decide(session, action, target, reason, chosen)


def _decide(
    session: Session, action: Action, proposal: str, reason: str, chosen: str | None, valid_for: str = ""
) -> None:
    """One decision on a proposal."""
    from guardrails.decisions import Intention

    person = session.person()
    now = session.now()
    with session.proven_view() as view:
        row = view.proposal(proposal)
        name = view.name_of(person.id)
        rules: tuple[QuorumRule, ...] = ()
        if action is Action.APPROVE:
            standing = view.standing(row, now)
            rules = standing.rules if standing else ()
        taken = [vote.role for vote in row.votes if vote.action is Action.APPROVE]
        role = offered_role(person, rules, taken, chosen)
        findings = presenters.detail_fields(row, view.name_of, view.text)
    viewed = VIEWED if action is Action.APPROVE else ()
    until = read_end(valid_for, now, "--valid-for") if valid_for else ""
    wish = Intention(action, row.id, person.id, role, reason, Surface.CLI, viewed=viewed, expires_at=until)
    draft = draft_of(session, wish)
    if row.verdict_record is None or draft.decision.binding is not None:
        _require_same(row, draft.decision)
    if action is Action.APPROVE:
        _present(session, row, findings, now)
    give_receipt(
        session, action.value, sign(session, draft, person, name), role=role.value, viewed=list(viewed)
    )


def _require_same(row: ProposalRow, decision: Decision) -> None:
    """What will be signed must be what is about to be shown."""
    binding = decision.binding
    if binding is None or binding.verdict != row.verdict_record or binding.evidence != row.evidence_record:
        raise StaleError(f"{row.id} changed just now", hint="look at it again")


def _present(session: Session, row: ProposalRow, fields: presenters.Json, now: str) -> None:
    """Show what an approval must have seen; raises where a part of it cannot be shown."""
    from guardrails.errors import InterlockError
    from guardrails.ledger.in_force import policy_of
    from guardrails.ledger.judging import read_measurements

    samples = read_measurements(session.workspace.store, row).samples
    with session.view() as view:
        policies = [policy_of(policy.source) for policy in view.policies()]
    diff = comparison.compared(session, row)
    if row.verdict is None or diff is None or "error" in diff:
        raise InterlockError(
            f"{row.id}: what would be approved cannot be shown: {(diff or {}).get('error', '')}"
        )
    # With --json the answer alone goes to standard output; a person still has to see this.
    console = session.output.console(sys.stderr if session.output.json else sys.stdout)
    drawing.draw_title(console, row, now)
    console.print(line(presenters.headline(row.verdict)))
    drawing.draw_outline(console, row, fields, policies)
    show(console, "", heading("Rules"))
    drawing.draw_findings(console, row.verdict)
    comparison.draw(console, diff)
    show(console, "", heading("Samples"))
    if not samples:
        console.print("none were taken")
    drawing.draw_samples(console, samples)
    console.print("")
    drawing.draw_provenance(console, fields)
    drawing.draw_votes(console, fields["votes"], now)
    drawing.draw_remarks(console, fields["remarks"], now)
    console.print("")


# --- requests ------------------------------------------------------------------------------


def _request(
    session: Session,
    action: Action,
    target: str,
    reason: str,
    chosen: str | None,
    digest: Digest | None = None,
) -> None:
    """Open a request, or sign one that asks for the same."""
    from guardrails.decisions import Intention
    from guardrails.records import Role

    person = session.person()
    wish = Intention(action, target, person.id, Role.OPERATOR, reason, Surface.CLI, digest=digest)
    sign_request(session, wish, chosen)


def _sign_request(session: Session, request_id: str, reason: str, chosen: str | None) -> None:
    """Add a signature to an open request, after showing it."""
    from guardrails.decisions import Intention
    from guardrails.ledger.asked import require_open
    from guardrails.records import Role

    person = session.person()
    with session.proven_view() as view:
        request = view.request(request_id)
        require_open(view.snapshot.tables, request, session.now())
        data = drawing.request_data(view, request)
    drawing.draw_request(session.output.console(sys.stderr), data, session.now())
    wish = Intention(
        request.action, request.target, person.id, Role.OPERATOR, reason, Surface.CLI, digest=request.digest,
        policy=request.policy, waiver=request.waiver, erase=request.erase,
    )  # fmt: skip
    sign_request(session, wish, chosen, expected=request.id)


def sign_request(session: Session, wish: Intention, chosen: str | None, expected: str = "") -> None:
    """Draft, sign and append one signature on a request; the wish's role is replaced by the one to offer."""
    from dataclasses import replace

    with session.proven_view() as view:
        person = view.person_called(wish.person)
        name = view.name_of(wish.person)
        role = request_role(view, person, wish, chosen, session.now())
    draft = draft_of(session, replace(wish, role=role))
    if expected and draft.decision.request != expected:
        raise StaleError(f"{expected} changed just now", hint="look at it again")
    give_receipt(session, wish.action.value, sign(session, draft, person, name), role=role.value)


def _former(model: ModelRow, wanted: str) -> Digest:
    """The former champion that a beginning names; the previous one where none is named."""
    if not wanted:
        for reign in model.history[-2::-1]:
            if reign.digest != model.champion and not reign.quarantined:
                return reign.digest
        raise UsageError(
            f"{model.name} has no earlier champion to return to", hint=f"interlock model show {model.name}"
        )
    start = wanted.lower().removeprefix("sha256:")
    found = sorted({reign.digest for reign in model.history if start and reign.digest.hex.startswith(start)})
    if not found:
        raise UnknownNameError(
            f"no champion of {model.name} starts with {wanted:.80}", hint=f"interlock model show {model.name}"
        )
    if len(found) > 1:
        raise UsageError(f"{wanted:.80} is the beginning of {len(found)} champions", hint="give more digits")
    return found[0]
