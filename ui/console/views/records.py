"""What an update was trained on: a census, every record that a check flagged and why, and the first few as they are.

Invariants:
- Records are hostile text: they are shown as text, in full length or with the number of characters left out.
- Personal data and secrets in them are hidden until somebody asks for them, anew for each proposal.
- Every flagged record can be reached, a page at a time.
"""

from __future__ import annotations

import streamlit as st

from guardrails.ledger.rows import ProposalRow
from guardrails.records import Measurements
from sandbox import flagged
from sandbox.flagged import FlaggedRecord, Records
from sandbox.masking import masked
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.console.views.evidence import cut, measurements
from ui.presenters import one_line

FIRST = 5
PAGE = 20


def show(row: ProposalRow) -> None:
    """The training records of a proposal."""
    assert row.proposal is not None  # noqa: S101 - only proposals have this tab
    found = measurements(row)
    _census(row, found.facts if found else {})
    records = _records(f"{row.proposal.data} {row.proposal.bundle}", row)
    if found is not None:
        _flagged(row.id, records, found)
    first = records.first(FIRST)
    if first:
        markup.show(markup.eyebrow("First records", f"{len(first)} of {len(records):,}"))
        for (place, _), text in zip(first, masked([text for _, text in first]), strict=True):
            markup.show(_record(FlaggedRecord("", place, "", text)))


@st.cache_resource(max_entries=4, show_spinner=False)
def _records(addresses: str, _row: ProposalRow) -> Records:
    """Read once for each proposal: what begins with an underscore is no part of the cache's key."""
    assert _row.proposal is not None  # noqa: S101
    return Records.of(session.console().workspace.store, _row.proposal)


def _census(row: ProposalRow, facts: dict[str, str]) -> None:
    assert row.proposal is not None  # noqa: S101
    total = facts.get("data.records", "")
    source = "claimed by who submitted it" if row.proposal.submitted else "as mounted for the learner"
    markup.show(markup.eyebrow("Training records", source))
    # How many there are comes first: the others are shares of that.
    ordered = sorted(facts.items(), key=lambda fact: (fact[0] != "data.records", fact[0]))
    counts = [(_title(name), value) for name, value in ordered if name.startswith("data.")]
    rows = [
        (label, f"{value} of {total}" if total and label != "records" else value) for label, value in counts
    ]
    markup.show(markup.facts([*rows, ("digest", el("span", str(row.proposal.data), cls="mono"))]))


def _title(name: str) -> str:
    return one_line(name.removeprefix(flagged.PREFIX).replace("_", " "), 60)


def _flagged(id_: str, records: Records, found: Measurements) -> None:
    """One check's records at a time, a page of them."""
    counts = flagged.counts(found)
    if not counts:
        return
    markup.show(markup.eyebrow("Flagged records", "by the check that counted them"))
    with st.container(horizontal=True, gap="medium", vertical_alignment="center", key="flagged-by"):
        check = st.selectbox(
            "Check", list(counts), key=f"flagged-{id_}", width=300, label_visibility="collapsed",
            format_func=lambda name: f"{_title(name)} · {counts[name]:,}",
        )  # fmt: skip
        bare = st.toggle("Show personal data and secrets", key=f"unmasked-{id_}")
    place = f"flagged-from-{id_}-{check}"
    start = min(int(st.session_state.get(place, 0)), max(0, counts[check] - 1))
    for record in flagged.page(records, found, check, start, PAGE, bare=bare):
        markup.show(_record(record))
    _pager(place, start, counts[check])


def _pager(place: str, start: int, count: int) -> None:
    if count <= PAGE:
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="flagged-pager"):
        for label, to in (("Earlier", start - PAGE), ("Later", start + PAGE)):
            if st.button(label, key=f"flagged-{label.lower()}", disabled=not 0 <= to < count):
                st.session_state[place] = to
                st.rerun()
        markup.show(el("span", f"{start + 1} to {min(start + PAGE, count)} of {count:,}", cls="soft fine"))


def _record(record: FlaggedRecord) -> Html:
    text = record.text
    body = el("p", "not kept here any more", cls="soft fine") if text is None else el("pre", cut(text))
    why = el("span", one_line(record.reason, 300), cls="soft") if record.reason else None
    return el(
        "div", el("h4", el("span", one_line(record.place, 80), cls="mono"), why, _length(text)), body, cls="record"
    )  # fmt: skip


def _length(text: str | None) -> Html | None:
    shown = len(cut(text)) if text else 0
    return el("span", f"{shown:,} of {len(text):,} characters") if text and len(text) > shown else None
