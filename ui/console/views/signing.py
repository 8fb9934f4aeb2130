"""The one dialog in which people sign, and the receipt that stays on the page afterwards.

Invariants: the dialog names what is signed, to the digest, and what follows from it; the reason is typed,
never preset; the passphrase field is emptied after every attempt, the reason is kept; a refusal is shown
in the dialog and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from guardrails.canonical import Digest
from guardrails.decisions import MAX_REASON_CHARS, Intention, Receipt
from guardrails.errors import InterlockError, StaleError
from guardrails.ledger import asked
from guardrails.ledger.rows import RequestRow
from guardrails.policy import QuorumRule
from guardrails.records import Action, Binding, ModelKind, PolicySource, Role, Surface, Waiver
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import offline
from ui.presenters import one_line


@dataclass(frozen=True)
class Ask:
    """Everything that one decision needs, as it was on the page when the dialog opened."""

    action: Action
    target: str
    title: str
    verb: str
    consequence: str
    roles: tuple[Role, ...]
    surface: Surface = Surface.CONSOLE
    bound: tuple[tuple[str, str], ...] = ()
    viewed: tuple[str, ...] = ()
    shown: Binding | None = None
    champion: Digest | None = None
    digest: Digest | None = None
    policy: PolicySource | None = None
    waiver: Waiver | None = None
    kind: ModelKind | None = None
    labels: dict[str, str] = field(default_factory=dict)
    hint: str = ""


def roles_for_request(view: View, action: Action, target: str) -> tuple[Role, ...]:
    """The roles that an action may be signed in."""
    row = RequestRow("", action, target, "", False, ())
    return _roles_of(asked.request_rules(view.snapshot.tables, row))


def roles_of_request(view: View, row: RequestRow) -> tuple[Role, ...]:
    """The roles that an open request may be signed in."""
    return _roles_of(asked.request_rules(view.snapshot.tables, row))


def _roles_of(rules: tuple[QuorumRule, ...]) -> tuple[Role, ...]:
    return tuple(dict.fromkeys(role for rule in rules for role in rule.roles))


def open_dialog(ask: Ask) -> None:
    """Open the dialog for one decision. Called from a button, never from what refreshes by itself."""
    session.drop_receipt()
    for key in ("sign-error", "sign-stale"):
        st.session_state.pop(key, None)
    offline.forget()
    st.dialog(ask.title, width="medium")(_dialog)(ask)


def _dialog(ask: Ask) -> None:
    with session.proven_view() as view:
        person = session.person_in(view)
        name = view.name_of(person.id) if person else ""
    if person is None:
        markup.show(markup.notice("caution", "Choose who you are, at the left, first."))
        return
    roles = [role for role in ask.roles if role in person.roles]
    if not roles:
        wanted = " or ".join(ask.roles) or "nobody"
        markup.show(
            markup.notice(
                "caution", f"{one_line(name, 60)} cannot sign this.", f"It needs the role {wanted}."
            )
        )
        return
    if st.session_state.get("sign-stale"):
        _stale()
        return
    markup.show(el("p", ask.consequence))
    if ask.bound:
        markup.show(markup.facts([(label, _value(value)) for label, value in ask.bound]))
    if offline.is_wanted(person.id):
        offline.show(
            lambda role, reason: _wish(ask, person.id, role, reason), ask.shown, ask.champion, roles, ask.hint
        )
        return
    attempt = int(st.session_state.setdefault("sign-attempt", 0))
    with st.form("sign", border=False):
        reason = st.text_area(
            "Reason, for the decision log", key=f"sign-reason-{ask.action}-{ask.target}", height=84,
            max_chars=MAX_REASON_CHARS, placeholder=ask.hint or "What did you look at, and what convinced you?",
        )  # fmt: skip
        role = st.selectbox("In the role", roles, format_func=str) if len(roles) > 1 else roles[0]
        passphrase = st.text_input(
            "Passphrase of your key", type="password", key=f"sign-passphrase-{attempt}", autocomplete="off"
        )
        error = markup_slot()
        submitted = st.form_submit_button(ask.verb, type="primary")
    by = f"Signed as {one_line(name, 60)}, with your own key. The record can be checked with ssh-keygen."
    markup.show(el("p", by, cls="dim fine"))
    if submitted:
        _submit(ask, person.id, Role(role), reason or "", passphrase or "")
    if message := st.session_state.get("sign-error"):
        with error:
            markup.show(markup.notice("bad", *message))


def markup_slot() -> st.delta_generator.DeltaGenerator:
    """A place inside the form that stays empty until there is something to say."""
    return st.container()


def _value(value: str) -> str:
    return el("span", value, cls="mono") if value.startswith("sha256:") else value


def _submit(ask: Ask, person: str, role: Role, reason: str, passphrase: str) -> None:
    st.session_state["sign-attempt"] += 1
    st.session_state.pop("sign-error", None)
    if not reason.strip():
        st.session_state["sign-error"] = (
            "A reason is needed.",
            "It goes into the decision log, for whoever asks later.",
        )
        st.rerun(scope="fragment")
    try:
        receipt = session.sign(
            _wish(ask, person, role, reason), passphrase, shown=ask.shown, champion=ask.champion
        )
    except StaleError as error:
        st.session_state["sign-stale"] = error.message
        st.rerun(scope="fragment")
    except InterlockError as error:
        st.session_state["sign-error"] = (error.message, error.hint)
        st.rerun(scope="fragment")
    session.keep_receipt(receipt)
    st.session_state.pop(f"sign-reason-{ask.action}-{ask.target}", None)
    st.rerun(scope="app")


def _wish(ask: Ask, person: str, role: Role, reason: str) -> Intention:
    return Intention(
        ask.action, ask.target, person, role, reason, ask.surface, viewed=ask.viewed, digest=ask.digest,
        policy=ask.policy, waiver=ask.waiver, kind=ask.kind, labels=ask.labels,
    )  # fmt: skip


def _stale() -> None:
    markup.show(markup.notice(
        "caution", "This changed while you were looking. Nothing was signed.",
        f"{st.session_state['sign-stale']}. Look at it as it is now, then decide.",
    ))  # fmt: skip
    if st.button("Show it as it is now", type="primary", icon=":material/refresh:"):
        st.session_state.pop("sign-stale", None)
        st.rerun(scope="app")


def receipt_notice(receipt: Receipt) -> Html:
    """What became of a decision, where in the log it stands, and its digest."""
    word = session.ACTION_WORDS[receipt.action]
    tone = "caution" if receipt.action in (Action.REJECT, Action.HALT) else "good"
    body = el(
        "p",
        f"{receipt.effect} · record {receipt.record.seq} · ",
        el("span", f"sha256:{receipt.record.sha256}", cls="mono"),
    )
    glyph = el("i", {"good": "✓"}.get(tone, "▲"), cls="gl", aria_hidden="true")
    inner = el("div", el("strong", f"{word} of {receipt.target} recorded."), body)
    return el("div", glyph, inner, cls=f"notice {tone} receipt", role="status")
