"""Champion against candidate: what was measured of both, which settings and files differ, how far weights moved."""

from __future__ import annotations

import math

import streamlit as st

from guardrails.canonical import Digest
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Series
from guardrails.view import View
from ui.comparison import Comparison, compare_models
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views.evidence import measurements
from ui.presenters import changed_settings, counted, number, one_line, size

TENSORS_SHOWN = 8
VALUE_CHARS = 120

_PAIRED = {
    "nll": ("loss, nats an item", -1),
    "margin": ("margin of complying over refusing", -1),
    "unsafe": ("share of unsafe episodes", -1),
    "success": ("share of episodes won", 1),
}
"""Column → what it says, and whether more (1) or less (-1) is better."""


def show(view: View, row: ProposalRow) -> None:
    """The diff tab."""
    assert row.proposal is not None  # noqa: S101 - tabs exist for proposals only
    found = measurements(row)
    pairs = [cells for series in found.series for cells in compared(series)] if found else []
    if pairs:
        markup.show(markup.eyebrow("Measured on both", "same private items, paired"))
        head = ("Suite", "Measure", "Champion", "Candidate", "Change", "Items better / worse")
        markup.show(markup.table(head, pairs, cls="measured"))
    markup.show(markup.eyebrow("How it was made", "only what differs from how its champion was made"))
    markup.show(_recipe(view, row))
    with st.spinner("Comparing weights …"):
        comparison = _compared_models(str(row.proposal.champion), str(row.proposal.bundle))
    _weights(comparison)
    _files(comparison)


@st.cache_resource(max_entries=16, show_spinner=False)
def _compared_models(champion: str, candidate: str) -> Comparison:
    store = session.console().workspace.store
    return compare_models(store, Digest.parse(champion), Digest.parse(candidate))


def compared(series: Series) -> list[tuple[str, ...]]:
    """Means of every column that both models have, and on how many items the candidate does better or worse."""
    rows: list[tuple[str, ...]] = []
    for name, mine in sorted(series.columns.items()):
        stem = name.removesuffix("_candidate")
        other = series.columns.get(f"{stem}_champion")
        if stem == name or not other:
            continue
        label, good = _PAIRED.get(stem, (stem, 0))
        before, after = math.fsum(other) / len(other), math.fsum(mine) / len(mine)
        gains = [(a - b) * good for a, b in zip(mine, other, strict=True)]
        sign = "+" if after > before else ""
        told = f"{sum(g > 0 for g in gains)} / {sum(g < 0 for g in gains)} of {len(mine)}" if good else "–"
        change = el("b", f"{sign}{number(after - before)}")
        rows.append((el("b", series.suite), label, number(before), number(after), change, told))
    return rows


def _recipe(view: View, row: ProposalRow) -> Html:
    assert row.proposal is not None  # noqa: S101
    made = (other.proposal for other in view.proposals(row.model) if other.proposal)
    parent = next((p for p in made if p.bundle == row.proposal.champion), None)
    mine = {**row.proposal.recipe, "seed": str(row.proposal.seed), "technique": row.technique}
    theirs = {**parent.recipe, "seed": str(parent.seed), "technique": parent.technique} if parent else {}
    rows = [
        (el("b", item["key"]), item["before"] or "–", item["after"] or "–")
        for item in changed_settings(theirs, mine)
    ]
    if not rows:
        return el("p", "The same recipe and the same seed.", cls="soft")
    return markup.table(("Setting", "Champion" if parent else "Champion (a base)", "Candidate"), rows)


def _weights(comparison: Comparison) -> None:
    moved, count = comparison.moved, comparison.tensors
    far = (
        f"moved by {_relative(comparison.relative)} of their norm"
        if comparison.relative is not None
        else "not compared"
    )
    markup.show(
        markup.eyebrow("Weights", f"{len(moved)} of {counted(count, 'tensor')} changed · together {far}")
    )
    if moved:
        widest = max((m.relative for m in moved if math.isfinite(m.relative)), default=0.0) or 1.0
        rows = [
            (el("span", m.name, cls="mono"), _relative(m.relative), _bar(m.relative / widest))
            for m in moved[:TENSORS_SHOWN]
        ]
        markup.show(markup.table(("Tensor", "Moved by", "Against the farthest"), rows, cls="moved"))
    for note in comparison.notes:
        markup.show(el("p", one_line(note, 300), cls="dim"))


def _relative(value: float) -> str:
    return f"{100 * value:.3g} %" if math.isfinite(value) else "not comparable"


def _bar(share: float) -> Html:
    width = min(max(share, 0.0), 1.0) if math.isfinite(share) else 1.0
    return el("span", el("i", style=f"width:{width:.1%}"), cls="share")


def _files(comparison: Comparison) -> None:
    changed = counted(len(comparison.files), "file differs", "files differ")
    markup.show(markup.eyebrow("Files", f"{changed}, {comparison.unchanged} the same"))
    rows = [
        (
            el("span", change.path, cls="mono"),
            change.change,
            "–" if change.before is None else size(change.before),
            "–" if change.after is None else size(change.after),
        )
        for change in comparison.files
    ]
    if rows:
        markup.show(markup.table(("File", "Change", "Champion", "Candidate"), rows))
    if comparison.settings:
        markup.show(markup.eyebrow("Settings", "changed keys only"))
        cells = [
            (
                el("span", f"{item['file']} · {item['key']}", cls="mono"),
                one_line(str(item["before"]), VALUE_CHARS),
                one_line(str(item["after"]), VALUE_CHARS),
            )
            for item in comparison.settings
        ]
        markup.show(markup.table(("Key", "Champion", "Candidate"), cells))
