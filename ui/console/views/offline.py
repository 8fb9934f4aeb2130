"""Signing where the key is: the statement goes out as a file, the signature comes back as text.

Invariants: what is downloaded is to the byte what is signed, and what is shown is read from these bytes; the
statement is prepared once and kept, so a signature can only be handed in for that one; nothing is decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import streamlit as st

from guardrails import offline
from guardrails.canonical import Digest
from guardrails.decision_log.envelope import NAMESPACE
from guardrails.decisions import MAX_REASON_CHARS, Draft, Intention
from guardrails.errors import InterlockError, StaleError
from guardrails.records import Binding, Role, Surface
from ui.console import markup, session
from ui.console.markup import el
from ui.presenters import one_line

_DRAFT, _ERROR, _CHOSEN = "offline-draft", "offline-error", "offline-chosen"
_MAX_SIGNATURE_CHARS = 4000

Wish = Callable[[Role, str], Intention]


def is_wanted(person: str) -> bool:
    """Whether to sign offline: the person's key is not here, or they prefer it."""
    if not session.key_is_here(person):
        markup.show(markup.notice(
            "muted", "Your key is not in this workspace.", "Sign the statement where the key is, with ssh-keygen."
        ))  # fmt: skip
        return True
    return st.toggle("Sign offline, with ssh-keygen, instead of here", key=_CHOSEN)


def forget() -> None:
    """Drop a statement that was prepared; called when a dialog opens."""
    for key in (_DRAFT, _ERROR, _CHOSEN):
        st.session_state.pop(key, None)


def show(
    wish: Wish, shown: Binding | None, champion: Digest | None, roles: Sequence[Role], hint: str
) -> None:
    """The two steps: prepare the statement, hand in its signature."""
    draft: Draft | None = st.session_state.get(_DRAFT)
    if draft is None:
        _prepare(wish, shown, champion, roles, hint)
    else:
        _hand_in(draft)
    if message := st.session_state.get(_ERROR):
        markup.show(markup.notice("bad", *message))


def _prepare(
    wish: Wish, shown: Binding | None, champion: Digest | None, roles: Sequence[Role], hint: str
) -> None:
    with st.form("offline-prepare", border=False):
        reason = st.text_area(
            "Reason, for the decision log", height=84, max_chars=MAX_REASON_CHARS,
            placeholder=hint or "What did you look at, and what convinced you?",
        )  # fmt: skip
        role = st.selectbox("In the role", roles, format_func=str) if len(roles) > 1 else roles[0]
        if not st.form_submit_button("Prepare the statement", type="primary"):
            return
    st.session_state.pop(_ERROR, None)
    try:
        wanted = replace(wish(Role(role), reason or ""), surface=Surface.OFFLINE)
        st.session_state[_DRAFT] = session.prepare(wanted, shown=shown, champion=champion)
    except StaleError as error:
        st.session_state["sign-stale"] = error.message
    except InterlockError as error:
        st.session_state[_ERROR] = (error.message, error.hint)
    st.rerun(scope="fragment")


def _hand_in(draft: Draft) -> None:
    data = offline.export_statement(draft.payload)
    statement = offline.read_statement(data, "statement")
    name = f"{draft.decision.action.value}-{draft.decision.request or draft.decision.target}"
    facts: list[tuple[str, str]] = [
        ("decision", f"{statement.body['action']} {statement.body['target']}"),
        ("in the role", str(statement.body["role"])),
        ("signed", str(statement.body["surface"])),
        ("reason", draft.openings[0].text),
        ("time", statement.time),
        *((label, str(digest)) for label, digest in statement.subjects.items()),
    ]
    markup.show(el("p", "1. Download the statement. This is what its bytes say:"))
    markup.show(markup.facts([
        (label, el("span", value, cls="mono") if value.startswith("sha256:") else one_line(value, 200))
        for label, value in facts
    ]))  # fmt: skip
    st.download_button(
        "Download the statement", data, file_name=name, mime="application/octet-stream", on_click="ignore",
        icon=":material/download:",
    )  # fmt: skip
    markup.show(el("p", "2. Sign it where your key is:"))
    st.code(f"ssh-keygen -Y sign -n {NAMESPACE} -f ~/.ssh/id_ed25519 {name}", language=None, wrap_lines=True)
    markup.show(el("p", f"3. Paste what {name}.sig holds. Nothing is decided before."))
    # The console takes no uploads; a signature is a few lines of text.
    with st.form("offline-hand-in", border=False):
        given = st.text_area("The signature", height=130, max_chars=_MAX_SIGNATURE_CHARS,
                             placeholder="-----BEGIN SSH SIGNATURE-----")  # fmt: skip
        if not st.form_submit_button("Hand in", type="primary"):
            return
    st.session_state.pop(_ERROR, None)
    try:
        receipt = session.hand_in(draft, given or "")
    except StaleError as error:
        forget()
        st.session_state["sign-stale"] = error.message
        st.rerun(scope="fragment")
    except InterlockError as error:
        st.session_state[_ERROR] = (error.message, error.hint)
        st.rerun(scope="fragment")
    forget()
    session.keep_receipt(receipt)
    st.rerun(scope="app")
