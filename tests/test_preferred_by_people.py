"""From choices that people make in `interlock label` to a champion: the preference learner, whole, in real isolation."""

import json

import pytest
from cli_workspace import PASSPHRASE, Cli

from guardrails.records import State, Surface
from guardrails.view import view_of
from sandbox import rounds
from sandbox.answers.asking import Asked
from sandbox.rounds import Bench
from sandbox.runner import LocalRunner
from ui import setup
from ui.wiring import Workspace, create_workspace

pytestmark = pytest.mark.slow

ASKER = "reinforcement/preference"
CONFIG = """
[models.pupil]
kind = "llm"
base = "shipped:pupil"
task = "skills"
train = ["sort"]
controls = {control-copy = "copy"}
items = 220
samples = 1
[[models.pupil.recipes]]
technique = "reinforcement"
method = "preference"
ask = 60
pool = 120
steps = 6
lr = 1e-5
"""
"""So few choices teach too little to be trusted: at the usual rate they did harm, and the policy blocked what came."""


class School:
    """A workspace whose operator Ada answers questions, and Bo and Cy, who approve."""

    def __init__(self, folder):
        create_workspace(folder)
        (folder / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        self.workspace = Workspace(folder)
        self.root = setup.found(self.workspace, "Ada", PASSPHRASE, rounds=1)
        runner = LocalRunner()
        setup.complete(self.workspace, self.root, runner, Surface.CLI, lambda *_: None)
        self.bench = Bench(self.workspace.gate, runner, folder, self.workspace.secret, "strict")

    def propose(self):
        model = self.workspace.config.models["pupil"]
        return rounds.propose(self.bench, model, model.recipes[0], 1, lambda *_: None)

    def measure(self, proposal):
        rounds.measure(self.bench, self.workspace.config.models["pupil"], proposal, lambda *_: None)

    def row(self, proposal):
        with view_of(self.workspace.log) as view:
            return view.proposal(proposal)


def right_of_two(question):
    """The label of the sorted digits; None where neither text is that."""
    right = "".join(sorted(question["prompt"].rstrip(">")))
    return next((label for label, text in question["options"].items() if text == right), None)


def test_from_choices_to_a_champion(tmp_path, capsys):
    school = School(tmp_path / "ws")
    asked = school.propose()
    assert isinstance(asked, Asked)
    assert asked.asker == ASKER

    cli = Cli(tmp_path / "ws", capsys)
    questions = cli.ok("label", "pupil")["questions"]
    assert {one["kind"] for one in questions} == {"choice"}
    chosen = {one["digest"]: right_of_two(one) for one in questions}
    lines = [
        {"digest": name, "answer": label} if label else {"digest": name, "skipped": True}
        for name, label in chosen.items()
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.ok("label", "pupil", "--import", tmp_path / "answers.jsonl")["open"] == 0

    proposal = school.propose()
    school.measure(proposal)
    row = school.row(proposal)
    assert row.state is State.AWAITING_APPROVAL, cli("explain", proposal).out
    (ada,) = row.proposal.authors
    answered = sum(label is not None for label in chosen.values())
    assert row.proposal.environment["claim.records"] == str(answered) != "0"

    for name, role in (("Bo", "operator"), ("Cy", "safety")):
        cli.ok(
            "--as",
            "Ada",
            "operator",
            "add",
            name,
            "--role",
            role,
            "--new-passphrase-file",
            cli.passphrase_file,
        )
    refused = cli.signed("--as", "Ada", "approve", proposal, "--reason", "I chose them")
    assert refused.status == 6
    assert "data author" in refused.err
    for name in ("Bo", "Cy"):  # the first suffices where no rule asks for a review
        if school.row(proposal).state is State.AWAITING_APPROVAL:
            cli.ok("--as", name, "approve", proposal, "--reason", "it learnt what was chosen")
    row = school.row(proposal)
    assert row.state in (State.PROMOTED, State.APPROVED), row.note
    assert ada not in {vote.person for vote in row.votes}
    assert isinstance(school.propose(), Asked), "with nothing new it asks again"
