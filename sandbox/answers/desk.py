"""Where learners' questions are taken over, and people answer them.

Invariants:
- Only a person of the roster, with a key that is not revoked, answers; only to a question that is there and open.
- What somebody types is kept as a draft at once; it counts, and is trained on, only when they have handed it in
  with their signature, and they sign exactly what they were shown.
- Every change is made under the journal's lock, after looking at what is there now.
"""

from __future__ import annotations

import base64
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.store import Log, Snapshot
from guardrails.errors import BundleError, DeniedError, RecordError, StaleError, UnknownNameError, UsageError
from guardrails.gate import utc_now
from guardrails.ledger.rows import RosterRow, read
from guardrails.records import Person, Roster
from sandbox.answers import book as books
from sandbox.answers.book import Asked, Book, Given
from sandbox.answers.journal import Journal
from sandbox.config import Recipe
from sandbox.worker.questions import Question

FOLDER = "labels"
MAX_ANSWER = 4000
_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True)
class HandedIn:
    """What became of a batch: how many answers count from now on, and how many of these were skipped."""

    answers: int
    skipped: int


def asker_of(recipe: Recipe) -> str:
    """Whose questions a recipe asks: its technique, and its method where it names one."""
    method = recipe.settings.get("method", "")
    return f"{recipe.technique}/{method}" if method else recipe.technique


