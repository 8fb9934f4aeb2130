"""Where learners' questions are taken over, and people answer them.

Invariants:
- Only a person of the roster, with a key that is not revoked, answers; only to a question that is there and open.
- What somebody types is kept as a draft at once; it counts, and is trained on, only when they have handed it in:
  the log then holds a record with their signature, which binds exactly what they were shown.
- Handing in writes the statement into the artifact store, then the record, and nothing after that: what the log holds is
  handed in, whatever crashes, and what it does not hold is still a draft.
- Every change is made under the journal's lock, after looking at what is there now, and at what the log holds.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.answers import encode_statement, parse_statement, require_as_recorded
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Signer, format_time
from guardrails.decision_log.store import Snapshot
from guardrails.errors import (
    BundleError,
    DeniedError,
    RecordError,
    StaleError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from guardrails.gate import Gate, utc_now
from guardrails.ledger.answers import standing
from guardrails.ledger.rows import AnswersRow, RosterRow, read
from guardrails.records import Person
from guardrails.records import asker_of as asker_named
from guardrails.registry import ArtifactError, ArtifactStore
from sandbox.answers import book as books
from sandbox.answers.book import Asked, Batch, Book, Given
from sandbox.answers.journal import Journal, Writer
from sandbox.config import Recipe
from sandbox.worker.questions import Question

FOLDER = "labels"
MAX_ANSWER = 4000
_REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True)
class HandedIn:
    """How many answers count from now on, how many of these were skipped, and the log's records that say so."""

    answers: int
    skipped: int
    records: tuple[int, ...]


def asker_of(recipe: Recipe) -> str:
    """Whose questions a recipe asks: its technique, and its method where it names one."""
    return asker_named(recipe.technique, recipe.settings)


class Desk:
    """The questions about one model. ``read`` opens the log, which has the roster and what was handed in."""

    def __init__(
        self, workspace: Path, model: str, store: ArtifactStore, read: Callable[[], AbstractContextManager[Snapshot]],
        now: Callable[[], str] = lambda: format_time(utc_now()),
    ) -> None:  # fmt: skip
        self.model = model
        self._journal = Journal(workspace / FOLDER / model)
        self._store = store
        self._read = read
        self._now = now
        self._given: dict[Digest, tuple[Given, ...]] = {}
        with read() as snapshot:
            self._origin = snapshot.origin
            self._look(snapshot)

    def book(self) -> Book:
        """Everything that was asked and answered.

        Raises:
            StorageError: the journal is damaged, or what somebody handed in is missing from the artifact store.
        """
        with self._read() as snapshot:
            self._look(snapshot)
        return self._replayed()

    def _replayed(self) -> Book:
        return books.read_book(self._journal.lines(), map(self._batch, self._handed), self.model)

    def _look(self, snapshot: Snapshot) -> None:
        """Take the roster and what people handed in from a snapshot."""
        row = read(snapshot.tables, RosterRow)
        self._roster = row.roster if row else None
        # Without a roster nobody can have handed in anything.
        self._handed = standing(snapshot.tables, row.roster, self.model) if row else []

    def _batch(self, handed: tuple[AnswersRow, str]) -> Batch:
        row, reason = handed
        if not reason and row.statement not in self._given:
            try:
                data = self._store.get_bytes(row.statement)
                require_as_recorded(self._origin, data, encode_record(row))
                fields = parse_statement(data)["answers"]
                self._given[row.statement] = tuple(books.given_in(one, row.person) for one in fields)
            except (ArtifactError, RecordError) as error:
                raise StorageError(
                    f"record {row.seq}: what {row.person} handed in cannot be read: {error.message}",
                    hint="restore the artifact from a backup",
                ) from None
        return Batch(row, () if reason else self._given[row.statement], reason)

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

    def statements(self, person: str, shown: Book | None = None) -> tuple[bytes, ...]:
        """What this person hands in: all their drafts, one statement for each asker; raises UsageError if none.

        ``shown``: the book whose drafts they were shown, so that they sign those and no others; None: as it is now.
        """
        book = self.book() if shown is None else shown
        if not book.drafts_of(self._person(person).id):
            raise UsageError("there is no answer of yours to hand in", hint=f"interlock label {self.model}")
        return self._stated(book, person, {})

    def hand_in(self, gate: Gate, statements: Sequence[bytes], signer: Signer) -> HandedIn:
        """Record statements as their person's, signed by them, so that the answers count; all or none.

        Raises:
            UsageError: these are no statements, or there is nothing to hand in.
            DeniedError: the key is none of this person's that is in force; nothing was handed in.
            StaleError: the drafts, the roster or the questions are not what they were when these were made.
        """
        try:
            said = [parse_statement(data) for data in statements]
        except RecordError:
            said = []
        if not said:
            raise UsageError("this is no statement of answers")
        with gate.log.read_proven():
            pass  # the long replay of a new process comes before the lock, so that nobody waits for it
        with self._journal.writing() as writer:
            with gate.log.read_proven() as snapshot:
                self._look(snapshot)
            person, book = self._person(said[0]["person"]), self._replayed()
            drafts = book.drafts_of(person.id)
            salts = {one["asker"]: one["salt"] for one in said}
            if tuple(statements) != self._stated(book, person.id, salts):
                raise StaleError("your answers or the roster changed just now", hint="look at them again")
            self._require_untaken(writer, book, drafts)
            records = gate.record_answers(statements, signer)
        skipped = sum(given.skipped for given in drafts)
        return HandedIn(len(drafts), skipped, tuple(record.seq for record in records))

    def _require_untaken(self, writer: Writer, book: Book, drafts: Sequence[Given]) -> None:
        """Drop drafts to questions that somebody else has answered; raises StaleError where there was one."""
        taken = [given for given in drafts if self._owner(book, given.question) not in ("", given.person)]
        for given in taken:
            writer.append({
                "line": "undone", "at": self._now(), "person": given.person, "question": str(given.question),
            })  # fmt: skip
        if taken:
            raise StaleError(
                f"{len(taken)} of these questions were answered by somebody else meanwhile",
                hint="your answers to them were dropped; hand in the others",
            )

    def _stated(self, book: Book, person: str, salts: Mapping[str, str]) -> tuple[bytes, ...]:
        """The statements of a person's drafts, one for each asker."""
        by_asker: dict[str, list[dict[str, Any]]] = {}
        for given in book.drafts_of(person):
            by_asker.setdefault(book.asked[given.question].asker, []).append(given.fields())
        return tuple(
            encode_statement(
                self._origin, self.model, asker, person, self._version(), salts.get(asker) or secrets.token_hex(16),
                by_asker[asker],
            )
            for asker in sorted(by_asker)
        )  # fmt: skip

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
