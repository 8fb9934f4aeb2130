"""Every check of the verifier and of what it runs has a test that fails once the check is gone.

Slow: one run of the tests that are about refusing, and right after each of them one more, in a child, for every check
that refused something in it and that nothing has missed yet (see ``mutants``). The table is printed (``-s`` shows it),
and kept as JSON where ``MUTANTS_KEEP`` names a file. What survives must stand in ``REDUNDANT`` with its reason:
another check refuses the same thing, or it guards against our own mistakes.
"""

from __future__ import annotations

import ast
import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mutants
import pytest

from guardrails.decision_log import merkle
from guardrails.errors import LogVerificationError

TESTS = (
    "test_votes.py", "test_approval.py", "test_envelope.py", "test_merkle.py", "test_proof.py", "test_canonical.py",
    "test_checkpoint.py", "test_sshsig.py", "test_keys.py", "test_records.py", "test_texts.py", "test_tables.py",
    "test_tamper_rules.py", "test_refused_files.py", "test_roster.py", "test_roster_cli.py", "test_requests.py",
    "test_tamper.py", "test_tamper_claims.py", "test_tamper_histories.py", "test_verify.py",
    "test_verify_permitted.py", "test_gate.py", "test_gate_binding.py", "test_gate_quorum.py",
    "test_gate_together.py", "test_erasure.py", "test_retention.py", "test_witness.py", "test_witness_server.py",
    "test_witnessed_log.py", "test_export.py", "test_offline.py", "test_store.py", "test_loader.py",
    "test_readers.py", "test_golden.py", "test_brought_checks.py", "test_hand_in.py", "test_hand_in_kept.py",
)  # fmt: skip
"""The quick ones first: what they miss no longer costs a run of a longer one."""

FOLDER = Path(__file__).parent

_PROPOSED = "no row is in such a state without it; here the type checker is told so"
_JUDGED = "without any of the three there is no binding, which is refused before"

REDUNDANT: dict[str, str] = {
    "guardrails.decision_log.checkpoint: or: not separator": "without it the head is empty, and has not three lines",
    "guardrails.decision_log.checkpoint: or: not data": "nothing that is empty comes there: lengths and pattern say so",
    "guardrails.decision_log.proof: or: not data": "an empty hash has not 32 bytes, which is asked next",
    "guardrails.decision_log.growth: or: root is None":
        "every size that is asked for was reached by then; here the type checker is told so",
    "guardrails.decision_log.sshsig: len(piece) != count": "whatever was cut short is not what it is compared with",
    "guardrails.ledger.champions: or: row.proposal is None": _PROPOSED,
    "guardrails.ledger.champions: or: request.action is not Action.ROLLBACK":
        "every other action is done with the signature that completes it, and then takes no rollback",
    "guardrails.ledger.champions: require_reachable(model, rollback.bundle)":
        "only another champion changes what can be reached, and then the request is void",
    "guardrails.ledger.judging: or: row.proposal is None": _PROPOSED,
    "guardrails.ledger.judging: or: row.evidence is None": _PROPOSED,
    "guardrails.ledger.judging: or: row.evidence_record is None": _PROPOSED,
    "guardrails.ledger.judging: or: here == ABSENT":
        "a check that was absent then as it is now blocks both times, so judging again comes to the same",
    "guardrails.ledger.line: or: row.proposal is None": _PROPOSED,
    "guardrails.ledger.line: or: row.evidence is None": _PROPOSED,
    "guardrails.ledger.removal: or: row.proposal is None": _PROPOSED,
    "guardrails.ledger.requests: or: policy.metadata.name != request.target":
        "the loader refuses a policy whose own name is not that of its source, so the other condition says it too",
    "guardrails.ledger.requests: or: request.policy.name != request.target":
        "the loader refuses a policy whose own name is not that of its source, so the other condition says it too",
    "guardrails.ledger.standing: self.verdict not in (VerdictKind.ELIGIBLE, VerdictKind.REVIEW)":
        "no rule says who may approve what is blocked, so no quorum of it is complete",
    "guardrails.ledger.standing: or: binding is None": _JUDGED,
    "guardrails.ledger.standing: or: row.verdict is None": _JUDGED,
    "guardrails.ledger.standing: or: row.evidence is None": _JUDGED,
    "guardrails.ledger.standing: row.evidence.champion != model.champion":
        "whatever moves the champion makes stale all that waits, and a stale proposal has no binding",
}  # fmt: skip
"""``module: text of the check`` → why nothing notices when it is gone."""


