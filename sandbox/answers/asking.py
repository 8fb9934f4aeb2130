"""The questions of a round: what is mounted of earlier answers, and what becomes of a job that only asks.

Invariants:
- A round that only asked is neither a proposal nor a failure; one that asks nothing new is a failure.
- While questions of an asker are open, no other round of it runs: there is nothing that it could know better.
- A learner sees answers without names; the log's record of the proposal names whose they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from guardrails.canonical import Digest, encode
from guardrails.errors import BundleError, DeniedError
from sandbox.answers.book import Book
from sandbox.answers.desk import Desk
from sandbox.isolation.collector import ASKED, collect
from sandbox.isolation.manifest import NAME as MANIFEST
from sandbox.isolation.questions import read_questions
from sandbox.worker.questions import ANSWERS, QUESTIONS, Question


@dataclass(frozen=True)
class Asked:
    """The outcome of a round whose learner only had questions: to ``asker`` of ``model``, so many new ones."""

    model: str
    asker: str
    questions: int

    @property
    def sentence(self) -> str:
        """What happened and what to do, for people."""
        many = "1 question" if self.questions == 1 else f"{self.questions} questions"
        return f"asked {many} ({self.asker}): interlock label {self.model}"


class QuestionsOpenError(DeniedError):
    """A recipe waits for people: what it asked is not answered yet."""

    def __init__(self, model: str, asker: str, left: int) -> None:
        many = "1 question waits" if left == 1 else f"{left} questions wait"
        super().__init__(f"{model}: {many} for an answer ({asker})", hint=f"interlock label {model}")


def require_answered(book: Book, model: str, asker: str) -> None:
    """Refuse a round of an asker whose questions are still open; raises QuestionsOpenError."""
    if left := len(book.open(asker)):
        raise QuestionsOpenError(model, asker, left)


def lay_out(book: Book, asker: str, folder: Path) -> bytes:
    """Write what was answered to an asker as ``answers.jsonl``; returns its bytes, none where nothing was."""
    content = b"".join(encode(record) + b"\n" for record in book.records_for(asker))
    if content:
        (folder / ANSWERS).write_bytes(content)
    return content


def only_asks(out: Path) -> bool:
    """Whether a job left questions and nothing that it proposes; what it left is looked at by the collector."""
    return os.path.lexists(out / QUESTIONS) and not os.path.lexists(out / MANIFEST)


def take_over(desk: Desk, asker: str, champion: Digest, out: Path, to: Path) -> Asked:
    """Collect the questions of a job that only asks.

    Raises:
        BundleError: they are refused, or each of them was asked before.
    """
    collect(out, to, ASKED)
    fresh = desk.ask(asker, champion, read_questions(to))
    if not fresh:
        raise BundleError(
            "it asked only what people were asked before",
            hint="a learner trains on the answers, or asks something else",
        )
    return Asked(desk.model, asker, fresh)


def set_aside(bundle: Path) -> tuple[Question, ...]:
    """Take the questions out of a collected bundle: they are no part of what is proposed, measured and served."""
    questions = read_questions(bundle)
    (bundle / QUESTIONS).unlink(missing_ok=True)
    return questions
