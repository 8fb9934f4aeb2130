"""Learners' questions in the terminal: answer, skip, take back, hand in.

Invariants:
- An answer is kept as soon as it is typed, and counts only when it was handed in: shown again, then signed.
- Whatever a learner wrote is text: nothing of it is markup or a command to the terminal.
- Programs get the questions as JSON and answer by id; they hand in exactly what is listed on standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import InvalidInputError, StorageError, UnknownNameError, UsageError
from ui import presenters
from ui.cli.group import command
from ui.cli.output import empty, heading, line, pairs, show, table
from ui.cli.session import Session
from ui.presenters import labelling

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.records import Person
    from sandbox.answers.book import Asked, Given
    from sandbox.answers.desk import Desk, HandedIn

MAX_IMPORT_BYTES = 64 << 20
HELP = "/skip nobody can say · /later · /undo · /done hand in · /quit keep drafts · //text an answer that begins with /"


@command("label", help="Answer what learners ask people; without MODEL: which models wait for answers.")
@click.argument("model", required=False)
@click.option(
    "--answer", "answers", multiple=True, metavar="ID=TEXT", help="Answer a question; repeat for several."
)
@click.option("--skip", "skips", multiple=True, metavar="ID", help="Close a question that nobody can answer.")
@click.option("--skip-rest", is_flag=True, help="Close every question that is left.")
@click.option(
    "--import",
    "import_",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help='Answers, one JSON object a line: {"digest" or "id", "answer"} or {…, "skipped": true}.',
)
@click.option("--undo", is_flag=True, help="Take back your newest answer that is not handed in.")
@click.option("--draft", is_flag=True, help="Keep answers as drafts; do not hand them in.")
@click.option("--hand-in", is_flag=True, help="Hand in the drafts that you have, without a further answer.")
def label(
    session: Session, model: str | None, answers: tuple[str, ...], skips: tuple[str, ...], skip_rest: bool,
    import_: Path | None, undo: bool, draft: bool, hand_in: bool,
) -> None:  # fmt: skip
    """List questions, answer them, hand answers in."""
    if hand_in and (draft or undo):
        raise UsageError("--hand-in goes neither with --draft nor with --undo")
    given = bool(answers or skips or skip_rest or import_ or hand_in)
    if model is None:
        if given or undo:
            raise UsageError("name the model whose questions these are")
        _give_models(session)
        return
    _require_model(session, model)
    desk = session.workspace.desk(model)
    if undo:
        _undo(session, desk)
    elif given:
        person = session.person()
        _keep(
            desk, person, [*map(_assignment, answers), *((name, None) for name in skips), *_imported(import_)]
        )
        for asked in desk.book().waiting_for(person.id) if skip_rest else ():
            desk.skip(person.id, asked.digest)
        if hand_in and not desk.book().drafts_of(person.id):
            raise UsageError("you have no draft to hand in", hint=f"interlock label {model}")
        _end(session, desk, person, hand_in=not draft)
    elif session.output.json or not sys.stdin.isatty():
        _give_questions(session, desk)
    else:
        _converse(session, desk)


# --- looking -------------------------------------------------------------------------------


def open_counts(session: Session) -> dict[str, int]:
    """Model → how many questions about it wait for people; a journal that cannot be read is warned of."""
    counts = {}
    for name in session.workspace.models_asked_about():
        try:
            counts[name] = len(session.workspace.desk(name).book().open())
        except StorageError as error:
            session.output.warn(error.message)
    return {name: count for name, count in counts.items() if count}


def _require_model(session: Session, model: str) -> None:
    if model not in session.workspace.config.models:
        known = ", ".join(session.workspace.config.models) or "none"
        raise UnknownNameError(f"there is no model {model:.80} in interlock.toml", hint=f"known: {known}")


def _give_models(session: Session) -> None:
    counts = open_counts(session)

    def draw(console: Console) -> None:
        if not counts:
            empty(
                console,
                "No learner waits for an answer.",
                'a recipe with technique = "active" asks; see docs',
            )
            return
        console.print(table(("Model", "Open questions"), [(name, str(n)) for name, n in counts.items()],
                            right=("Open questions",)))  # fmt: skip
        console.print(line(f"next: interlock label {next(iter(counts))}"))

    session.output.result(
        "label", {"models": [{"model": name, "open": n} for name, n in counts.items()]}, draw
    )


def _give_questions(session: Session, desk: Desk) -> None:
    book = desk.book()
    excluded = _excluded(session, desk.model)
    data: dict[str, Any] = {
        "model": desk.model, **labelling.progress_fields(book),
        "questions": [labelling.question_fields(asked) for asked in book.open()],
        "drafts": [
            {"person": person, **labelling.draft_fields(book.asked[one.question], one)}
            for person in book.drafts for one in book.drafts_of(person)
        ],
        "set_aside": book.set_aside, "what": labelling.what_happens(desk.model, excluded=excluded),
    }  # fmt: skip

    def draw(console: Console) -> None:
        for reason in book.set_aside:
            console.print(line(presenters.Mark("▲", reason, "caution")))
        if not data["questions"]:
            empty(
                console, f"No question about {desk.model} is open.", "the loop asks when its learner has one"
            )
            return
        cells = [
            (
                one["id"],
                presenters.one_line(one["prompt"], 80),
                labelling.options(asked),
                labelling.why(asked),
            )
            for one, asked in zip(data["questions"], book.open(), strict=True)
        ]
        console.print(table(("ID", "Question", "Options", "Why"), cells))
        console.print(line(f"next: interlock label {desk.model} --answer ID=TEXT"))

    session.output.result("label", data, draw)


def _excluded(session: Session, model: str) -> bool:
    """Whether the policies in force keep data authors from approving proposals of a model."""
    from guardrails.ledger.in_force import effective_for

    with session.view() as view:
        return any("data-author" in effective_for(view.snapshot.tables, row).exclude
                   for row in view.models() if row.name == model)  # fmt: skip


# --- answers of programs -------------------------------------------------------------------


def _assignment(text: str) -> tuple[str, str | None]:
    name, separator, answer = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--answer {text!a:.60}: ID=TEXT is needed")
    return name, answer


def _imported(file: Path | None) -> list[tuple[str, str | None]]:
    """The answers in a file; raises InvalidInputError naming the line, before anything is kept."""
    if file is None:
        return []
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_IMPORT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > MAX_IMPORT_BYTES:
        raise InvalidInputError(f"{file}: more than {MAX_IMPORT_BYTES} bytes")
    found = []
    for number, raw in enumerate(content.splitlines(), 1):
        if raw.strip():
            found.append(_imported_line(raw, f"{file}:{number}"))
    if not found:
        raise InvalidInputError(f"{file}: holds no answer")
    return found


def _imported_line(raw: bytes, where: str) -> tuple[str, str | None]:
    wanted = 'one JSON object is needed: {"id": …, "answer": …} or {"id": …, "skipped": true}'
    try:
        value = json.loads(raw.decode("utf-8"))
    except (UnicodeError, ValueError, RecursionError):
        raise InvalidInputError(f"{where}: {wanted}") from None
    known = {"id", "digest", "answer", "skipped"}
    if not isinstance(value, dict) or not set(value) <= known or not {"id", "digest"} & set(value):
        raise InvalidInputError(f"{where}: {wanted}")
    name, answer, skipped = (
        value.get("digest", value.get("id")),
        value.get("answer"),
        value.get("skipped", False),
    )
    if not isinstance(name, str) or (skipped is True) is (answer is not None):
        raise InvalidInputError(f"{where}: {wanted}")
    if skipped not in (True, False) or not isinstance(answer, str | None):
        raise InvalidInputError(f"{where}: {wanted}")
    return name, answer


def _keep(desk: Desk, person: Person, given: list[tuple[str, str | None]]) -> None:
    """Keep answers as drafts, after all of them were found to answer questions that are there."""
    from sandbox.answers.desk import understood

    found = [(desk.find(name), text) for name, text in given]
    if len({asked.digest for asked, _ in found}) != len(found):
        raise UsageError("one question is answered twice", hint="nothing was kept")
    for asked, text in found:
        if text is not None:
            understood(asked, text)
    for asked, text in found:
        if text is None:
            desk.skip(person.id, asked.digest)
        else:
            desk.answer(person.id, asked.digest, text)


def _undo(session: Session, desk: Desk) -> None:
    taken = desk.undo(session.person().id)
    told = "there is no draft to take back" if taken is None else f"taken back: {labelling.said(taken)}"
    session.output.result("label", {"undone": None if taken is None else str(taken.question)},
                          lambda console: show(console, line(told)))  # fmt: skip


# --- handing in ----------------------------------------------------------------------------


def _end(session: Session, desk: Desk, person: Person, *, hand_in: bool) -> None:
    """Hand a person's drafts in, or say that they are kept."""
    book = desk.book()
    drafts = book.drafts_of(person.id)
    if not hand_in or not drafts:
        _give(session, desk, drafts, None)
        return
    _show_drafts(session, [(book.asked[given.question], given) for given in drafts])
    statements = desk.statements(person.id, book)
    with session.view() as view:
        name = view.name_of(person.id)
    key = session.unlock(person, name)
    _give(session, desk, drafts, desk.hand_in(session.workspace.gate, statements, key))


