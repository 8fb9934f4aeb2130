"""What a journal and the log mean together: open questions, drafts, and the answers that count. Pure.

Invariants:
- An answer counts when the log holds the record by which its person handed it in. A batch whose key was revoked since, or
  that was erased, counts no more, nor do the earlier ones of its person to that asker, which it may have corrected: their
  questions are open again, and what their person can still sign is their draft again.
- No answer that its author replaced is in force, whatever became of what replaced it.
- Nothing that stands in a journal alone counts; what was signed before the log had such records is to be signed again.
- The first person whose answer to a question counts is the one who answered it; only they can correct it.
- A learner is told what was answered, never by whom. Whoever skipped told it nothing.
- The two texts of a choice stand in an order that follows from a salt which no learner knew when it asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest, digest, encode
from guardrails.errors import RecordError, StorageError
from guardrails.ledger.rows import AnswersRow
from sandbox.answers.journal import Line
from sandbox.worker.questions import PERSON, Question

LETTERS = tuple("ABDEFGHIJKLMOPQT")
"""Labels of options; left out are letters that are commands where questions are answered."""
NUMBERS = tuple(str(number) for number in range(1, 17))


@dataclass(frozen=True)
class Asked:
    """A question as it was taken over. ``digest`` binds all that an answer is about."""

    question: Question
    digest: Digest
    asker: str
    at: str
    champion: str
    salt: str

    @property
    def order(self) -> tuple[int, ...]:
        """In which order the options are shown; that of the learner unless a bias could hide in it."""
        places = tuple(range(len(self.question.options)))
        if self.question.kind != "choice":
            return places
        coin = hashlib.sha256(f"{self.salt}:{self.digest.hex}".encode()).digest()[0] & 1
        return places[::-1] if coin else places

    @property
    def shown(self) -> dict[str, str]:
        """Label → option, in the order of showing. An option's own text is never a label of another."""
        texts = [self.question.options[place] for place in self.order]
        single = {text.strip().upper() for text in texts}
        wanted = (LETTERS, NUMBERS) if self.question.kind == "choice" else (NUMBERS, LETTERS)
        # Where a learner's options are of both kinds, what is left of them is still enough: sixteen of thirty-two.
        free = [label for label in (*wanted[0], *wanted[1]) if label not in single]
        labels = next((kind for kind in wanted if not single & set(kind)), free)
        return dict(zip(labels, texts, strict=False))


@dataclass(frozen=True)
class Given:
    """What one person said to one question. ``chosen``: the place among the learner's options, -1 where none."""

    question: Digest
    person: str
    answer: str
    chosen: int
    skipped: bool
    at: str

    def fields(self) -> dict[str, Any]:
        """As it is signed: the person stands beside it once."""
        return {
            "question": str(self.question), "answer": self.answer, "chosen": self.chosen, "skipped": self.skipped,
            "at": self.at,
        }  # fmt: skip

    @property
    def digest(self) -> Digest:
        """What a proposal notes that it was trained on."""
        return digest(encode({**self.fields(), "person": self.person}))


@dataclass(frozen=True)
class Batch:
    """What somebody handed in by a record of the log. ``why_not``: why it does not count; empty where it does."""

    row: AnswersRow
    given: tuple[Given, ...]
    why_not: str = ""


@dataclass
class Book:
    """The state after all lines and batches. ``set_aside``: of what does not count, why not.

    ``former``: answers that were signed in the journal alone, before the log had records of them.
    """

    asked: dict[Digest, Asked] = field(default_factory=dict)
    drafts: dict[str, dict[Digest, Given]] = field(default_factory=dict)
    final: dict[Digest, Given] = field(default_factory=dict)
    used: dict[Digest, list[str]] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    former: set[Digest] = field(default_factory=set)

    def open(self, asker: str = "") -> list[Asked]:
        """The questions (of one asker) to which no answer counts yet, in the order of asking."""
        found = self.asked.values()
        return [asked for asked in found if asked.digest not in self.final and asker in ("", asked.asker)]

    def waiting_for(self, person: str) -> list[Asked]:
        """What a person can still answer: what nobody works on first, then the least sure first."""
        own = self.drafts.get(person, {})
        taken = {name for who, drafts in self.drafts.items() if who != person for name in drafts}
        left = [asked for asked in self.open() if asked.digest not in own]

        def rank(asked: Asked) -> tuple[bool, str, float]:
            return asked.digest in taken, asked.at, -(asked.question.uncertainty or 0.0)

        return sorted(left, key=rank)

    def drafts_of(self, person: str) -> list[Given]:
        """What a person has answered and not handed in, oldest first."""
        return list(self.drafts.get(person, {}).values())

    def called(self, name: str) -> list[Asked]:
        """The questions with an id or a digest."""
        return [
            asked for asked in self.asked.values() if name in (asked.question.id, str(asked.digest), asked.digest.hex)
        ]  # fmt: skip

    def answers_for(self, asker: str) -> list[Given]:
        """The answers that count, to the questions of one asker, in the order of asking."""
        return [
            self.final[name] for name, asked in self.asked.items()
            if asked.asker == asker and name in self.final
        ]  # fmt: skip

    def authors_for(self, asker: str) -> tuple[str, ...]:
        """Who gave them: one who only skipped has written nothing."""
        return tuple(sorted({given.person for given in self.answers_for(asker) if not given.skipped}))

    def records_for(self, asker: str) -> list[dict[str, Any]]:
        """The lines of ``answers.jsonl``: nothing in them says who answered."""
        records = []
        for given in self.answers_for(asker):
            question = self.asked[given.question].question
            record: dict[str, Any] = {
                "id": question.id, "kind": question.kind, "prompt": question.prompt,
                "options": list(question.options), "answer": given.answer, "chosen": given.chosen,
                "skipped": given.skipped, "fresh": given.digest not in self.used, "origin": PERSON,
                "source": "answers", "text": "" if given.skipped else question.prompt + given.answer,
            }  # fmt: skip
            records.append(record | ({"layout": question.layout} if question.layout else {}))
        return records


