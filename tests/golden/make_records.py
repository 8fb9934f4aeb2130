"""Make the second golden workspace: every kind of record that the first one does not have, around tiny bundles.

    PYTHONPATH=tests python tests/golden/make_records.py      writes tests/golden/records, and records.json beside it

Nothing is trained: bundles are some hundred bytes, and what a measurement would have written is written by hand. People,
keys, services, the gate and the offline signature (by ``ssh-keygen``) are real. The clock starts in January 2026 and
is turned by hand, so that retention and the roots' own clock have something to say. Run it only to add a workspace of
a newer format, under another name: the one that is there must stay as it is.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fakes

from guardrails import canonical, retention
from guardrails.canonical import digest
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import format_time, seal
from guardrails.decision_log.keys import HeldSignature, PersonKey, ServiceKey
from guardrails.decision_log.store import Log
from guardrails.decision_log.texts import commitments
from guardrails.decisions import Draft, Intention, Receipt
from guardrails.gate import Gate, Submission
from guardrails.ledger import project
from guardrails.ledger.erasure import digest_of_list
from guardrails.ledger.people import SERVICES
from guardrails.ledger.requests import WORKSPACE
from guardrails.offline import export_openings, export_statement, take_back
from guardrails.records import Action, Commitment, Compute, ModelKind, Role, Roster, Surface, Waiver
from guardrails.view import view_of
from ui import setup
from ui.wiring import Workspace, create_workspace

FOLDER = Path(__file__).parent / "records"
PASSPHRASE = "golden test passphrase"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
CONFIG = """\
# The configuration that the second golden workspace was made with.
[models.toy]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]
controls = {control = "shipped:kjv"}
items = 20

[[models.toy.recipes]]
technique = "self_supervised"
"""
COMPUTE = Compute(1.0, 1.0, 1 << 20, 1 << 20, "watchdog")


class Maker:
    """A workspace, a clock that is turned by hand, and the people in it."""

    def __init__(self, folder: Path) -> None:
        create_workspace(folder)
        (folder / "interlock.toml").write_text(CONFIG, encoding="utf-8")
        self.clock = fakes.Clock(START)
        self.workspace = Workspace(folder.resolve())
        self.gate = vars(self.workspace)["gate"] = self._gate()
        self.keys: dict[str, PersonKey] = {"Ada": setup.found(self.workspace, "Ada", PASSPHRASE, rounds=1)}
        self.count = 0

    def _gate(self) -> Gate:
        services = {name: ServiceKey.load(self.workspace.service_key(name)) for name in SERVICES}
        log = Log.open(self.workspace.database_url, services["log"], project)
        return Gate(log, self.workspace.store, services, self.workspace.secret, self.clock)

    def roster(self) -> Roster:
        """The roster in force."""
        with view_of(self.workspace.log) as view:
            assert view.roster is not None
            return view.roster

    def enrol(self, name: str, *roles: Role) -> None:
        """One more person whose key lies in the workspace."""
        person, key, opening = setup.new_person(self.workspace, name, PASSPHRASE, roles, rounds=1)
        old = self.roster()
        self.gate.record_roster(
            Roster(old.version + 1, (*old.people, person), old.services, old.threshold),
            self.keys["Ada"],
            [opening],
        )
        self.keys[name] = key

    def rotate_log_key(self) -> None:
        """The log's key is handed over to another."""
        successor, old = ServiceKey.generate(), self.roster()
        services = {**old.services, "log": successor.public_base64}
        roster = replace(old, version=old.version + 1, services=services)
        payload = self.gate.draft_roster(roster)
        self.gate.commit_roster(seal(payload, self.keys["Ada"]), [], {"log": successor})
        path = self.workspace.service_key("log")
        path.unlink()
        successor.save(path)

    def draft(self, name: str, action: Action, target: str, **fields: Any) -> Draft:
        """What somebody is about to sign."""
        with view_of(self.workspace.log) as view:
            person = view.person_called(name)
        values = {
            "role": person.roles[0], "reason": f"golden: {name} says {action}", "surface": Surface.CLI,
            "viewed": fakes.VIEWED, **fields,
        }  # fmt: skip
        return self.gate.draft(Intention(action=action, target=target, person=person.id, **values))

    def decide(self, name: str, action: Action, target: str, **fields: Any) -> Receipt:
        """Sign a decision; returns what became of it."""
        return self.gate.commit(self.draft(name, action, target, **fields), self.keys[name])

    def decide_offline(self, name: str, action: Action, target: str) -> Receipt:
        """The same with ``ssh-keygen``, over exported bytes, by a key that was never in the workspace."""
        draft = self.draft(name, action, target, surface=Surface.OFFLINE)
        exported, openings = export_statement(draft.payload), export_openings(draft.openings)
        with tempfile.TemporaryDirectory() as scratch:
            statement = Path(scratch) / "decision"
            statement.write_bytes(exported)
            sign = [
                "ssh-keygen",
                "-q",
                "-Y",
                "sign",
                "-n",
                "interlock-decision",
                "-f",
                str(self.outside),
                str(statement),
            ]
            subprocess.run(sign, check=True, capture_output=True)
            held = HeldSignature.parse(statement.with_suffix(".sig").read_text(), "decision.sig")
        return self.gate.commit(take_back(exported, openings, self.gate.log.origin, "decision"), held)

    def enrol_outsider(self, name: str, folder: Path) -> None:
        """Somebody whose key was made by ``ssh-keygen`` and stays where it is."""
        self.outside = folder / "outside"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.outside)], check=True)
        public = " ".join(self.outside.with_suffix(".pub").read_text().split()[:2])
        person, opening = setup.person_with(name, (Role.OPERATOR,), public)
        old = self.roster()
        grown = replace(old, version=old.version + 1, people=(*old.people, person))
        self.gate.record_roster(grown, self.keys["Ada"], [opening])

    def bundle(self, content: str) -> Any:
        """A tiny bundle in the store."""
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / "model"
            model.mkdir()
            (model / "model.safetensors").write_bytes(content.encode() * 8)
            return self.workspace.store.put_tree(Path(scratch))

    def proposed(self, measured: Any) -> str:
        """A proposal that was measured and judged."""
        self.count += 1
        proposal = self.gate.record_proposal(Submission(
            "toy", "self_supervised", f"golden attempt {self.count}", self.bundle(f"candidate {self.count}"),
            self.gate.require_ready("toy"), digest(b"data"), digest(b"objective"), {"steps": "2"}, self.count,
            {"python": "3"}, "strict", False, COMPUTE, "loop",
        ))  # fmt: skip
        order = self.gate.begin_measurement(proposal)
        self.gate.record_evidence(
            order, canonical.encode(encode_record(measured)), "evaluator-1", "strict", COMPUTE
        )
        self.gate.judge(proposal)
        return proposal


