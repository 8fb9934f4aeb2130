"""Run every attack in a process of its own, and write what got through."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile.registry import ATTACKS, Attack, Request

SUBJECTS = ("network", "files", "output", "proc", "devices", "processes", "namespaces", "kernel", "machine")


def load() -> dict[str, Attack]:
    """Every attack, by name."""
    for subject in SUBJECTS:
        importlib.import_module(f"hostile.{subject}")
    return ATTACKS


def main() -> None:
    """Try everything that the request describes."""
    request = json.loads(Path(sys.argv[1]).read_text())
    results = {name: _run(attack, request) for name, attack in load().items()}
    Path(request["report"]).write_text(json.dumps(results))


def _run(attack: Attack, request: Request) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            said = "open" if attack(request) else "blocked"
        except BaseException as error:
            said = "blocked: " + traceback.format_exception_only(error)[-1].strip()[:200]
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or f"blocked: ended by signal {-status}"


if __name__ == "__main__":
    main()