def _show_drafts(session: Session, drafts: list[tuple[Asked, Given]]) -> None:
    """What is about to be signed, on standard error: the answer alone goes to standard output."""
    console = session.output.console(sys.stderr)
    cells = [
        (presenters.one_line(asked.question.prompt, 80), labelling.said(given)) for asked, given in drafts
    ]
    show(console, heading("You sign these answers"), table(("Question", "Answer"), cells))


def _give(session: Session, desk: Desk, drafts: list[Given], handed: HandedIn | None) -> None:
    progress = labelling.progress_fields(desk.book())
    data = {
        "model": desk.model, "handed_in": handed.answers if handed else 0, "drafts": 0 if handed else len(drafts),
        "records": list(handed.records) if handed else [], **progress,
    }  # fmt: skip
    if handed:
        mark = presenters.Mark("✓", labelling.handed_in(handed), "good")
    else:
        mark = presenters.Mark(
            "○", f"{presenters.counted(len(drafts), 'draft')} kept, not handed in", "muted"
        )
    left = progress["open"]
    if drafts and not handed:
        then = f"next: interlock label {desk.model} --hand-in"
    elif left:
        then = f"{presenters.counted(left, 'question')} open"
    else:
        then = "the next round trains on them" if handed else "nothing is open"

    def draw(console: Console) -> None:
        show(console, line(mark), line(then))

    session.output.result("label", data, draw)


