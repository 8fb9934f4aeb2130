"""Actions that wait for further signatures: rollbacks, policies, waivers, a resume that needs two."""

from __future__ import annotations

import streamlit as st

from guardrails.ledger import asked
from guardrails.ledger.rows import RequestRow
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import el
from ui.console.views import signing
from ui.presenters import ago, one_line


def show_open() -> None:
    """Every request that is not carried out yet, with who signed and what is missing."""
    with session.view() as view:
        waiting = [row for row in view.requests() if not row.done]
        if not waiting:
            return
        moment, person = session.now(), session.person_in(view)
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
                    el("small", one_line(tally.missing or "complete")), cls="cell",
                ))  # fmt: skip
            signed_already = person is not None and any(vote.person == person.id for vote in row.votes)
            with right:
                if st.button("Sign…", key=f"request-{row.id}", disabled=person is None or signed_already):
                    signing.open_dialog(ask_for(view, row))


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
