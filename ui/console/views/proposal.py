"""One proposal: why it stands where it stands, the evidence, who signed, and what a signature would do."""

from __future__ import annotations

import streamlit as st

from guardrails.authoring.shadow import shadows_of
from guardrails.errors import InterlockError, StaleError, UnknownNameError
from guardrails.ledger import standing as standings
from guardrails.ledger.in_force import policy_of
from guardrails.ledger.rows import ProposalRow
from guardrails.ledger.standing import Standing
from guardrails.records import Action, Person, State, VerdictKind
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import approvals, diff, evidence, provenance, queue, records, rules, signing
from ui.presenters import (
    ago,
    ending,
    finding_sentence,
    gain_finding,
    headline,
    message_of,
    one_line,
    shadow_sentence,
    worst_first,
)

PARTS = {
    "Rules": "findings",
    "Diff": "diff",
    "Samples": "samples",
    "Data": "data",
    "Provenance": "provenance",
}
"""Tab → what the decision record calls it when somebody has seen it."""

_NEXT = {
    State.PROPOSED: ("Not measured yet.", "The loop measures it next; `interlock measure` does so by hand."),
    State.MEASURING: ("Being measured.", "An isolated job compares it with the champion on private items."),
    State.JUDGED: ("Measured, not judged yet.", "The gate judges it with its next tick."),
    State.STALE: (
        "Stale.",
        "The champion changed since this was measured; `interlock measure` measures it again.",
    ),
    State.FAILED: ("The job failed.", "There is nothing to decide. The end of its log is below."),
}


def page() -> None:
    """The proposal page."""
    proposal_id = st.query_params.get("id", "")
    try:
        with session.proven_view() as view:
            _show(view, view.proposal(proposal_id))
    except UnknownNameError:
        markup.show(markup.empty("No such proposal.", f"There is none called {one_line(proposal_id, 40)}."))
        st.page_link(
            st.session_state["pages"]["queue"], label="Back to the queue", icon=":material/arrow_back:"
        )


def _show(view: View, row: ProposalRow) -> None:
    moment, person = session.now(), session.person_in(view)
    stale, standing = "", None
    try:
        standing = view.standing(row, moment)
    except StaleError as error:
        stale = str(error)
    left, right = st.columns([1, 1.15], vertical_alignment="top", gap="medium")
    with left:
        markup.show(_head(view, row, moment))
    with right:
        _actions(view, row, standing, person)
    receipt = session.receipt_for(row.id)
    if receipt is not None:
        markup.show(signing.receipt_notice(receipt))
    if stale:
        markup.show(markup.notice("caution", "This can no longer be decided as it is.", stale))
    body, rail = st.columns([3.15, 1], gap="medium")
    with body:
        markup.show(_why(view, row))
        _beside(view, row)
        _tabs(view, row, person)
    with rail:
        seen = session.console().seen.of(person.id if person else "", row.id, row.verdict_record)
        markup.show(approvals.rail(view, row, standing, person, seen, moment))


def _head(view: View, row: ProposalRow, moment: str) -> Html:
    proposer = view.name_of(row.proposal.proposer) if row.proposal else "loop"
    policies = dict(row.verdict.policies) if row.verdict else {}
    under = [
        el("span", row.model), el("span", row.technique), el("span", one_line(f"proposed by {proposer}", 80)),
        el("span", ago(row.created_at, moment), title=row.created_at),
        *(el("span", f"{name}@", markup.digest(digest, 8)) for name, digest in policies.items()),
    ]  # fmt: skip
    intent = one_line(view.text(row.proposal.intent), 300) if row.proposal else ""
    return el(
        "div", el("h1", row.id, markup.badge(queue.mark_of(row))), el("div", *under, cls="under"),
        el("div", intent, cls="soft", style="font-size:13px;margin-top:.3rem") if intent else None, cls="head",
    )  # fmt: skip


def _why(view: View, row: ProposalRow) -> Html:
    tone = queue.mark_of(row).tone
    if row.verdict is None or row.state not in (State.AWAITING_APPROVAL, State.APPROVED, State.BLOCKED):
        over = ending(row, view.name_of, view.text)
        word, over = queue.mark_of(row).word, over[:1].upper() + over[1:]
        says_so = over.startswith(word)
        title, then = _NEXT.get(row.state, (over if says_so else f"{word}.", "" if says_so else over))
        reason = one_line(queue.reason_of(row), 400)
        return el(
            "div",
            title if row.failure is None else reason,
            el("small", one_line(then, 300)),
            cls=f"why {tone}",
        )
    if row.verdict.kind is VerdictKind.ELIGIBLE:
        gain = gain_finding(row.verdict)
        more = finding_sentence(gain, row.verdict.confidence) if gain else ""
        return el("div", headline(row.verdict), el("small", more) if more else None, cls=f"why {tone}")
    worst = worst_first(row.verdict.findings)
    effect = (
        "Nobody can approve this: " if row.verdict.kind is VerdictKind.BLOCKED else "This needs more people: "
    )
    said, rule = headline(row.verdict), worst[0].rule if worst else ""
    rest = said.removeprefix(rule) if rule else said
    why = (
        f"Why there is a limit: {_rationale(view, rule)}"
        if _rationale(view, rule)
        else (message_of(worst[0]) if worst else "")
    )
    lead = [effect, el("b", rule), rest] if rest != said else [effect, said]
    return el("div", *lead, el("small", one_line(why, 500)), cls=f"why {tone}")