def history(made: Maker, scratch: Path) -> None:
    """A bit of everything that a person or the gate can record today."""
    source = fakes.policy()
    made.enrol("Bo", Role.SAFETY)
    made.enrol_outsider("Cy", scratch)
    made.decide("Ada", Action.ACTIVATE, source.name, policy=source)
    made.decide("Bo", Action.ACTIVATE, source.name, policy=source)
    base = made.bundle("base")
    made.decide("Ada", Action.ADOPT, "toy", role=Role.ROOT, digest=base, kind=ModelKind.LLM)

    first = made.proposed(fakes.PASSING)
    said = made.decide("Bo", Action.COMMENT, first, reason="something personal, to be erased")
    made.decide("Bo", Action.REQUEST_CHANGES, first)
    made.decide("Bo", Action.WITHDRAW, first)
    assert made.decide_offline("Cy", Action.APPROVE, first).state == "promoted"

    excused = made.proposed(fakes.BLOCKED)
    with view_of(made.workspace.log) as view:
        bundle = view.proposal(excused).proposal.bundle
        maya = view.person_called("Bo").id
    waiver = Waiver("pii", bundle, maya, format_time(made.clock.time + timedelta(days=2)))
    granted = [made.decide(name, Action.WAIVE, excused, waiver=waiver) for name in ("Ada", "Bo")][-1]
    assert granted.state == "done"
    made.gate.tick()
    assert made.decide("Bo", Action.REVOKE, granted.request).state == "done"
    made.gate.tick()

    looser = fakes.policy(expiresAfter="96h")
    asked = made.decide("Ada", Action.ACTIVATE, source.name, policy=looser)
    assert made.decide("Ada", Action.WITHDRAW, asked.request).state == "withdrawn"
    again = made.decide("Ada", Action.ACTIVATE, source.name, policy=looser)
    made.decide("Bo", Action.COMMENT, again.request)
    assert made.decide("Bo", Action.REJECT, again.request).state == "rejected"

    made.rotate_log_key()
    with view_of(made.workspace.log) as view:
        body = view.snapshot.entry(said.record.seq).statement.body
        personal = tuple(commitments(body))
    erase(made, personal)

    made.decide("Bo", Action.HALT, WORKSPACE)
    made.decide("Ada", Action.RESUME, WORKSPACE)
    assert (
        made.decide("Ada", Action.APPROVE, made.proposed(fakes.PASSING), expires_at=later(made)).state
        == "promoted"
    )
    assert made.decide("Bo", Action.ROLLBACK, "toy", digest=base).state == "rolled_back"
    late = made.proposed(fakes.REVIEWABLE)
    made.clock.pass_(days=4)
    assert f"{late}: expired" in made.gate.tick()
    made.clock.pass_(days=31)
    gone = retention.collect(made.gate, made.clock.text, grace_s=0).proposals
    assert gone == (late,), gone

    made.clock.pass_(days=20)
    ahead = made.proposed(fakes.PASSING)
    made.clock.pass_(days=-20)
    assert made.decide("Ada", Action.SET_CLOCK, WORKSPACE, role=Role.ROOT).state == "done"
    made.gate.tick()
    assert made.decide("Ada", Action.APPROVE, ahead).state == "promoted"


