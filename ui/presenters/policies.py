"""Policies, their cases and what they would have decided: JSON fields and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guardrails.errors import Problem

if TYPE_CHECKING:
    from guardrails.authoring.mutation import Mutant
    from guardrails.authoring.testing import Gap, Result

Json = dict[str, Any]


def problem_fields(problem: Problem) -> Json:
    """One located problem."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    }


def result_fields(result: Result) -> Json:
    """One case, as it ran."""
    return {
        "case": result.case.name,
        "place": str(result.case.place),
        "ok": result.ok,
        "verdict": result.verdict.kind.value,
        "mismatches": [
            {"rule": m.rule, "expected": m.expected, "got": m.got, "message": m.message}
            for m in result.mismatches
        ],
    }


def test_fields(
    name: str, file: str, results: Sequence[Result], gaps: Sequence[Gap], mutants: Sequence[Mutant]
) -> Json:
    """The tests of one policy: cases, rules that no case tries, loosenings that no case notices."""
    return {
        "policy": name,
        "file": file,
        "cases": len(results),
        "passed": sum(result.ok for result in results),
        "failures": [result_fields(result) for result in results if not result.ok],
        "gaps": [{"rule": gap.rule, "lacks": f"a {gap.lacks} case"} for gap in gaps],
        "unnoticed": [{"rule": mutant.rule, "change": mutant.change} for mutant in mutants],
    }
