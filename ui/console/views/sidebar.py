"""Beside every page: what this is, whether it runs, whether the log holds, and who is looking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from guardrails.errors import InterlockError
from guardrails.records import Action, Surface
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import signing
from ui.presenters import ago, counted, one_line

REFRESH_S = 3.0

_LOOP_WORDS = {
    "running": ("good", "Loop running"),
    "idle": ("good", "Loop waiting for its next round"),
    "halted": ("caution", "Loop halted"),
    "stopped": ("muted", "Loop stopped"),
    "silent": ("caution", "Loop gives no sign of life"),
    "absent": ("muted", "Loop not started"),
}


def show(pages: Mapping[str, Any]) -> None:
    """Draw the sidebar."""
    with st.sidebar:
        workspace = session.console().workspace.path
        markup.show(brand(workspace))
        with st.container(key="pages"):
            st.page_link(pages["queue"], icon=":material/inbox:", width="stretch")
            st.page_link(pages["champions"], icon=":material/trophy:", width="stretch")
            st.page_link(pages["policies"], icon=":material/rule:", width="stretch")
            st.page_link(pages["label"], icon=":material/edit_note:", width="stretch")
            st.page_link(pages["log"], icon=":material/history:", width="stretch")
        st.session_state["shown_size"] = session.log_size()
        _live()
        with session.view() as view:
            _who(view)
            _brake(view)


def brand(workspace: Path) -> Html:
    """The mark, the name, and which workspace this is."""
    folder = workspace.parent if workspace.name == ".interlock" else workspace
    name = el("div", el("b", "Interlock"), el("small", folder.name or str(folder), title=str(workspace)))
    return el("div", el("span", cls="logo", aria_hidden="true"), name, cls="brand")


@st.fragment(run_every=REFRESH_S)
def _live() -> None:
    """What changes by itself. Opens no dialog and reruns nothing else, so typed text stays."""
    if session.lock_if_idle():
        st.rerun(scope="app")
    try:
        size = session.log_size()
        with session.view() as view:
            halted = view.halted_by is not None
    except InterlockError as error:
        markup.show(el("div", _item("bad", "Log not readable", error.message), cls="state"))
        return
    markup.show(el("div", _loop(halted=halted), _questions(), _log(size), cls="state"))
    fresh = size - int(st.session_state.get("shown_size", size))
    if fresh > 0:
        word = counted(fresh, "new record")
        if st.button(f"{word} · Refresh", key="refresh", icon=":material/refresh:", width="stretch"):
            st.rerun(scope="app")


def _item(tone: str, title: str, *lines: str | None, live: bool = False) -> Html:
    body = el(
        "div",
        el("b", title),
        *(el("small", line) if not isinstance(line, Html) else line for line in lines if line),
    )
    return el("div", el("i"), body, cls=f"item {tone} {'live' if live else ''}")


def _loop(*, halted: bool) -> Html:
    state = session.loop_state()
    tone, title = _LOOP_WORDS.get(state.state, _LOOP_WORDS["absent"])
    if halted:
        return _item("caution", "Halted", "no job runs, nothing is promoted")
    if state.state != "running":
        return _item(tone, title)
    meter = el("div", el("i", style=f"width:{state.share:.0%}"), cls="meter", title=f"{state.share:.0%}")
    return _item(tone, title, one_line(f"{state.model} · {state.stage}", 90), meter, live=True)


def _questions() -> Html | None:
    """How many questions wait for people, where any do."""
    workspace = session.console().workspace
    try:
        counts = {name: len(workspace.desk(name).book().open()) for name in workspace.models_asked_about()}
    except InterlockError as error:
        return _item("bad", "Answers not readable", error.message)
    waiting = {name: count for name, count in counts.items() if count}
    title = f"{counted(sum(waiting.values()), 'question')} for people"
    return _item("caution", title, one_line("about " + ", ".join(waiting), 90)) if waiting else None


def _log(size: int) -> Html:
    result, current = session.console().watch.result(size)
    if result is None:
        return _item("muted", "Verifying the log …", counted(size, "record"))
    if not result.ok:
        where = f"record {result.index}: " if result.index is not None else ""
        return _item("bad", "Log does not hold", f"{where}{result.reason}")
    if not current:
        return _item(
            "muted", "Verifying the log …", f"{result.entries:,} of {counted(size, 'record')} verified"
        )
    root = el(
        "small", f"{counted(result.entries, 'record')} · root ", el("span", result.root[:10], cls="mono")
    )
    return _item("good", "Log verified", root)


def _who(view: View) -> None:
    people = view.people()
    ids = [person.id for person, _ in people]
    names = {person.id: one_line(name, 40) for person, name in people}
    chosen = session.person_in(view)
    picked = st.selectbox(
        "Acting as", ids, index=ids.index(chosen.id) if chosen else None, format_func=lambda key: names[key],
        placeholder="Choose your name", key=f"who-{chosen.id if chosen else ''}",
    )  # fmt: skip
    if picked and (chosen is None or picked != chosen.id):
        session.choose(picked)
        st.rerun()
    if chosen:
        roles = ", ".join(role.value for role in chosen.roles)
        markup.show(el("p", f"{roles} · each signature needs your passphrase", cls="dim fine"))


def _brake(view: View) -> None:
    person = session.person_in(view)
    if view.halted_by is None:
        if st.button(
            "Halt…", key="halt", icon=":material/pause_circle:", width="stretch", disabled=person is None
        ):
            signing.open_dialog(_halt_ask(view, Action.HALT))
    elif st.button(
        "Resume…", key="resume", icon=":material/play_circle:", width="stretch", disabled=person is None
    ):
        signing.open_dialog(_halt_ask(view, Action.RESUME))


def _halt_ask(view: View, action: Action) -> signing.Ask:
    halt = action is Action.HALT
    then = (
        "Running jobs are ended, and nothing is proposed, measured or promoted until somebody resumes. "
        "It survives a restart."
        if halt
        else "The loop proposes and measures again, and complete approvals take effect."
    )
    return signing.Ask(
        action=action, target="workspace", title="Halt everything" if halt else "Resume",
        verb="Sign and halt" if halt else "Sign and resume", consequence=then,
        roles=signing.roles_for_request(view, action, "workspace"), surface=Surface.CONSOLE,
        hint="What is wrong?" if halt else "What was found, and why is it safe to go on?",
    )  # fmt: skip


def halt_banner() -> None:
    """Over every page while a halt is in force."""
    with session.view() as view:
        halt = view.halted_by
        if halt is not None and halt.votes:
            vote = halt.votes[-1]
            title = f"Halted by {view.name_of(vote.person)} {ago(vote.at, session.now())}."
            markup.show(markup.notice("caution", one_line(title), one_line(view.text(vote.reason), 300)))
    receipt = session.receipt_for("workspace")
    if receipt is not None:
        markup.show(signing.receipt_notice(receipt))


def lock_screen() -> None:
    """Instead of a page, after nobody did anything for a while."""
    markup.show(markup.empty(
        "Locked.", "Nobody did anything here for a quarter of an hour. Choose your name at the left to go on.",
    ))  # fmt: skip
    with session.view() as view:
        people = view.people()
        if len(people) == 1 and st.button("Go on", type="primary"):
            session.choose(people[0][0].id)
            st.rerun()
