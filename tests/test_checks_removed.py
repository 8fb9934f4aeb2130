"""Every check of the verifier and of what it runs has a test that fails once the check is gone.

Slow: first one run of the tests that are about refusing, which notes at which check each of them is refused; then
for each check one run of those tests (the quickest few) without it. What survives is printed and must stand in
``REDUNDANT`` with its reason: another check refuses the same thing, or it guards against our own mistakes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

TESTS = (
    "test_verify.py", "test_tamper.py", "test_witness.py", "test_witnessed_log.py", "test_export.py", "test_erasure.py",
    "test_ledger.py", "test_gate.py", "test_checkpoint.py", "test_merkle.py", "test_envelope.py", "test_canonical.py",
    "test_records.py", "test_keys.py", "test_sshsig.py", "test_store.py", "test_roster.py", "test_requests.py",
    "test_waivers.py", "test_votes.py", "test_people.py", "test_offline.py", "test_retention.py", "test_rules.py",
)  # fmt: skip
AT_MOST = 6
FOLDER = Path(__file__).parent

REDUNDANT: dict[str, str] = {
    "guardrails.decision_log.checkpoint: or: not separator": "without it the head is empty, and has not three lines",
    "guardrails.decision_log.checkpoint: or: not data": "nothing that is empty comes there: lengths and pattern say so",
    "guardrails.ledger.champions: or: row.proposal is None": "what is approved was proposed",
}
"""``module: text of the check`` → why nothing notices when it is gone."""


def noted(notes: Path, files: list[str]) -> subprocess.CompletedProcess[str]:
    """One run of the tests, which notes at which checks each of them is refused."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mutants", "-p", "no:cacheprovider", *files]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=FOLDER.parent,
        env=environment(MUTANTS_SEEN=str(notes)),
    )  # fmt: skip


def reached_by(notes: Path) -> dict[str, list[str]]:
    """Check (module:line) → the tests that it refuses something in, the quickest first."""
    tests = json.loads(notes.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for name in sorted(tests, key=lambda name: tests[name]["seconds"]):
        for check in tests[name]["reached"]:
            found.setdefault(check, []).append(name)
    return found


def survivors(modules: tuple[str, ...], reached: dict[str, list[str]]) -> list[mutants.Mutant]:
    """The checks of these modules that no test misses."""
    alive = []
    server = subprocess.Popen(
        [sys.executable, str(FOLDER / "mutants.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=FOLDER.parent, env=environment(),
    )  # fmt: skip
    with server:
        for mutant in (mutant for module in modules for mutant in mutants.mutants(module)):
            tests = reached.get(f"{mutant.module}:{mutant.line}", [])[:AT_MOST]
            if not tests or run_without(server, mutant, tests) == 0:
                alive.append(mutant)
                why = f"{len(tests)} tests pass without it" if tests else "no test comes there"
                print(f"{mutant.module}:{mutant.line} {mutant.text[:100]} ({why})", flush=True)
    return alive


def run_without(server: subprocess.Popen[str], mutant: mutants.Mutant, tests: list[str]) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"mutant": mutant.name, "tests": tests}) + "\n")
    server.stdin.flush()
    status = int(server.stdout.readline())
    assert status in (0, 1, 2), f"{mutant}: the run itself failed with status {status}"
    return status


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_check_can_be_removed_unnoticed(tmp_path):
    notes = tmp_path / "seen.json"
    files = [str(FOLDER / name) for name in TESTS if (FOLDER / name).exists()]
    first = noted(notes, files)
    assert first.returncode == 0, first.stdout[-3000:]
    alive = survivors(mutants.CHECKED, reached_by(notes))
    unexplained = [m for m in alive if f"{m.module}: {m.text}" not in REDUNDANT]
    assert not unexplained, "\n".join(f"{m.module}:{m.line}: {m.text}" for m in unexplained)


def test_a_mutant_lacks_exactly_one_check():
    """The control: the means of removal do remove, and what stands in the list exists."""
    import ast

    for module in mutants.CHECKED:
        whole = ast.unparse(ast.parse(mutants.source_of(module)))
        for mutant in mutants.mutants(module):
            made = ast.unparse(mutants.mutated(module, mutant.number))
            assert made != whole, mutant
            compile(made, module, "exec")
    known = {f"{m.module}: {m.text}" for module in mutants.CHECKED for m in mutants.mutants(module)}
    assert set(REDUNDANT) <= known, "a check that is gone needs no excuse"
