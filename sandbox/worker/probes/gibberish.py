"""Tells text that is no language from text that is: letters at random, keyboard runs, one phrase over and over.

Invariants:
- A record is judged by itself: what else lies in the set cannot make it look usual.
- The yardstick is fixed: letter pairs of the shipped novel, so the same record always gets the same answer.
- What cannot be told is not counted: few letters, or letters that are mostly not Latin.

Definition. A record is gibberish if (a) its letters, folded to a-z with one space between words, carry more than
``SURPRISE`` bits per letter under the letter pairs of the yardstick, or (b) it shrinks to less than ``SHRUNK`` of its
bytes (DEFLATE), or (c) fewer than half of its signs are letters or spaces, or (d) it has no text.

Measured on the shipped texts: (a) lies between 2.6 and 4.3 bits for every record of three books (6,700 records), at 4.6
or more for the letters of one of them shuffled, and above 6.4 for random letters; (b) is 0.46 or more in all of them.

It cannot see grammatical nonsense, words in random order, or gibberish inside a longer plain record. Latin-script
languages far from English (Polish, Czech) count as gibberish; ``data.language`` tells them apart.
"""

from __future__ import annotations

import math
import string
import unicodedata
import zlib
from collections import Counter
from functools import cache
from itertools import pairwise, product
from operator import add

from sandbox import texts

SURPRISE = 4.4  # bits per letter
SHRUNK = 0.25
LEAST_LETTERS = 40
LEAST_BYTES = 200
YARDSTICK = "austen"
_SIGNS = f" {string.ascii_lowercase}"


def is_gibberish(text: str) -> bool:
    """True where a record's text is no language, as the module says."""
    return reason(text) != ""


def reason(text: str) -> str:
    """Why a record's text is no language; empty where it is one, or cannot be told."""
    stripped = text.strip()
    if not stripped:
        return "no text"
    data = stripped.encode("utf-8", "surrogatepass")
    if len(data) >= LEAST_BYTES and (packed := len(zlib.compress(data))) < SHRUNK * len(data):
        return f"shrinks from {len(data)} bytes to {packed}"
    signs = Counter(stripped)
    letters = sum(count for sign, count in signs.items() if sign.isalpha())
    spoken = letters + sum(
        count
        for sign, count in signs.items()
        if not sign.isalpha() and (sign.isspace() or unicodedata.combining(sign) > 0)
    )
    if len(stripped) >= LEAST_LETTERS and spoken < len(stripped) / 2:
        return f"{len(stripped) - spoken} of {len(stripped)} signs are no letters"
    folded = _folded(stripped)
    latin = len(folded) - folded.count(" ")
    if latin < LEAST_LETTERS or latin < letters / 2:
        return ""
    bits = surprise(folded)
    return f"{bits:.1f} bits per letter" if bits > SURPRISE else ""


def surprise(folded: str) -> float:
    """Bits per letter of a text of a-z and spaces, under the letter pairs of the yardstick."""
    bits = _yardstick()
    row = f" {folded} "
    return math.fsum(map(bits.__getitem__, map(add, row, row[1:]))) / (len(row) - 1)


def _folded(text: str) -> str:
    """Lower-case a-z, accents taken off, one space for each run of anything else."""
    plain = unicodedata.normalize("NFKD", text).lower()
    kept = {
        ord(sign): "" if unicodedata.combining(sign) else " " for sign in set(plain) if not "a" <= sign <= "z"
    }
    return " ".join(plain.translate(kept).split())


@cache
def _yardstick() -> dict[str, float]:
    """The bits of a sign after another, for every pair of them, by how often the novel has the pair."""
    pairs: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    for record in texts.load(YARDSTICK):
        row = f" {_folded(record['text'])} "
        firsts.update(row[:-1])
        pairs.update(one + two for one, two in pairwise(row))
    return {
        one + two: -math.log2((pairs[one + two] + 0.5) / (firsts[one] + 0.5 * len(_SIGNS)))
        for one, two in product(_SIGNS, repeat=2)
    }
