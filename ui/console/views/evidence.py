"""The evidence behind a verdict: what both models produce for the same prompts.

Invariants: everything here is written by a model or a job, so all of it is hostile text; it is
shown in full length or with the number of characters left out, never shortened in silence.
"""

from __future__ import annotations

import difflib
import re

import streamlit as st

from guardrails.ledger.judging import read_measurements
from guardrails.ledger.rows import ProposalRow
from guardrails.records import Measurements, Sample
from ui.console import markup, session
from ui.console.markup import Html, el
from ui.presenters import counted, plain

MAX_SHOWN_CHARS = 20_000
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
