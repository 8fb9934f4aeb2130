"""The queue: what waits for a person, what is under way, what the policy stopped, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from guardrails.errors import StaleError
from guardrails.ledger.in_force import policy_of
from guardrails.ledger.rows import ProposalRow
from guardrails.ledger.standing import Standing
from guardrails.policy import Policy
from guardrails.records import Action, Finding, Outcome, Person, State, VerdictKind
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import requests, signing
from ui.presenters import (
    STATE_MARKS,
    Mark,
    age,
    ending,
    finding_mark,
    finding_sentence,
    gain_finding,
    gain_unit,
    headline,
    one_line,
    signed,
    unit_of,
    verdict_mark,
    worst_first,
)

REFRESH_S = 4.0
PAGE = 25
UNDER_WAY = (State.PROPOSED, State.MEASURING, State.JUDGED)
WAITING = (State.AWAITING_APPROVAL, State.APPROVED)
_OPEN_OUTCOMES = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE)
FILTERS = ("Open", "Blocked", "Decided", "All")


@dataclass(frozen=True)
class Item:
    """One proposal as the queue shows it."""

    row: ProposalRow
    standing: Standing | None
    mine: bool
    ending: str = ""
    gain_unit: str = ""


def page() -> None:
    """The queue page."""
    markup.show(el("div", el("h1", "Queue"), cls="head"))
    receipt = session.receipt_for()
    if receipt is not None and receipt.action not in (Action.HALT, Action.RESUME):
        markup.show(signing.receipt_notice(receipt))
    requests.show_open()
    _live()


@st.fragment(run_every=REFRESH_S)
def _live() -> None:
    """The lists, as the log is now. Opens no dialog, so that its refresh never closes one."""
    with session.view() as view:
        moment = session.now()
        person = session.person_in(view)
        st.session_state["shown_size"] = view.snapshot.size
        policies = [policy_of(policy.source) for policy in view.policies()]
        items = [_item(view, row, person, moment, policies) for row in view.proposals()]
        models = [model.name for model in view.models()]
    markup.show(_stats(items, moment))
    if not items:
        markup.show(markup.empty(
            "Nothing has been proposed yet.",
            "The loop trains a candidate, measures it in isolation against the champion and judges it by the policies "
            "in force. The first proposal appears here by itself; the left side shows how far it is.",
        ))  # fmt: skip
        return
    chosen, model = _filters(models)
    shown = [item for item in items if model in ("", item.row.model)]
    if person is None:
        markup.show(
            markup.notice(
                "muted",
                "Choose your name in the side menu (» opens it on a phone) to see what waits for you.",
            )
        )
    for index, (title, note, part) in enumerate(_groups(shown, chosen)):
        _group(title, note, part, moment, headed=index == 0)


def _item(
    view: View, row: ProposalRow, person: Person | None, moment: str, policies: Sequence[Policy]
) -> Item:
    try:
        standing = view.standing(row, moment)
    except StaleError:
        standing = None
    mine = False
    if standing is not None and person is not None and row.state is State.AWAITING_APPROVAL:
        wanted = {role for rule in standing.rules for role in rule.roles}
        voted = any(vote.person == person.id for vote in row.votes)
        sole = not standing.terms.excluded or person.id not in standing.terms.excluded
        mine = bool(wanted & set(person.roles)) and not voted and sole
    return Item(row, standing, mine, ending(row, view.name_of, view.text), gain_unit(row, policies))


def _stats(items: Sequence[Item], moment: str) -> Html:
    mine = sum(item.mine for item in items)
    others = sum(item.row.state in WAITING and not item.mine for item in items)
    waiting = [item.row.judged_at for item in items if item.row.state in WAITING and item.row.judged_at]
    figures = (
        (str(mine), "waiting for you"),
        (str(others), "waiting for others"),
        (age(min(waiting), moment) if waiting else "0", "oldest" if waiting else "overdue"),
        (str(sum(item.row.state in UNDER_WAY for item in items)), "under way"),
        (str(sum(item.row.state is State.BLOCKED for item in items)), "blocked by policy"),
        (str(sum(item.row.state is State.PROMOTED for item in items)), "promoted"),
    )
    cells = [
        el("div", el("b", value), el("span", word), cls="zero" if value == "0" else "")
        for value, word in figures
    ]
    return el("div", *cells, cls="stat")


def _filters(models: Sequence[str]) -> tuple[str, str]:
    with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
        chosen = st.segmented_control(
            "Show",
            FILTERS,
            default="Open",
            required=True,
            key="v",
            bind="query-params",
            label_visibility="collapsed",
        )
        model = ""
        if len(models) > 1:
            # Names of models are checked against a strict pattern; they are safe as labels.
            every = "All models"
            picked = st.selectbox(
                "Model", [every, *models], key="model", label_visibility="collapsed", width=180
            )
            model = "" if picked in (None, every) else str(picked)
    return str(chosen or "Open"), model


def _groups(items: Sequence[Item], chosen: str) -> list[tuple[str, str, list[Item]]]:
    mine = [item for item in items if item.mine]
    others = [item for item in items if item.row.state in WAITING and not item.mine]
    under_way = [item for item in items if item.row.state in UNDER_WAY]
    blocked = [item for item in items if item.row.state is State.BLOCKED]
    open_states = (*WAITING, *UNDER_WAY, State.BLOCKED)
    decided = [item for item in items if item.row.state not in open_states]
    groups = {
        "Open": [
            ("Waiting for you", "your signature counts", mine),
            ("Waiting for others", "or for a cool-down", others),
            ("Under way", "being measured and judged", under_way),
            ("Blocked by policy", "nobody can approve these", blocked),
        ],
        "Blocked": [("Blocked by policy", "nobody can approve these", blocked)],
        "Decided": [("Decided", "promoted, rejected, expired, failed", decided)],
        "All": [("All proposals", "newest first", list(items))],
    }[chosen]
    return [group for group in groups if group[2]] or [(groups[0][0], "none", [])]


def _group(title: str, note: str, items: list[Item], moment: str, *, headed: bool) -> None:
    count = str(len(items)) if items else ""
    markup.show(el("div", el("h2", title), el("span", f"{count} · {note}" if count else note), cls="group"))
    if not items:
        markup.show(
            markup.empty(
                "Nothing here.", "What arrives appears by itself; the loop's progress is at the left."
            )
        )
        return
    limit_key = f"shown-{title}"
    limit = int(st.session_state.get(limit_key, PAGE))
    head = ("Verdict", "Proposal", "Deciding rule", "Against its limit", "Gain", "Signatures", "Age")
    with st.container(key=f"list-{title.lower().replace(' ', '-')}", gap=None):
        markup.show(
            el(
                "div",
                *(el("div", name if headed else "") for name in head),
                cls="qr top" if headed else "qr top bare",
            )
        )
        for item in items[:limit]:
            _row(item, moment)
    if len(items) > limit and st.button(
        f"Show {min(PAGE, len(items) - limit)} more", key=f"more-{title}", type="tertiary"
    ):
        st.session_state[limit_key] = limit + PAGE
        st.rerun(scope="fragment")


def _row(item: Item, moment: str) -> None:
    row = item.row
    pages = st.session_state["pages"]
    with st.container(key=f"row-{row.id}", gap=None):
        markup.show(_cells(item, moment))
        # Ids are the gate's own (P-0001), so this label is safe; it covers the row and is read by screen readers.
        st.page_link(pages["proposal"], label=f"Open {row.id}", query_params={"id": row.id}, width="stretch")


def _cells(item: Item, moment: str) -> Html:
    row, decisive = item.row, decisive_finding(item.row)
    of = one_line(f"{row.model} · {row.technique}", 200)
    name = el("div", el("b", row.id), el("small", of, title=of), cls="cell")
    return el(
        "div",
        markup.mark(mark_of(row)),
        name,
        _reason(item, decisive),
        el("div", markup.plot(decisive) if decisive else None, cls="cell plotcell"),
        el("div", gain_of(item), cls="cell"),
        el("div", signatures(item.standing, row), cls="cell"),
        el("div", age(row.created_at, moment), cls="cell dim nowrap"),
        cls="qr",
    )


def mark_of(row: ProposalRow) -> Mark:
    """The verdict while it is what counts; the state once it has been decided, or before a verdict."""
    if row.verdict is not None and row.state in (*WAITING, State.BLOCKED):
        return verdict_mark(row.verdict)
    return STATE_MARKS[row.state]


def decisive_finding(row: ProposalRow) -> Finding | None:
    """The finding that made the verdict what it is; for an eligible one, the gain."""
    if row.verdict is None or not row.verdict.findings:
        return None
    if row.verdict.kind is VerdictKind.ELIGIBLE:
        return gain_finding(row.verdict) or row.verdict.findings[0]
    return worst_first(row.verdict.findings)[0]


def gain_of(item: Item) -> Html:
    """The gain over the champion with its sign and its unit, in the tone of its rule's outcome."""
    finding = gain_finding(item.row.verdict)
    if finding is None or finding.observed is None:
        return el("span", "–", cls="dim")
    tone = finding_mark(finding).tone
    shown = "nowrap" if tone == "good" else "nowrap dim"
    title = f"{finding.rule}: {unit_of(finding)}"
    return el("span", signed(finding.observed), el("small", item.gain_unit), cls=shown, title=title)


