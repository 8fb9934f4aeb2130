"""The decision log: every signed record, whether the whole of it holds, and each record to the byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import streamlit as st

from guardrails.decision_log import merkle
from guardrails.decision_log.keys import person_keyid
from guardrails.decision_log.verify import verify_log
from guardrails.errors import InterlockError
from guardrails.ledger import project
from guardrails.view import View
from ui.console import markup, session
from ui.console.markup import el
from ui.presenters import counted, log_fields, moment, plain, record_fields
from ui.presenters.report import report_fields
from ui.presenters.report_page import page as page_of
from ui.presenters.spreadsheet import csv_text

GRID_ROWS = 2000
FORGET_S = 600.0
COLUMNS = {
    "seq": "No.",
    "time": "Time (UTC)",
    "by": "By",
    "record": "Record",
    "about": "About",
    "summary": "What",
    "leaf": "Leaf",
}


@dataclass
class _Rows:
    """The log's rows, read once each. Forgotten now and then, so that erased texts disappear here too."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    lock: Lock = field(default_factory=Lock)

    def up_to(self, view: View) -> list[dict[str, Any]]:
        """All rows of this state of the log, newest first."""
        with self.lock:
            size = view.snapshot.size
            if time.monotonic() - self.since > FORGET_S or len(self.rows) > size:
                self.rows, self.since = [], time.monotonic()
            names = {person.id: name for person, name in view.people()}
            fresh = list(view.snapshot.entries(len(self.rows)))
            if self.rows and any(entry.statement.body.get("action") == "erase" for entry in fresh):
                self.rows, fresh = [], list(view.snapshot.entries())
            for entry in fresh:
                fields = log_fields(entry, lambda key: names.get(key, key), view.text)
                fields["time"] = fields["time"][:19].replace("T", " ")
                fields["leaf"] = fields["leaf"][:16]
                self.rows.append(
                    {key: plain(value) if isinstance(value, str) else value for key, value in fields.items()}
                )
            return self.rows[::-1]


@st.cache_resource(show_spinner=False)
def _rows(_: str) -> _Rows:
    return _Rows()


def page() -> None:
    """The decision log page."""
    workspace = session.console().workspace
    with session.view() as view:
        size = view.snapshot.size
        under = el(
            "div",
            el("span", counted(size, "record")),
            el("span", view.snapshot.origin, cls="mono"),
            cls="under",
        )
        markup.show(el("div", el("h1", "Decision log"), under, cls="head"))
        _state(size)
        rows = _rows(str(workspace.path)).up_to(view)
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        wanted = st.text_input("Filter", placeholder="Filter: proposal, person, record …", key="q", bind="query-params",
                               live=True, label_visibility="collapsed", width=340)  # fmt: skip
        if st.button(
            "Verify with artifacts",
            icon=":material/fact_check:",
            help="Also reads every champion and every measurement",
        ):
            st.session_state["full-check"] = _full_check()
        st.download_button("Export", data=_export, file_name="decision-log.jsonl", mime="application/jsonl",
                           on_click="ignore", icon=":material/download:")  # fmt: skip
        st.download_button("CSV", data=_csv, file_name="decision-log.csv", mime="text/csv",
                           on_click="ignore", icon=":material/table:")  # fmt: skip
    if (found := st.session_state.get("full-check")) is not None:
        markup.show(found)
    needle = (wanted or "").strip().lower()
    shown = [row for row in rows if not needle or any(needle in str(value).lower() for value in row.values())]
    if not shown:
        body = "Set-up writes the first one." if not rows else "No record has that word in it."
        markup.show(markup.empty("No records.", body))
        return
    _grid(shown, len(rows))


@st.fragment(run_every="3s")
def _state(size: int) -> None:
    result, current = session.console().watch.result(size)
    if result is None or (result.ok and not current):
        markup.show(
            markup.notice(
                "muted",
                "Verifying the whole log …",
                "Tree, signatures, references, checkpoints and every table.",
            )
        )
    elif not result.ok:
        where = f"Record {result.index}: " if result.index is not None else ""
        markup.show(markup.notice("bad", "The log does not hold.", f"{where}{result.reason}"))
    else:
        keys = ", ".join(person_keyid(key) for key in result.root_keys) or "none yet"
        body = el(
            "p", f"Tree, signatures, references, checkpoints and tables agree over {counted(result.entries, 'record')}. "
            "Compare these two with what you were handed: root of the tree ", el("span", result.root, cls="mono"),
            ", key of the first root ", el("span", keys, cls="mono"),
        )  # fmt: skip
        inner = el("div", el("strong", "The log holds."), body)
        markup.show(
            el("div", el("i", "✓", cls="gl", aria_hidden="true"), inner, cls="notice good", role="status")
        )


