"""`interlock label`: questions, answers and hand-ins on the command line, for programs and at a terminal."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_workspace import HOSTILE, OPERATOR, PASSPHRASE, REPOSITORY, SAFETY, Cli, Made, copy_of

from guardrails.canonical import digest
from sandbox.worker.questions import Question, question_id
from ui.wiring import Workspace


def question(number, kind="answer", options=(), **fields):
    prompt = fields.pop("prompt", f"sort {number}>")
    return Question(question_id(prompt, options), kind, prompt, options, **fields)


QUESTIONS = (
    question(1, why=f"not sure {HOSTILE}", uncertainty=0.9),
    question(2, "choice", (f"good {HOSTILE}", "bad <script>alert(1)</script>"), prompt="which one?"),
    question(3, "action", ("left", "right"), prompt="#>..G#", layout="#>..G#"),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("label") / "workspace"
    made = Made(path)
    made.workspace.desk("toy").ask("active", digest(b"champion"), QUESTIONS)
    made.close()
    return path


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def book(cli):
    return Workspace(cli.path).desk("toy").book()


def ids():
    return [one.id for one in QUESTIONS]


def test_programs_are_given_every_question_as_people_see_it(cli):
    data = cli.ok("label", "toy")
    assert (data["asked"], data["open"], data["answered"], data["skipped"]) == (3, 3, 0, 0)
    assert [one["id"] for one in data["questions"]] == ids()
    assert set(data["questions"][1]["options"]) == {"A", "B"}
    assert data["questions"][0]["uncertainty"] == 0.9
    assert "cannot approve what was trained on it" in data["what"]
    assert cli.ok("label")["models"] == [{"model": "toy", "open": 3}]


def test_list_and_loop_status_say_that_people_are_waited_for(cli):
    assert "3 questions about toy wait for people" in cli("list").out
    assert cli.ok("loop", "status")["questions"] == {"toy": 3}


def test_answers_are_handed_in_with_one_signature_and_close_the_questions(cli):
    shown = cli.ok("label", "toy")["questions"][1]["options"]
    given = cli.ok(
        "label", "toy", "--answer", f"{ids()[0]}=12", "--answer", f"{ids()[1]}=B", "--skip", ids()[2]
    )
    assert (given["handed_in"], given["open"], given["answered"], given["skipped"]) == (3, 0, 2, 1)
    answers = book(cli).records_for("active")
    assert [one["answer"] for one in answers] == ["12", shown["B"], ""]
    assert "No question about toy is open" in cli("label", "toy").out


def test_what_is_signed_is_listed_first(cli):
    ran = cli.signed("label", "toy", "--answer", f"{ids()[0]}=12")
    assert ran.status == 0
    assert ran.err.index("You sign these answers") < ran.err.index("12")


def test_a_wrong_passphrase_hands_nothing_in_and_keeps_the_drafts(cli):
    cli.passphrase_file.write_text("wrong\n")
    assert cli.signed("label", "toy", "--answer", f"{ids()[0]}=12").status == 6
    assert len(book(cli).open()) == 3
    cli.passphrase_file.write_text(PASSPHRASE + "\n")
    assert cli.ok("label", "toy", "--skip-rest")["handed_in"] == 3
    assert [one["answer"] for one in book(cli).records_for("active")] == ["12", "", ""]


def test_drafts_wait_until_they_are_handed_in_and_can_be_taken_back(cli):
    assert cli.ok("label", "toy", "--answer", f"{ids()[0]}=12", "--draft") | {"model": ""} == {
        "model": "", "handed_in": 0, "drafts": 1, "records": [], "asked": 3, "open": 3, "answered": 0, "skipped": 0,
    }  # fmt: skip
    (draft,) = cli.ok("label", "toy")["drafts"]
    assert draft["answer"] == "12"
    assert cli.ok("label", "toy", "--undo")["undone"] == draft["digest"]
    assert cli.ok("label", "toy", "--undo")["undone"] is None


def test_drafts_are_handed_in_without_a_further_answer(cli):
    ran = cli.signed("label", "toy", "--answer", f"{ids()[0]}=12", "--draft")
    assert "interlock label toy --hand-in" in ran.out
    assert cli.ok("label", "toy", "--hand-in")["handed_in"] == 1
    assert cli.signed("label", "toy", "--hand-in").status == 2, "there is none left"
    assert cli.signed("label", "toy", "--hand-in", "--draft").status == 2
    assert [one["answer"] for one in book(cli).records_for("active")] == ["12"]


def test_what_can_be_chosen_stands_in_the_list(cli):
    shown = cli.ok("label", "toy")["questions"]
    out = " ".join(cli("label", "toy").out.split())
    assert "1 left · 2 right" in out
    assert all(f"{label} {text[:3]}" in out for label, text in shown[1]["options"].items())


def test_a_file_of_answers_is_taken_whole(cli, tmp_path):
    file = tmp_path / "answers.jsonl"
    digests = [one["digest"] for one in cli.ok("label", "toy")["questions"]]
    lines = [
        {"id": ids()[0], "answer": "12"},
        {"digest": digests[1], "answer": "A"},
        {"id": ids()[2], "skipped": True},
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert cli.ok("label", "toy", "--import", file)["handed_in"] == 3


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"id": "q-unknown", "answer": "12"}, 2),
        ({"digest": "sha256:" + "0" * 64, "answer": "12"}, 2),
        ({"id": ids()[2], "answer": "up"}, 2),
        ({"id": ids()[0], "answer": "twice"}, 2),
        ({"id": ids()[2]}, 3),
        ({"id": ids()[2], "answer": "left", "skipped": True}, 3),
        ({"id": ids()[2], "answer": ["left"]}, 3),
        ({"id": ids()[2], "answer": "left", "by": "somebody"}, 3),
        ("text", 3),
    ],
)
def test_one_bad_line_and_nothing_of_the_file_is_kept(cli, tmp_path, line, status):
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"id": ids()[0], "answer": "12"}) + "\n" + json.dumps(line) + "\n")
    assert cli.signed("label", "toy", "--import", file).status == status
    assert not book(cli).drafts


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("label", "nobody"), 2, "there is no model nobody"),
        (("label", "toy", "--answer", "12"), 2, "ID=TEXT"),
        (("label", "--skip-rest"), 2, "name the model"),
        (("label", "toy", "--answer", "q-unknown=12"), 2, "was never asked"),
        (("label", "toy", "--import", "/nowhere"), 2, "cannot be read"),
        (("--as", "Eve", "label", "toy", "--skip-rest"), 2, "nobody here is called Eve"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(cli, words, status, says):
    ran = cli.signed(*words)
    assert ran.status == status
    assert says in ran.err
    assert not book(cli).drafts


def test_somebody_else_cannot_answer_again(cli):
    cli.ok("label", "toy", "--answer", f"{ids()[0]}=12")
    ran = cli.signed("--as", SAFETY, "label", "toy", "--answer", f"{ids()[0]}=99")
    assert ran.status == 6
    assert "answered by somebody else" in ran.err
    assert cli.ok("label", "toy", "--answer", f"{ids()[0]}=21")["handed_in"] == 1, (
        "their own they may correct"
    )


def test_nothing_that_a_learner_wrote_commands_the_terminal(cli):
    out = cli("label", "toy").out
    assert "not sure" in out
    assert not set(out) & set("\x1b\x07\u202e")


def test_a_damaged_journal_is_named_and_hides_nothing_else(cli):
    file = cli.path / "labels" / "toy" / "journal.jsonl"
    file.write_bytes(b"not a line\n" + file.read_bytes())
    assert cli("label", "toy").status == 1
    ran = cli("list")
    assert ran.status == 0
    assert "journal.jsonl:1" in ran.err


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, path: Path, passphrase: Path) -> None:
        self.main, child = pty.openpty()
        words = ("--workspace", path, "--passphrase-file", passphrase, "label", "toy")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "NO_COLOR": "1"}
        self.job = subprocess.Popen(
            [sys.executable, "-m", "ui.cli", *map(str, words)], stdin=child, stdout=child, stderr=child,
            env=environment, close_fds=True,
        )  # fmt: skip
        os.close(child)
        self.seen = ""

    def until(self, text: str) -> str:
        """Read on until a text shows up."""
        start, deadline = len(self.seen), time.monotonic() + 60
        while text not in self.seen[start:] and time.monotonic() < deadline:
            try:
                data = os.read(self.main, 4096)
            except OSError:
                break
            self.seen += data.decode("utf-8", "replace")
        assert text in self.seen[start:], self.seen
        return self.seen[start:]

    def type(self, text: str) -> None:
        os.write(self.main, text.encode() + b"\n")


def test_at_a_terminal_one_question_after_the_other(cli):
    terminal = Terminal(cli.path, cli.passphrase_file)
    first = terminal.until("> ")
    assert "The learner is not told who answered" in " ".join(first.split())
    while "sort 1>" not in terminal.seen:
        terminal.until("> ")
    for typed in ("12", "C", "B", "/undo", "/skip", "left"):
        terminal.type(typed)
        terminal.until("> " if typed != "left" else "handed in")
    assert terminal.job.wait(30) == 0
    assert "is none of the options" in terminal.seen
    assert "one of: A, B" in terminal.seen
    assert "taken back" in terminal.seen
    assert "\x1b]0;" not in terminal.seen
    assert [one["answer"] for one in book(cli).records_for("active")] == ["12", "", "left"]
