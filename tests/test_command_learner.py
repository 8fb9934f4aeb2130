"""Learners that are any program: real programs, in real isolation, through the whole line on the model `tiny`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_docs import ROOT, blocks

from guardrails.errors import IsolationUnavailableError, JobFailedError
from guardrails.records import Outcome, State, Surface
from guardrails.view import view_of
from sandbox import loop, rounds
from sandbox.config import JobLimits, Learner, Recipe
from sandbox.rounds import Bench, training
from sandbox.runner import LocalRunner
from ui import setup
from ui.wiring import Workspace, create_workspace

pytest.importorskip("torch")

CONFIG = """
[models.tiny]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
items = 24
samples = 1

[[models.tiny.recipes]]
technique = "command:few-steps"
steps = 3

[learners.few-steps]
command = ["python", "train.py"]
files = "learners/few-steps"

[learners.blend]
command = ["python", "below/blend.py", "0.001"]
files = "learners/blend"
"""

# A second program, without a training step: every weight a little nearer to zero.
BLEND = """
import json, os, socket, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
inside, out = Path(os.environ["INTERLOCK_IN"]), Path(os.environ["INTERLOCK_OUT"])
request = json.load(open(inside / "request.json"))
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except OSError as error:
    print("no network:", error)
for attempt in range(2):
    try: os.symlink("/etc/passwd", "/scratch/link")
    except OSError: pass
share = 1 - float(sys.argv[1])
model = out / "model"; model.mkdir()
for path in (inside / "champion").iterdir():
    if path.suffix == ".safetensors":
        save_file({name: (t * share).to(t.dtype) for name, t in load_file(path).items()}, model / path.name)
    elif path.suffix in (".json", ".jinja", ".txt"):
        (model / path.name).write_bytes(path.read_bytes())
manifest = {"schema": "interlock/bundle/v1", "intent": "blend " + request["recipe"].get("note", ""), "technique": "blend"}
json.dump(manifest, open(out / "proposal.json", "w"))
"""


def quiet(*_: object) -> None:
    return None


class Site:
    """A workspace with one person, two programs, and a bench."""

    def __init__(self, folder: Path) -> None:
        workspace = create_workspace(folder)
        (folder / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        few_steps = folder / "learners" / "few-steps" / "train.py"
        few_steps.parent.mkdir(parents=True)
        few_steps.write_text(example(), encoding="utf-8")
        blend = folder / "learners" / "blend" / "below" / "blend.py"
        blend.parent.mkdir(parents=True)
        blend.write_text(BLEND, encoding="utf-8")
        self.workspace = Workspace(folder)
        key = setup.found(workspace, "Ada", "correct horse", rounds=1)
        runner = LocalRunner()
        setup.complete(self.workspace, key, runner, Surface.CLI, quiet)
        self.bench = Bench(self.workspace.gate, runner, folder, self.workspace.secret, "strict")
        self.model = self.workspace.config.models["tiny"]

    def row(self, proposal: str):
        with view_of(self.workspace.log) as view:
            return view.proposal(proposal)

    def intent(self, row) -> str:
        with view_of(self.workspace.log) as view:
            return view.text(row.proposal.intent)

    def fail(self, *command: str, **fields: object):
        """Run a program that has to fail; its error and its record."""
        recipe = Recipe("command:bad", {}, Learner("bad", command, **fields))
        with pytest.raises(JobFailedError) as caught:
            rounds.propose(self.bench, self.model, recipe, 1, quiet)
        with view_of(self.workspace.log) as view:
            row = view.proposals()[0]
        assert row.state is State.FAILED
        assert row.proposal is None
        assert row.id in str(caught.value)
        return row.failure


def example() -> str:
    """The program of the documentation."""
    (found,) = (b for b in blocks(ROOT / "docs" / "learner-authors.md", "python") if "request.json" in b)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("command") / "ws")


@pytest.fixture(scope="module")
def blended(site):
    recipe = Recipe("command:blend", {"note": "gently"}, site.workspace.config.learners["blend"])
    return rounds.propose(site.bench, site.model, recipe, 1, quiet)


def test_the_documented_program_goes_through_the_loop_to_a_verdict(site):
    stages = []
    recipe, seed = loop.next_recipe(site.bench, site.model)
    assert recipe.technique == "command:few-steps"
    proposal = loop.one_round(site.bench, site.model, recipe, seed, lambda event: stages.append(event.text))
    row = site.row(proposal)
    assert row.state in (State.AWAITING_APPROVAL, State.BLOCKED), row.note
    assert row.verdict is not None
    outcomes = {finding.rule: finding.outcome for finding in row.verdict.findings}
    assert outcomes["integrity.weights"] is Outcome.PASS, "what the documentation shows must be measurable"
    assert Outcome.ERROR not in outcomes.values()
    assert site.intent(row) == "3 plain steps over the first records"
    assert row.proposal.isolation == "strict"
    assert row.proposal.recipe == {"steps": "3"}
    paths = {entry.path for entry in site.workspace.store.tree(row.proposal.bundle)}
    assert {"proposal.json", "model/config.json", "model/model.safetensors", "data/train.jsonl"} <= paths
    assert any("training" in text for text in stages)


def test_a_proposal_says_which_program_made_it_and_what_that_was_refused(site, blended):
    row = site.row(blended)
    assert row.state is State.PROPOSED
    assert (row.technique, site.intent(row)) == ("command:blend", "blend gently")
    environment = row.proposal.environment
    assert environment["learner.command"] == "python below/blend.py 0.001"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", environment["learner.files"])
    assert environment["denied.socket"] == "1 (EPERM)"
    assert environment["denied.symlink"] == "2 (EPERM)"
    assert environment["denied.files: by Landlock, mounts and permissions"] == "not observable"


def test_other_files_have_another_digest(site, blended, tmp_path):
    from sandbox import command_learner

    learner = site.workspace.config.learners["blend"]
    before = command_learner.stage(learner, tmp_path / "a").provenance
    assert before["learner.files"] == site.row(blended).proposal.environment["learner.files"]
    (learner.files / "ü.txt").write_text("more")
    try:
        after = command_learner.stage(learner, tmp_path / "b").provenance
    finally:
        (learner.files / "ü.txt").unlink()
    assert after["learner.files"] != before["learner.files"]


def test_what_fails_inside_is_recorded_with_the_end_of_its_output(site):
    failure = site.fail("sh", "-c", "echo trying; echo no good >&2; exit 3")
    assert "exit status 3: no good" in failure.reason
    assert failure.log_tail == "trying\nno good\n"
    assert failure.compute.wall_s > 0


def test_refused_calls_are_named_in_the_failure(site):
    failure = site.fail("python", "-c", "import socket; socket.socket()")
    assert "refused: socket (1)" in failure.reason


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo done", "proposal.json is missing"),
        ("echo '{}' > /out/proposal.json", "proposal.json"),
        ("echo junk > /out/proposal.json; echo tail", "not usable JSON"),
        ("mkdir -p /out/model; echo x > /out/model/pytorch_model.bin", "safetensors"),
        ("mkfifo /out/pipe; touch /out/pipe2; exit 0", "pipe"),
        ("head -c 100000 /dev/urandom > /out/model", "model"),
    ],
)
def test_an_exit_of_0_without_a_usable_bundle_is_a_failure(site, script, said):
    failure = site.fail("sh", "-c", f"echo begun; {script}")
    assert "no usable bundle" in failure.reason
    assert said in failure.reason
    assert failure.log_tail.startswith("begun\n")
    assert failure.compute.wall_s > 0


ADAPTER_TWICE = """
import json, os, struct
header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
for name in ("model", "adapter"):
    os.mkdir(f"/out/{name}")
    json.dump({}, open(f"/out/{name}/adapter_config.json", "w"))
    open(f"/out/{name}/adapter_model.safetensors", "wb").write(struct.pack("<Q", len(header)) + header + b"1234")