def _full_check() -> markup.Html:
    workspace = session.console().workspace
    with st.spinner("Reading every champion and every measurement …"), workspace.log.read() as snapshot:
        try:
            result = verify_log(
                snapshot, project, artifacts=workspace.store.verify, statements=workspace.store.get_bytes
            )
        except InterlockError as error:
            return markup.notice("bad", "The log does not hold.", str(error))
    if not result.ok:
        where = f"Record {result.index}: " if result.index is not None else ""
        return markup.notice("bad", "The log does not hold.", f"{where}{result.reason}")
    return markup.notice(
        "good",
        "The log and its artifacts hold.",
        f"{counted(result.entries, 'record')}, checked at {moment(session.now())}.",
    )


def _grid(rows: list[dict[str, Any]], total: int) -> None:
    import pandas as pd  # type: ignore[import-untyped]

    matching, rows = len(rows), rows[:GRID_ROWS]
    frame = pd.DataFrame([{title: row[key] for key, title in COLUMNS.items()} for row in rows])
    config = {
        "No.": st.column_config.NumberColumn(width=60, format="%d"),
        "Time (UTC)": st.column_config.TextColumn(width=145),
        "By": st.column_config.TextColumn(width=110),
        "Record": st.column_config.TextColumn(width=90),
        "About": st.column_config.TextColumn(width=90),
        "What": st.column_config.TextColumn(width="large"),
        "Leaf": st.column_config.TextColumn(width=135),
    }
    height = min(36 + 30 * len(rows), 30 * 15 + 36)
    event = st.dataframe(
        frame, hide_index=True, row_height=30, height=height, column_config=config, key=f"grid-{len(rows)}",
        on_select="rerun", selection_mode="single-row", alt="The records of the decision log, newest first",
    )  # fmt: skip
    if matching > len(rows):
        older = f"the newest {len(rows):,} of {matching:,}; filter to find older ones, export to have all"
        markup.show(el("p", older, cls="dim fine"))
    elif matching != total:
        markup.show(el("p", f"{matching:,} of {total:,} records", cls="dim fine"))
    picked = event["selection"]["rows"] if event else []
    if picked and picked[0] < len(rows):
        _record(int(rows[picked[0]]["seq"]), str(rows[picked[0]]["about"]))
    else:
        markup.show(el("p", "Select a row to see its record, its signatures and its proof.", cls="dim fine"))


def _record(seq: int, about: str) -> None:
    with session.view() as view:
        snapshot = view.snapshot
        entry = snapshot.entry(seq)
        proof, size, root = snapshot.inclusion_proof(seq), snapshot.size, snapshot.root
    try:
        merkle.verify_inclusion(bytes.fromhex(entry.leaf), seq, size, proof, bytes.fromhex(root))
        held = "holds"
    except InterlockError as error:
        held = f"does not hold: {error}"
    fields = record_fields(entry)
    markup.show(markup.eyebrow(f"Record {seq}", f"{entry.statement.record} · {moment(entry.statement.time)}"))
    markup.show(markup.facts([
        ("leaf", el("span", entry.leaf, cls="mono")),
        ("signed by", el("span", ", ".join(fields["signatures"]), cls="mono")),
        ("rests on", ", ".join(f"record {item['seq']}" for item in fields["references"]) or "nothing earlier"),
        ("inclusion proof", f"{held}: {counted(len(proof), 'hash', 'hashes')} to the root over {counted(size, 'record')}"),
    ]))  # fmt: skip
    if about.startswith("P-"):
        st.download_button(f"Report of {about}", data=lambda: _report(about), file_name=f"{about}.md",
                           mime="text/markdown", on_click="ignore", icon=":material/article:")  # fmt: skip
    st.code(
        plain(json.dumps(fields["body"], indent=2, ensure_ascii=False)),
        language=None,
        wrap_lines=True,
        height=420,
    )


def _export() -> bytes:
    """Every envelope, one a line: what any verifier of DSSE and in-toto reads."""
    with session.console().workspace.log.read() as snapshot:
        return b"".join(_lines(entry.envelope for entry in snapshot.entries()))


def _lines(envelopes: Iterator[bytes]) -> Iterator[bytes]:
    for envelope in envelopes:
        yield envelope + b"\n"


def _csv() -> bytes:
    """One line a record; no cell can start a formula."""
    with session.view() as view:
        rows = [log_fields(entry, view.name_of, view.text) for entry in view.snapshot.entries()]
    return csv_text(rows).encode("utf-8")


def _report(proposal: str) -> bytes:
    """Everything about one proposal, as a page."""
    with session.view() as view:
        return page_of(report_fields(view, proposal)).encode("utf-8")
