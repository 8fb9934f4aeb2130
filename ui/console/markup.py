"""The console's own markup: small elements that escape whatever they are given.

Invariants:
- Only ``Html`` is markup. Every other text becomes text: control and reordering characters made visible
  (``presenters.plain``), then escaped, in elements and in attributes alike.
- Nothing here is Markdown, and nothing here loads anything: no links, images, scripts or styles of others.
- A verdict is always a glyph, a word and a colour.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import streamlit as st

from guardrails.canonical import Digest
from guardrails.records import Finding, Outcome
from ui.presenters import Mark, finding_mark, limit_value, number, plain

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_LAYOUT = ("div", "section", "p", "pre", "h1", "h2", "h3", "h4", "ul", "ol", "li", "dl", "dt", "dd")
_INLINE = ("b", "code", "del", "em", "i", "ins", "small", "span", "strong")
_TABLE = ("table", "thead", "tbody", "tr", "th", "td")
_TAGS = frozenset({*_LAYOUT, *_INLINE, *_TABLE})


class Html(str):
    """Markup made by this module."""

    __slots__ = ()


def text(value: str) -> Html:
    """Any text as text."""
    return Html(html.escape(plain(value), quote=True))


def el(tag: str, *children: str | None, cls: str = "", **attributes: str) -> Html:
    """One element. Children that are not ``Html`` are escaped; attributes always are."""
    if tag not in _TAGS:
        raise ValueError(f"element {tag!r} is not used in the console")
    pairs = {
        "class": cls,
        **{name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()},
    }
    if not all(_NAME.fullmatch(name) and not name.startswith("on") for name in pairs):
        raise ValueError("not a name for an attribute")
    opened = "".join(f' {name}="{text(value)}"' for name, value in pairs.items() if value)
    return Html(f"<{tag}{opened}>{join(children)}</{tag}>")


def join(parts: Iterable[str | None]) -> Html:
    """Parts one after the other; what is not ``Html`` is escaped."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def show(*parts: str | None) -> None:
    """Put markup on the page. The only way by which any gets there."""
    st.html(str(join(parts)))


# --- small things ----------------------------------------------------------------------------


def mark(value: Mark, *, cls: str = "") -> Html:
    """Glyph and word in the tone's colour."""
    return el(
        "span",
        el("i", value.glyph, cls="gl", aria_hidden="true"),
        el("span", value.word),
        cls=f"mk {value.tone} {cls}",
    )


def badge(value: Mark) -> Html:
    """A mark on a tinted ground, for headings."""
    return mark(value, cls="bd")


def digest(value: Digest | str | None, chars: int = 12) -> Html:
    """A digest by its first characters; the whole of it on hover."""
    if value is None:
        return el("span", "–", cls="dim")
    whole = str(value)
    return el("span", whole.removeprefix("sha256:")[:chars], cls="mono", title=whole)


def eyebrow(title: str, note: str = "") -> Html:
    """A small heading over a group, with a note at its end."""
    return el("h3", el("span", title), el("small", note) if note else None, cls="eyebrow")


def facts(rows: Iterable[tuple[str, str]], *, cls: str = "") -> Html:
    """Names and values in two columns."""
    pairs = [el("dt", name) + el("dd", value) for name, value in rows]
    return el("dl", Html("".join(pairs)), cls=f"facts {cls}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, cls: str = "") -> Html:
    """A table; on a narrow screen each row becomes a card with its column's names."""
    top = el("tr", *(el("th", name, scope="col") for name in head))
    labels = ["" if isinstance(name, Html) else name for name in head]
    body = [
        el("tr", *(el("td", cell, data_label=name) for name, cell in zip(labels, row, strict=True)))
        for row in rows
    ]
    return el("div", el("table", el("thead", top), el("tbody", *body), cls=f"grid {cls}"), cls="scroll")


def notice(tone: str, title: str, body: str = "") -> Html:
    """A sentence that must not be overlooked, in place, without covering anything."""
    glyph = {"bad": "✕", "caution": "▲", "good": "✓"}.get(tone, "i")
    inner = el("div", el("strong", title), el("p", body) if body else None)
    role = "alert" if tone == "bad" else "status"
    return el("div", el("i", glyph, cls="gl", aria_hidden="true"), inner, cls=f"notice {tone}", role=role)


def empty(title: str, body: str) -> Html:
    """What a page says when there is nothing on it yet: what comes next."""
    return el("div", el("strong", title), el("p", body), cls="empty")


def pips(done: int, needed: int) -> Html:
    """Signatures given and needed, as filled and open dots with the numbers beside them."""
    dots = [el("i", cls="on" if index < done else "off") for index in range(min(max(needed, done), 6))]
    return el(
        "span", *dots, el("span", f"{done} of {needed}"), cls="pips", title=f"{done} of {needed} signatures"
    )


# --- how far from the limit ------------------------------------------------------------------

LIMIT_AT = 0.62
"""Where the limit stands on the plot, as a share of its width; the safe side is to its left."""


def place(value: float, limit: float, *, above: bool, spread: float) -> float:
    """Where a value stands on the plot: 0 is nothing used of the limit, ``LIMIT_AT`` the limit itself.

    For a limit that is zero, or one to stay above, the distance to the limit is measured in ``spread``.
    """
    distance = (limit - value if above else value - limit) / spread
    return min(max(LIMIT_AT + distance * LIMIT_AT, 0.0), 1.0)


def plot(finding: Finding) -> Html:
    """Observed value and interval against the limit, on a scale on which every rule's limit is one line."""
    limit = limit_value(finding.limit)
    is_trivial = limit == 0 and finding.observed == 0 and finding.lower is None
    if (
        limit is None
        or finding.observed is None
        or is_trivial
        or finding.outcome in (Outcome.SKIPPED, Outcome.ERROR)
    ):
        return el("span", cls="plot none", title="nothing was measured that could be drawn")
    lower = finding.observed if finding.lower is None else finding.lower
    upper = finding.observed if finding.upper is None else finding.upper
    above = ">" in finding.limit
    ends = (abs(lower - limit), abs(upper - limit), abs(finding.observed - limit))
    spread = abs(limit) if limit and not above else max(*ends, 1e-12) * 1.1
    at = sorted(place(value, limit, above=above, spread=spread) for value in (lower, upper))
    dot = place(finding.observed, limit, above=above, spread=spread)
    beyond = "over" if at[1] >= 1.0 else ""
    return el(
        "span",
        el("i", cls="lim", style=f"left:{LIMIT_AT:.1%}"),
        el("i", cls=f"bar {beyond}", style=f"left:{at[0]:.1%};width:{max(at[1] - at[0], 0.0):.1%}"),
        el("i", cls="dot", style=f"left:{dot:.1%}"),
        cls=f"plot {finding_mark(finding).tone}",
        title=f"{number(finding.observed)} against {number(limit)}",
    )
