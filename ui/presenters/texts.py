"""Texts and numbers for people. Whatever a person or a model wrote passes ``plain`` before it is shown."""

from __future__ import annotations

import math
import re
from datetime import datetime

from guardrails.decision_log.envelope import parse_time

_NEGATIVE_ZERO = re.compile(r"(?<![\w.,-])-0(?:\.0+)?(?![\w.])")


def plain(text: str, limit: int = 0) -> str:
    """Text from anywhere, safe to show: what cannot be printed becomes ``·``; new lines stay.

    With a ``limit``, longer text is cut and says how much there was.
    """
    clean = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.replace("\r\n", "\n"))
    if 0 < limit < len(clean):
        return f"{clean[:limit]}… ({limit} of {len(clean)} characters)"
    return clean


def one_line(text: str, limit: int = 0) -> str:
    """The same on one line."""
    return plain(" ".join(text.split()), limit)


def positive_zero(text: str) -> str:
    """The same with each ``-0``, which is what a program calls a zero that it came to from below, as ``0``."""
    return _NEGATIVE_ZERO.sub("0", text)


def number(value: float | None) -> str:
    """A measured number in three significant digits; a count in full."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def interval(lower: float | None, upper: float | None) -> str:
    """``[0.171, 0.198]``, or an empty text where nothing was estimated."""
    if lower is None or upper is None:
        return ""
    return f"[{number(lower)}, {number(upper)}]"


def size(count: int) -> str:
    """Bytes for people: ``1.4 GiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: ``48 s``, ``5 min``, ``3 h``, ``2 d``."""
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} d"


def age(since: str, now: str) -> str:
    """How long ago a record's time was; a clock that ran ahead reads ``just now``."""
    if not since:
        return "–"
    seconds = (parse_time(now) - parse_time(since)).total_seconds()
    return "just now" if seconds < 10 else duration(seconds)


def ago(since: str, now: str) -> str:
    """The age of a time as people say it: ``5 min ago``, ``just now``."""
    text = age(since, now)
    return text if text in ("–", "just now") else f"{text} ago"


def moment(time: str) -> str:
    """A record's time to the second, in UTC."""
    parsed: datetime = parse_time(time)
    return parsed.strftime("%Y-%m-%d %H:%M:%S UTC")


def counted(count: int, singular: str, plural: str = "") -> str:
    """``1 rule``, ``2 rules``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def finite(value: float | None) -> float | None:
    """The number, or None where it is absent or not finite."""
    return value if value is not None and math.isfinite(value) else None