json.dump({"schema": "interlock/bundle/v1", "intent": "i", "technique": "t", **BESIDE}, open("/out/proposal.json", "w"))
"""


@pytest.mark.parametrize(
    ("beside", "said"),
    [({}, "no place for another"), ({"base": "\n"}, "base"), ({"seed": 7.0}, "seed")],
    ids=["adapter twice", "base", "seed"],
)
def test_a_bundle_that_contradicts_itself_is_a_recorded_failure(site, beside, said):
    """Whatever a program leaves: a loop that stopped over it would run the same program again at its next start."""
    failure = site.fail("python", "-c", ADAPTER_TWICE.replace("BESIDE", repr(beside)))
    assert said in failure.reason


def test_a_flood_of_progress_is_not_shown_line_by_line(site):
    """A hundred thousand steps take seconds to show, in which a halt would not be heard."""
    source = 'print(\'{"progress": 0.5, "stage": "x"}\\n\' * 100_000, flush=True); raise SystemExit(9)'
    shown = []
    recipe = Recipe("command:flood", {}, Learner("flood", ("python", "-c", source)))
    with pytest.raises(JobFailedError, match="exit status 9"):
        rounds.propose(site.bench, site.model, recipe, 1, lambda stage, share: shown.append((stage, share)))
    assert 0 < len(shown) < 100
    assert ("propose: x", 0.5) in shown


def test_a_workspace_inside_the_installation_runs_nothing(site, monkeypatch, tmp_path):
    """Every job reads the installation: keys and private items must not lie in it."""
    monkeypatch.setattr("sys.prefix", str(site.workspace.path))
    recipe = Recipe("command:bad", {}, Learner("bad", ("echo", "it ran")))
    with pytest.raises(IsolationUnavailableError, match="keep it outside the installation") as caught:
        rounds.propose(site.bench, site.model, recipe, 1, quiet)
    assert caught.value.exit_status == 8


def test_its_own_limits_end_it(site):
    failure = site.fail("sh", "-c", "echo slow; sleep 60", limits=JobLimits(wall_s=0.5))
    assert "wall_s" in failure.reason
    assert failure.log_tail == "slow\n"


def test_its_limits_never_widen_the_models(site):
    assert JobLimits(wall_s=5).tightest(JobLimits(wall_s=9, processes=3)) == JobLimits(wall_s=5, processes=3)
    recipe = Recipe("command:x", {}, Learner("x", ("true",), limits=JobLimits(wall_s=10**6)))
    assert training.limited(site.model, recipe).limits == site.model.limits


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "/in/learner"])
def test_a_program_that_is_not_there_is_a_recorded_failure(site, program):
    failure = site.fail(program)
    assert program.rpartition("/")[2] in failure.reason


def test_files_that_are_not_there_are_a_recorded_failure(site, tmp_path):
    failure = site.fail("true", files=tmp_path / "nowhere")
    assert "is not a directory" in failure.reason


def test_a_learner_sees_its_own_files_only_and_cannot_change_them(site, tmp_path):
    (tmp_path / "run.sh").write_text(
        "ls /in /in/learner; (echo x >> /in/learner/run.sh) 2>&1; ls /home /root /work 2>&1; exit 9"
    )
    (tmp_path / "link").symlink_to("/etc/shadow")
    failure = site.fail("sh", "run.sh", files=tmp_path)
    assert "champion\ndata\nlearner\nrequest.json\n" in failure.log_tail
    assert "link\nrun.sh\n" in failure.log_tail
    assert "interlock.toml" not in failure.log_tail
    assert (tmp_path / "run.sh").read_text().count("echo x") == 1


def test_weights_that_are_not_finite_never_become_eligible(site):
    source = BLEND.replace("t * share", "t * float('nan')")
    learner = Learner("nan", ("python", "-c", source, "0.5"))
    proposal = rounds.propose(site.bench, site.model, Recipe("command:nan", {}, learner), 1, quiet)
    try:
        rounds.measure(site.bench, site.model, proposal, quiet)
    except JobFailedError:
        assert site.row(proposal).state is State.FAILED
        return
    row = site.row(proposal)
    assert row.state is State.BLOCKED
    failed = {finding.rule for finding in row.verdict.findings if finding.outcome.value in ("fail", "error")}
    assert any("finite" in rule or "integrity" in rule for rule in failed), failed


def test_the_command_line_runs_it_and_knows_its_name(site, monkeypatch, capsys):
    from ui.cli.main import run

    monkeypatch.setenv("INTERLOCK_RUNNER", "local")
    at = ("--workspace", str(site.workspace.path), "--json")
    words = ["propose", "tiny", "--technique", "command:blend", "--set", "note=cli", "--no-measure"]
    assert run([*at, *words]) == 0
    made = json.loads(capsys.readouterr().out)["data"]["proposals"][0]
    assert made["technique"] == "command:blend"
    assert run([*at, "propose", "tiny", "--technique", "command:other"]) == 2
    assert "command:blend" in capsys.readouterr().out
    assert run([*at, "config", "show"]) == 0
    assert "below/blend.py" in capsys.readouterr().out


def test_without_the_level_that_the_policy_asks_for_nothing_runs(site, monkeypatch, capsys):
    from sandbox.isolation import levels, notes, probe
    from ui.cli.main import run

    def fails(level, *_):
        return probe.Report(
            level, (probe.Probe("the canary could fly", probe.FAILED, "clip it"),), observes=False
        )

    monkeypatch.setenv("INTERLOCK_RUNNER", "local")
    monkeypatch.setattr(probe, "examine", fails)
    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setattr(notes, "read", lambda *_: "")
    with site.workspace.log.read() as snapshot:
        before = snapshot.size
    status = run(
        ["--workspace", str(site.workspace.path), "--json", "propose", "tiny", "--technique", "command:blend"]
    )
    said = json.loads(capsys.readouterr().out)["data"]["message"]
    assert status == 8, said
    assert "strict: the canary could fly" in said
    assert "remedy: strict needs bubblewrap" in said
    with site.workspace.log.read() as snapshot:
        assert snapshot.size == before
    with pytest.raises(IsolationUnavailableError) as caught:
        levels.strictest("none")
    assert [text.partition(":")[0] for text in caught.value.failures] == ["strict"] * 2 + ["landlock"] * 2


def test_a_proposal_made_without_isolation_is_blocked_whatever_the_policy(site):
    """A bench at `none` is not to be had from a workspace; here one is made by hand."""
    bench = Bench(site.bench.gate, site.bench.runner, site.bench.workspace, site.bench.secret, "none")
    recipe = Recipe("command:blend", {}, Learner("blend", ("python", "-c", BLEND, "0.001")))
    proposal = rounds.propose(bench, site.model, recipe, 5, quiet)
    assert site.row(proposal).proposal.isolation == "none"
    assert not [key for key in site.row(proposal).proposal.environment if key.startswith("denied.")]
    rounds.measure(site.bench, site.model, proposal, quiet)
    row = site.row(proposal)
    assert row.state is State.BLOCKED
    (found,) = [finding for finding in row.verdict.findings if finding.rule == "isolation.minimum"]
    assert "the proposal ran at none" in found.message