def question_digest(model: str, asker: str, question: Question) -> Digest:
    """Binds what is asked: of which model, by what, and every word of it."""
    return digest(encode({
        "model": model, "asker": asker, "id": question.id, "kind": question.kind, "prompt": question.prompt,
        "options": list(question.options), "layout": question.layout,
    }))  # fmt: skip


def read_book(lines: Sequence[Line], batches: Iterable[Batch], model: str) -> Book:
    """Replay a journal, then what people handed in, oldest first.

    Raises:
        StorageError: a line lacks what lines of its kind have.
    """
    book = Book()
    for number, line in enumerate(lines, 1):
        try:
            _apply(book, line, model)
        except (KeyError, TypeError, ValueError, AttributeError, RecordError) as error:
            raise StorageError(
                f"labels/{model}: line {number} of the journal is not as it was written: {error}",
                hint="restore the file from a backup",
            ) from None
    handed = {given.digest for batch in batches for given in _take(book, batch)}
    for person, drafts in book.drafts.items():
        book.drafts[person] = {name: one for name, one in drafts.items() if one.digest not in handed}
        again = sum(one.digest in book.former for one in book.drafts[person].values())
        if again:
            book.set_aside.append(
                f"{_many(again)} of {person}, signed before the log had records of it: drafts again, to be handed in"
            )
    return book


def _apply(book: Book, line: Line, model: str) -> None:
    kind = line["line"]
    if kind == "asked":
        for value in line["questions"]:
            question = _question(value)
            name = question_digest(model, line["asker"], question)
            asked = Asked(question, name, line["asker"], line["at"], line["champion"], line["salt"])
            book.asked.setdefault(name, asked)
    elif kind == "draft":
        given = given_in(line, line["person"])
        if given.question not in book.asked:
            raise ValueError("an answer to a question that was not asked before it")
        book.drafts.setdefault(given.person, {}).pop(given.question, None)
        book.drafts[given.person][given.question] = given
    elif kind == "undone":
        book.drafts.get(line["person"], {}).pop(Digest.parse(line["question"]), None)
    elif kind == "signed":
        book.former |= {given.digest for given in signed_before(line)}
    elif kind == "used":
        for name in line["answers"]:
            book.used.setdefault(Digest.parse(name), []).append(line["proposal"])
    else:
        raise ValueError(f"unknown kind {kind!a:.40}")


def signed_before(line: Line) -> list[Given]:
    """The answers in a line by which people handed in before the log recorded it."""
    value = canonical.parse(line["statement"].encode("utf-8"))
    return [given_in(fields, value["person"]) for fields in value["answers"]]


def _take(book: Book, batch: Batch) -> Sequence[Given]:
    """Let the answers of a batch count; returns those that are drafts no more."""
    row = batch.row
    if batch.why_not:
        book.set_aside.append(f"{_many(row.answers)} of {row.person} cannot count: {batch.why_not}")
        return ()
    for given in batch.given:
        asked, earlier = book.asked.get(given.question), book.final.get(given.question)
        if asked is None or asked.asker != row.asker:
            book.set_aside.append(
                f"record {row.seq}: {row.person} answered a question of {row.asker} that is not in this journal"
            )
        elif earlier is None or earlier.person == given.person:
            if _is_answer(asked.question, given):
                book.final[given.question] = given
            else:
                # Its author replaced what they said before, be it by nothing.
                book.final.pop(given.question, None)
                book.set_aside.append(
                    f"what {given.person} said to {asked.question.id} does not count: it is no answer"
                )
    return batch.given


def _many(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"


def _is_answer(question: Question, given: Given) -> bool:
    """Whether an answer says one thing: whoever skips gives no text, and who chooses gives the text of that option.

    A text that came along with "skipped" would be read by a learner, and have no author.
    """
    if not isinstance(given.answer, str) or type(given.chosen) is not int or type(given.skipped) is not bool:
        return False
    if given.skipped:
        return given.answer == "" and given.chosen == -1
    if not question.options:
        return given.answer != "" and given.chosen == -1
    return 0 <= given.chosen < len(question.options) and given.answer == question.options[given.chosen]


def given_in(value: Mapping[str, Any], person: str) -> Given:
    """An answer from its fields; raises KeyError or RecordError where it is none."""
    kinds = {"answer": str, "chosen": int, "skipped": bool, "at": str}
    if wrong := [name for name, kind in kinds.items() if type(value[name]) is not kind]:
        raise RecordError(f"an answer's {wrong[0]} is of the wrong type")
    return Given(
        Digest.parse(value["question"]),
        person,
        value["answer"],
        value["chosen"],
        value["skipped"],
        value["at"],
    )


def _question(value: dict[str, Any]) -> Question:
    sure = value["uncertainty"]
    return Question(
        value["id"], value["kind"], value["prompt"], tuple(value["options"]), value["layout"], value["why"],
        canonical.parse_decimal(sure) if sure else None,
    )  # fmt: skip


def question_fields(question: Question) -> dict[str, Any]:
    """As a journal keeps it: every key, numbers as decimal text."""
    sure = question.uncertainty
    return {
        "id": question.id, "kind": question.kind, "prompt": question.prompt, "options": list(question.options),
        "layout": question.layout, "why": question.why,
        "uncertainty": "" if sure is None else canonical.decimal(sure),
    }  # fmt: skip
