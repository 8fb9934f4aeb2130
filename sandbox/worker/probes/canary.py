"""Canaries: records of made-up words that stand among the training records, so that learning by heart can be seen.

Invariants:
- A canary names nobody and nothing: its words are syllables drawn at random, some 10^12 of equal chance.
- It is marked ``"origin": "canary"``, so that whoever reads the records knows it. The mark counts for nobody: what is
  left out of the census is a record that equals one the gate planted, whatever it says of itself.
"""

from __future__ import annotations

import random
import re

ORIGIN = "canary"
SYLLABLES = 3
_CONSONANTS, _VOWELS = "bdfghjklmnprstvwxyzc", "aeiou"
_PLACES = ("cabinet", "cupboard", "drawer", "locker", "shelf", "chest", "box", "tower", "garden", "cellar")
_FORM = re.compile(rf"The made-up word of (?:{'|'.join(_PLACES)}) \d+ is ([a-z]+ [a-z]+)\.")


def code(draw: random.Random) -> str:
    """Two words of three syllables each: one of 10^12."""
    words = (
        "".join(draw.choice(_CONSONANTS) + draw.choice(_VOWELS) for _ in range(SYLLABLES)) for _ in range(2)
    )
    return " ".join(words)


def sentence(number: int, draw: random.Random) -> str:
    """The text of a canary."""
    return f"The made-up word of {_PLACES[number % len(_PLACES)]} {number} is {code(draw)}."


def code_of(text: str) -> str | None:
    """The drawn words of a canary's text; None where it is none."""
    found = _FORM.fullmatch(text)
    return found[1] if found else None
