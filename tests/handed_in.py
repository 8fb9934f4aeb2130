"""A workspace in which learners ask and people hand in: for tests of what that leaves in the log and beside it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from cli_workspace import made_once
from fakes import ADA, BO, CY, MODEL
from fakes import Site as Plain

from guardrails.answers import encode_statement, record_of
from guardrails.canonical import digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Statement, format_time, seal
from guardrails.decision_log.keys import PersonKey
from guardrails.ledger.answers import handed_in
from guardrails.ledger.subjects import subjects_of
from guardrails.records import Answers
from sandbox.answers.desk import Desk
from sandbox.answers.forgetting import forget_erased
from sandbox.worker.questions import Question, question_id

ASKER = "active"
SAID = "Rumpelstiltskin"


def question(prompt: str = "who?") -> Question:
    """A question that is answered in words."""
    return Question(question_id(prompt), "answer", prompt, ())


class Site(Plain):
    """A workspace of three people, with the desk of its model and one question that was asked."""

    def __init__(self, folder: Path, url: str = "") -> None:
        super().__init__(folder, (ADA, BO, CY), url=url)
        self.desk().ask(ASKER, digest(b"champion"), [question()])

    def desk(self) -> Desk:
        return Desk(self.folder, MODEL, self.store, self.log.read, lambda: format_time(self.clock()))

    def give(self, who: str, text: str = SAID, prompt: str = "who?"):
        """One person answers one question and hands it in; no text: nobody can say."""
        person, (asked,) = self.people[who], self.desk().book().called(question(prompt).id)
        self.desk().answer(person.id, asked.digest, text) if text else self.desk().skip(
            person.id, asked.digest
        )
        return self.desk().hand_in(self.gate, self.desk().statements(person.id), person.key)

    def statement(self, who: str, **fields) -> bytes:
        """What somebody would hand in, made by hand."""
        answer = {"question": str(digest(b"q")), "answer": SAID, "chosen": -1, "skipped": False, "at": "now"}
        values = {
            "log": self.log.origin, "model": MODEL, "asker": ASKER, "person": self.people[who].id,
            "roster": self.version, "salt": secrets.token_hex(16), "answers": [answer], **fields,
        }  # fmt: skip
        return encode_statement(**values)

    def answers(self, who: str = "bo", **fields) -> Answers:
        """A record that the ledger takes, but for these fields."""
        data = self.statement(who)
        self.store.put_bytes(data)
        return replace(record_of(self.log.origin, data), **fields)

    def put(self, record: Answers, *signers: PersonKey, subjects=None) -> None:
        """Append a record past the gate."""
        with self.log.read() as snapshot:
            about = subjects or subjects_of(snapshot.tables, record)
        time = format_time(self.clock())
        said = Statement("answers", about, encode_record(record), self.log.origin, time)
        self.inject(seal(said.encode(), *signers))

    def statements(self) -> list[str]:
        """The addresses of what was handed in."""
        with self.log.read() as snapshot:
            return [row.statement.hex for row in handed_in(snapshot.tables, MODEL)]


def everywhere(folder: Path) -> bytes:
    """Every byte of every file."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def forget(site: Site) -> int:
    """Let go of what the log says is erased; how many statements."""
    with site.log.read() as snapshot:
        return forget_erased(site.folder, snapshot, site.store)


def workspace_that_asks(factory: pytest.TempPathFactory) -> Path:
    """A workspace with one question that was asked, to be copied."""
    asked = [question()]
    return made_once(
        factory, ASKER, lambda made: made.workspace.desk("toy").ask(ASKER, digest(b"champion"), asked)
    )
