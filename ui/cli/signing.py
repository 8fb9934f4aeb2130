"""One signed decision, from a wish to a receipt: the same few steps for every command that decides.

Invariants:
- The decision is bound to the state of the workspace before anything is shown, so what was shown and what is
  signed cannot drift apart: if the state moves meanwhile, the gate refuses.
- The passphrase is asked for last; until then nothing has been written anywhere.
- No rule lives here: which role to offer follows from what the policies ask for, the gate has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrails.errors import DeniedError, UsageError
from guardrails.records import Action, Person, Role
from ui.cli.output import line, pairs, show
from ui.presenters import Mark

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decisions import Draft, Intention, Receipt
    from guardrails.policy import QuorumRule
    from guardrails.view import View
    from ui.cli.session import Session

_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

F = TypeVar("F", bound=Callable[..., Any])

PAST = {
    Action.APPROVE: "approved", Action.REJECT: "rejected", Action.WITHDRAW: "withdrawn",
    Action.ROLLBACK: "rollback signed", Action.HALT: "halt signed", Action.RESUME: "resume signed",
    Action.WAIVE: "waiver signed", Action.ACTIVATE: "activation signed",
    Action.DEACTIVATE: "deactivation signed", Action.ADOPT: "adopted",
    Action.COMMENT: "said", Action.REQUEST_CHANGES: "change asked for", Action.REVOKE: "revocation signed",
    Action.SET_CLOCK: "clock confirmed",
    Action.ERASE: "erasure signed",
}  # fmt: skip


def reason_and_role(function: F) -> F:
    """The options of every decision: why, in which role, and signed here or elsewhere."""
    return signed_text("reason", "Why; it goes into the record.")(function)


def signed_text(name: str, what: str) -> Callable[[F], F]:
    """The same, with the text under another name; a remark calls it ``text``.

    With ``--import`` the command itself does not run: what was signed has been prepared and shown at the export.
    """
    return lambda function: _signable(function, name, what)


def _signable(function: F, name: str, what: str) -> F:
    @wraps(function)
    def decide(session: Session, import_: Path | None, **given: Any) -> Any:
        if import_ is not None:
            return _take_back(session, import_, given, name)
        if given[name] is None:
            raise click.MissingParameter(param_hint=f"'--{name}'", param_type="option")
        return function(session, **given)

    def keep_export(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
        session = ctx.find_object(_session_class())
        if session is not None and value is not None:
            session.export = value

    choices = click.Choice([role.value for role in Role])
    for option in (
        click.option(
            "--import", "import_", type=click.Path(path_type=Path), metavar="FILE.sig",
            help="Hand in what was exported and then signed with ssh-keygen.",
        ),
        click.option(
            "--export", type=click.Path(path_type=Path), metavar="FILE", expose_value=False, callback=keep_export,
            help="Write the exact bytes to a file, to be signed elsewhere with ssh-keygen; nothing is decided yet.",
        ),
        click.option("--role", type=choices, help="The role to sign in [one that is asked for]."),
        click.option(f"--{name}", metavar="TEXT", help=what),
    ):  # fmt: skip
        decide = option(decide)
    return decide  # type: ignore[return-value]


def _session_class() -> type[Session]:
    from ui.cli.session import Session

    return Session


def _take_back(session: Session, file: Path, arguments: dict[str, Any], text: str) -> None:
    """Append a decision that was exported by this very command and signed elsewhere."""
    from ui.cli import offline

    if arguments[text] is not None or session.export is not None:
        raise UsageError(f"--import takes neither --{text} nor --export: what was signed says it all")
    back = offline.returned(session, file)
    decided = back.draft.decision
    offline.require_for(str(click.get_current_context().info_name), arguments, decided)
    receipt = offline.commit(session, back)
    signed_by = offline.signature_fields(back.signature)
    give_receipt(session, decided.action.value, receipt, role=decided.role.value,
                 viewed=list(decided.viewed), signed_by=signed_by)  # fmt: skip


def draft_of(session: Session, wish: Intention) -> Draft:
    """Bind a wish to the state of now; what will be signed elsewhere says so."""
    from guardrails.records import Surface

    surface = wish.surface if session.export is None else Surface.OFFLINE
    return session.workspace.gate.draft(replace(wish, surface=surface))


def offered_role(
    person: Person, rules: Iterable[QuorumRule], taken: Iterable[Role], chosen: str | None
) -> Role:
    """The role to sign in: the chosen one, else one that is asked for and not yet taken, else any."""
    if chosen is not None:
        role = Role(chosen)
        if role not in person.roles:
            held = ", ".join(own.value for own in person.roles)
            raise DeniedError(f"you do not hold the role {role.value}", hint=f"your roles: {held}")
        return role
    asked = [role for rule in rules for role in rule.roles if role in person.roles]
    free = [role for role in asked if role not in set(taken)]
    return next(
        iter([*free, *asked, *(role for role in person.roles if role is not Role.ROOT), *person.roles])
    )


def request_role(view: View, person: Person, wish: Intention, chosen: str | None, now: str) -> Role:
    """The role for a request, from the rules that the policies in force have for such a request."""
    from guardrails.ledger.asked import request_rules
    from guardrails.ledger.rows import RequestRow

    row = RequestRow(
        "R-0000",
        wish.action,
        wish.target,
        now,
        False,
        (),
        digest=wish.digest,
        policy=wish.policy,
        waiver=wish.waiver,
    )
    taken = [
        vote.role for request in view.requests() for vote in request.votes
        if not request.done and (request.action, request.target) == (wish.action, wish.target)
    ]  # fmt: skip
    return offered_role(person, request_rules(view.snapshot.tables, row), taken, chosen)


def sign(session: Session, draft: Draft, person: Person, name: str) -> Receipt:
    """Ask for the passphrase, sign and append; or write what is to be signed elsewhere, and end there."""
    if session.export is not None:
        from ui.cli.offline import give_export

        give_export(session, draft, session.export)
    key = session.unlock(person, name)
    return session.workspace.gate.commit(draft, key)


def give_receipt(session: Session, kind: str, receipt: Receipt, **more: Any) -> None:
    """Say what became of a decision."""
    alone = _acted_alone(session, receipt)
    data = {
        "id": receipt.request,
        "action": receipt.action.value,
        "target": receipt.target,
        "request": receipt.request,
        "state": receipt.state,
        "effect": receipt.effect,
        "sole_person": alone,
        "record": {"seq": receipt.record.seq, "sha256": receipt.record.sha256},
        **more,
    }

    def draw(console: Console) -> None:
        what = (
            receipt.target if receipt.request == receipt.target else f"{receipt.request} ({receipt.target})"
        )
        show(console, line(Mark("✓", f"{PAST[receipt.action]}: {what}", "good")))
        record = f"{receipt.record.seq} · {receipt.record.sha256}"
        effect = (receipt.effect or receipt.state) + (" (sole person)" if alone else "")
        console.print(pairs([("now", effect), ("record", record)]))

    session.output.result(kind, data, draw)


def _acted_alone(session: Session, receipt: Receipt) -> bool:
    """Whether what the decision led to says that one person acted alone."""
    with session.view() as view:
        following = receipt.record.seq + 1
        if following >= view.snapshot.size:
            return False
        statement = view.snapshot.entry(following).statement
    return statement.record in ("promotion", "rollback") and statement.body.get("sole_person") is True


def speak(session: Session, action: Action, target: str, reason: str, chosen: str | None) -> None:
    """One signed sentence that needs no quorum: a comment, or a word on a request."""
    from guardrails.decisions import Intention
    from guardrails.ledger.asked import request_rules
    from guardrails.records import Surface

    if not target.startswith(("P-", "R-")):
        raise UsageError(f"{target:.40} is neither a proposal (P-…) nor a request (R-…)")
    person = session.person()
    with session.view() as view:
        name = view.name_of(person.id)
        rules = (
            request_rules(view.snapshot.tables, view.request(target))
            if action is Action.REJECT and target.startswith("R-") else ()
        )  # fmt: skip
    role = offered_role(person, rules, (), chosen)
    draft = draft_of(session, Intention(action, target, person.id, role, reason, Surface.CLI))
    give_receipt(session, action.value, sign(session, draft, person, name), role=role.value)


def read_end(text: str, now: str, option: str) -> str:
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
            f"{option} {text:.40}: neither a duration nor a time", hint="like 72h, or 2027-01-31T12:00:00Z"
        )
    written = format_time(moment)
    if written <= now:
        raise UsageError(f"{option} {text:.40} is in the past")
    return written
