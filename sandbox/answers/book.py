"""What the lines of a journal mean: open questions, drafts, and the answers that count. Pure.

Invariants:
- An answer counts when the person who gave it has handed it in: signed, with a key of theirs that the roster in
  force lists and does not revoke. A batch whose signer is not in force any more counts no more: its questions are
  open again.
- The first person whose answer to a question counts is the one who answered it; only they can correct it.
- A learner is told what was answered, never by whom. Whoever skipped told it nothing.
- The two texts of a choice stand in an order that follows from a salt which no learner knew when it asked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from guardrails import canonical
from guardrails.canonical import Digest, digest, encode
from guardrails.decision_log.envelope import pae
from guardrails.decision_log.keys import verify_person
from guardrails.errors import DeniedError, RecordError, StorageError
from guardrails.records import Person, Roster
from sandbox.answers.journal import Line
from sandbox.worker.questions import PERSON, Question

SCHEMA = "interlock/answers/v1"
PAYLOAD_TYPE = "application/vnd.interlock.answers+json"
"""What people sign when they hand in: a DSSE payload of a type of its own, so that it can be no decision."""
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


@dataclass
class Book:
    """The state after all lines. ``set_aside``: per batch that does not count, why not; ``taken``: those that do."""

    asked: dict[Digest, Asked] = field(default_factory=dict)
    drafts: dict[str, dict[Digest, Given]] = field(default_factory=dict)
    final: dict[Digest, Given] = field(default_factory=dict)
    used: dict[Digest, list[str]] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

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


def statement(origin: str, model: str, person: str, roster: int, given: Iterable[Given]) -> bytes:
    """What a person signs to hand answers in."""
    return encode({
        "schema": SCHEMA, "log": origin, "model": model, "person": person, "roster": roster,
        "answers": [one.fields() for one in given],
    })  # fmt: skip


def message(signed: bytes) -> bytes:
    """The bytes that the signature of a statement is over."""
    return pae(PAYLOAD_TYPE, signed)


def read_book(lines: Sequence[Line], model: str, roster: Roster | None, origin: str) -> Book:
    """Replay a journal under the roster in force.

    Raises:
        StorageError: a line lacks what lines of its kind have.
    """
    book = Book()
    people = {person.id: person for person in roster.people} if roster else {}
    for number, line in enumerate(lines, 1):
        try:
            _apply(book, line, model, people, origin)
        except (KeyError, TypeError, ValueError, AttributeError, RecordError) as error:
            raise StorageError(
                f"labels/{model}: line {number} of the journal is not as it was written: {error}",
                hint="restore the file from a backup",
            ) from None
    return book


def _apply(book: Book, line: Line, model: str, people: dict[str, Person], origin: str) -> None:
    kind = line["line"]
    if kind == "asked":
        for value in line["questions"]:
            question = _question(value)
            name = question_digest(model, line["asker"], question)
            asked = Asked(question, name, line["asker"], line["at"], line["champion"], line["salt"])
            book.asked.setdefault(name, asked)
    elif kind == "draft":
        given = _given(line, line["person"])
        book.drafts.setdefault(given.person, {}).pop(given.question, None)
        book.drafts[given.person][given.question] = given
    elif kind == "undone":
        book.drafts.get(line["person"], {}).pop(Digest.parse(line["question"]), None)
    elif kind == "signed":
        _hand_in(book, line, model, people, origin)
    elif kind == "used":
        for name in line["answers"]:
            book.used.setdefault(Digest.parse(name), []).append(line["proposal"])
    else:
        raise ValueError(f"unknown kind {kind!a:.40}")


def _hand_in(book: Book, line: Line, model: str, people: dict[str, Person], origin: str) -> None:
    signed = line["statement"].encode("utf-8")
    value = canonical.parse(signed)
    person = value["person"]
    reason = _refusal(value, signed, line["signature"], model, people, origin)
    if not reason and line["statement"] in book.taken:
        # Counted again, it would put a former answer in the place of the one that corrected it.
        reason = "this very batch was handed in before"
    if reason:
        book.set_aside.append(f"{len(value['answers'])} answers of {person} do not count: {reason}")
        return
    book.taken.add(line["statement"])
    own = book.drafts.get(person, {})
    for fields in value["answers"]:
        given = _given(fields, person)
        own.pop(given.question, None)
        asked, earlier = book.asked.get(given.question), book.final.get(given.question)
        if asked is None or not (earlier is None or earlier.person == person):
            continue
        if _is_answer(asked.question, given):
            book.final[given.question] = given
        else:
            book.set_aside.append(
                f"what {person} said to {asked.question.id} does not count: it is no answer"
            )


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


def _refusal(
    value: dict[str, Any], signed: bytes, signature: str, model: str, people: dict[str, Person], origin: str
) -> str:
    """Why a batch does not count now; empty where it does."""
    if (value["schema"], value["log"], value["model"]) != (SCHEMA, origin, model):
        return "they were given elsewhere"
    person = people.get(value["person"])
    if person is None:
        return "this person is not in the roster"
    if not is_signed(person, signed, signature):
        return "no key of theirs that is in force has signed them"
    return ""


def is_signed(person: Person, signed: bytes, signature: str) -> bool:
    """Whether a key of this person, not revoked, made this signature over these answers."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    for key in person.keys:
        try:
            if not key.revoked:
                verify_person(key.public, message(signed), raw)
                return True
        except (DeniedError, RecordError):
            continue
    return False


def _given(value: Line, person: str) -> Given:
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