def later(made: Maker) -> str:
    """An hour from now."""
    return format_time(made.clock.time + timedelta(hours=1))


def erase(made: Maker, texts: tuple[Commitment, ...]) -> None:
    """Erase texts, to the last byte."""
    done = made.decide(
        "Ada", Action.ERASE, WORKSPACE, role=Role.ROOT, erase=texts, digest=digest_of_list(texts)
    )
    assert done.state == "done"
    made.gate.log.scrub()


def told(folder: Path) -> dict[str, Any]:
    """What a reader must find in the workspace, now and later."""
    with view_of(Workspace(folder).log) as view:
        entries = list(view.snapshot.entries())
        roster = view.roster
        assert roster is not None
        return {
            "entries": len(entries),
            "root": view.snapshot.root,
            "records": [entry.statement.body.get("action") or entry.statement.record for entry in entries],
            "surfaces": sorted({str(entry.statement.body.get("surface", "")) for entry in entries} - {""}),
            "root_key": roster.people[0].keys[0].public,
            "states": {row.id: row.state.value for row in view.proposals()},
            "removed": sorted(row.id for row in view.proposals() if row.removed_at),
            "requests": {row.id: row.closed or ("done" if row.done else "open") for row in view.requests()},
            "waivers": {row.id: row.revoked for row in view.waivers()},
            "champions": {row.name: str(row.champion) for row in view.models()},
            "checkpoint": view.snapshot.checkpoint(),
        }


def keep(folder: Path, make: Callable[[], Maker], told: Callable[[Path], dict[str, Any]]) -> int:
    """Make a workspace with its history, and tell beside it what is in it; refuses to replace one that is there."""
    if folder.exists():
        print(f"{folder} is there already; it must stay as it is", file=sys.stderr)
        return 2
    try:
        made = make()
        made.workspace.log.close()
        made.gate.log.close()
        with closing(sqlite3.connect(folder / "log.db")) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for scratch_folder in ("jobs", "cache", "artifacts/incoming"):
        shutil.rmtree(folder / scratch_folder, ignore_errors=True)
    for lock in (folder / "artifacts" / ".lock", *folder.glob("labels/*/lock")):
        lock.unlink(missing_ok=True)
    folder.with_suffix(".json").write_text(json.dumps(told(folder), indent=1) + "\n", encoding="utf-8")
    for side in ("log.db-wal", "log.db-shm"):
        (folder / side).unlink(missing_ok=True)
    return 0


def make() -> Maker:
    """The workspace, its history over."""
    made = Maker(FOLDER)
    with tempfile.TemporaryDirectory() as scratch:
        history(made, Path(scratch))
    return made


if __name__ == "__main__":
    raise SystemExit(keep(FOLDER, make, told))
