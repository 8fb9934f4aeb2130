"""Questions of learners and answers of people: fields and sentences, the same in the terminal and in the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.presenters.texts import counted, one_line

if TYPE_CHECKING:
    from sandbox.answers.book import Asked, Book, Given
    from sandbox.answers.desk import HandedIn

KIND_WORDS = {
    "answer": "What is the answer?",
    "choice": "Which of the two is better?",
    "action": "What should it do here?",
}
"""What each kind of question asks for."""


def question_fields(asked: Asked) -> dict[str, Any]:
    """One question as JSON; ``options`` by label, in the order in which people see them."""
    question = asked.question
    return {
        "id": question.id, "digest": str(asked.digest), "asker": asked.asker, "asked_at": asked.at,
        "kind": question.kind, "prompt": question.prompt, "options": asked.shown, "why": question.why,
        "uncertainty": question.uncertainty, "champion_digest": asked.champion,
    }  # fmt: skip


def draft_fields(asked: Asked, given: Given) -> dict[str, Any]:
    """One answer that is not handed in yet."""
    return {
        "id": asked.question.id, "digest": str(asked.digest), "prompt": asked.question.prompt,
        "answer": given.answer, "skipped": given.skipped, "at": given.at,
    }  # fmt: skip


def progress_fields(book: Book) -> dict[str, int]:
    """How many questions there are, and how many are done."""
    done = list(book.final.values())
    skipped = sum(given.skipped for given in done)
    return {
        "asked": len(book.asked), "open": len(book.open()), "answered": len(done) - skipped, "skipped": skipped,
    }  # fmt: skip


def said(given: Given) -> str:
    """An answer on one line."""
    return "skipped: nobody has to know" if given.skipped else one_line(given.answer, 120)


def options(asked: Asked) -> str:
    """What can be chosen, each behind its label, on one line; empty where an answer is free."""
    return " · ".join(f"{label} {one_line(text, 60)}" for label, text in asked.shown.items())


def why(asked: Asked) -> str:
    """Why the learner asks: in its own words, which are a claim."""
    sure = asked.question.uncertainty
    told = one_line(asked.question.why, 200)
    if sure is None:
        return told
    return f"{told} · uncertainty {sure:.2f}" if told else f"uncertainty {sure:.2f}"


def what_happens(model: str, *, excluded: bool) -> str:
    """What an answer is for, and what it means for whoever gives it."""
    text = (
        f"Your answers are kept as drafts until you sign them. Then they are training data: {model} learns from them "
        "in its next round, and the result is measured and judged like any other. The learner is not told who answered; "
        "the log keeps a record that you answered, and notes you as an author of the data"
    )
    return f"{text}, so you cannot approve what was trained on it." if excluded else f"{text}."


def handed_in(handed: HandedIn) -> str:
    """What was handed in, and where the log says so."""
    records = ", ".join(map(str, handed.records))
    return f"{counted(handed.answers, 'answer')} handed in, on record as {records}"


def waiting(counts: dict[str, int]) -> str:
    """One sentence for a list: which models wait for people."""
    told = [f"{counted(count, 'question')} about {model}" for model, count in counts.items() if count]
    return f"{', '.join(told)} wait for people" if told else ""