def removed(report: Path) -> dict[str, Any]:
    """One run of the tests, each again without the checks that it comes to."""
    files = [str(FOLDER / name) for name in TESTS if (FOLDER / name).exists()]
    paths = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MUTANTS": str(report)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "mutants", "-p", "no:cacheprovider", "--capture=sys",
         "-o", "timeout=0", *files],
        capture_output=True, text=True, check=False, cwd=FOLDER.parent, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def table(found: dict[str, Any]) -> str:
    """For each module: how many checks, and what became of each."""
    names = {m.module for module in mutants.CHECKED for m in mutants.mutants(module)}
    killed = collections.Counter(name.partition(":")[0] for name in found["killed"])
    alive = collections.Counter((one["module"], is_redundant(one)) for one in found["alive"])
    rows = [(name, killed[name], alive[name, True], alive[name, False]) for name in sorted(names)]
    rows.append(("all", *(sum(row[at] for row in rows) for at in (1, 2, 3))))  # type: ignore[arg-type]
    lines = [f"{'':<38}{'mutants':>9}{'killed':>9}{'redundant':>11}{'survivors':>11}"]
    for name, dead, excused, left in rows:
        lines.append(f"{name:<38}{dead + excused + left:>9}{dead:>9}{excused:>11}{left:>11}")
    stopped = f"{len(found['stopped'])} stopped at a limit of time or memory"
    return "\n".join([*lines, f"{found['children']} runs in children, {stopped}"])


def is_redundant(one: dict[str, Any]) -> bool:
    return f"{one['module']}: {one['text']}" in REDUNDANT


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_check_can_be_removed_unnoticed(tmp_path):
    began = time.monotonic()
    found = removed(Path(os.environ.get("MUTANTS_KEEP", "") or tmp_path / "report.json"))
    print(f"\n{table(found)}\n{time.monotonic() - began:.0f} s")
    assert not found["unusable"], f"these tests fail in a child with nothing removed: {found['unusable']}"
    unexplained = [one for one in found["alive"] if not is_redundant(one)]
    assert not unexplained, "\n".join(
        f"{one['module']}:{one['line']}: {one['text']} ({len(one['passed'])} tests pass without it)"
        for one in unexplained
    )
    alive = {f"{one['module']}: {one['text']}" for one in found["alive"]}
    assert set(REDUNDANT) <= alive, f"these are missed by a test by now: {sorted(set(REDUNDANT) - alive)}"


def test_a_mutant_lacks_exactly_one_check():
    """The control: the means of removal do remove, and what stands in the list exists."""
    for module in mutants.CHECKED:
        whole = ast.unparse(mutants.mutated(module, -1))
        assert whole == ast.unparse(ast.parse(mutants.source_of(module)))
        for mutant in mutants.mutants(module):
            made = mutants.mutated(module, mutant.number)
            assert ast.unparse(made) != whole, mutant
            compile(made, module, "exec")
    known = {m.name for module in mutants.CHECKED for m in mutants.mutants(module)}
    assert set(REDUNDANT) <= known, "a check that is gone needs no excuse"


def test_a_check_that_is_taken_out_refuses_nothing():
    """The control of the exchange: the loaded function refuses, does not without its check, and does again."""
    module, function = merkle.__name__, merkle.verify_consistency
    check = next(m for m in mutants.mutants(module) if m.text.startswith("or: prefix != old_root"))
    root, code = bytes(32), function.__code__
    with pytest.raises(LogVerificationError, match="does not extend"):
        function(1, 2, bytes(32), merkle.node_hash(b"\1" * 32, root), [root])
    try:
        mutants.take_out([function], module, -1)
        with pytest.raises(LogVerificationError, match="does not extend"):
            function(1, 2, bytes(32), merkle.node_hash(b"\1" * 32, root), [root])
        mutants.take_out([function], module, check.number - check.part - 1)
        function(1, 2, bytes(32), merkle.node_hash(b"\1" * 32, root), [root])
    finally:
        function.__code__ = code
