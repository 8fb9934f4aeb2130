"""What learners ask people: one question at a time, answered from the keyboard, handed in with one signature.

Invariants:
- A learner's words are text, here as everywhere; no label of a button is made of them.
- What is typed is kept at once as a draft; it counts only when its author has signed just what was listed.
- Of a choice nobody is shown which text comes from where: order and labels are the desk's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from guardrails.errors import DeniedError, InterlockError, StaleError, StorageError, UsageError
from guardrails.ledger.in_force import effective_for
from guardrails.records import Person
from guardrails.view import View
from sandbox.answers.book import Asked, Book
from sandbox.answers.desk import MAX_ANSWER, Desk
from ui.console import markup, session
from ui.console.markup import el
from ui.presenters import ago, counted, labelling, one_line

_PROBLEM, _UNSIGNED, _DONE = "label-problem", "label-unsigned", "label-done"
_SHOWN, _LATER = "label-shown", "label-later"


def page() -> None:
    """The label page."""
    under = el("div", el("span", "what learners would like to know from people"), cls="under")
    markup.show(el("div", el("h1", "Label"), under, cls="head"))
    if done := st.session_state.pop(_DONE, None):
        markup.show(markup.notice("good", done, "They count from now on; the next round trains on them."))
    workspace = session.console().workspace
    models = workspace.models_asked_about()
    if not models:
        markup.show(markup.empty(
            "No learner has asked anything.",
            "A recipe with the technique “active” asks about the examples that its model is least sure of, and "
            "preference learning asks which of two texts is better. Their questions come here by themselves.",
        ))  # fmt: skip
        return
    model = _chosen(models)
    with session.proven_view() as view:
        person, excluded = session.person_in(view), _is_excluded(view, model)
    desk = workspace.desk(model)
    try:
        book = desk.book()
    except StorageError as error:
        markup.show(markup.notice("bad", error.message, error.hint))
        return
    _figures(book, person)
    for reason in book.set_aside:
        markup.show(markup.notice("caution", one_line(reason, 200)))
    if person is None:
        markup.show(markup.notice("muted", "Choose your name, at the left, to answer."))
        return
    left, right = st.columns([1.9, 1], gap="large")
    with left:
        _question(desk, book, person)
    with right:
        _hand_in(desk, book, person)
        markup.show(
            el("div", el("p", labelling.what_happens(model, excluded=excluded), cls="dim fine"), cls="aside")
        )


def _chosen(models: list[str]) -> str:
    if len(models) == 1:
        return models[0]
    picked = st.segmented_control(
        "Model", models, default=models[0], key="label-model", label_visibility="collapsed"
    )
    return str(picked or models[0])


def _is_excluded(view: View, model: str) -> bool:
    """Whether the policies in force keep data authors from approving."""
    rows = [row for row in view.models() if row.name == model]
    return any("data-author" in effective_for(view.snapshot.tables, row).exclude for row in rows)


def _figures(book: Book, person: Person | None) -> None:
    progress = labelling.progress_fields(book)
    drafts = len(book.drafts_of(person.id)) if person else 0
    cells = (
        (progress["open"], "open"), (drafts, "your drafts"), (progress["answered"], "answered"),
        (progress["skipped"], "skipped"),
    )  # fmt: skip
    markup.show(el("div", *(
        el("div", el("b", str(value)), el("span", word), cls="" if value else "zero") for value, word in cells
    ), cls="stat"))  # fmt: skip


# --- one question --------------------------------------------------------------------------


def _question(desk: Desk, book: Book, person: Person) -> None:
    """The question that comes next for this person, and what they can do with it."""
    drafts = len(book.drafts_of(person.id))
    asked = _next(book, person, desk.model)
    if asked is None:
        title = "Every question is answered." if not book.open() else "You have answered every question."
        body = "Hand your answers in, so that they count." if drafts else "The loop goes on by itself."
        markup.show(markup.empty(title, body))
        _steps(desk, person, None, undo=bool(drafts))
        return
    left = len(book.waiting_for(person.id))
    share = drafts / (drafts + left)
    meter = el("div", el("i", style=f"width:{share:.0%}"), cls="meter", title=f"{drafts} of {drafts + left}")
    place = f"{drafts + 1} of {drafts + left} · asked by {asked.asker} {ago(asked.at, session.now())}"
    question = asked.question
    markup.show(
        markup.eyebrow(labelling.KIND_WORDS[question.kind], place), meter,
        el("pre", question.prompt, cls=f"asked {question.kind}"),
    )  # fmt: skip
    if asked.shown:
        cards = [el("div", el("b", label), el("pre", text)) for label, text in asked.shown.items()]
        markup.show(el("div", *cards, cls=f"options {question.kind}"))
    if told := labelling.why(asked):
        markup.show(el("p", el("b", "Why it asks. "), told, cls="dim fine"))
    if problem := st.session_state.pop(_PROBLEM, None):
        markup.show(markup.notice("caution", *problem))
    if asked.shown:
        with st.container(horizontal=True, gap="small", key="label-options"):
            for label in asked.shown:
                key = label.lower() if len(label) == 1 else None
                if st.button(f"Choose {label}", key=f"label-option-{label}", shortcut=key):
                    _act(partial(desk.answer, person.id, asked.digest, label))
    else:
        _typed(desk, person, asked)
    _steps(desk, person, asked, undo=bool(drafts))


def _next(book: Book, person: Person, model: str) -> Asked | None:
    """The first question that this person has not put off; put-off ones come again at the end."""
    waiting = book.waiting_for(person.id)
    later = st.session_state.setdefault(_LATER, {}).setdefault(model, [])
    left = [asked for asked in waiting if asked.digest not in later]
    if not left:
        later.clear()
        left = waiting
    return left[0] if left else None


def _typed(desk: Desk, person: Person, asked: Asked) -> None:
    """A line to type in. It is the same widget for every question: whoever types keeps the cursor."""
    with st.form("label-answer", border=False, clear_on_submit=True):
        text = st.text_input(
            "Answer", max_chars=MAX_ANSWER, key="label-text", placeholder="Type the answer, then Enter",
            autocomplete="off", label_visibility="collapsed",
        )  # fmt: skip
        if st.form_submit_button("Keep this answer", type="primary"):
            _act(lambda: desk.answer(person.id, asked.digest, text or ""))


def _steps(desk: Desk, person: Person, asked: Asked | None, *, undo: bool) -> None:
    """What can be done besides answering. While somebody types, the shortcuts need Alt."""
    alt = "alt+" if asked is not None and not asked.shown else ""
    with st.container(horizontal=True, gap="small", key="label-steps"):
        if asked is not None:
            help_ = "Closes the question: nobody has to know everything, and it is not asked again."
            if st.button("Nobody can say", key="label-skip", type="tertiary", shortcut=f"{alt}s", help=help_):
                _act(lambda: desk.skip(person.id, asked.digest))
            if st.button("Later", key="label-later-button", type="tertiary", shortcut=f"{alt}n"):
                st.session_state[_LATER][desk.model].append(asked.digest)
                st.rerun()
        if st.button("Undo", key="label-undo", type="tertiary", shortcut=f"{alt}u", disabled=not undo):
            _act(lambda: desk.undo(person.id))


def _act(change: Callable[[], object]) -> None:
    """Do one thing and draw the page anew; what cannot be done is said beside the question."""
    try:
        change()
    except (UsageError, DeniedError, StorageError) as error:
        st.session_state[_PROBLEM] = (error.message, error.hint)
    st.rerun()


# --- handing in ----------------------------------------------------------------------------


def _hand_in(desk: Desk, book: Book, person: Person) -> None:
    """The drafts of this person, and the signature that makes them count."""
    drafts = book.drafts_of(person.id)
    markup.show(markup.eyebrow("Your drafts", counted(len(drafts), "answer") if drafts else ""))
    if not drafts:
        markup.show(el("p", "What you answer is listed here until you hand it in.", cls="soft fine"))
        st.session_state.pop(_SHOWN, None)
        return
    rows = [
        (one_line(book.asked[given.question].question.prompt, 40), el("b", labelling.said(given)))
        for given in reversed(drafts)
    ]
    markup.show(el("div", markup.table(("Question", "Answer"), rows, cls="drafts"), cls="drafted"))
    listed = st.session_state.get(_SHOWN)
    # What is signed is what was on the screen when the button was pressed, which was drawn before this run.
    st.session_state[_SHOWN] = desk.statements(person.id, book)
    attempt = int(st.session_state.setdefault("label-attempt", 0))
    with st.form("label-sign", border=False):
        passphrase = st.text_input(
            "Passphrase of your key", type="password", key=f"label-passphrase-{attempt}", autocomplete="off"
        )
        pressed = st.form_submit_button(f"Sign and hand in {counted(len(drafts), 'answer')}", type="primary")
    if problem := st.session_state.pop(_UNSIGNED, None):
        markup.show(markup.notice("bad", *problem))
    if pressed:
        st.session_state["label-attempt"] = attempt + 1
        _sign(desk, person, listed, passphrase or "")


def _sign(desk: Desk, person: Person, listed: tuple[bytes, ...] | None, passphrase: str) -> None:
    try:
        if listed is None:
            raise StaleError("these answers were not on your screen yet", hint="look at them, then sign")
        gate = session.console().workspace.gate
        handed = desk.hand_in(gate, listed, session.unlock(person.id, passphrase))
        st.session_state[_DONE] = f"{labelling.handed_in(handed)}."
    except InterlockError as error:
        st.session_state[_UNSIGNED] = (error.message, error.hint)
    st.rerun()
