"""Policies, their cases and what they would have decided: JSON fields and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guardrails.errors import Problem
from guardrails.records import ModelKind, VerdictKind
from ui.presenters.marks import verdict_mark
from ui.presenters.texts import counted, duration

if TYPE_CHECKING:
    from guardrails.authoring.backtest import Backtest, Flip
    from guardrails.authoring.mutation import Mutant
    from guardrails.authoring.on_disk import Apart
    from guardrails.authoring.shadow import Shadow
    from guardrails.authoring.testing import Gap, Result
    from guardrails.policy import Effective, Policy, QuorumRule
    from guardrails.policy.model import Scope

Json = dict[str, Any]
_NAMED = 3
_KINDS = {ModelKind.LAM: "action models", ModelKind.LLM: "language models"}


def scope_words(scope: Scope) -> str:
    """Which models a policy speaks of, as people say it."""
    kinds = (
        " and ".join(_KINDS[kind] for kind in sorted(scope.kinds)) if len(scope.kinds) < len(_KINDS) else ""
    )
    named = "" if "*" in scope.names else f"named {', '.join(scope.names)}"
    labelled = ", ".join(f"{key}={value}" for key, value in scope.labels)
    parts = [kinds or "models", named, f"labelled {labelled}" if labelled else ""]
    return "every model" if parts == ["models", "", ""] else " ".join(part for part in parts if part)


def people_words(effective: Effective) -> list[tuple[str, str]]:
    """Whose signatures a policy asks for, and for how long they hold: names and sentences."""

    def quorum(rules: Sequence[QuorumRule]) -> str:
        return "; ".join(
            f"{counted(rule.quorum, 'person', 'people')}: {' or '.join(rule.roles)}"
            + (", each in a different role" if rule.distinct_roles else "")
            for rule in rules
        )

    cool_down = duration(effective.cool_down.total_seconds()) if effective.cool_down else ""
    return [
        (
            "eligible needs",
            quorum(effective.on_eligible) + (f", promoted after {cool_down}" if cool_down else ""),
        ),
        ("review needs", quorum(effective.on_review)),
        ("rollback needs", quorum(effective.rollback)),
        ("waiver needs", quorum(effective.waiver)),
        ("approvals end", f"{duration(effective.expires_after.total_seconds())} after the verdict"),
    ]


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


def flip_fields(flip: Flip) -> Json:
    """One verdict that would come out otherwise."""
    return {
        "id": flip.id,
        "model": flip.model,
        "state": flip.state,
        "before": flip.before.value,
        "after": flip.after.value,
        "loosened": flip.loosened,
        "rules": list(flip.rules),
        "not_measured": list(flip.not_measured),
    }


def backtest_fields(found: Backtest) -> Json:
    """A replay of the past."""
    return {
        "policy": found.policy,
        "replayed": found.replayed,
        "flips": [flip_fields(flip) for flip in found.flips],
        "loosened": sum(flip.loosened for flip in found.flips),
        "not_replayable": [{"id": id_, "reason": reason} for id_, reason in found.not_replayable],
        "never_fired": list(found.never_fired),
        "never_applied": list(found.never_applied),
        "refused_approvals": [vars(refused) for refused in found.refused],
        "not_measured": [{"rule": rule, "proposals": ids} for rule, ids in found.not_measured.items()],
    }


def backtest_sentence(found: Backtest) -> str:
    """What a replay came to, in one line."""
    loosened = sum(flip.loosened for flip in found.flips)
    parts = [f"{counted(found.replayed, 'proposal')} replayed"]
    if not found.flips:
        parts.append("no verdict changes")
    else:
        parts.append(f"{loosened} loosened, {len(found.flips) - loosened} tightened")
    if found.refused:
        parts.append(f"{counted(len(found.refused), 'past approval')} would not have been enough")
    if found.not_replayable:
        parts.append(f"{len(found.not_replayable)} could not be replayed")
    return " · ".join(parts)


def effective_fields(policies: Sequence[Policy]) -> Json:
    """Every rule and every setting that holds, with the lines that state them."""
    from guardrails.policy import holding
    from guardrails.policy.extend import shown_setting

    return {
        "policies": [policy.name for policy in policies],
        "rules": [
            {
                "rule": rule.id,
                "check": rule.check,
                "limit": str(rule.require),
                "severity": rule.severity.value,
                "when": rule.when,
                "waivable": rule.waivable,
                "policy": policy.name,
                "source": str(rule.place),
            }
            for policy in policies
            for rule in policy.rules
        ],
        "settings": [
            {
                "path": one.path,
                "value": shown_setting(one.value),
                "sources": [source for _, source in one.sources],
                "policies": [name for name, _ in one.sources],
            }
            for one in holding(policies)
        ],
    }


def shadow_sentence(shadow: Shadow, verdict: VerdictKind) -> str:
    """What a shadow policy would have made of a proposal, in one line."""
    word = verdict_mark(shadow.kind).word.lower()
    would = f"under shadow policy {shadow.policy or 'of unknown name'} this would be: "
    if shadow.kind is verdict and not shadow.at_least:
        return f"{would}{word} too"
    rules = list(dict.fromkeys(finding.rule for finding in shadow.not_passed))
    named = ", ".join(rules[:_NAMED]) + (f" and {len(rules) - _NAMED} more" if len(rules) > _NAMED else "")
    return f"{would}{'at least ' if shadow.at_least else ''}{word}{f' ({named})' if named else ''}"


def shadow_fields(shadow: Shadow, verdict: VerdictKind) -> Json:
    """What one shadow policy would have said; the findings themselves are among those of the verdict."""
    return {
        "policy": shadow.policy,
        "verdict": shadow.kind.value,
        "at_least": shadow.at_least,
        "differs": shadow.kind is not verdict,
        "binding": False,
        "not_passed": [finding.rule for finding in shadow.not_passed],
        "sentence": shadow_sentence(shadow, verdict),
    }


def apart_fields(found: Apart) -> Json:
    """A file that is not what is in force under its name."""
    return {
        "file": str(found.path),
        "policy": found.name,
        "request": found.request,
        "activated_at": found.activated_at,
        "changes": [vars(change) for change in found.changes],
        "errors": [problem_fields(problem) for problem in found.problems],
        "sentence": found.sentence,
    }
