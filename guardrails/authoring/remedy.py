"""What would have to change for a rule to pass: in numbers, from the finding alone.

Invariants: a sentence here is arithmetic on what was seen, never advice to change the limit; where the half
width of the interval depends on the data it says "about"; what was not measured has no number to give.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from guardrails.records import Finding, Outcome

_CONDITION = re.compile(r"(?:(?P<bound>upper|lower) )?(?P<op><=|>=|==|<|>) (?P<value>[-+0-9.eE]+)")
_SAID = {"<": "fall below", "<=": "be at most", ">": "exceed", ">=": "be at least", "==": "be exactly"}
_BE = {"<": "be below", "<=": "be at most", ">": "be above", ">=": "be at least", "==": "be exactly"}
_MOST = 10_000_000


@dataclass(frozen=True)
class Remedy:
    """What must change. ``observed`` is what the value itself would have to be at this *n*; ``items`` about how
    many items would do if the value stayed as it is. None where that has no answer.
    """

    text: str
    limit: float | None = None
    observed: float | None = None
    half_width: float | None = None
    items: int | None = None


def remedy(finding: Finding) -> Remedy:
    """What would have to change for this rule to pass; empty text where it passes."""
    match = _CONDITION.fullmatch(finding.limit.strip())
    if finding.outcome in (Outcome.PASS, Outcome.SKIPPED):
        return Remedy("")
    if finding.observed is None or match is None or not math.isfinite(finding.observed):
        return Remedy("there is no number to compare: it has to be measured first")
    limit, op, bound = float(match["value"]), match["op"], match["bound"] or ""
    if finding.n is None or not bound:
        return Remedy(f"{finding.metric} is {_n(finding.observed)} and must {_BE[op]} {_n(limit)}", limit)
    return _sampled(finding, bound, op, limit)


def _sampled(finding: Finding, bound: str, op: str, limit: float) -> Remedy:
    assert finding.observed is not None  # noqa: S101 - the caller has looked
    end = finding.upper if bound == "upper" else finding.lower
    if end is None or not math.isfinite(end):
        text = f"the {bound} bound is not finite with {_items(finding.n)}: more items have to be measured"
        return Remedy(text, limit)
    half = abs(end - finding.observed)
    need = limit - half if bound == "upper" else limit + half
    holds = {"<": end < limit, "<=": end <= limit, ">": end > limit, ">=": end >= limit}.get(op, False)
    if holds:
        return Remedy(
            f"the {bound} bound {_n(end)} meets the limit {_n(limit)}; {_items(finding.n)} are too few", limit
        )
    must = f"{bound} bound {_n(end)} must {_SAID[op]} {_n(limit)}"
    width = f"with {_items(finding.n)} the half width is about {_n(half)}"
    value = f"so the observed value ({_n(finding.observed)}) must {_BE[op]} about {_n(need)}"
    parts = [f"{must}; {width}, {value}"]
    items = _enough(finding, half, limit, op)
    if items is not None:
        parts.append(f"if the value stayed as it is, about {items:,} items would show it")
    return Remedy("; ".join(parts), limit, need, half, items)


def _enough(finding: Finding, half: float, limit: float, op: str) -> int | None:
    """How many items narrow the interval to the limit; None where the value itself misses it."""
    assert finding.observed is not None  # noqa: S101 - the caller has looked
    room = limit - finding.observed if op[0] == "<" else finding.observed - limit
    if room <= 0 or not finding.n or half <= 0:
        return None
    # Half widths shrink with the root of n; a tenth on top, because that is a guess about new data.
    items = math.ceil(1.1 * finding.n * (half / room) ** 2)
    return items if finding.n < items <= _MOST else None


def _items(n: int | None) -> str:
    return f"n = {n:,}" if n is not None else "no items"


def _n(value: float) -> str:
    return f"{value:.4g}"
