"""sandbox.answers: questions of learners, drafts and signed answers of people, on real keys and files."""

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ADA, CY, MODEL
from fakes import Site as Plain

from guardrails.canonical import digest
from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.keys import PersonKey
from guardrails.decision_log.store import Log
from guardrails.errors import (
    BundleError,
    DeniedError,
    InvalidInputError,
    StaleError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from guardrails.registry import ArtifactStore
from sandbox.answers import asking, journal
from sandbox.answers.asking import QuestionsOpenError, require_answered
from sandbox.answers.desk import Desk, asker_of
from sandbox.config import Recipe
from sandbox.isolation.collector import ASKED, BUNDLE, TRAINED, collect
from sandbox.isolation.questions import parse_questions
from sandbox.worker.questions import MAX_PROMPT, Question, question_id, read_answers, write_questions

ASKER = "active"
CHAMPION = digest(b"champion")


def question(number: int = 1, **fields) -> Question:
    prompt = fields.pop("prompt", f"sort {number}>")
    options = fields.pop("options", ())
    return Question(question_id(prompt, options), fields.pop("kind", "answer"), prompt, options, **fields)


def choice(number: int = 1) -> Question:
    return question(kind="choice", prompt=f"which? {number}", options=(f"first {number}", f"second {number}"))


class Site(Plain):
    """The desk of a model in a real workspace: two people with keys, a log, time that goes on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, (ADA, CY))

    def desk(self) -> Desk:
        return Desk(self.folder, MODEL, self.store, self.log.read, lambda: format_time(self.clock()))

    def ask(self, *questions: Question, asker: str = ASKER):
        self.desk().ask(asker, CHAMPION, questions)
        return [self.desk().find(one.id) for one in questions]

    def give(self, who: str, key: PersonKey | None = None):
        desk = self.desk()
        return desk.hand_in(self.gate, desk.statements(self.people[who].id), key or self.people[who].key)

    def answered(self, who: str, *pairs) -> None:
        for asked, text in pairs:
            self.desk().answer(self.people[who].id, asked.digest, text)
        self.give(who)


@pytest.fixture
def site(folder):
    made = Site(folder / "site")
    yield made
    made.close()


# --- from question to training data --------------------------------------------------------


def test_an_answer_counts_and_is_trained_on_only_once_it_is_handed_in(site, tmp_path):
    first, second = site.ask(question(1), question(2))
    with pytest.raises(QuestionsOpenError, match="2 questions wait"):
        require_answered(site.desk().book(), MODEL, ASKER)
    site.desk().answer("p-ada", first.digest, " 12 ")
    site.desk().skip("p-ada", second.digest)
    assert asking.lay_out(site.desk().book(), ASKER, tmp_path) == b"", "drafts are nobody's business"
    assert len(site.desk().book().open(ASKER)) == 2
    handed = site.give("ada")
    assert (handed.answers, handed.skipped) == (2, 1)
    book = site.desk().book()
    require_answered(book, MODEL, ASKER)
    assert asking.lay_out(book, ASKER, tmp_path)
    told = read_answers(tmp_path)
    assert [(a.id, a.prompt, a.answer, a.skipped, a.fresh) for a in told] == [
        (first.question.id, "sort 1>", "12", False, True),
        (second.question.id, "sort 2>", "", True, True),
    ]
    assert book.authors_for(ASKER) == ("p-ada",)


def test_a_learner_is_told_no_name_and_that_a_person_wrote_it(site, tmp_path):
    (asked,) = site.ask(question())
    site.answered("ada", (asked, "12"))
    (line,) = asking.lay_out(site.desk().book(), ASKER, tmp_path).splitlines()
    value = json.loads(line)
    assert (value["origin"], value["text"]) == ("person", "sort 1>12")
    assert b"ada" not in line


def test_answers_are_fresh_until_a_proposal_was_trained_on_them(site):
    (asked,) = site.ask(question())
    site.answered("ada", (asked, "12"))
    desk = site.desk()
    desk.note_used("P-0001", desk.book().answers_for(ASKER))
    assert [record["fresh"] for record in desk.book().records_for(ASKER)] == [False]
    site.answered("ada", (asked, "21"))
    assert [(r["answer"], r["fresh"]) for r in desk.book().records_for(ASKER)] == [("21", True)], "corrected"


def test_what_one_asker_learnt_is_not_given_to_another(site):
    (mine,) = site.ask(question(1))
    site.ask(choice(), asker="reinforcement/preference")
    site.answered("ada", (mine, "12"))
    book = site.desk().book()
    assert book.records_for("reinforcement/preference") == []
    assert len(book.open("reinforcement/preference")) == 1
    assert book.open(ASKER) == []


def test_an_asker_is_the_technique_and_its_method_whatever_else_a_recipe_says():
    assert asker_of(Recipe("active", {"lr": "1"})) == "active"
    assert asker_of(Recipe("reinforcement", {"method": "preference"})) == "reinforcement/preference"


# --- choices -------------------------------------------------------------------------------


def test_the_order_of_a_choice_tells_nothing_and_the_answer_names_the_text(site):
    asked = site.ask(*(choice(i) for i in range(40)))
    swapped = sum(one.order == (1, 0) for one in asked)
    assert 8 <= swapped <= 32, "each order about as often"
    for one in asked:
        given = site.desk().answer("p-ada", one.digest, "b")
        assert given.answer == one.shown["B"] == one.question.options[given.chosen]


def test_the_order_does_not_follow_from_the_question(tmp_path):
    def orders(folder):
        return [one.order for one in Site(folder).ask(*(choice(i) for i in range(40)))]

    assert orders(tmp_path / "a") != orders(tmp_path / "b")


def test_an_options_own_text_is_taken_before_a_label(site):
    (asked,) = site.ask(question(kind="action", prompt="state", options=("B", "A")))
    assert asked.shown == {"1": "B", "2": "A"}
    assert site.desk().answer("p-ada", asked.digest, "A").chosen == 1


@pytest.mark.parametrize("text", ["C", "", "first"])
def test_what_is_no_option_answers_nothing(site, text):
    (asked,) = site.ask(choice())
    with pytest.raises(UsageError, match="none of the options"):
        site.desk().answer("p-ada", asked.digest, text)


# --- who may answer, and what --------------------------------------------------------------


def test_somebody_who_is_not_in_the_roster_answers_nothing(site):
    (asked,) = site.ask(question())
    for act in (
        lambda desk: desk.answer("p-eve", asked.digest, "12"),
        lambda desk: desk.skip("p-eve", asked.digest),
        lambda desk: desk.undo("p-eve"),
        lambda desk: desk.statements("p-eve"),
    ):
        with pytest.raises(DeniedError, match="not in the roster"):
            act(site.desk())
    assert not site.desk().book().drafts


def test_answers_of_somebody_whose_key_was_revoked_count_no_more_until_they_sign_again(site):
    (asked,) = site.ask(question())
    site.answered("cy", (asked, "12"))
    assert not site.desk().book().open(ASKER)
    site.enrol(revoked=(site.people["cy"].key.public,))
    book = site.desk().book()
    assert book.open(ASKER)
    assert book.records_for(ASKER) == []
    assert book.set_aside == ["1 answer of p-cy cannot count: the key that signed them was revoked"]
    with pytest.raises(DeniedError, match="no key that is in force"):
        site.give("cy")
    assert [given.answer for given in book.drafts_of("p-cy")] == ["12"], "nothing is typed twice"


def test_nobody_hands_in_for_somebody_else(site):
    (asked,) = site.ask(question())
    site.desk().answer("p-ada", asked.digest, "12")
    with pytest.raises(DeniedError, match="hand-in is not signed by a key of p-ada"):
        site.give("ada", site.people["cy"].key)
    assert site.desk().book().open(ASKER)
    assert "answers" not in site.kinds()


def test_what_somebody_wrote_into_the_journal_counts_for_nothing(site):
    (asked,) = site.ask(question())
    site.answered("ada", (asked, "12"))
    file = site.folder / "labels" / MODEL / "journal.jsonl"
    forged = file.read_text().replace('"answer":"12"', '"answer":"99"')
    assert forged != file.read_text()
    file.write_text(forged)
    book = site.desk().book()
    assert [record["answer"] for record in book.records_for(ASKER)] == ["12"], (
        "the log says what was handed in"
    )
    assert [given.answer for given in book.drafts_of("p-ada")] == ["99"], "a draft, which nobody has signed"


def test_a_journal_that_lost_its_questions_is_told_of(site):
    (asked,) = site.ask(question())
    site.answered("ada", (asked, "12"))
    (site.folder / "labels" / MODEL / "journal.jsonl").unlink()
    book = site.desk().book()
    assert book.records_for(ASKER) == []
    assert "a question of active that is not in this journal" in book.set_aside[0]


def test_no_label_is_the_text_of_another_option(site):
    # Of both kinds, so that neither letters nor numbers alone are free: typing "A" would have meant the other text.
    options = [("1", "A"), ("A", "1"), ("b", "2"), ("2", "B")]
    for number, pair in enumerate(options):
        (asked,) = site.ask(question(kind="choice", prompt=f"which? {number}", options=pair))
        assert not {label.upper() for label in asked.shown} & {text.upper() for text in pair}
        for label, text in asked.shown.items():
            assert site.desk().answer("p-ada", asked.digest, label).answer == text
    many = tuple("12345678ABDEFGHI")
    (asked,) = site.ask(question(kind="action", prompt="what?", options=many))
    assert len(asked.shown) == 16
    assert not set(asked.shown) & set(many)


@pytest.mark.parametrize("said", [
    {"answer": "poison", "chosen": -1, "skipped": True}, {"answer": "first 1", "chosen": 1, "skipped": False},
    {"answer": "first 1", "chosen": 7, "skipped": False}, {"answer": "first 1", "chosen": -1, "skipped": False},
    {"answer": "", "chosen": 0, "skipped": True},
])  # fmt: skip
def test_a_signed_answer_that_says_two_things_is_none(site, said):
    # Above all a text with "skipped": a learner would read it, and whoever wrote it would be nobody's author.
    (asked,) = site.ask(choice())
    desk = site.desk()
    control = {"answer": "first 1", "chosen": 0, "skipped": False}
    for fields, counts in ((said, False), (control, True)):
        with desk._journal.writing() as writer:
            writer.append({
                "line": "draft", "person": "p-ada", "question": str(asked.digest), "at": site.clock.text, **fields
            })  # fmt: skip
        site.give("ada")
        book = desk.book()
        assert bool(book.final) is counts
        assert bool(book.records_for(ASKER)) is counts
        assert book.authors_for(ASKER) == (("p-ada",) if counts else ())
        assert "it is no answer" in book.set_aside[0]


@pytest.mark.parametrize("of_what_was_shown", [True, False])
def test_a_draft_that_came_after_the_others_were_shown_is_not_signed_with_them(site, of_what_was_shown):
    """The control: statements of the drafts as they are now hold it, unseen."""
    first, other = site.ask(question(), question(2))
    desk, key = site.desk(), site.people["ada"].key
    desk.answer("p-ada", first.digest, "12")
    shown = desk.book()
    site.desk().answer("p-ada", other.digest, "what she never saw")
    statements = desk.statements("p-ada", shown if of_what_was_shown else None)
    if of_what_was_shown:
        with pytest.raises(StaleError, match="changed just now"):
            desk.hand_in(site.gate, statements, key)
        assert "answers" not in site.kinds()
    else:
        assert desk.hand_in(site.gate, statements, key).answers == 2


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"question": str(digest(b"nowhere"))}, "not asked before"), ({"answer": 7}, "wrong type")],
)
def test_a_draft_that_nobody_can_have_made_is_an_error_with_its_line(site, changed, why):
    (asked,) = site.ask(question())
    draft = {
        "question": str(asked.digest),
        "answer": "12",
        "chosen": -1,
        "skipped": False,
        "at": "2026-01-05",
    }
    with journal.Journal(site.folder / "labels" / MODEL).writing() as writer:
        writer.append({"line": "draft", "person": "p-ada", **draft, **changed})
    with pytest.raises(StorageError, match=rf"line 2.*{why}"):
        site.desk().book()


def test_a_statement_is_handed_in_once(site):
    (asked,) = site.ask(question())
    site.desk().answer("p-ada", asked.digest, "12")
    statements = site.desk().statements("p-ada")
    site.desk().hand_in(site.gate, statements, site.people["ada"].key)
    with pytest.raises(StaleError, match="changed just now"):
        site.desk().hand_in(site.gate, statements, site.people["ada"].key)
    with pytest.raises(DeniedError, match="handed in already, by record 3"):
        site.gate.record_answers(statements, site.people["ada"].key)
    assert site.kinds().count("answers") == 1


def test_unknown_and_changed_questions_are_not_answered(site):
    (asked,) = site.ask(question())
    with pytest.raises(UnknownNameError, match="or it is not what it was"):
        site.desk().answer("p-ada", digest(b"changed"), "12")
    with pytest.raises(UnknownNameError):
        site.desk().find("q-unknown")
    with pytest.raises(BundleError, match="given to another question"):
        site.desk().ask(ASKER, CHAMPION, [replace(asked.question, prompt="something else")])
    assert site.desk().ask(ASKER, CHAMPION, [asked.question]) == 0, "asking the same again is no new question"


def test_the_first_answer_that_counts_stands_against_others(site):
    first, second = site.ask(question(1), question(2))
    for person in ("p-ada", "p-cy"):
        site.desk().answer(person, first.digest, person)
    site.desk().answer("p-cy", second.digest, "21")
    site.give("ada")
    with pytest.raises(DeniedError, match="somebody else"):
        site.desk().answer("p-cy", first.digest, "99")
    with pytest.raises(StaleError, match="1 of these questions"):
        site.give("cy")
    site.give("cy")
    book = site.desk().book()
    assert [(g.person, g.answer) for g in book.answers_for(ASKER)] == [("p-ada", "p-ada"), ("p-cy", "21")]
    assert book.authors_for(ASKER) == ("p-ada", "p-cy")


def test_who_only_skipped_is_no_author(site):
    (asked,) = site.ask(question())
    site.desk().skip("p-cy", asked.digest)
    site.give("cy")
    assert site.desk().book().authors_for(ASKER) == ()


def test_undo_takes_back_the_newest_draft_and_nothing_that_was_handed_in(site):
    first, second = site.ask(question(1), question(2))
    site.answered("ada", (first, "12"))
    assert site.desk().undo("p-ada") is None
    site.desk().answer("p-ada", second.digest, "21")
    assert site.desk().undo("p-ada").question == second.digest
    with pytest.raises(UsageError, match="no answer of yours"):
        site.give("ada")
    assert [one.digest for one in site.desk().book().open()] == [second.digest]


def test_what_is_signed_is_what_was_shown(site):
    first, second = site.ask(question(1), question(2))
    site.desk().answer("p-ada", first.digest, "12")
    shown = site.desk().statements("p-ada")
    site.desk().answer("p-ada", second.digest, "put in behind their back")
    with pytest.raises(StaleError, match="changed just now"):
        site.desk().hand_in(site.gate, shown, site.people["ada"].key)
    assert not site.desk().book().final


@pytest.mark.parametrize("text", ["", "  ", "x" * 4001, "\x1b[2J", "a\u202eb", "\ud800"])
def test_an_answer_is_plain_text_of_bounded_length(site, text):
    (asked,) = site.ask(question())
    with pytest.raises(UsageError, match="an answer h"):
        site.desk().answer("p-ada", asked.digest, text)
    assert site.desk().answer("p-ada", asked.digest, "naïve — 日本\u00a0語 👩‍🔬")


# --- two at once, and crashes --------------------------------------------------------------


def _label(folder: Path, url: str, person: str, start: int) -> None:
    for number in range(start, start + 25):
        desk = Desk(folder, MODEL, ArtifactStore(folder / "artifacts"), Log.open(url).read)
        desk.answer(person, desk.find(question(number).id).digest, f"{person} {number}")


def test_two_labellers_at_once_lose_nothing(site):
    site.ask(*(question(number) for number in range(50)))
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=_label, args=(site.folder, site.url, person, start))
        for person, start in (("p-ada", 0), ("p-cy", 25), ("p-cy", 0))
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    drafts = site.desk().book().drafts
    assert len(drafts["p-ada"]) == 25
    assert len(drafts["p-cy"]) == 50
    assert all(given.answer.startswith(person) for person, own in drafts.items() for given in own.values())


KILLED = """
import os, sys
from pathlib import Path
from guardrails.decision_log.store import Log
from guardrails.registry import ArtifactStore
from sandbox.answers.desk import Desk

folder, url, model, when, question = sys.argv[1:]
whole, real = when == "after", os.write
def write(descriptor, data):
    real(descriptor, bytes(data) if whole else bytes(data)[:len(data) // 2])
    os.kill(os.getpid(), 9)
desk = Desk(Path(folder), model, ArtifactStore(Path(folder, "artifacts")), Log.open(url).read)
os.write = write
desk.answer("p-ada", desk.find(question).digest, "99")
"""


@pytest.mark.parametrize("when", ["in the middle", "after"])
def test_a_crash_loses_no_acknowledged_answer(site, when):
    first, second, third = site.ask(question(1), question(2), question(3))
    site.desk().answer("p-ada", first.digest, "12")
    words = [str(site.folder), site.url, MODEL, when, second.question.id]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *words], check=False, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert ended.returncode == -9, ended.stderr
    kept = ["12", "99"] if when == "after" else ["12"]
    assert [given.answer for given in site.desk().book().drafts_of("p-ada")] == kept
    site.desk().answer("p-ada", third.digest, "33")
    assert [given.answer for given in site.desk().book().drafts_of("p-ada")] == [*kept, "33"]


def test_nobody_waits_for_ever_for_a_process_that_stands_still(site, monkeypatch):
    (asked,) = site.ask(question())
    monkeypatch.setattr(journal, "PATIENCE_S", 0.05)
    lock = os.open(site.folder / "labels" / MODEL / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(StorageError, match="another process has kept"):
        site.desk().answer("p-ada", asked.digest, "12")
    os.close(lock)
    assert site.desk().answer("p-ada", asked.digest, "12").answer == "12"


def test_a_full_disk_keeps_the_file_as_it_was(site, monkeypatch):
    (asked,) = site.ask(question())
    file = site.folder / "labels" / MODEL / "journal.jsonl"
    before, real = file.read_bytes(), os.write

    def tiny(descriptor, data):
        real(descriptor, bytes(data)[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", tiny)
    with pytest.raises(StorageError, match="nothing was kept"):
        site.desk().answer("p-ada", asked.digest, "12")
    assert file.read_bytes() == before


def test_a_damaged_line_is_named_and_nothing_is_skipped(site):
    (asked,) = site.ask(question())
    site.desk().answer("p-ada", asked.digest, "12")
    file = site.folder / "labels" / MODEL / "journal.jsonl"
    lines = file.read_bytes().split(b"\n")
    for broken in (b"not json", b'{"line":"unheard"}', b'{"line":"draft"}', b"", b"[]"):
        file.write_bytes(b"\n".join([lines[0], broken, *lines[1:]]))
        with pytest.raises(StorageError, match=r"journal\.jsonl:2|line 2 of the journal"):
            site.desk().book()


# --- hostile questions ---------------------------------------------------------------------

GOOD = {"id": "q1", "kind": "answer", "prompt": "sort 1>"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**GOOD, "id": "../etc"}, "id:"),
        ({**GOOD, "id": "q" * 65}, "id:"),
        ({**GOOD, "id": 1}, "id:"),
        ({**GOOD, "kind": "order"}, "kind:"),
        ({**GOOD, "kind": ["answer"]}, "kind:"),
        ({**GOOD, "prompt": " "}, "prompt:"),
        ({**GOOD, "prompt": "x" * (MAX_PROMPT + 1)}, "prompt:"),
        ({**GOOD, "style": "<b>"}, "unknown key"),
        ({**GOOD, "why": "w" * 201}, "why:"),
        ({**GOOD, "layout": 3}, "layout:"),
        ({**GOOD, "uncertainty": 1.5}, "uncertainty:"),
        ({**GOOD, "uncertainty": True}, "uncertainty:"),
        ({**GOOD, "options": "ab"}, "options:"),
        ({**GOOD, "options": ["a"]}, "options:"),
        ({**GOOD, "options": ["a", "a "]}, "same text"),
        ({**GOOD, "kind": "action"}, "options:"),
        ({**GOOD, "kind": "choice", "options": ["a", "b", "c"]}, "between two"),
        ([GOOD], "one JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused_with_its_line(line, reason):
    with pytest.raises(BundleError, match=r"^questions\.jsonl:2: .*" + reason):
        parse_questions(json.dumps({**GOOD, "id": "q0"}).encode() + b"\n" + json.dumps(line).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n".join(json.dumps({**GOOD, "id": f"q{i}"}).encode() for i in range(201)),
        json.dumps(GOOD).encode() + b"\n" + json.dumps({**GOOD, "prompt": "another"}).encode(),
        b'{"id":"q1","id":"q2","kind":"answer","prompt":"p"}',
        b'{"id":"q1","kind":"answer","prompt":"\\ud800"}',
        b'{"id":"q1","kind":"answer","prompt":"p","uncertainty":NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=[
        "none",
        "too many",
        "duplicate ids",
        "duplicate keys",
        "half a character",
        "NaN",
        "not UTF-8",
        "deep",
    ],
)
def test_hostile_files_of_questions_are_refused_whole(content):
    with pytest.raises(BundleError):
        parse_questions(content)


def test_ten_megabytes_of_questions_are_not_even_read(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "questions.jsonl").write_bytes(b"x" * (10 << 20))
    with pytest.raises(BundleError, match="more than the 4194304 allowed"):
        collect(tmp_path / "out", tmp_path / "to", ASKED)
    assert not (tmp_path / "to").exists()


def test_questions_are_taken_from_jobs_and_not_from_submissions(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_questions(out, [question()])
    assert [entry.path for entry in collect(out, tmp_path / "asked", ASKED)] == ["questions.jsonl"]
    with pytest.raises(BundleError, match="not a file of a bundle"):
        collect(out, tmp_path / "submitted", BUNDLE)
    with pytest.raises(BundleError, match="is missing"):
        collect(out, tmp_path / "trained", TRAINED)
    (out / "stowaway.txt").write_text("x")
    with pytest.raises(BundleError, match="not a file of a set of questions"):
        collect(out, tmp_path / "more", ASKED)


def test_what_a_learner_cannot_ask_is_said_to_it(tmp_path):
    for questions, reason in (
        ([], "nothing to ask"),
        ([question()] * 2, "stands twice"),
        ([question(number) for number in range(201)], "too many"),
        ([question(kind="choice")], "between two"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            write_questions(tmp_path, questions)
    assert not list(tmp_path.iterdir())


def test_written_questions_read_back_equal(tmp_path):
    asked = [
        question(1, why="<img src=x> \x1b[2J", uncertainty=0.25),
        choice(2),
        question(3, kind="action", options=("left", "right"), layout="#>G#"),
    ]
    write_questions(tmp_path, asked)
    assert list(parse_questions((tmp_path / "questions.jsonl").read_bytes())) == asked
