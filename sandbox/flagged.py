"""The training records that data checks flagged, opened: where each stands, why it was flagged, and its text.

Invariants:
- Every flagged record is listed; where its text is no longer kept that is said, and the record still stands in the list.
- Texts pass ``masking`` unless somebody asks for them as they are; whoever draws them still has to escape them.
- Records are read from the very bytes that were measured, by their digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from guardrails.canonical import Digest
from guardrails.errors import UnknownNameError
from guardrails.records import Measurements, Proposal
from guardrails.registry import ArtifactError, ArtifactStore
from sandbox.masking import masked

PREFIX = "data."
MAX_FILE_BYTES = 64 << 20
MOUNTED = "train.jsonl"


@dataclass(frozen=True)
class FlaggedRecord:
    """One record that a check counted. ``text`` is None where it is not kept any more."""

    check: str
    place: str
    reason: str
    text: str | None


class Records:
    """The lines of a proposal's training records, by the places that measurements name (``train.jsonl:17``)."""

    def __init__(self, files: Mapping[str, Sequence[bytes]]) -> None:
        self._files = files

    @classmethod
    def of(cls, store: ArtifactStore, proposal: Proposal) -> Records:
        """Those that the learner was given; for a submission those that its bundle claims. Lost ones are absent."""
        wanted = {MOUNTED: proposal.data}
        files: dict[str, Sequence[bytes]] = {}
        try:
            if proposal.submitted:
                tree = store.tree(proposal.bundle)
                wanted = {
                    entry.path.removeprefix("data/"): Digest(entry.sha256)
                    for entry in tree
                    if entry.path.startswith("data/") and entry.path.endswith(".jsonl")
                }
        except ArtifactError:
            return cls({})
        for name, address in wanted.items():
            try:
                files[name] = store.get_bytes(address, limit=MAX_FILE_BYTES).split(b"\n")
            except ArtifactError:
                continue
        return cls(files)

    def text(self, place: str) -> str | None:
        """What a record says; None where it is not kept, or stands nowhere."""
        name, _, number = place.rpartition(":")
        lines = self._files.get(name, ())
        if not (number.isascii() and number.isdigit()) or not 0 < int(number) <= len(lines):
            return None
        return _text(lines[int(number) - 1])

    def first(self, count: int) -> list[tuple[str, str]]:
        """The first records, each with its place."""
        return list(islice(self._all(), count))

    def __len__(self) -> int:
        return sum(1 for lines in self._files.values() for raw in lines if raw.strip())

    def _all(self) -> Iterator[tuple[str, str]]:
        for name, lines in sorted(self._files.items()):
            for number, raw in enumerate(lines, 1):
                if raw.strip():
                    yield f"{name}:{number}", _text(raw)


def counts(measured: Measurements) -> dict[str, int]:
    """How many records each check flagged, in order of name; those that flagged none are left out."""
    return {name: len(places) for name, places in sorted(measured.flagged.items()) if places}


def named(measured: Measurements, check: str) -> str:
    """The check's full name (``pii`` is ``data.pii``); raises UnknownNameError where it flagged nothing."""
    known = counts(measured)
    name = check if check.startswith(PREFIX) else PREFIX + check
    if name not in known:
        raise UnknownNameError(
            f"no record was flagged by {check!r:.60}", hint=f"flagged by: {', '.join(known) or 'nothing'}"
        )
    return name


def page(
    records: Records, measured: Measurements, check: str, start: int, count: int, *, bare: bool = False
) -> list[FlaggedRecord]:
    """``count`` of a check's records from the one at ``start`` on (from 0); ``bare``: with all that stands in them."""
    places = measured.flagged.get(check, ())[start : start + count]
    texts = [records.text(place) for place in places]
    reasons = [measured.reasons.get(check, {}).get(place, "") for place in places]
    if not bare:
        # Reasons are of this program's making, but hold names that records and suites brought.
        shown = masked([text or "" for text in (*texts, *reasons)])
        reasons = shown[len(places) :]
        texts = [None if text is None else safe for text, safe in zip(texts, shown, strict=False)]
    return [
        FlaggedRecord(check, place, reason, text)
        for place, reason, text in zip(places, reasons, texts, strict=True)
    ]


def _text(raw: bytes) -> str:
    line = raw.decode("utf-8", "replace").strip()
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(value, dict):
        return line
    if isinstance(value.get("layout"), str):
        return str(value["layout"]).replace("/", "\n")
    if not isinstance(value.get("text"), str):
        return line
    # What a label is wrong about has to be read beside it.
    label = value.get("label")
    return (
        f"{value['text']}\n\nlabel: {label}"
        if isinstance(label, str) and label.strip()
        else str(value["text"])
    )
