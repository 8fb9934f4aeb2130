"""Actions that wait for further signatures: rollbacks, policies, waivers, a resume that needs two."""

from __future__ import annotations

import streamlit as st

from guardrails.ledger import asked
from guardrails.ledger.asked import RequestState
from guardrails.ledger.rows import RequestRow, Vote
from guardrails.records import Action, Role
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import signing
from ui.presenters import age, ago, one_line


def show_open() -> None:
    """Every request that is not carried out yet, with who signed and what is missing."""
    with session.proven_view() as view:
        moment, person = session.now(), session.person_in(view)
        waiting = [row for row in view.requests() if view.request_state(row, moment) is RequestState.OPEN]
        if not waiting:
            return
        markup.show(
            el("div", el("h2", "Requests"), el("span", f"{len(waiting)} · need more signatures"), cls="group")
        )
        for row in waiting:
            tally = asked.tally_request(view.snapshot.tables, row, moment)
            signed = ", ".join(view.name_of(vote.person) for vote in row.votes)
            reason = view.text(row.votes[0].reason) if row.votes else ""
            left, right = st.columns([5, 1], vertical_alignment="center")
            with left:
                markup.show(el(
                    "div", el("b", f"{row.id} · {row.action.value} {row.target}"),
                    el("small", one_line(f"signed by {signed}, {ago(row.created_at, moment)}: {reason}", 300)),
                    el("small", one_line(_left(row, tally.missing or "complete", moment))),
                    *(_remark(view, said) for said in row.remarks), cls="cell",
                ))  # fmt: skip
            signed_already = person is not None and any(vote.person == person.id for vote in row.votes)
            with right:
                if signed_already:
                    if st.button("Withdraw…", key=f"withdraw-{row.id}"):
                        signing.open_dialog(ask_to_close(view, row, Action.WITHDRAW))
                    continue
                if st.button("Sign…", key=f"request-{row.id}", disabled=person is None):
                    signing.open_dialog(ask_for(view, row))
                entitled = person is not None and set(signing.roles_of_request(view, row)) & set(person.roles)
                if st.button("Reject…", key=f"reject-{row.id}", type="tertiary", disabled=not entitled):
                    signing.open_dialog(ask_to_close(view, row, Action.REJECT))


def _left(row: RequestRow, missing: str, moment: str) -> str:
    """What is missing, and for how long it can still be signed."""
    return f"{missing} · expires in {age(moment, row.terms.expires_at)}" if row.terms else missing


def _remark(view: View, said: Vote) -> Html:
    return el(
        "small", one_line(f"{view.name_of(said.person)}, {said.action.value}: {view.text(said.reason)}", 300)
    )


def ask_to_close(view: View, row: RequestRow, action: Action) -> signing.Ask:
    """The dialog for a withdrawal of one's signature, or for a rejection."""
    if action is Action.REJECT:
        then = "It ends here; whoever wants it asks for it anew."
        title, roles = f"Reject {row.id}", signing.roles_of_request(view, row)
    else:
        then = "Your signature counts no more; if it was the only one, the request ends."
        title, roles = f"Withdraw your signature under {row.id}", tuple(Role)
    return signing.Ask(
        action=action, target=row.id, title=title, verb=f"Sign and {action}", consequence=then, roles=roles,
        bound=(("request", row.id), ("asks for", f"{row.action.value} {row.target}")), hint="Why?",
    )  # fmt: skip


def ask_for(view: View, row: RequestRow) -> signing.Ask:
    """The dialog for a further signature under a request."""
    bound = [("request", row.id), ("target", row.target)]
    if row.digest is not None:
        bound.append(("digest", str(row.digest)))
    if row.policy is not None:
        bound.append(("policy bytes", str(row.policy.digest)))
    if row.waiver is not None:
        bound += [
            ("rule", row.waiver.rule),
            ("bundle", str(row.waiver.bundle)),
            ("ends", row.waiver.expires_at),
        ]
    return signing.Ask(
        action=row.action, target=row.target, title=f"Sign {row.id}", verb="Sign", bound=tuple(bound),
        consequence="With the last signature that it needs, this takes effect at once.",
        roles=signing.roles_of_request(view, row), digest=row.digest, policy=row.policy, waiver=row.waiver,
    )  # fmt: skip
