"""The champions: what is in force for each model, how it came to be, and the way back."""

from __future__ import annotations

import streamlit as st

from guardrails.canonical import Digest
from guardrails.errors import InterlockError
from guardrails.ledger import champions
from guardrails.ledger import requests as ledger_requests
from guardrails.ledger.rows import ModelRow
from guardrails.records import Action, Outcome, Person
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views import signing
from ui.presenters import ago, counted, interval, moment, number, unit_of


def page() -> None:
    """The champions page."""
    markup.show(
        el(
            "div",
            el("h1", "Champions"),
            el("div", el("span", "what is in force, and the way back"), cls="under"),
            cls="head",
        )
    )
    receipt = session.receipt_for()
    if receipt is not None and receipt.action is Action.ROLLBACK:
        markup.show(signing.receipt_notice(receipt))
    with session.proven_view() as view:
        models, person = view.models(), session.person_in(view)
        if not models:
            markup.show(
                markup.empty(
                    "No models yet.",
                    "Set-up adopts the base of every configured model; `interlock model add` adds one.",
                )
            )
        for model in models:
            _model(view, model, person)


def _model(view: View, model: ModelRow, person: Person | None) -> None:
    now = session.now()
    reign = model.history[-1]
    came = f"by {reign.proposal}" if reign.proposal else "adopted at set-up"
    markup.show(
        el(
            "div",
            el("h2", model.name),
            el("span", f"{model.kind} · {counted(len(model.history) - 1, 'change')}"),
            cls="group",
        )
    )
    rows = [
        ("champion", el("span", str(model.champion), cls="mono")),
        ("in force", f"{ago(reign.promoted_at, now)}, since {moment(reign.promoted_at)}, {came}"),
        ("drift from the original", _cumulative(view, model)),
        (
            "error budget",
            f"{counted(model.attempts, 'measurement')} since then; the next one is attempt {model.attempts + 1}",
        ),
    ]
    markup.show(markup.facts(rows))
    past = list(enumerate(model.history))[::-1]
    with st.container(key=f"lineage-{model.name}", gap=None):
        for index, held in past:
            current = index == len(model.history) - 1
            left, right = st.columns([6, 1], vertical_alignment="center")
            with left:
                markup.show(_reign(view, model, index, now))
            reachable = _reachable(model, held.digest)
            with right:
                first = next(
                    i for i in reversed(range(len(model.history))) if model.history[i].digest == held.digest
                )
                if not current and reachable and first == index and st.button(
                    "Roll back…", key=f"rollback-{model.name}-{index}", disabled=person is None
                ):  # fmt: skip
                    signing.open_dialog(_ask(view, model, held.digest))


def _reign(view: View, model: ModelRow, index: int, now: str) -> Html:
    held = model.history[index]
    current = index == len(model.history) - 1
    mark = el("i", "●" if current else "○", cls="gl", aria_hidden="true")
    word = "champion" if current else "quarantined" if held.quarantined else "former champion"
    tone = "good" if current else "bad" if held.quarantined else "muted"
    return el(
        "div", el("span", mark, el("span", word), cls=f"mk {tone}"),
        el("span", str(held.digest).removeprefix("sha256:")[:20], cls="mono", title=str(held.digest)),
        el("span", held.proposal or "base model", cls="soft"),
        el("span", ago(held.promoted_at, now), cls="dim", title=held.promoted_at), cls="reign",
    )  # fmt: skip


def _reachable(model: ModelRow, target: Digest) -> bool:
    try:
        ledger_requests.require_reachable(model, target)
    except InterlockError:
        return False
    return True


def _cumulative(view: View, model: ModelRow) -> str:
    """The drift of the champion from the first one, as the verdict on its proposal found it."""
    reign = model.history[-1]
    if model.champion == model.original:
        return "none: it is the original"
    row = next((r for r in view.proposals(model.name) if r.id == reign.proposal and r.verdict), None)
    findings = row.verdict.findings if row is not None and row.verdict is not None else ()
    for finding in findings:
        if finding.rule.startswith("budget.cumulative") and finding.outcome is not Outcome.SKIPPED:
            seen = f"{number(finding.observed)} {interval(finding.lower, finding.upper)}"
            measure = f"{finding.metric.replace('_', ' ')}, {unit_of(finding)}"
            return f"{seen}, limit {finding.limit.split()[-1]} ({measure})"
    return "not measured for this champion"


def _named(model: ModelRow, digest: Digest) -> Html:
    """A champion by where it came from and since when it was in force; a digest alone tells nobody anything."""
    held = next(reign for reign in reversed(model.history) if reign.digest == digest)
    came = held.proposal or "base model"
    return el("span", f"{came}, {moment(held.promoted_at)} ", el("span", str(digest), cls="mono dim"))


def _ask(view: View, model: ModelRow, target: Digest) -> signing.Ask:
    left, barred = champions.after_rollback(view.snapshot.tables, model, target)
    gone = counted(len({digest for digest, _ in left} - {target}), "later champion")
    also = ", ".join(barred[:12]) + (" …" if len(barred) > 12 else "")
    return signing.Ask(
        action=Action.ROLLBACK, target=model.name, title=f"Roll back {model.name}", verb="Sign and roll back",
        consequence=(
            f"The champion of {model.name} moves back at once, with the last signature that this needs. "
            f"{gone} and every proposal trained from it are quarantined: they cannot come back."
        ),
        bound=(
            ("model", model.name), ("champion now", _named(model, model.champion)), ("back to", _named(model, target)),
            ("quarantined", also or "no proposal"),
        ),
        roles=signing.roles_for_request(view, Action.ROLLBACK, model.name), champion=model.champion, digest=target,
        hint="What went wrong with the champion?",
    )  # fmt: skip
