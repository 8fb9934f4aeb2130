"""The rules tab: every rule of every policy, what it saw, and how far that is from its limit."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from guardrails.authoring.remedy import remedy
from guardrails.authoring.shadow import shadows_of
from guardrails.ledger.judging import read_measurements
from guardrails.ledger.rows import ProposalRow
from guardrails.policy import Policy
from guardrails.records import Finding, Outcome, Verdict
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import whatif
from ui.presenters import (
    amount,
    counted,
    finding_mark,
    interval,
    message_of,
    number,
    plain,
    shadow_sentence,
    unit_of,
    unsound,
    worst_first,
)

_OPERATORS = {"<=": "≤", ">=": "≥", "==": "="}
_FAILED = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.WARN)


def show(row: ProposalRow, texts: Sequence[Policy] = ()) -> None:
    """All findings, the decisive ones first; rules that do not apply are folded away, not left out."""
    if row.verdict is None:
        markup.show(markup.empty("Not judged yet.", "Rules are applied when the measurement is in the log."))
        return
    verdict = row.verdict
    binding = [finding for finding in verdict.findings if not finding.shadow]
    applied = [f for f in worst_first(binding) if f.outcome is not Outcome.SKIPPED]
    skipped = [f for f in binding if f.outcome is Outcome.SKIPPED]
    failed = sum(f.outcome in _FAILED for f in applied)
    note = (
        f"{counted(failed, 'rule')} of {len(applied)} not passed" if failed else f"all {len(applied)} passed"
    )
    markup.show(markup.eyebrow("Rules", note))
    if any(f.check == "integrity.weights" and f.outcome is Outcome.FAIL for f in applied):
        facts = read_measurements(session.console().workspace.store, row).facts
        markup.show(markup.notice("bad", "The files of this update are not sound.", unsound(applied, facts)))
    markup.show(_table(applied, verdict.confidence))
    markup.show(el(
        "p", f"Each rule is tested at {100 * verdict.confidence:.4g} % confidence: attempt {verdict.attempt} since the "
        "last promotion, by the error budget. On the plot the vertical line is the limit and the safe side is left of "
        "it; the bar is the interval, the dot the observed value.", cls="dim fine",
    ))  # fmt: skip
    if skipped:
        with st.expander(f"{counted(len(skipped), 'rule does', 'rules do')} not apply to this proposal"):
            rows = [(el("b", f.rule), message_of(f, 300), _source(f)) for f in skipped]
            markup.show(markup.table(("Rule", "Why not", "Policy line"), rows))
    _shadows(verdict, texts)
    whatif.show(row)


def _shadows(verdict: Verdict, texts: Sequence[Policy]) -> None:
    """What each shadow policy would have made of it; it binds nobody, and the page says so."""
    for shadow in shadows_of(verdict, texts):
        markup.show(markup.eyebrow(f"Shadow policy {shadow.policy}", "judged beside, not binding"))
        differs = shadow.kind is not verdict.kind
        said = shadow_sentence(shadow, verdict.kind)
        markup.show(markup.notice("caution" if differs else "info", said[0].upper() + said[1:] + "."))
        if shadow.not_passed:
            markup.show(_table(worst_first(shadow.not_passed), verdict.confidence))


def _table(findings: list[Finding], confidence: float) -> Html:
    head = (
        "Outcome", "Rule", "Observed", f"Interval, {100 * confidence:.4g} %",
        el("span", el("span", "safe"), el("span", "limit"), el("span", "over"), cls="axis"), "Limit", "n", "Policy line",
    )  # fmt: skip
    return markup.table(head, [_cells(finding) for finding in findings], cls="rules")


def _cells(finding: Finding) -> tuple[Html, ...]:
    quiet = "quiet" if finding.outcome is Outcome.PASS or finding.shadow else ""
    # What passed takes one line; what did not says more.
    small = None if quiet else el("small", _what(finding))
    name = el(
        "span",
        el("b", finding.rule, title=f"{finding.check}: {_what(finding)}"),
        small,
        _message(finding),
        cls=quiet,
    )
    if finding.observed is None:
        dash = el("span", "–", cls="dim")
        limit = _limit(finding)
        return (
            markup.mark(finding_mark(finding)),
            name,
            dash,
            dash,
            markup.plot(finding),
            limit,
            dash,
            _source(finding),
        )
    return (
        markup.mark(finding_mark(finding)),
        name,
        el("b", amount(finding, finding.observed)),
        markup.text(interval(finding.lower, finding.upper) or "exact"),
        markup.plot(finding),
        _limit(finding),
        markup.text("–" if finding.n is None else f"{finding.n:,}"),
        _source(finding),
    )


def _what(finding: Finding) -> str:
    """The metric and its unit; the check where the rule is not named after it."""
    unit = unit_of(finding)
    named = finding.check if not finding.rule.startswith(finding.check.split(".", maxsplit=1)[0]) else ""
    parts = (named, finding.metric.replace("_", " "), unit if unit != finding.metric else "")
    return " · ".join(part for part in parts if part)


def _message(finding: Finding) -> Html | None:
    """What the engine adds where the numbers alone do not say it."""
    if finding.outcome in (Outcome.ERROR, Outcome.INCONCLUSIVE) or finding.waived or finding.shadow:
        return el("div", message_of(finding, 400), cls="msg")
    needed, above = remedy(finding).observed, ">" in finding.limit
    if needed is None:
        return None
    return el("div", f"passes {'above' if above else 'below'} about {number(needed)} at this n", cls="msg")


def _limit(finding: Finding) -> Html:
    """The pass condition, its number written like the observed one."""
    *words, last = finding.limit.split()
    try:
        last = amount(finding, float(last))
    except (ValueError, OverflowError):
        last = plain(last)
    *bound, op = words or [""]
    op = _OPERATORS.get(op, op)
    which = f"the {bound[0]} bound of the interval" if bound else "the exact value"
    small = el("small", f"{bound[0]} bound") if bound and finding.outcome is not Outcome.PASS else None
    return el("span", f"{op} {last}", small, cls="nowrap", title=f"{which} must be {finding.limit}")


def _source(finding: Finding) -> Html:
    """``file:line`` without the folder; the whole of it on hover."""
    return el("span", finding.source.rsplit("/", 1)[-1] or "built in", cls="mono dim", title=finding.source)
