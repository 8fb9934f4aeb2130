"""Texts of records as people may see them: personal data and secrets are hidden unless somebody asks for them.

Invariants:
- What the detectors of the census find is hidden, by the same detectors; after hiding they find nothing more, or the whole
  text is hidden.
- However long and odd a text is, it is looked through in seconds: of a very long one only the beginning is given, and that
  says so. Where it was cut stands no half of a secret.
- What is hidden says what it was (``[email hidden]``), so that whoever reads knows that something stood there.

What the detectors do not know by its form (names, places) stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sandbox.worker.data import Line
from sandbox.worker.probes import personal_data
from sandbox.worker.probes.records_quality import secrets_of

WHOLE = "[hidden: it cannot be shown without what was found in it]"
LONGEST = 20_000
_MARGIN = 4_000
"""Characters after the longest that are looked through and not given: what was cut in two stands among the last ones."""
_ROUNDS = 4
_PRIVATE_KEY = "Private Key"
_BLOCK = re.compile(
    r"-{0,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-{0,5}|\Z)"
    r"|PuTTY-User-Key-File-2.*",
    re.DOTALL,
)
"""All of a key, where the detector names its first line only."""


def masked(texts: Sequence[str]) -> list[str]:
    """The texts with everything hidden that a detector finds; of those longer than ``LONGEST`` the beginning."""
    return [
        text if len(whole) <= LONGEST + _MARGIN else _beginning(text, len(whole))
        for whole, text in zip(texts, _masked([text[: LONGEST + _MARGIN] for text in texts]), strict=True)
    ]


def _beginning(text: str, count: int) -> str:
    return (
        f"{text[:-_MARGIN]}\n… (of {count:,} characters only the beginning was looked through, and is given)"
    )


def _masked(texts: Sequence[str]) -> list[str]:
    shown = list(texts)
    for _ in range(_ROUNDS):
        found = _found(shown)
        if not any(found):
            return shown
        shown = [_hidden(text, pieces) for text, pieces in zip(shown, found, strict=True)]
    return [WHOLE if pieces else text for text, pieces in zip(shown, _found(shown), strict=True)]


def _found(texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Of each text: kind and value of all personal data and secrets, the longest first."""
    secrets = secrets_of([Line(str(place), {"text": text}) for place, text in enumerate(texts)])
    return [
        sorted({*personal_data.find(text), *secrets.get(str(place), ())}, key=lambda one: (-len(one[1]), one))
        for place, text in enumerate(texts)
    ]


def _hidden(text: str, pieces: Sequence[tuple[str, str]]) -> str:
    """The text without these; as it looks where one of them only looks so."""
    if any(value not in text for _, value in pieces):
        text = personal_data.folded(text)
    for kind, value in pieces:
        hidden = f"[{kind.lower()} hidden]"
        text = _BLOCK.sub(hidden, text) if kind == _PRIVATE_KEY else text.replace(value, hidden)
    return text
