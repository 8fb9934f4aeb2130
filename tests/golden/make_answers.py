"""Make the third golden workspace: what people handed in, around tiny bundles.

    PYTHONPATH=tests python tests/golden/make_answers.py      writes tests/golden/answers, and answers.json beside it

Made as the second one is (``make_records``). Two askers and two people; one hand-in was erased, the key of another was
revoked, one answer was corrected, and in the journal stands what a version before signed, which is a draft.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
from make_records import COMPUTE, Maker, erase, keep

from guardrails.canonical import digest, encode
from guardrails.decision_log.envelope import format_time
from guardrails.gate import Submission
from guardrails.ledger.answers import handed_in
from guardrails.records import Action, Commitment, Key, ModelKind, Role
from guardrails.view import view_of
from sandbox.answers.desk import FOLDER as LABELS
from sandbox.answers.desk import Desk
from sandbox.answers.forgetting import forget_erased
from sandbox.answers.journal import Journal
from sandbox.worker.questions import Question, question_id
from ui.wiring import Workspace

FOLDER = Path(__file__).parent / "answers"
ASKERS = {"active": {}, "reinforcement/preference": {"method": "preference"}}


class Asked(Maker):
    """The workspace of ``make_records``, with learners that ask."""

    def desk(self) -> Desk:
        """The desk of the model, by the clock of this workspace."""
        return Desk(
            self.workspace.path, "toy", self.workspace.store, self.workspace.log.read,
            lambda: format_time(self.clock()),
        )  # fmt: skip

    def ask(self, asker: str, *prompts: str) -> None:
        """Some questions of one asker."""
        asked = [Question(question_id(prompt), "answer", prompt, ()) for prompt in prompts]
        self.desk().ask(asker, self.gate.require_ready("toy"), asked)

    def keep(self, name: str, **said: str) -> str:
        """One person answers questions; returns their id."""
        with view_of(self.workspace.log) as view:
            person = view.person_called(name).id
        for prompt, text in said.items():
            (asked,) = self.desk().book().called(question_id(prompt))
            self.desk().answer(person, asked.digest, text) if text else self.desk().skip(person, asked.digest)
        return person

    def give(self, name: str, **said: str) -> None:
        """One person answers questions and hands the answers in."""
        person = self.keep(name, **said)
        self.desk().hand_in(self.gate, self.desk().statements(person), self.keys[name])

    def learn(self, asker: str) -> str:
        """A proposal of one asker."""
        self.count += 1
        answers = self.desk().book()
        proposal = self.gate.record_proposal(Submission(
            "toy", asker.partition("/")[0], f"golden attempt {self.count}", self.bundle(f"candidate {self.count}"),
            self.gate.require_ready("toy"), digest(b"data"), digest(b"objective"), ASKERS[asker], self.count,
            {"python": "3"}, "strict", False, COMPUTE, "loop", answers.authors_for(asker),
        ))  # fmt: skip
        self.desk().note_used(proposal, answers.answers_for(asker))
        return proposal


def history(made: Asked) -> None:
    """People answer, proposals learn from it, and some of it counts no more."""
    source = fakes.policy()
    made.enrol("Bo", Role.SAFETY)
    made.enrol("Cy", Role.OPERATOR)
    for name in ("Ada", "Bo"):
        made.decide(name, Action.ACTIVATE, source.name, policy=source)
    made.decide("Ada", Action.ADOPT, "toy", role=Role.ROOT, digest=made.bundle("base"), kind=ModelKind.LLM)

    made.ask("active", "one", "two", "three", "four")
    made.ask("reinforcement/preference", "better")
    made.give("Ada", one="1", better="this")
    made.give("Bo", two="2", three="")
    made.learn("active")
    made.give("Ada", one="11")
    made.give("Cy", four="something personal, to be erased")
    made.learn("active")
    made.learn("reinforcement/preference")

    with made.workspace.log.read() as snapshot:
        personal = [row for row in handed_in(snapshot.tables, "toy") if row.asker == "active"][-1]
    erase(made, (Commitment(personal.statement.hex),))
    with made.workspace.log.read() as snapshot:
        assert forget_erased(made.workspace.path, snapshot, made.workspace.store) == 1
    old = made.roster()
    revoked = [
        replace(person, keys=tuple(Key(key.public, revoked=True) for key in person.keys))
        if person.keys[0].public == made.keys["Bo"].public else person
        for person in old.people
    ]  # fmt: skip
    made.gate.record_roster(
        replace(old, version=old.version + 1, people=tuple(revoked)), made.keys["Ada"], []
    )
    made.learn("active")

    person = made.keep("Cy", four="4")
    drafts = [given.fields() for given in made.desk().book().drafts_of(person)]
    signed = {
        "schema": "interlock/answers/v1", "log": made.gate.log.origin, "model": "toy", "person": person, "roster": 1,
        "answers": drafts,
    }  # fmt: skip
    with Journal(made.workspace.path / LABELS / "toy").writing() as writer:
        line = {"line": "signed", "at": "x", "statement": encode(signed).decode(), "signature": "AA=="}
        writer.append(line)


def told(folder: Path) -> dict[str, Any]:
    """What a reader must find in the workspace, now and later."""
    workspace = Workspace(folder)
    book = workspace.desk("toy").book()
    with view_of(workspace.log) as view:
        roster = view.roster
        assert roster is not None
        return {
            "entries": view.snapshot.size,
            "root": view.snapshot.root,
            "records": [entry.statement.record for entry in view.snapshot.entries()],
            "root_key": roster.people[0].keys[0].public,
            "authors": {row.id: list(row.proposal.authors) for row in view.proposals() if row.proposal},
            "answers": {asker: book.records_for(asker) for asker in ASKERS},
            "open": [asked.question.prompt for asked in book.open()],
            "drafts": {person: len(drafts) for person, drafts in book.drafts.items()},
            "set_aside": len(book.set_aside),
            "checkpoint": view.snapshot.checkpoint(),
        }


def make() -> Asked:
    """The workspace, its history over."""
    made = Asked(FOLDER)
    history(made)
    return made


if __name__ == "__main__":
    raise SystemExit(keep(FOLDER, make, told))
