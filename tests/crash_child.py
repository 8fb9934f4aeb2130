"""What ``test_crash`` kills: processes that walk the whole line again and again, and say what they have done.

Run as a program, it starts such processes and buries them: it has imported everything and opened nothing, so
each fork is a fresh process without the second that Python needs to start. Each line in a process's file
names a record that the gate has acknowledged: position and leaf.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from pathlib import Path

from fakes import PASSING, VIEWED, measurements

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.errors import InterlockError
from guardrails.gate import Gate, Submission
from guardrails.records import Action, Compute, Role, Surface
from guardrails.view import view_of
from ui.wiring import open_workspace

PASSPHRASE = "correct horse"
MODEL = "toy"


def acknowledge(gate: Gate) -> None:
    """Tell the parent how long the log is and what its newest record is, now that it is committed."""
    with gate.log.read() as snapshot:
        entry = snapshot.entry(snapshot.size - 1)
    print(entry.seq, entry.leaf, flush=True)


class Walker:
    """One gate on a workspace, and the person who decides in it."""

    def __init__(self, path: Path, turn: str) -> None:
        self.path, self.turn, self.number = path, turn, 0
        self.workspace = open_workspace(path)
        self.gate = self.workspace.gate
        with view_of(self.gate.log) as view:
            self.person = view.people()[0][0].id
        self.key = PersonKey.load(self.workspace.people_keys / self.person, PASSPHRASE)

    def walk(self, *, back: bool) -> None:
        """Propose, measure, judge, approve, promote, and roll back if asked to; each acknowledged."""
        self.number += 1
        gate, number = self.gate, self.number
        champion = gate.require_ready(MODEL)
        # Beside the workspace: what this process writes itself meets no faults.
        folder = self.path.with_name(f"{self.path.name}-jobs") / f"{self.turn}-{number}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(f"{self.turn} {number} ".encode() * 50)
        compute = Compute(1.0, 1.0, 1, 1, "test")
        proposal = gate.record_proposal(
            Submission(
                MODEL, "self_supervised", "again", self.workspace.store.put_tree(folder), champion,
                canonical.digest(b"data"), canonical.digest(b"objective"), {}, number, {}, "strict", False,
                compute, "loop",
            )
        )  # fmt: skip
        acknowledge(gate)
        order = gate.begin_measurement(proposal)
        acknowledge(gate)
        measured = canonical.encode(encode_record(PASSING if number % 2 else measurements(saved=0.07)))
        gate.record_evidence(order, measured, "evaluator", "strict", compute)
        acknowledge(gate)
        gate.judge(proposal)
        acknowledge(gate)
        self._decide(Action.APPROVE, proposal)
        if back:
            self._decide(Action.ROLLBACK, MODEL, digest=champion)

    def _decide(self, action: Action, target: str, **fields: object) -> None:
        wish = Intention(action, target, self.person, Role.OPERATOR, "again", Surface.CLI, VIEWED, **fields)
        self.gate.commit(self.gate.draft(wish), self.key)
        acknowledge(self.gate)


def main(path: Path, turn: str) -> None:
    """Walk the line until killed; every third time back again."""
    walker = Walker(path, turn)
    print("ready", flush=True)
    while True:
        walker.walk(back=walker.number % 3 == 2)


FULL, FAILING = 3, 4


def meet(path: Path, turn: str, at: int, mode: int, journal: str = "") -> None:
    """Walk once and back, while the ``at``-th change to the workspace's disk meets a fault (see ``faults.c``).

    Killed, that is all. Where the disk fails, the error must be one of ours, and once the disk is well again the
    same process goes on. At the end, the number of changes. ``journal``: where every change is kept (``power``).
    """
    faults = ctypes.CDLL(None)
    walker = Walker(path, turn)
    print("ready", flush=True)
    if journal:
        assert faults.fault_journal(os.fsencode(journal)) >= 0
    faults.fault_arm(ctypes.c_long(at), mode, os.fsencode(path) + b"/")
    try:
        walker.walk(back=True)
    except InterlockError as error:
        faults.fault_arm(0, 0, b"/")
        print(f"refused {error}", flush=True)
        walker.turn += "-again"
        walker.walk(back=True)
    else:
        print(f"changes {faults.fault_count()}", flush=True)


def serve() -> None:
    """Commands: ``start PATH TURN FILE [AT MODE [JOURNAL]]`` answers a process id, ``bury PID`` its status."""
    for line in sys.stdin:
        command, *words = line.split()
        if command == "bury":
            print(os.waitstatus_to_exitcode(os.waitpid(int(words[0]), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(words[2], os.O_WRONLY | os.O_CREAT, 0o600), sys.stdout.fileno())
            try:
                if words[3:]:
                    meet(Path(words[0]), words[1], int(words[3]), int(words[4]), *words[5:])
                    os._exit(0)
                main(Path(words[0]), words[1])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
