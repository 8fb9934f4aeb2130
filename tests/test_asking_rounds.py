"""sandbox.rounds and sandbox.loop with a learner that asks people, in real isolation."""

import json
from dataclasses import replace

import pytest
from cli_workspace import Cli
from test_rounds import Site as Plain
from test_rounds import quiet

from guardrails.errors import JobFailedError
from guardrails.records import State
from guardrails.view import view_of
from sandbox import loop, rounds
from sandbox.answers.asking import Asked, QuestionsOpenError
from sandbox.config import Learner, Recipe

PROGRAM = '''
"""Asks two questions; once they are answered, proposes the champion's weights, one bit changed."""
import json, pathlib, shutil, sys

request = json.loads(pathlib.Path("/in/request.json").read_text())
out, answers = pathlib.Path("/out"), pathlib.Path("/in/data/answers.jsonl")
mode = request["recipe"].get("mode", "")
lines = [json.loads(line) for line in answers.read_text().splitlines()] if answers.exists() else []
if mode == "again" or not any(line["fresh"] for line in lines):
    ask = [{"id": "q1", "kind": "answer", "prompt": "sort 21>"}, {"id": "q2", "kind": "answer", "prompt": "sort 31>"}]
    if mode == "changed":
        ask[0]["prompt"] = "sort 99>"
    if mode == "stray":
        (out / "notes.txt").write_text("x")
    (out / "questions.jsonl").write_text("".join(json.dumps(one) + chr(10) for one in ask))
    sys.exit(0)
shutil.copytree("/in/champion", out / "model")
weights = out / "model" / "model.safetensors"
data = bytearray(weights.read_bytes())
data[-4] ^= 1
weights.chmod(0o600)
weights.write_bytes(data)
(out / "data").mkdir()
kept = [{"text": line["text"], "origin": line["origin"]} for line in lines if not line["skipped"]]
(out / "data" / "answers.jsonl").write_text("".join(json.dumps(one) + chr(10) for one in kept))
(out / "questions.jsonl").write_text(json.dumps({"id": "q3", "kind": "answer", "prompt": "sort 41>"}) + chr(10))
manifest = {"schema": "interlock/bundle/v1", "intent": "learn from answers", "technique": "asking",
            "data": ["data/answers.jsonl"]}
(out / "proposal.json").write_text(json.dumps(manifest))
'''


class Site(Plain):
    """The workspace of ``test_rounds``, with a learner that asks."""

    def __init__(self, folder):
        super().__init__(folder)
        program = folder / "learners" / "asking"
        program.mkdir(parents=True)
        (program / "ask.py").write_text(PROGRAM)
        self.learner = Learner("asking", ("python", "/in/learner/ask.py"), program)
        self.asking = Recipe("command:asking", {}, self.learner)

    @property
    def desk(self):
        return rounds.desk_of(self.bench, "tiny")

    @property
    def person(self):
        with view_of(self.workspace.log) as view:
            return view.people()[0][0].id

    def propose(self, **settings):
        return rounds.propose(self.bench, self.model, replace(self.asking, settings=settings), 1, quiet)

    def answer_all(self):
        for number, asked in enumerate(self.desk.book().open()):
            if number:
                self.desk.answer(self.person, asked.digest, f"{number}2")
            else:
                self.desk.skip(self.person, asked.digest)
        return self.desk.hand_in(self.bench.gate, self.desk.statements(self.person), self.key)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("asking") / "ws")


