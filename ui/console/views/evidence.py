"""The evidence behind a verdict: what both models produce, and what was learned from.

Invariants: everything here is written by a model, a job or a data set, so all of it is hostile text; it is
shown in full length or with the number of characters left out, never shortened in silence.
"""

from __future__ import annotations

import difflib
import json
import re

import streamlit as st

from guardrails.canonical import Digest
from guardrails.errors import InterlockError
from guardrails.ledger.judging import read_measurements
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Measurements, Sample
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.presenters import counted, one_line, plain

MAX_SHOWN_CHARS = 20_000
MAX_DATA_BYTES = 64 << 20
FLAGGED_SHOWN = 20
RECORDS_SHOWN = 5
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


@st.cache_resource(max_entries=16, show_spinner=False)
def _measured(address: str, _row: ProposalRow) -> Measurements:
    return read_measurements(session.console().workspace.store, _row)


def measurements(row: ProposalRow) -> Measurements | None:
    """The numbers and samples of the newest evidence; None before a measurement."""
    return _measured(str(row.evidence.measurements), row) if row.evidence else None


# --- samples ---------------------------------------------------------------------------------


def samples(row: ProposalRow) -> None:
    """What both models produced for the same prompts, side by side, as plain text."""
    found = measurements(row)
    if found is None or not found.samples:
        markup.show(
            markup.empty("No samples.", "The measurement kept none; the rules are all there is to go by.")
        )
        return
    differing = sum(sample.champion != sample.candidate for sample in found.samples)
    markup.show(markup.eyebrow(
        "Samples", f"{counted(len(found.samples), 'prompt')} · outputs differ on {differing} · "
        "written by the models, shown as they are",
    ))  # fmt: skip
    for number_, sample in enumerate(found.samples, 1):
        markup.show(_pair(number_, len(found.samples), sample))


def _pair(index: int, count: int, sample: Sample) -> Html:
    before, after = marked(sample.champion, sample.candidate)
    same = " · identical" if sample.champion == sample.candidate else ""
    title = _caption(f"Prompt {index} of {count} · {sample.suite}", sample.prompt)
    return el(
        "div",
        el("div", title, el("pre", cut(sample.prompt)), cls="prompt"),
        el("div", _caption("Champion", sample.champion), el("pre", before)),
        el("div", _caption(f"Candidate{same}", sample.candidate), el("pre", after)),
        cls="pair",
    )  # fmt: skip


def _caption(title: str, body: str) -> Html:
    length = (
        f"{len(body):,} characters"
        if len(body) <= MAX_SHOWN_CHARS
        else f"{MAX_SHOWN_CHARS:,} of {len(body):,} characters"
    )
    return el("h4", el("span", title), el("span", length))


def cut(body: str) -> str:
    """At most ``MAX_SHOWN_CHARS``; the caption says how much there is."""
    return plain(body[:MAX_SHOWN_CHARS]) or "(empty)"


def marked(before: str, after: str) -> tuple[Html, Html]:
    """Both texts, escaped, with the words that differ marked."""
    old, new = _WORD.findall(cut(before)), _WORD.findall(cut(after))
    if len(old) + len(new) > 4000:
        return markup.text("".join(old)), markup.text("".join(new))
    left, right = [], []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(old[a:b]), "".join(new[c:d])
        left.append(markup.text(gone) if tag == "equal" else el("del", gone))
        right.append(markup.text(come) if tag == "equal" else el("ins", come))
    return markup.join(left), markup.join(right)


# --- data ------------------------------------------------------------------------------------


def data(row: ProposalRow) -> None:
    """The training records: a census, what it flagged, and the first few as they are."""
    assert row.proposal is not None  # noqa: S101
    found = measurements(row)
    facts = found.facts if found else {}
    total = facts.get("data.records", "")
    source = "claimed by who submitted it" if row.proposal.submitted else "as mounted for the learner"
    markup.show(markup.eyebrow("Training records", source))
    counts = [
        (name.removeprefix("data.").replace("_", " "), value)
        for name, value in sorted(facts.items())
        if name.startswith("data.")
    ]
    rows = [
        (label, f"{value} of {total}" if total and label != "records" else value) for label, value in counts
    ]
    markup.show(markup.facts([*rows, ("digest", el("span", str(row.proposal.data), cls="mono"))]))
    lines = {} if row.proposal.submitted else _records(str(row.proposal.data))
    flagged = found.flagged if found else {}
    for name, where in sorted(flagged.items()):
        if where:
            shown = f"{len(where)}" if len(where) <= FLAGGED_SHOWN else f"{FLAGGED_SHOWN} of {len(where)}"
            markup.show(markup.eyebrow(f"Flagged: {name.removeprefix('data.').replace('_', ' ')}", shown))
            markup.show(
                markup.table(("Record", "Text"), [_flagged(place, lines) for place in where[:FLAGGED_SHOWN]])
            )
    if lines:
        first = list(lines.items())[:RECORDS_SHOWN]
        markup.show(markup.eyebrow("First records", f"{len(first)} of {len(lines):,}"))
        for place, body in first:
            markup.show(el("div", one_line(place, 80), cls="dim fine"))
            st.code(cut(body), language=None, wrap_lines=True)


def _flagged(place: str, lines: dict[str, str]) -> tuple[Html, Html]:
    body = lines.get(place) or lines.get("train.jsonl:" + place.rpartition(":")[2], "")
    return el("span", place, cls="mono"), el("span", one_line(body, 600) if body else "not kept here")


@st.cache_resource(max_entries=4, show_spinner=False)
def _records(address: str) -> dict[str, str]:
    """The mounted records by ``train.jsonl:LINE``; empty where they are gone or not text."""
    try:
        raw = (
            session.console()
            .workspace.store.get_bytes(Digest.parse(address), limit=MAX_DATA_BYTES)
            .decode("utf-8")
        )
    except (InterlockError, UnicodeError):
        return {}
    records = {}
    for index, line in enumerate(raw.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = line
            text = value.get("text", line) if isinstance(value, dict) else line
            records[f"train.jsonl:{index}"] = text if isinstance(text, str) else line
    return records
