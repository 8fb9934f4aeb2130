"""A process that is killed at any moment loses no acknowledged record and never leaves two champions or none.

A child process (``crash_child``) walks the whole line on a real workspace and names each record once the gate
has acknowledged it. It is killed with SIGKILL at random moments, more than fifty times; each time the workspace
is opened, verified, and compared with everything that was ever acknowledged.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash_child
import pytest
from fakes import PASSING, VIEWED, policy, verify

from guardrails import canonical
from guardrails.canonical import digest
from guardrails.codec import encode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.records import Action, ModelKind, Role, Surface
from guardrails.view import view_of
from ui import setup
from ui.wiring import DATABASE, create_workspace, open_workspace

KILLS = 55


@pytest.fixture
def workspace(folder):
    """A real workspace with one person, a policy without budgets, and one small model."""
    return set_up(folder)


def set_up(folder):
    made = create_workspace(folder / "workspace")
    key = setup.found(made, "Ada", crash_child.PASSPHRASE, rounds=1)
    with view_of(made.log) as view:
        person = view.people()[0][0].id

    def decide(action, target, role, **fields):
        wish = Intention(action, target, person, role, "set-up", Surface.CLI, **fields)
        made.gate.commit(made.gate.draft(wish), key)

    decide(Action.ACTIVATE, "main", Role.OPERATOR, policy=policy())
    bundle = folder / "base"
    (bundle / "model").mkdir(parents=True)
    (bundle / "model" / "model.safetensors").write_bytes(b"base")
    base = made.store.put_tree(bundle)
    decide(Action.ADOPT, crash_child.MODEL, Role.ROOT, digest=base, kind=ModelKind.LLM)
    return made


class Starter:
    """The process that starts and buries what is killed."""

    def __init__(self, **variables: str) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent)])
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        self.process = subprocess.Popen(
            [sys.executable, str(here / "crash_child.py")], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, *words: object) -> int:
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def starter():
    made = Starter()
    yield made
    made.close()


class Child:
    """One process at work on a workspace, until it is killed."""

    def __init__(self, starter: Starter, path: Path, turn: str, output: Path) -> None:
        self.starter, self.output = starter, output
        output.touch()
        self.pid = starter.ask("start", path, turn, output)

    def lines(self) -> list[str]:
        """Its complete lines; the first says that it has begun."""
        return self.output.read_bytes().decode().split("\n")[:-1]

    def wait_for(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.lines()) < count:
            assert time.monotonic() < end, "the process does not get on"
            time.sleep(0.002)

    def kill(self) -> list[tuple[int, str]]:
        """Kill it; returns what it said was acknowledged."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.starter.ask("bury", self.pid) == -signal.SIGKILL, "it had ended by itself"
        pairs = [line.split() for line in self.lines()[1:]]
        return [(int(seq), leaf) for seq, leaf in pairs]


def test_sigkill_at_many_points_loses_nothing(workspace, folder, starter):
    kill_often(workspace, folder, starter, seed=20260302)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(9))
def test_sigkill_at_500_points_loses_nothing(workspace, folder, starter, seed):
    """With the one above, on another workspace each, as the log grows with every turn: 550 kills."""
    kill_often(workspace, folder, starter, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [100, 101])
def test_sigkill_at_110_points_on_postgresql_loses_nothing(postgresql_server, folder, monkeypatch, seed):
    """The clients are killed; the server finds their transactions cut off, and a lock that its holder left."""
    monkeypatch.setenv(DATABASE, postgresql_server.fresh())
    made, starter = set_up(folder), Starter()
    try:
        kill_often(made, folder, starter, seed)
    finally:
        starter.close()
    assert made.database_url.startswith("postgresql")
    assert not (made.path / "log.db").exists()


def kill_often(workspace, folder, starter, seed):
    chance = random.Random(seed)
    acknowledged: dict[int, str] = {}
    cut = 0
    for turn in range(KILLS):
        child = Child(starter, workspace.path, str(turn), folder / f"{turn}.txt")
        # By progress, not by the clock alone: on a busy machine a tenth of a second is little or much.
        child.wait_for(chance.randrange(1, 9))
        time.sleep(chance.uniform(0.0, 0.03))
        for seq, leaf in child.kill():
            assert acknowledged.setdefault(seq, leaf) == leaf, "an acknowledged record was replaced"
        cut += check(workspace.path, acknowledged)
    found = verify(workspace.database_url, workspace.store)
    assert found.ok, found
    assert found.recomputed >= 5, "too little happened between the kills to learn anything"
    assert len(acknowledged) > KILLS
    assert cut > 0, "no kill ever came between two records of one proposal"


def check(path: Path, acknowledged: dict[int, str]) -> bool:
    """Everything that was acknowledged is there; one champion; its bytes are whole. True if a line was cut."""
    workspace = open_workspace(path)
    with workspace.log.read() as snapshot:
        for seq, leaf in acknowledged.items():
            assert seq < snapshot.size, f"record {seq} was acknowledged and is gone"
            assert snapshot.entry(seq).leaf == leaf, f"record {seq} is another one now"
    found = verify(workspace.database_url, workspace.store, recompute=None, artifacts=None)
    assert found.ok, found
    with view_of(workspace.log) as view:
        models, rows = view.models(), view.proposals()
    assert [model.name for model in models] == [crash_child.MODEL]
    assert models[0].history[-1].digest == models[0].champion
    workspace.store.verify_tree(models[0].champion)
    workspace.log.close()
    return any(row.state.value in ("proposed", "measuring", "judged", "awaiting_approval") for row in rows)


def test_a_record_that_was_lost_would_be_noticed(workspace):
    """The control: ``check`` fails for an acknowledged record that is not there."""
    check(workspace.path, {})
    with pytest.raises(AssertionError, match="acknowledged and is gone"):
        check(workspace.path, {99: digest(b"x").hex})
    with pytest.raises(AssertionError, match="another one now"):
        check(workspace.path, {0: digest(b"x").hex})


def test_what_a_crash_leaves_half_done_can_be_finished(workspace, folder, starter):
    """After a kill, another process measures, judges and promotes what was left."""
    child = Child(starter, workspace.path, "a", folder / "a.txt")
    child.wait_for(4)
    child.kill()
    fresh = open_workspace(workspace.path)
    fresh.gate.tick()
    with view_of(fresh.log) as view:
        person, left = view.people()[0][0].id, view.proposals()
    assert left
    key = PersonKey.load(fresh.people_keys / person, crash_child.PASSPHRASE)
    for row in left:
        if row.state.value in ("proposed", "measuring"):
            order = fresh.gate.begin_measurement(row.id)
            measured = canonical.encode(encode_record(PASSING))
            fresh.gate.record_evidence(order, measured, "e", "strict", row.proposal.compute)
            fresh.gate.judge(row.id)
    with view_of(fresh.log) as view:
        waiting = [row.id for row in view.proposals() if row.state.value == "awaiting_approval"]
    for proposal in waiting:
        wish = Intention(Action.APPROVE, proposal, person, Role.OPERATOR, "go on", Surface.CLI, VIEWED)
        assert fresh.gate.commit(fresh.gate.draft(wish), key).state == "promoted"
    check(workspace.path, {})
    with view_of(fresh.log) as view:
        assert len(view.model(crash_child.MODEL).promotions) >= 1
