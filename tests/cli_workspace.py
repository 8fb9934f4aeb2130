"""For tests of the command line: a real workspace, made by the product's own parts, and a way to run commands.

Made by hand is only what a measurement job would have written (``fakes.PASSING`` and its like); keys are real,
with a fast key derivation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import pytest
from console_fixture import write_safetensors

from guardrails import canonical
from guardrails.canonical import digest
from guardrails.codec import encode_record
from guardrails.decisions import Intention
from guardrails.gate import Submission
from guardrails.records import Action, Compute, Measurements, ModelKind, Role, Roster, Sample, Surface
from guardrails.view import view_of
from ui.setup import found, new_person
from ui.wiring import Workspace, create_workspace

REPOSITORY = Path(__file__).parent.parent
PASSPHRASE = "correct horse battery"
OPERATOR = "Ada Byron"
SAFETY = "Maya Osei"

CONFIG = """\
[loop]
pause_s = 0.1

[models.toy]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control = "shipped:kjv"}
items = 20

[[models.toy.recipes]]
technique = "self_supervised"
steps = 2
"""

TINY = """\
[models.tiny]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
items = 24
samples = 1

[[models.tiny.recipes]]
technique = "self_supervised"
steps = 2
"""


@dataclass(frozen=True)
class Ran:
    """One command that has ended."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        value = json.loads(self.out)
        assert value["schema"] == "interlock/v1"
        assert set(value) == {"schema", "kind", "data"}
        return value

    @property
    def data(self) -> Any:
        return self.answer["data"]


class Cli:
    """Runs commands in this process, in one workspace."""

    def __init__(self, path: Path, capsys: Any) -> None:
        self.path = path
        self.capsys = capsys
        self.passphrase_file = path.parent / "passphrase"
        self.passphrase_file.write_text(PASSPHRASE + "\n", encoding="utf-8")

    def __call__(self, *words: object) -> Ran:
        from ui.cli.main import run

        self.capsys.readouterr()
        status = run(["--workspace", str(self.path), *map(str, words)])
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Ran(status, captured.out, captured.err)

    def json(self, *words: object) -> Ran:
        return self("--json", *words)

    def signed(self, *words: object) -> Ran:
        """With the passphrase from a file."""
        return self("--passphrase-file", self.passphrase_file, *words)

    def ok(self, *words: object) -> Any:
        """The JSON data of a command that must succeed."""
        ran = self("--json", "--passphrase-file", self.passphrase_file, *words)
        assert ran.status == 0, ran.out + ran.err
        return ran.data

    def state(self, proposal: str) -> str:
        """Where a proposal stands."""
        return str(self.ok("show", proposal)["state"])

    def entries(self) -> int:
        """How many records the log has."""
        return int(self.ok("log", "checkpoint")["entries"])


