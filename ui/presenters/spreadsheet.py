"""Rows as CSV that no spreadsheet takes for formulas.

Invariants: a cell that begins with ``= + - @``, a tab or a line break (or a full-width form of these) gets a
leading apostrophe, and so does one that begins with an apostrophe, so that taking one away gives the text back;
every cell is quoted; lines end with CRLF (RFC 4180).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ("seq", "time", "record", "about", "by", "summary", "leaf")
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
          "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}", "\N{MINUS SIGN}", "'")  # fmt: skip


def csv_cell(value: Any) -> str:
    """One cell: the text, after an apostrophe where a spreadsheet might read it as a formula."""
    text = str(value).replace("\0", "")
    # Some programs drop white space first, and then look whether it is a formula.
    return "'" + text if text.startswith(_RISKY) or text.lstrip().startswith(_RISKY) else text


def csv_text(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS) -> str:
    """A table with a head; columns that a row lacks are empty."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([csv_cell(row.get(column, "")) for column in columns])
    return out.getvalue()