def test_from_questions_to_a_proposal_that_names_its_authors(site):
    """One line, in order: refused, asked, waiting, answered, proposed, asked again."""
    with pytest.raises(JobFailedError, match=r"notes\.txt"):
        site.propose(mode="stray")
    with view_of(site.workspace.log) as view:
        before = len(view.proposals())

    asked = site.propose()
    assert asked == Asked("tiny", "command:asking", 2)
    with view_of(site.workspace.log) as view:
        assert len(view.proposals()) == before, "neither a proposal nor a failure"
    with pytest.raises(QuestionsOpenError, match="2 questions wait"):
        site.propose()

    site.answer_all()
    with pytest.raises(JobFailedError, match="asked only what people were asked before"):
        site.propose(mode="again")
    proposal = site.propose()
    row = site.row(proposal)
    assert row.proposal.authors == (site.person,)
    store = site.workspace.store
    records = [json.loads(line) for line in store.get_bytes(row.proposal.data).splitlines()]
    told = [record for record in records if record.get("origin") == "person"]
    assert [(record["answer"], record["skipped"]) for record in told] == [("", True), ("12", False)]
    assert len(records) > 100, "the model's own training data are in it as well"
    paths = {entry.path for entry in store.tree(row.proposal.bundle)}
    assert "data/answers.jsonl" in paths
    assert "questions.jsonl" not in paths

    book = site.desk.book()
    assert [one.question.id for one in book.open()] == ["q3"], "a job may propose and ask"
    assert not any(record["fresh"] for record in book.records_for("command:asking"))
    site.answer_all()
    site.desk.note_used("P-0000", list(site.desk.book().final.values()))
    with pytest.raises(JobFailedError, match="given to another question"):
        site.propose(mode="changed")


@pytest.mark.slow
def test_what_was_trained_on_answers_is_measured_like_anything_else(tmp_path):
    site = Site(tmp_path / "ws")
    site.propose()
    site.answer_all()
    proposal = site.propose()
    state = rounds.measure(site.bench, replace(site.model, items=24), proposal, quiet)
    assert state in (State.AWAITING_APPROVAL.value, State.BLOCKED.value)
    assert site.row(proposal).evidence is not None


def test_the_loop_takes_the_next_recipe_while_questions_are_open_and_says_so_once(tmp_path):
    site = Site(tmp_path / "ws")
    told: list[str] = []

    def run(recipes, count):
        config = site.workspace.config
        config = replace(config, models={"tiny": replace(site.model, recipes=recipes, items=24)})
        loop.run(
            site.bench, config, ["tiny"], count, lambda e: told.append(f"{e.kind} {e.text}"), lambda: False
        )
        with view_of(site.workspace.log) as view:
            return [row.technique for row in view.proposals("tiny")][::-1]

    assert run((site.asking,), 3) == []
    results = [text for text in told if text.startswith(("result", "problem"))]
    assert results == [
        "result asked 2 questions (command:asking): interlock label tiny",
        "result questions wait for people (2 of command:asking): interlock label tiny",
    ]
    gone = Recipe("command:gone", {}, Learner("gone", ("python", "-c", "raise SystemExit(1)")))
    assert run((site.asking, gone), 1) == ["command:gone"]
    site.answer_all()
    assert loop.next_recipe(site.bench, replace(site.model, recipes=(gone, site.asking)))[0] is site.asking


def test_the_command_line_says_what_was_asked_and_then_waits(tmp_path, capsys, monkeypatch):
    site = Site(tmp_path / "ws")
    with (site.workspace.path / "interlock.toml").open("a") as file:
        file.write('[learners.asking]\ncommand = ["python", "ask.py"]\nfiles = "learners/asking"\n')
    monkeypatch.setenv("INTERLOCK_RUNNER", "local")
    cli = Cli(site.workspace.path, capsys)
    words = ("propose", "tiny", "--technique", "command:asking", "--no-measure")
    assert cli.ok(*words) == {
        "id": "", "proposals": [], "asked": {"asker": "command:asking", "questions": 2},
    }  # fmt: skip
    refused = cli(*words)
    assert (refused.status, "interlock label tiny" in refused.err) == (6, True)
    site.answer_all()
    ran = cli.json(*words, "-n", "2")
    assert ran.status == 0
    assert [row["id"] for row in ran.data["proposals"]] == ["P-0001"], "it asked as well, so the second waits"
    assert "1 question waits" in ran.err
    assert cli.ok("show", "P-0001")["authors"] == ["Ada"]