def command(*words: object, cwd: Path | None = None, timeout: float = 120, **env: str) -> Ran:
    """Run the installed program as its own process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    done = subprocess.run(
        [sys.executable, "-m", "ui.cli", *map(str, words)], cwd=cwd or REPOSITORY, capture_output=True, text=True,
        timeout=timeout, stdin=subprocess.DEVNULL, check=False, env={**kept, "PYTHONPATH": str(REPOSITORY), **env},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


class Made:
    """A workspace with one operator (root), one safety reviewer, one policy and one champion."""

    def __init__(self, path: Path) -> None:
        self.workspace = create_workspace(path)
        (path / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        self.workspace = Workspace(self.workspace.path)
        self.key = found(self.workspace, OPERATOR, PASSPHRASE, rounds=1)
        self.person = next(self.workspace.people_keys.iterdir()).name
        self._count = 0
        source = fakes.policy()
        self._sign(Action.ACTIVATE, source.name, policy=source)
        base = self.bundle(path.parent / "base", 0)
        self._sign(Action.ADOPT, "toy", role=Role.ROOT, digest=base, kind=ModelKind.LLM)
        self._add_safety()

    def bundle(self, folder: Path, seed: int) -> Any:
        """A small real model directory in the store."""
        import random

        (folder / "model").mkdir(parents=True)
        write_safetensors(folder / "model" / "model.safetensors", random.Random(seed))
        (folder / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed}))
        return self.workspace.store.put_tree(folder)

    def proposed(
        self, measured: Measurements | None = fakes.PASSING, *, proposer: str = "loop", data: bytes = b""
    ) -> str:
        """A proposal, with its training records where they are given; with measurements, measured and judged."""
        self._count += 1
        gate = self.workspace.gate
        folder = self.workspace.path.parent / f"candidate-{self._count}"
        proposal = gate.record_proposal(Submission(
            model="toy", technique="self_supervised", intent=f"attempt {self._count}",
            bundle=self.bundle(folder, self._count), data=self.workspace.store.put_bytes(data) if data else digest(b"data"),
            champion=gate.require_ready("toy"), objective=digest(b"objective"),
            recipe={"steps": "2"}, seed=self._count, environment={"python": "3"}, isolation="strict", submitted=False,
            compute=Compute(2.0, 1.5, 1 << 20, 1 << 20, "watchdog"), proposer=proposer,
        ))  # fmt: skip
        if measured is not None:
            order = gate.begin_measurement(proposal)
            gate.record_evidence(order, canonical.encode(encode_record(measured)), "evaluator-1", "strict",
                                 Compute(1.0, 1.0, 1 << 20, 1 << 20, "watchdog"))  # fmt: skip
            gate.judge(proposal)
        return proposal

    def close(self) -> None:
        """Let go of the database, so that the folder can be copied."""
        self.workspace.gate.log.close()
        self.workspace.log.close()

    def _sign(self, action: Action, target: str, role: Role = Role.OPERATOR, **more: Any) -> None:
        wish = Intention(action, target, self.person, role, "set-up of a test", Surface.CLI, **more)
        self.workspace.gate.commit(self.workspace.gate.draft(wish), self.key)

    def _add_safety(self) -> None:
        person, _, opening = new_person(self.workspace, SAFETY, PASSPHRASE, (Role.SAFETY,), rounds=1)
        with view_of(self.workspace.log) as view:
            roster = view.roster
        assert roster is not None
        grown = Roster(roster.version + 1, (*roster.people, person), roster.services, roster.threshold)
        self.workspace.gate.record_roster(grown, self.key, [opening])


HOSTILE = "\x1b[2J\x1b]0;owned\x07 [bold]not markup[/] \u202egnp.exe :tada:"

SAMPLED = Measurements(
    fakes.PASSING.series, fakes.PASSING.facts,
    (Sample("task", f"prompt {HOSTILE}", "champion said", f"candidate said {HOSTILE}"),),
)  # fmt: skip


def copy_of(template: Path, to: Path) -> Path:
    """A workspace of a test's own."""
    shutil.copytree(template, to)
    return to


_MADE: dict[object, Path] = {}


def made_once(factory: pytest.TempPathFactory, key: object, prepare: Callable[[Made], object]) -> Path:
    """A workspace that is prepared once a session under this key, to be copied."""
    if key not in _MADE:
        made = Made(factory.mktemp("made") / "workspace")
        prepare(made)
        made.close()
        _MADE[key] = made.workspace.path
    return _MADE[key]


def workspace_with(factory: pytest.TempPathFactory, *measured: Measurements | None) -> Path:
    """A workspace with one proposal for each of these measurements, to be copied. None: only proposed."""
    key = tuple(map(id, measured))
    return made_once(factory, key, lambda made: [made.proposed(each) for each in measured])


def one_of_each(factory: pytest.TempPathFactory) -> Path:
    """A workspace with P-0001 eligible, P-0002 for review, P-0003 blocked (waivable), P-0004 only proposed."""
    return workspace_with(factory, SAMPLED, fakes.REVIEWABLE, fakes.BLOCKED, None)
