"""sandbox.rounds and sandbox.loop: the whole line on the real `tiny` model, in real isolation."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.errors import BundleError, DeniedError, HaltedError, JobFailedError
from guardrails.records import Action, ModelKind, Role, State, Surface
from guardrails.view import view_of
from sandbox import loop, rounds
from sandbox.config import Learner, Recipe
from sandbox.rounds import Bench, bench
from sandbox.runner import LocalRunner
from ui import setup
from ui.wiring import Workspace, create_workspace

CONFIG = """
[models.tiny]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
items = 60
samples = 2
[[models.tiny.recipes]]
technique = "self_supervised"
steps = 12
"""


def quiet(*_):
    return None


class Site:
    """A workspace with one person, and a bench on it."""

    def __init__(self, folder: Path) -> None:
        self.workspace: Workspace = create_workspace(folder)
        (folder / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        self.workspace = Workspace(folder)
        self.key: PersonKey = setup.found(self.workspace, "Ada", "correct horse", rounds=1)
        self.runner = LocalRunner()
        setup.complete(self.workspace, self.key, self.runner, Surface.CLI, quiet)
        self.bench = Bench(self.workspace.gate, self.runner, folder, self.workspace.secret, "strict")
        self.model = self.workspace.config.models["tiny"]

    def row(self, proposal: str):
        with view_of(self.workspace.log) as view:
            return view.proposal(proposal)

    def decide(self, action: Action, target: str, **fields):
        with view_of(self.workspace.log) as view:
            person = view.people()[0][0].id
        viewed = ("findings", "samples", "provenance")
        wish = Intention(action, target, person, Role.OPERATOR, "because", Surface.CLI, viewed, **fields)
        return self.workspace.gate.commit(self.workspace.gate.draft(wish), self.key)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("rounds") / "ws")


@pytest.fixture(scope="module")
def proposal(site):
    """One whole round: proposed, merged, measured, judged."""
    return loop.one_round(site.bench, site.model, *loop.next_recipe(site.bench, site.model), quiet)


def test_a_round_yields_a_judged_proposal_with_evidence(site, proposal):
    row = site.row(proposal)
    assert row.state in (State.AWAITING_APPROVAL, State.BLOCKED), row.note
    assert row.proposal.isolation == row.evidence.isolation == "strict"
    assert row.proposal.compute.cpu_s > 0
    assert row.proposal.environment["recipe.objective"] == str(row.proposal.objective), "stated as ordered"
    assert row.proposal.environment["claim.steps"] == row.proposal.environment["recipe.steps"] == "12"
    assert row.proposal.environment["memory_bytes"] == str(site.model.limits.memory_bytes)
    assert row.evidence.counts["distribution/task"] == 60
    assert any(finding.rule.startswith("gain") and finding.observed for finding in row.verdict.findings)


def test_the_bundle_holds_the_merged_model_and_the_adapter(site, proposal):
    paths = {entry.path for entry in site.workspace.store.tree(site.row(proposal).proposal.bundle)}
    assert {"proposal.json", "model/config.json", "adapter/adapter_config.json", "data/train.jsonl"} <= paths
    assert "model/adapter_config.json" not in paths


def test_nothing_is_left_in_the_jobs_folder(site, proposal):
    assert not list((site.workspace.path / "jobs").glob("job-*"))


def test_the_next_recipe_follows_from_the_log(site, proposal):
    _, seed = loop.next_recipe(site.bench, site.model)
    assert seed == 2


def test_a_learner_that_fails_leaves_a_record_and_no_proposal(site):
    with pytest.raises(JobFailedError):
        rounds.propose(site.bench, site.model, Recipe("self_supervised", {"lr": "nan"}), 1, quiet)
    with view_of(site.workspace.log) as view:
        row = view.proposals()[0]
    assert row.state is State.FAILED
    assert row.proposal is None
    assert row.failure.reason
    assert row.failure.compute.cpu_s > 0


COPY = """
import json, os, shutil
from pathlib import Path
inside, out = Path(os.environ["INTERLOCK_IN"]), Path(os.environ["INTERLOCK_OUT"])
shutil.copytree(inside / "champion", out / "model")
(out / "proposal.json").write_text(
    json.dumps({"schema": "interlock/bundle/v1", "intent": "nothing", "technique": "copy"})
)
"""


def test_an_update_that_changes_no_file_of_the_model_is_a_recorded_failure(site):
    recipe = Recipe("command:copy", {}, Learner("copy", ("python", "-c", COPY)))
    with pytest.raises(JobFailedError, match="nothing changed"):
        rounds.propose(site.bench, site.model, recipe, 1, quiet)
    with view_of(site.workspace.log) as view:
        row = view.proposals()[0]
    assert (row.state, row.proposal) == (State.FAILED, None)
    assert "every file of its model is the champion's" in row.failure.reason
    assert row.failure.compute.cpu_s > 0


def test_nor_is_it_taken_when_it_was_trained_elsewhere(site, tmp_path):
    champion = site.bench.gate.require_ready("tiny")
    site.workspace.store.checkout(champion, tmp_path / "bundle")
    manifest = {"schema": "interlock/bundle/v1", "intent": "other words", "technique": "copy"}
    (tmp_path / "bundle" / "proposal.json").write_text(json.dumps(manifest))
    with view_of(site.workspace.log) as view:
        before = view.snapshot.size
    with pytest.raises(BundleError, match="nothing changed"):
        rounds.submit(site.bench, site.model, tmp_path / "bundle", "", "p-someone", quiet)
    with view_of(site.workspace.log) as view:
        assert view.snapshot.size == before


def test_an_unknown_technique_is_a_recorded_failure(site):
    with pytest.raises(JobFailedError, match="no learner is called"):
        rounds.propose(site.bench, site.model, Recipe("alchemy"), 1, quiet)


def test_a_submission_goes_through_the_same_collector_and_line(site, proposal, tmp_path):
    bundle = tmp_path / "bundle"
    site.workspace.store.checkout(site.row(proposal).proposal.bundle, bundle)
    shutil.rmtree(bundle / "model")
    (bundle / "adapter").rename(bundle / "model")
    submitted = rounds.submit(site.bench, site.model, bundle, "trained at home", "p-someone", quiet)
    row = site.row(submitted)
    assert row.technique == "submitted"
    assert row.proposal.isolation == "none"
    first = {e.path: e.sha256 for e in site.workspace.store.tree(site.row(proposal).proposal.bundle)}
    again = {e.path: e.sha256 for e in site.workspace.store.tree(row.proposal.bundle)}
    # The same adapter merges to the same weights.
    assert again["model/model.safetensors"] == first["model/model.safetensors"]


@pytest.mark.parametrize("sabotage", ["pickle", "link", "no manifest", "manifest of another kind"])
def test_a_bad_submission_changes_nothing(site, proposal, tmp_path, sabotage):
    bundle = tmp_path / "bundle"
    site.workspace.store.checkout(site.row(proposal).proposal.bundle, bundle)
    if sabotage == "pickle":
        (bundle / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    elif sabotage == "link":
        (bundle / "data" / "more.jsonl").symlink_to("/etc/passwd")
    elif sabotage == "no manifest":
        (bundle / "proposal.json").unlink()
    else:
        (bundle / "proposal.json").write_text('{"schema": "else"}', encoding="utf-8")
    with site.workspace.log.read() as snapshot:
        before = snapshot.size
    with pytest.raises(BundleError):
        rounds.submit(site.bench, site.model, bundle, "", "p-someone", quiet)
    with site.workspace.log.read() as snapshot:
        assert snapshot.size == before


def test_a_halt_ends_the_running_job_and_stops_the_next(site):
    seen = threading.Event()
    caught: list[BaseException] = []

    def work():
        try:
            recipe = Recipe("self_supervised", {"steps": "5000"})
            rounds.propose(site.bench, site.model, recipe, 1, lambda *_: seen.set())
        except BaseException as error:
            caught.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert seen.wait(60)
    site.decide(Action.HALT, "workspace")
    halted_at = time.monotonic()
    worker.join(30)
    assert time.monotonic() - halted_at < 5
    assert isinstance(caught[0], HaltedError)
    with pytest.raises(HaltedError):
        rounds.propose(site.bench, site.model, site.model.recipes[0], 1, quiet)
    site.decide(Action.RESUME, "workspace")
    assert not site.workspace.gate.halted_by()


def test_two_measurements_of_one_proposal_do_not_meet(site, proposal):
    with bench.measuring(site.bench, proposal), pytest.raises(DeniedError, match="another process"):
        rounds.measure(site.bench, site.model, proposal, quiet)


@pytest.mark.parametrize("step", ["propose", "measure"])
def test_a_model_set_to_another_task_than_it_was_adopted_for_is_refused(site, proposal, step):
    """Rules go by the task that a root signed for: its suites would be others under names that they know."""
    other = replace(site.model, task="skills", train=("sort",), controls={})
    steps = {
        "propose": lambda: rounds.propose(site.bench, other, Recipe("self_supervised"), 1, quiet),
        "measure": lambda: rounds.measure(site.bench, other, proposal, quiet),
    }
    with pytest.raises(DeniedError, match=r"adopted for the task text, interlock\.toml says skills"):
        steps[step]()


def test_a_model_set_to_another_kind_than_it_was_adopted_as_is_refused(site, proposal):
    """Without a label both kinds have a first task of their own, so the task alone would not tell."""
    other = replace(site.model, kind=ModelKind.LAM, levels="lava", train=(), controls={})
    with pytest.raises(DeniedError, match=r"adopted as llm, interlock\.toml says lam"):
        rounds.measure(site.bench, other, proposal, quiet)


def test_folders_of_dead_jobs_are_swept_and_living_ones_kept(site):
    dead = site.workspace.path / "jobs" / "job-dead"
    dead.mkdir()
    with rounds.job_folder(site.bench) as living:
        rounds.sweep(site.workspace.path)
        assert living.exists()
    assert not dead.exists()


def test_the_loop_tells_the_console_what_it_does(site, monkeypatch):
    states = []

    def tell(event):
        states.append(json.loads((site.workspace.path / loop.STATE_FILE).read_text())["state"])

    monkeypatch.setattr(loop, "WAIT_S", 0.01)
    with pytest.raises(DeniedError):
        loop.next_recipe(site.bench, type(site.model)(**{**site.model.__dict__, "recipes": ()}))
    loop.run(site.bench, site.workspace.config, ["tiny"], 1, tell, lambda: False)
    assert "running" in states
    assert json.loads((site.workspace.path / loop.STATE_FILE).read_text())["state"] == "stopped"