class Desk:
    """The questions about one model, under the roster in force when this was opened."""

    def __init__(
        self, workspace: Path, model: str, roster: Roster | None, origin: str,
        now: Callable[[], str] = lambda: format_time(utc_now()),
    ) -> None:  # fmt: skip
        self.model = model
        self._journal = Journal(workspace / FOLDER / model)
        self._roster = roster
        self._origin = origin
        self._now = now

    @classmethod
    def at(cls, workspace: Path, model: str, snapshot: Snapshot) -> Desk:
        """The desk of a model, with the roster as a snapshot of the log has it."""
        row = read(snapshot.tables, RosterRow)
        return cls(workspace, model, row.roster if row else None, snapshot.origin)

    @classmethod
    def of(cls, workspace: Path, model: str, log: Log) -> Desk:
        """The desk of a model, with the roster as the log has it now."""
        with log.read() as snapshot:
            return cls.at(workspace, model, snapshot)

    def book(self) -> Book:
        """Everything that was asked and answered; raises StorageError where the journal is damaged."""
        return books.read_book(self._journal.lines(), self.model, self._roster, self._origin)

    # --- what rounds do ------------------------------------------------------------------

    def check(self, asker: str, questions: Sequence[Question]) -> None:
        """Refuse questions of which one has an id that this asker gave to another question before.

        Raises:
            BundleError: naming the id.
        """
        self._unknown(self.book(), asker, questions)

    def ask(self, asker: str, champion: Digest, questions: Sequence[Question]) -> int:
        """Take questions over; returns how many of them were not asked before.

        Raises:
            BundleError: an id means another question than it did.
        """
        with self._journal.writing() as writer:
            fresh = self._unknown(self.book(), asker, questions)
            if fresh:
                writer.append({
                    "line": "asked", "at": self._now(), "asker": asker, "champion": str(champion),
                    "salt": secrets.token_hex(16), "questions": [books.question_fields(one) for one in fresh],
                })  # fmt: skip
            return len(fresh)

    def note_used(self, proposal: str, answers: Sequence[Given]) -> None:
        """Note that a proposal was trained on these answers: to its asker they are fresh no more."""
        if answers:
            with self._journal.writing() as writer:
                names = sorted({str(given.digest) for given in answers})
                writer.append({"line": "used", "at": self._now(), "proposal": proposal, "answers": names})

    def _unknown(self, book: Book, asker: str, questions: Sequence[Question]) -> list[Question]:
        fresh = []
        for question in questions:
            name = books.question_digest(self.model, asker, question)
            if name in book.asked:
                continue
            if any(asked.asker == asker for asked in book.called(question.id)):
                raise BundleError(
                    f"question {question.id}: this id was given to another question before",
                    hint="derive ids from what is asked: sandbox.worker.questions.question_id",
                )
            fresh.append(question)
        return fresh

    # --- what people do ------------------------------------------------------------------

    def find(self, name: str) -> Asked:
        """The question with an id or a digest; raises UnknownNameError or, where several have the id, UsageError."""
        found = self.book().called(name)
        if not found:
            raise UnknownNameError(
                f"{self.model} was never asked a question {name!a:.80}", hint=f"interlock label {self.model} --json"
            )  # fmt: skip
        if len(found) > 1:
            raise UsageError(f"{len(found)} questions have the id {name:.64}", hint="name it by its digest")
        return found[0]

    def answer(self, person: str, question: Digest, text: str) -> Given:
        """Keep an answer as this person's draft; for a question with options, an option or its label.

        Raises:
            UsageError: the text is no answer to this question.
            UnknownNameError: there is no such question, or no such person.
            DeniedError: this person may not answer, or somebody else has.
        """
        return self._draft(person, question, text, skipped=False)

    def skip(self, person: str, question: Digest) -> Given:
        """Keep as this person's draft that nobody could say. Raises as ``answer`` does."""
        return self._draft(person, question, "", skipped=True)

    def undo(self, person: str) -> Given | None:
        """Take back a person's newest draft; None where there is none. What was handed in stays."""
        with self._journal.writing() as writer:
            drafts = self.book().drafts_of(self._person(person).id)
            if not drafts:
                return None
            writer.append({
                "line": "undone", "at": self._now(), "person": person, "question": str(drafts[-1].question),
            })  # fmt: skip
            return drafts[-1]

    def statement(self, person: str) -> bytes:
        """What this person signs to hand in all their drafts; raises UsageError where there is none."""
        drafts = self.book().drafts_of(self._person(person).id)
        if not drafts:
            raise UsageError("there is no answer of yours to hand in", hint=f"interlock label {self.model}")
        return books.statement(self._origin, self.model, person, self._version(), drafts)

    def hand_in(self, signed: bytes, sign: Callable[[bytes], bytes]) -> HandedIn:
        """Sign a statement and let its answers count. ``sign`` is given the bytes that the signature is over.

        Raises:
            DeniedError: the signature is not by a key of this person that is in force.
            StaleError: the drafts, the roster or the questions are not what they were when it was made.
        """
        try:
            value = canonical.parse(signed)
            person = self._person(value["person"])
        except (RecordError, KeyError, TypeError):
            raise UsageError("this is no statement of answers") from None
        signature = base64.b64encode(sign(books.message(signed))).decode("ascii")
        if not books.is_signed(person, signed, signature):
            raise DeniedError("no key of yours that is in force has signed this; nothing was handed in")
        with self._journal.writing() as writer:
            book = self.book()
            drafts = book.drafts_of(person.id)
            if signed != books.statement(self._origin, self.model, person.id, self._version(), drafts):
                raise StaleError("your answers or the roster changed just now", hint="look at them again")
            taken = [given for given in drafts if self._owner(book, given.question) not in ("", person.id)]
            for given in taken:
                writer.append({
                    "line": "undone", "at": self._now(), "person": person.id, "question": str(given.question),
                })  # fmt: skip
            if taken:
                raise StaleError(
                    f"{len(taken)} of these questions were answered by somebody else meanwhile",
                    hint="your answers to them were dropped; hand in the others",
                )
            writer.append({
                "line": "signed", "at": self._now(), "statement": signed.decode("utf-8"), "signature": signature,
            })  # fmt: skip
        return HandedIn(len(drafts), sum(given.skipped for given in drafts))

    def _draft(self, person_id: str, question: Digest, text: str, *, skipped: bool) -> Given:
        person = self._person(person_id)
        with self._journal.writing() as writer:
            book = self.book()
            asked = book.asked.get(question)
            if asked is None:
                raise UnknownNameError(
                    f"there is no question {question.short}, or it is not what it was",
                    hint=f"interlock label {self.model} --json shows the questions as they are",
                )
            if self._owner(book, question) not in ("", person.id):
                raise DeniedError(
                    f"{asked.question.id} was answered by somebody else", hint="nothing was changed"
                )
            answer, chosen = ("", -1) if skipped else understood(asked, text)
            given = Given(question, person.id, answer, chosen, skipped, self._now())
            writer.append({"line": "draft", "person": person.id, **given.fields()})
            return given

    @staticmethod
    def _owner(book: Book, question: Digest) -> str:
        given = book.final.get(question)
        return given.person if given else ""

    def _person(self, person_id: Any) -> Person:
        """The person in the roster; a revoked key signs nothing, so nothing is taken from them either."""
        for person in self._roster.people if self._roster else ():
            if person.id == person_id:
                if all(key.revoked for key in person.keys):
                    raise DeniedError(
                        f"{person.id} has no key that is in force", hint="interlock operator rekey"
                    )
                return person
        raise DeniedError(
            f"{person_id!a:.80} is not in the roster: only people who are can answer",
            hint="interlock operator add NAME",
        )

    def _version(self) -> int:
        return self._roster.version if self._roster else 0


def understood(asked: Asked, text: str) -> tuple[str, int]:
    """An answer and its place among the learner's options (-1 where there are none).

    A question with options takes an option's own text first, then its label as it is shown.

    Raises:
        UsageError: the text answers nothing.
    """
    question, wanted = asked.question, text.strip()
    if not question.options:
        _require_plain(wanted)
        return wanted, -1
    for place, option in enumerate(question.options):
        if wanted == option.strip():
            return option, place
    option = asked.shown.get(wanted.upper(), "")
    if not option:
        raise UsageError(
            f"{wanted!a:.60} is none of the options of {question.id}",
            hint=f"one of: {', '.join(asked.shown)}",
        )
    return option, question.options.index(option)


def _require_plain(text: str) -> None:
    if not text or len(text) > MAX_ANSWER:
        raise UsageError(f"an answer has 1 to {MAX_ANSWER} characters")
    if any((unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in _REORDERING for c in text):
        raise UsageError("an answer holds no control characters", hint="type it as plain text")
