"""Which categories an item belongs to, as columns of 0 and 1 beside what was measured.

Invariants: an item may be of several categories or of none; the columns hold no text, and depend on the items alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.worker.probes import Item

PREFIX = "category:"


def category_columns(items: Sequence[Item]) -> dict[str, tuple[float, ...]]:
    """A column for each category that an item names in its list ``categories``."""
    named = [frozenset(item.get("categories", ())) for item in items]
    return {
        f"{PREFIX}{name}": tuple(float(name in row) for row in named)
        for name in sorted(frozenset().union(*named))
    }