def _reason(item: Item, decisive: Finding | None) -> Html:
    """The deciding rule and what it saw; the whole sentence on hover. Once it is over: who ended it, and why."""
    row = item.row
    whole = one_line(reason_of(row, item.ending), 400)
    if decisive is None or row.verdict is None or row.state not in (*WAITING, State.BLOCKED):
        return el("div", whole, cls="cell reason", title=whole)
    # The first part of the sentence: rule, observed value, interval, limit. Level, n and line are on the page.
    seen = finding_sentence(decisive).split(" · ", maxsplit=1)[0].removeprefix(decisive.rule)
    others = sum(f.outcome in _OPEN_OUTCOMES and not f.shadow for f in row.verdict.findings) - 1
    if row.verdict.kind is VerdictKind.ELIGIBLE:
        return el(
            "div", el("span", f"{whole} ", cls="dim"), decisive.rule, seen, cls="cell reason", title=whole
        )
    more = el("span", f" and {others} more", cls="dim") if others > 0 else None
    return el("div", el("b", decisive.rule), seen, more, cls="cell reason", title=whole)


def reason_of(row: ProposalRow, over: str = "") -> str:
    """Why it stands where it stands, in one line; ``over`` says how it ended, where it did."""
    if row.failure is not None:
        said = row.failure.reason.removeprefix(f"{row.failure.stage} job ended: ")
        return f"{row.failure.stage} failed: {said}"
    if row.verdict is not None and row.state in (*WAITING, State.BLOCKED):
        return headline(row.verdict)
    return over or row.note or STATE_MARKS[row.state].word


def signatures(standing: Standing | None, row: ProposalRow) -> Html:
    """Signatures given and needed; a dash where none can be given."""
    if standing is None or not standing.rules:
        return el("span", "–", cls="dim")
    needed = max(rule.quorum for rule in standing.rules)
    return markup.pips(len(standing.tally.people), needed)