# --- a person at a terminal ----------------------------------------------------------------


def _converse(session: Session, desk: Desk) -> None:
    """One question after the other, until none is left or the person has had enough."""
    person = session.person()
    console = session.output.console(sys.stdout)
    show(console, line(labelling.what_happens(desk.model, excluded=_excluded(session, desk.model))))
    show(console, line(HELP))
    later: list[Any] = []
    hand_in = True
    while True:
        book = desk.book()
        left = [asked for asked in book.waiting_for(person.id) if asked.digest not in later]
        if not left and not later:
            break
        if not left:
            later.clear()
            continue
        asked = left[0]
        _draw_question(console, asked, len(book.drafts_of(person.id)) + 1, len(book.waiting_for(person.id)))
        word = _read()
        if word in ("/done", "/quit"):
            hand_in = word == "/done"
            break
        if word == "/later":
            later.append(asked.digest)
        elif word == "/undo":
            taken = desk.undo(person.id)
            show(
                console,
                line("nothing to take back" if taken is None else f"taken back: {labelling.said(taken)}"),
            )
        else:
            _take(console, desk, person, asked, word)
    if not hand_in or not desk.book().drafts_of(person.id):
        _end(session, desk, person, hand_in=False)
        return
    _end(session, desk, person, hand_in=True)


def _take(console: Console, desk: Desk, person: Person, asked: Asked, word: str) -> None:
    """Keep one typed answer; what is no answer is said, and asked for again."""
    try:
        if word == "/skip":
            desk.skip(person.id, asked.digest)
        elif word.startswith("/") and not word.startswith("//"):
            show(console, line(HELP))
        elif word.strip():
            desk.answer(person.id, asked.digest, word.removeprefix("/"))
    except UsageError as error:
        told = f"{error.message}: {error.hint}" if error.hint else error.message
        show(console, line(presenters.Mark("▲", told, "caution")))


def _read() -> str:
    """One line of the terminal; its end means that the person has gone."""
    try:
        return input("> ").strip()
    except EOFError:
        sys.stdout.write("\n")
        return "/quit"


def _draw_question(console: Console, asked: Asked, number: int, left: int) -> None:
    question = asked.question
    title = f"{labelling.KIND_WORDS[question.kind]}  ({number}, {left} left, asked by {asked.asker})"
    show(console, "", heading(title), line(presenters.plain(question.prompt)))
    if asked.shown:
        console.print(pairs(asked.shown.items()))
    if told := labelling.why(asked):
        show(console, line(presenters.Mark("·", f"it asks because: {told}", "muted")))
