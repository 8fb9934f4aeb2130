"""Make the golden workspace: a real history of the `tiny` model, made by this version of Interlock.

    python tests/golden/make_workspace.py            writes tests/golden/workspace

Run it only to add a golden workspace of a newer format; the one that is there must stay as it is, because
what it shows is that later versions still open and verify it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.errors import JobFailedError
from guardrails.policy import load_policy
from guardrails.records import Action, Role, Roster, State, Surface, Waiver
from guardrails.view import view_of
from sandbox import rounds
from sandbox.config import Recipe
from sandbox.rounds import Bench
from sandbox.runner import LocalRunner
from ui import setup
from ui.wiring import Workspace, create_workspace

FOLDER = Path(__file__).parent / "workspace"
PASSPHRASE = "golden test passphrase"
VIEWED = ("findings", "provenance", "samples")
CONFIG = """\
# The configuration that the golden workspace was made with.
[models.tiny]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
items = 100
samples = 1

[[models.tiny.recipes]]
technique = "self_supervised"
"""


class Maker:
    """A workspace, the people in it, and a bench to work on."""

    def __init__(self, folder: Path) -> None:
        create_workspace(folder)
        (folder / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        self.workspace = Workspace(folder)
        self.keys = {"Ada": setup.found(self.workspace, "Ada", PASSPHRASE, rounds=1)}
        runner = LocalRunner()
        setup.complete(self.workspace, self.keys["Ada"], runner, Surface.CLI, tell)
        self.bench = Bench(self.workspace.gate, runner, folder, self.workspace.secret, "strict")
        self.model = self.workspace.config.models["tiny"]

    def enrol(self, name: str, *roles: Role) -> None:
        """One more person, by a new roster."""
        person, key, opening = setup.new_person(self.workspace, name, PASSPHRASE, roles, rounds=1)
        with view_of(self.workspace.log) as view:
            old = view.roster
        assert old is not None
        roster = Roster(old.version + 1, (*old.people, person), old.services, old.threshold)
        self.workspace.gate.record_roster(roster, self.keys["Ada"], [opening])
        self.keys[name] = key

    def decide(self, name: str, action: Action, target: str, **fields: object) -> str:
        """Sign a decision; returns the state that it leads to."""
        with view_of(self.workspace.log) as view:
            person = view.person_called(name)
        key: PersonKey = self.keys[name]
        wish = Intention(
            action, target, person.id, person.roles[0], f"golden: {name} decides to {action}", Surface.CLI, VIEWED,
            **fields,
        )  # fmt: skip
        receipt = self.workspace.gate.commit(self.workspace.gate.draft(wish), key)
        tell(f"{name}: {action} {target}: {receipt.effect}", 1.0)
        return receipt.state

    def propose(self, recipe: dict[str, str], seed: int) -> str:
        """Train once, in real isolation."""
        proposal = rounds.propose(self.bench, self.model, Recipe("self_supervised", recipe), seed, quiet)
        tell(f"{proposal}: proposed", 1.0)
        return proposal

    def measure(self, proposal: str) -> None:
        """Measure and judge, in real isolation."""
        tell(f"{proposal}: {rounds.measure(self.bench, self.model, proposal, quiet)}", 1.0)


def tell(what: str, share: float) -> None:
    """Show where it is."""
    print(f"{share:4.0%} {what}", flush=True)


def quiet(what: str, share: float) -> None:
    """Show nothing."""


def history(made: Maker) -> None:
    """A bit of everything that this version can record, around one trained model (to keep it small)."""
    gate = made.workspace.gate
    made.enrol("Bo", Role.SAFETY)
    base = gate.require_ready("tiny")
    first = made.propose({"steps": "30"}, 1)
    made.measure(first)
    try:
        made.propose({"lr": "nan"}, 2)
    except JobFailedError as error:
        tell(f"as it should, a job failed: {error.message:.60}", 1.0)
    made.decide("Bo", Action.HALT, "workspace")
    made.decide("Ada", Action.RESUME, "workspace")
    with view_of(made.workspace.log) as view:
        proposed = view.proposal(first).proposal
    assert proposed is not None
    waiver = Waiver("gain.text", proposed.bundle, "Bo", format_time(datetime.now(UTC) + timedelta(days=2)))
    for name in made.keys:
        made.decide(name, Action.WAIVE, first, waiver=waiver)
    for effect in gate.tick():
        tell(effect, 1.0)
    made.decide("Ada", Action.APPROVE, first)
    made.decide("Ada", Action.WITHDRAW, first)
    made.decide("Bo", Action.APPROVE, first)
    assert made.decide("Ada", Action.APPROVE, first) == "promoted"
    again = load_policy(setup.DEFAULT_POLICY).source
    made.decide("Ada", Action.ACTIVATE, again.name, policy=again)
    assert made.decide("Bo", Action.ROLLBACK, "tiny", digest=base) == "rolled_back"
    with view_of(made.workspace.log) as view:
        assert view.proposal(first).state is State.ROLLED_BACK


def main() -> int:
    """Make it; refuses to replace the one that is there."""
    if FOLDER.exists():
        print(f"{FOLDER} is there already; it must stay as it is", file=sys.stderr)
        return 2
    try:
        made = Maker(FOLDER)
        history(made)
        made.workspace.log.close()
        made.workspace.gate.log.close()
        # Everything into the one file; a copy of that file is then the whole log.
        with closing(sqlite3.connect(FOLDER / "log.db")) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
    except BaseException:
        shutil.rmtree(FOLDER, ignore_errors=True)
        raise
    for scratch in ("jobs", "cache", "artifacts/incoming"):
        shutil.rmtree(FOLDER / scratch, ignore_errors=True)
    expected = FOLDER.with_suffix(".json")
    expected.write_text(json.dumps(told(FOLDER), indent=1) + "\n", encoding="utf-8")
    for side in ("log.db-wal", "log.db-shm"):
        (FOLDER / side).unlink(missing_ok=True)
    return 0


def told(folder: Path) -> dict[str, object]:
    """What a reader must find in the workspace, now and later."""
    with view_of(Workspace(folder).log) as view:
        snapshot = view.snapshot
        roster = view.roster
        assert roster is not None
        return {
            "entries": snapshot.size,
            "root": snapshot.root,
            "records": [entry.statement.record for entry in snapshot.entries()],
            "people": {name: [role.value for role in person.roles] for person, name in view.people()},
            "root_key": roster.people[0].keys[0].public,
            "states": {row.id: row.state.value for row in view.proposals()},
            "champions": {row.name: str(row.champion) for row in view.models()},
            "policies": {row.name: str(row.source.digest) for row in view.policies()},
            "checkpoint": snapshot.checkpoint(),
        }


if __name__ == "__main__":
    raise SystemExit(main())
