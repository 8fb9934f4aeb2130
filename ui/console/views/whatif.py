"""One limit, moved: which past verdicts would come out otherwise, while the hand is still on the slider.

Invariants: nothing here is recorded or changes what holds; the page says so, because only a signed activation
of a policy's bytes does. The engine answers, on the numbers that are in the log.
"""

from __future__ import annotations

import math

import streamlit as st

from guardrails.authoring.backtest import Flip, flips_at
from guardrails.authoring.history import History, key_of, read_history
from guardrails.ledger.judging import in_force
from guardrails.ledger.rows import ProposalRow
from guardrails.policy import LoadedPolicy, Rule
from guardrails.records import Outcome
from ui.console import markup, session
from ui.console.markup import el
from ui.presenters import STATE_MARKS, counted, number, one_line, verdict_mark

_STEPS = 200
_SHOWN = 30


@st.cache_resource(max_entries=2, show_spinner="Reading the past…")
def _past(_log_size: int) -> tuple[History, list[LoadedPolicy]]:
    """The history and the policies in force, read again only when the log has grown."""
    with session.view() as view:
        tables = view.snapshot.tables
        return read_history(tables), in_force(tables)


def show(row: ProposalRow) -> None:
    """Choose a rule that this proposal was judged by, move its limit, see what flips."""
    box = st.expander("What if a limit were different?", key=f"whatif-{row.id}", on_change="rerun")
    if not box.open or row.verdict is None:
        return
    with box:
        _moved(row)


@st.fragment
def _moved(row: ProposalRow) -> None:
    """The slider and its answer; only this part of the page is drawn again while the limit moves."""
    history, policies = _past(session.log_size())
    rules = _rules(row, policies)
    if not rules:
        markup.show(markup.empty("No limit to move.", "The policy that judged this is no longer in force."))
        return
    first, second = st.columns([1, 2], gap="medium", vertical_alignment="bottom")
    name = first.selectbox("Rule", list(rules), key=f"whatif-rule-{row.id}")
    loaded, rule = rules[name]
    low, high = _range(rule, history)
    with second:
        value = st.slider(
            " ".join(part for part in ("Limit:", rule.require.bound, rule.require.metric, rule.require.op) if part),
            low, high, float(rule.require.value), (high - low) / _STEPS, format="%.4g",
            key=f"whatif-limit-{row.id}-{name}",
        )  # fmt: skip
    flips, tried = flips_at(loaded, rule.id, value, history, session.console().workspace.store)
    _answer(rule, value, flips, tried)


def _rules(row: ProposalRow, policies: list[LoadedPolicy]) -> dict[str, tuple[LoadedPolicy, Rule]]:
    """The rules that a number was read for, those that did not pass first."""
    assert row.verdict is not None  # noqa: S101 - the caller has looked
    order = sorted(row.verdict.findings, key=lambda finding: finding.outcome is Outcome.PASS)
    found: dict[str, tuple[LoadedPolicy, Rule]] = {}
    for finding in order:
        for loaded in policies:
            rule = loaded.policy.rule(finding.rule)
            same = rule is not None and str(rule.place) == finding.source
            judged = row.verdict.policies.get(loaded.policy.name) == str(loaded.source.digest)
            if (
                rule is not None
                and same
                and judged
                and finding.observed is not None
                and rule.require.op != "=="
            ):
                found[rule.id] = (loaded, rule)
    return found


def _range(rule: Rule, history: History) -> tuple[float, float]:
    """From the least to the largest bound that was ever seen, and the limit in between."""
    key, limit = key_of(rule), float(rule.require.value)
    estimates = [past.estimates[key] for past in history.past if key in past.estimates]
    ends = [e.lower if rule.require.bound == "lower" else e.upper for e in estimates]
    seen = [end for end in ends if math.isfinite(end)]
    low, high = min([limit, *seen]), max([limit, *seen])
    room = (high - low) * 0.1 or abs(limit) or 1.0
    return low - room, high + room


def _answer(rule: Rule, value: float, flips: list[Flip], tried: int) -> None:
    loosened = sum(flip.loosened for flip in flips)
    told = (
        f"{len(flips)} of {counted(tried, 'verdict')} change: {loosened} loosened, {len(flips) - loosened} tightened"
        if flips
        else f"none of {counted(tried, 'verdict')} changes"
    )
    limit = el("b", f"{rule.require.op} {number(value)}")
    stated = el("span", f" in place of {rule.require.op} {number(rule.require.value)}: ", cls="dim")
    markup.show(el("p", limit, stated, told))
    rows = [
        (
            el("b", flip.id),
            flip.model,
            markup.mark(verdict_mark(flip.before)),
            markup.mark(verdict_mark(flip.after)),
            "loosened" if flip.loosened else "tightened",
            one_line(", ".join(flip.rules), 200),
            next((mark.word for state, mark in STATE_MARKS.items() if state.value == flip.state), flip.state),
        )
        for flip in flips[:_SHOWN]
    ]
    if rows:
        head = ("Proposal", "Model", "Was", "Would be", "", "Because of", "State")
        markup.show(markup.table(head, rows))
    more = f" {len(flips) - _SHOWN} more are not shown." if len(flips) > _SHOWN else ""
    markup.show(el(
        "p", f"Tried on every proposal that this policy judged.{more} Nothing changes by looking: a limit moves only by "
        "a signed activation of the policy's file.", cls="dim fine",
    ))  # fmt: skip