def _beside(view: View, row: ProposalRow) -> None:
    """Where a shadow policy would have decided otherwise, before anybody signs."""
    if row.verdict is None:
        return
    for shadow in shadows_of(row.verdict, [policy_of(policy.source) for policy in view.policies()]):
        if shadow.kind is not row.verdict.kind:
            said = shadow_sentence(shadow, row.verdict.kind)
            markup.show(el("p", f"Not binding: {said}.", cls="soft fine"))


def _rationale(view: View, rule: str) -> str:
    """What the policy in force says about why a rule is there; empty where no rule has that name."""
    rules = (found for row in view.policies() for found in policy_of(row.source).rules)
    return next((found.rationale for found in rules if found.id == rule), "")


def _actions(view: View, row: ProposalRow, standing: Standing | None, person: Person | None) -> None:
    binding = standings.binding_of(view.snapshot.tables, row)
    voted = person is not None and any(
        v.person == person.id and v.action is Action.APPROVE for v in row.votes
    )
    asked = person is not None and any(change.person == person.id for change in row.changes)
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key="actions"):
        _neighbours(view, row)
        if st.button("Comment…", key="comment", type="tertiary", disabled=person is None):
            signing.open_dialog(approvals.ask(view, row, standing, person, Action.COMMENT))
        if binding is None:
            if asked and st.button("Withdraw…", key="withdraw"):
                signing.open_dialog(approvals.ask(view, row, standing, person, Action.WITHDRAW))
            return
        if not asked and st.button("Request changes…", key="changes", disabled=person is None):
            signing.open_dialog(approvals.ask(view, row, standing, person, Action.REQUEST_CHANGES))
        if st.button("Reject…", key="reject", shortcut="x", disabled=person is None):
            signing.open_dialog(approvals.ask(view, row, standing, person, Action.REJECT))
        if (voted or asked) and st.button("Withdraw…", key="withdraw"):
            signing.open_dialog(approvals.ask(view, row, standing, person, Action.WITHDRAW))
        if voted:
            return
        ready = standing is not None and not approvals.obstacles(
            view, row, standing, person, _seen(person, row)
        )
        if st.button("Approve…", key="approve", type="primary", shortcut="a", disabled=not ready):
            signing.open_dialog(approvals.ask(view, row, standing, person, Action.APPROVE))


def _seen(person: Person | None, row: ProposalRow) -> tuple[str, ...]:
    return session.console().seen.of(person.id if person else "", row.id, row.verdict_record)


def _neighbours(view: View, row: ProposalRow) -> None:
    """J and K: the next and the previous proposal that waits for people."""
    ids = [other.id for other in view.proposals() if other.state in queue.WAITING]
    if row.id not in ids or len(ids) < 2:
        return
    at = ids.index(row.id)
    for label, shortcut, to in (("Previous", "k", at - 1), ("Next", "j", at + 1)):
        inside = 0 <= to < len(ids)
        if st.button(label, key=label, shortcut=shortcut, type="tertiary", disabled=not inside):
            st.query_params["id"] = ids[to]
            st.rerun()


def _tabs(view: View, row: ProposalRow, person: Person | None) -> None:
    if row.proposal is None:
        if row.failure is not None and row.failure.log_tail:
            markup.show(markup.eyebrow("End of the job's log"))
            st.code(row.failure.log_tail, language=None, wrap_lines=True, height=420)
        return
    tabs = st.tabs(list(PARTS), key=f"tab-{row.id}", on_change="rerun")
    drawn = {
        "Rules": lambda: rules.show(row, [policy_of(policy.source) for policy in view.policies()]),
        "Diff": lambda: diff.show(view, row),
        "Samples": lambda: evidence.samples(row),
        "Data": lambda: records.show(row),
        "Provenance": lambda: provenance.show(view, row),
    }
    for name, tab in zip(PARTS, tabs, strict=True):
        if not tab.open:
            continue
        with tab:
            try:
                drawn[name]()
            except InterlockError as error:
                # Evidence that cannot be read has not been seen.
                markup.show(markup.notice("bad", "This cannot be shown.", str(error)))
                continue
        _note(row, person, PARTS[name])


def _note(row: ProposalRow, person: Person | None, part: str) -> None:
    """Remember what was seen; the buttons above are drawn again if that makes a difference to them."""
    if person is None or row.verdict_record is None or part in _seen(person, row):
        return
    session.console().seen.note(person.id, row.id, row.verdict_record, part)
    st.rerun()
