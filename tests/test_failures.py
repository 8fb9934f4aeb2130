"""Whatever ends a learner: a record with the reason and the end of its log. Real learners, limits and isolation."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_rounds import Site, quiet
from test_third_party import DOCS, EXAMPLE, install

from guardrails.errors import JobFailedError
from guardrails.records import State
from guardrails.view import view_of
from sandbox import rounds, tasks
from sandbox.config import JobLimits, Learner, Recipe
from sandbox.isolation import interpreter

pytestmark = pytest.mark.slow
READ = "self_supervised"
# What a learner can do to itself, as programs: no import of a second makes them quick.
KILLED = Learner("killed", ("python", "-c", "import os; print('begun', flush=True); os.kill(os.getpid(), 9)"))
STUCK = Learner("stuck", ("python", "-c", "print('begun', flush=True); import time; time.sleep(3600)"))
GREEDY = Learner(
    "greedy", ("python", "-c", "print('begun', flush=True); x = bytearray(1 << 30); print(len(x))")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("failures") / "ws")


CASES = {
    "the loss is no number": (Recipe(READ, {"lr": "1", "weight_decay": "100", "warmup": "0", "steps": "90", "form": "full"}),
                              {}, "the loss became (nan|inf) in step [0-9]+ of 90", "training"),
    "training needs more memory": (Recipe(READ), {"memory_bytes": 150 << 20}, "memory|allocate", ""),
    "a program needs more memory": (Recipe("command:greedy", {}, GREEDY), {"memory_bytes": 200 << 20},
                                    "[Mm]emory", "begun"),
    "training is stuck": (Recipe(READ, {"steps": "1000000"}), {"wall_s": 45.0}, "wall_s", ""),
    "a program is stuck": (Recipe("command:stuck", {}, STUCK), {"wall_s": 3.0}, "wall_s", "begun"),
    "it is killed": (Recipe("command:killed", {}, KILLED), {}, "signal 9|exit status (-9|137)|SIGKILL|killed", "begun"),
    "no such technique": (Recipe("alchemy"), {}, "no learner is called 'alchemy'", "alchemy"),
    "no technique of that kind": (Recipe("reinforcement", {"method": "self_play"}), {}, "method = 'self_play'", ""),
    "a package that is absent": (Recipe("absent-thing:shrink"), {}, "absent-thing is not installed", "absent-thing"),
}  # fmt: skip
"""What happens → recipe, limits, the reason that is told, and what the end of the log holds."""


def failed(site: Site, recipe: Recipe, **limits: float):
    """A round that has to fail, its record; nothing else may have come of it."""
    model = replace(site.model, limits=JobLimits(**limits))
    began = time.monotonic()
    with view_of(site.workspace.log) as view:
        before = len(view.proposals())
    with pytest.raises(JobFailedError) as caught:
        rounds.propose(site.bench, model, recipe, 1, quiet)
    with view_of(site.workspace.log) as view:
        rows = view.proposals()
    row = rows[0]
    assert len(rows) == before + 1
    assert (row.state, row.proposal, row.technique) == (State.FAILED, None, recipe.technique)
    assert row.id in str(caught.value)
    assert not list((site.workspace.path / "jobs").glob("job-*"))
    return row.failure, time.monotonic() - began


@pytest.mark.parametrize("case", CASES)
def test_a_failure_is_a_record_with_the_reason_and_the_end_of_the_log(site, case):
    recipe, limits, reason, logged = CASES[case]
    failure, seconds = failed(site, recipe, **limits)
    assert re.search(reason, failure.reason), failure.reason
    assert logged in failure.log_tail
    assert "Traceback" not in failure.reason
    assert failure.reason.isprintable()
    assert failure.compute.wall_s > 0
    assert seconds < limits.get("wall_s", 200) + 60


@pytest.mark.parametrize("records", [[], [{"id": "a", "text": "A"}]], ids=["none", "one letter"])
def test_data_without_anything_to_learn_is_a_failure(site, monkeypatch, records):
    monkeypatch.setattr(tasks, "training_records", lambda *_: records)
    failure, _ = failed(site, Recipe(READ))
    assert "no record has" in failure.reason
    assert "no record has" in failure.log_tail


def test_a_job_that_somebody_kills_from_outside_is_a_failure(site):
    """As the kernel does when memory runs out: the process is gone, its log ends in the middle."""
    seen = threading.Event()
    pids: list[int] = []

    def kill():
        if not seen.wait(120):
            return
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                inside = "bwrap" not in str((folder / "exe").readlink())
            except OSError:
                continue
            if b"sandbox.worker.propose" in words and inside and mine(int(folder.name)):
                pids.append(int(folder.name))
                os.kill(int(folder.name), signal.SIGKILL)

    def mine(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return False

    killer = threading.Thread(target=kill)
    killer.start()
    model = replace(site.model, limits=JobLimits(wall_s=300))
    with pytest.raises(JobFailedError, match="propose job ended"):
        rounds.propose(site.bench, model, Recipe(READ, {"steps": "100000"}), 1, lambda *_: seen.set())
    killer.join()
    assert pids, "nothing was killed"
    with view_of(site.workspace.log) as view:
        row = view.proposals()[0]
    assert (row.state, row.proposal) == (State.FAILED, None)
    assert "137" in row.failure.reason or "9" in row.failure.reason
    assert '"stage"' in row.failure.log_tail


def test_a_learner_of_a_package_goes_through_a_whole_round(site, tmp_path, monkeypatch):
    """The example of the documentation, installed as a user's package, found and run inside the isolation."""
    code = EXAMPLE.search(DOCS.read_text("utf-8"))
    points = "[interlock.learners]\nshrink = acme_learners:shrink\n"
    folder = install(tmp_path, "acme-learners", {"acme_learners.py": code.group(1)}, points)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("site.ENABLE_USER_SITE", True)
    monkeypatch.setattr("site.getusersitepackages", lambda: str(folder))
    assert interpreter.current().import_path == (str(folder),)
    made = rounds.propose(site.bench, site.model, Recipe("acme-learners:shrink", {"share": "0.01"}), 1, quiet)
    proposal = site.row(made).proposal
    assert (proposal.technique, proposal.isolation) == ("acme-learners:shrink", "strict")
    assert proposal.environment["learner.distribution"] == "acme-learners 1.0"
    assert proposal.environment["claim.steps"] == "1"
    assert "acme_learners" not in sys.modules, "it runs inside the isolation only"
    paths = {entry.path for entry in site.workspace.store.tree(proposal.bundle)}
    assert {"model/config.json", "model/model.safetensors", "proposal.json"} <= paths
