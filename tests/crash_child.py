"""What ``test_crash`` kills: processes that walk the whole line again and again, and say what they have done.

Run as a program, it starts such processes and buries them: it has imported everything and opened nothing, so
each fork is a fresh process without the second that Python needs to start. Each line in a process's file
names a record that the gate has acknowledged: position and leaf.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from fakes import PASSING, VIEWED, measurements

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
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


def main(path: Path, turn: str) -> None:
    """Propose, measure, judge, approve, promote; every third time roll back; until killed."""
    workspace = open_workspace(path)
    gate = workspace.gate
    with view_of(gate.log) as view:
        person = view.people()[0][0]
    key = PersonKey.load(workspace.people_keys / person.id, PASSPHRASE)

    def decide(action: Action, target: str, **fields: object) -> None:
        wish = Intention(action, target, person.id, Role.OPERATOR, "again", Surface.CLI, VIEWED, **fields)
        gate.commit(gate.draft(wish), key)
        acknowledge(gate)

    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        champion = gate.require_ready(MODEL)
        folder = path / "jobs" / f"bundle-{turn}-{number}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "model.safetensors").write_bytes(f"{turn} {number} ".encode() * 50)
        compute = Compute(1.0, 1.0, 1, 1, "test")
        proposal = gate.record_proposal(
            Submission(
                MODEL, "self_supervised", "again", workspace.store.put_tree(folder), champion,
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
        decide(Action.APPROVE, proposal)
        if number % 3 == 0:
            decide(Action.ROLLBACK, MODEL, digest=champion)


def serve() -> None:
    """Commands on standard input: ``start PATH TURN FILE`` answers a process id, ``bury PID`` its status."""
    for line in sys.stdin:
        command, *words = line.split()
        if command == "bury":
            print(os.waitstatus_to_exitcode(os.waitpid(int(words[0]), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(words[2], os.O_WRONLY | os.O_CREAT, 0o600), sys.stdout.fileno())
            try:
                main(Path(words[0]), words[1])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
