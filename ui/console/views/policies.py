"""The policies: what is in force since when, what it asks for, and which files say something else.

Invariants: reads the signed bytes of the log; a file never counts as a rule here, it is only compared. What a
file would change is shown; activating it takes signatures, and happens on the command line.
"""

from __future__ import annotations

import streamlit as st

from guardrails.authoring.on_disk import Apart, apart, files_in
from guardrails.authoring.shadow import shadows_of
from guardrails.checks.brought import check_of
from guardrails.ledger.in_force import policy_of
from guardrails.ledger.rows import PolicyRow
from guardrails.policy import Policy, combine
from guardrails.policy.model import Rule
from guardrails.records import VerdictKind
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import el
from ui.presenters import Mark, ago, counted, moment, number, one_line, size, verdict_mark
from ui.presenters.policies import people_words, scope_words

_DIRECTIONS = {
    "looser": Mark("✕", "looser", "bad"),
    "different": Mark("▲", "different", "caution"),
    "tighter": Mark("✓", "tighter", "good"),
    "neutral": Mark("·", "neutral", "muted"),
}
_RECENT = 200


def page() -> None:
    """The policies page."""
    under = el("span", "in force by signature; editing a file changes nothing")
    markup.show(el("div", el("h1", "Policies"), el("div", under, cls="under"), cls="head"))
    with session.view() as view:
        rows = view.policies()
        differing = apart(rows, files_in(session.console().workspace.policy_folders()))
        if not rows:
            markup.show(markup.empty(
                "No policy is in force: everything is blocked.",
                "`interlock policy activate FILE --reason …` puts one in force.",
            ))  # fmt: skip
        for row in rows:
            _policy(view, row, [found for found in differing if found.name == row.name])


def _policy(view: View, row: PolicyRow, differing: list[Apart]) -> None:
    policy, now = policy_of(row.source), session.now()
    state = "binding" if policy.is_binding else "shadow: judged beside, not binding"
    rules = counted(len(policy.rules), "rule")
    markup.show(el(
        "div", el("h2", row.name), el("span", f"{state} · {rules} · {scope_words(policy.scope)}"), cls="group",
    ))  # fmt: skip
    for found in differing:
        _differs(found)
    facts = [
        ("in force", f"{ago(row.activated_at, now)}, since {moment(row.activated_at)}, by {row.request}"),
        ("digest", el("span", str(row.source.digest), cls="mono")),
        ("files", ", ".join(row.source.order)),
    ]
    facts += [(name, one_line(said, 300)) for name, said in people_words(combine([policy]))]
    if policy.metadata.description:
        facts.append(("what it is for", one_line(policy.metadata.description, 400)))
    markup.show(markup.facts(facts))
    if not policy.is_binding:
        _shadowed(view, policy)
    with st.expander(f"{counted(len(policy.rules), 'rule')} of {row.name}"):
        markup.show(_rules(policy))


def _differs(found: Apart) -> None:
    """A file that somebody may take for what is in force."""
    title = f"{found.path.name} on disk differs from what is in force"
    since = f"Since {found.request}, {found.activated_at[:10]}, the signed bytes hold."
    if found.problems:
        then = f"The file at {found.path} is not usable: {found.problems[0]}"
    elif not found.changes:
        then = f"The file at {found.path} differs in words only: no rule and no setting would change."
    else:
        then = f"To change anything, activate it: interlock policy activate {found.path} --reason …"
    markup.show(markup.notice("caution", title, f"{since} {one_line(then, 400)}"))
    rows = [
        (markup.mark(_DIRECTIONS[change.direction]), el("b", change.path), change.before or "–", change.after or "–",
         el("span", change.after_at or change.before_at, cls="mono dim"))
        for change in found.changes
    ]  # fmt: skip
    if rows:
        markup.show(markup.table(("", "Key", "In force", "In the file", "Policy line"), rows))


def _rules(policy: Policy) -> markup.Html:
    rows = [
        (el("b", rule.id), _passes_where(rule), rule.severity.value, rule.when or "always",
         one_line(rule.rationale, 300), el("span", str(rule.place), cls="mono dim"))
        for rule in policy.rules
    ]  # fmt: skip
    return markup.table(("Rule", "Passes where", "If not", "Applies where", "Why", "Policy line"), rows)


def _passes_where(rule: Rule) -> markup.Html:
    """The pass condition in words, with the unit of its metric."""
    require, metric = rule.require, check_of(rule.check).metrics.get(rule.require.metric)
    value, unit = number(require.value), metric.unit if metric else ""
    if unit == "bytes":
        value, unit = size(int(require.value)), ""
    bound = f"{require.bound} bound of " if require.bound else ""
    said = f"{bound}{require.metric.replace('_', ' ')} {require.op} {value}"
    return el("span", said, el("small", unit) if unit else None)


def _shadowed(view: View, policy: Policy) -> None:
    """Where a shadow policy would have decided otherwise, newest first."""
    judged = [row for row in view.proposals()[:_RECENT] if row.verdict is not None]
    rows = []
    seen = 0
    for row in judged:
        assert row.verdict is not None  # noqa: S101 - filtered above
        mine = [s for s in shadows_of(row.verdict, [policy]) if s.policy == policy.name]
        seen += len(mine)
        rows += [
            (el("b", row.id), row.model, markup.mark(verdict_mark(row.verdict)), markup.mark(verdict_mark(shadow.kind)),
             _which(shadow.kind, row.verdict.kind), ", ".join(dict.fromkeys(f.rule for f in shadow.not_passed)) or "–")
            for shadow in mine if shadow.kind is not row.verdict.kind
        ]  # fmt: skip
    note = f"{len(rows)} of {counted(seen, 'verdict')} would differ; not binding"
    markup.show(markup.eyebrow("What it would have decided", note))
    if rows:
        markup.show(markup.table(("ID", "Model", "Decided", "Under this policy", "", "Did not pass"), rows))


def _which(shadow: VerdictKind, verdict: VerdictKind) -> markup.Html:
    order = (VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED)
    tighter = order.index(shadow) > order.index(verdict)
    return markup.mark(_DIRECTIONS["tighter" if tighter else "looser"])
