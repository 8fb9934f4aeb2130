"""How far witnesses vouch for a log, and since when: what no log can show by itself.

Invariants:
- A cosignature over ``n`` records vouches for all of them, and for every earlier state.
- A threshold counts witnesses by their keys; one witness under two names is one.
- What is not covered is named; a verifier that gave witnesses' keys is never told that such a log holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from guardrails.decision_log.cosignature import COSIGNER, Cosignature, VerifierKey, cosignatures
from guardrails.decision_log.envelope import format_time, parse_time
from guardrails.errors import LogVerificationError, UsageError

TOLERANCE = timedelta(minutes=5)
"""How far two clocks that are both right may be apart."""


@dataclass(frozen=True)
class Coverage:
    """What ``threshold`` of the given witnesses have seen. ``size``: the records that they vouch for."""

    threshold: int
    size: int
    seen: tuple[tuple[bytes, Cosignature], ...]

    def first_time(self, seq: int) -> datetime | None:
        """When so many witnesses had seen a record, at the latest; None where they have not."""
        times: dict[bytes, datetime] = {}
        for key, one in self.seen:
            if one.size > seq:
                times[key] = min(one.moment, times.get(key, one.moment))
        return sorted(times.values())[self.threshold - 1] if len(times) >= self.threshold else None

    def newest(self) -> list[Cosignature]:
        """Of each witness, the largest state that it vouches for."""
        largest: dict[bytes, Cosignature] = {}
        for key, one in self.seen:
            if key not in largest or one.size > largest[key].size:
                largest[key] = one
        return sorted(largest.values(), key=lambda one: one.witness)


def measure(notes: Iterable[str], keys: Sequence[VerifierKey], threshold: int) -> Coverage:
    """What the witnesses of these keys say of these notes, whose tree heads the caller has verified.

    Args:
        notes: Checkpoints with cosignatures, from the log and from elsewhere.
        keys: The keys that the verifier trusts.
        threshold: So many of them must agree; 0: all.

    Raises:
        UsageError: no such threshold can be met.
        LogVerificationError: a cosignature that names one of the keys does not hold.
    """
    distinct = {key.public: key for key in keys}
    wrong = [key.name for key in distinct.values() if key.algorithm != COSIGNER]
    if wrong:
        raise UsageError(f"{wrong[0]} is the key of a log, not of a witness")
    needed = threshold or len(distinct)
    if not 1 <= needed <= len(distinct):
        raise UsageError(f"{needed} of {len(distinct)} witnesses cannot be asked for")
    seen = [
        (public, one)
        for note in notes
        for public, key in distinct.items()
        for one in cosignatures(note, [key])
    ]
    largest = [max((one.size for public, one in seen if public == key), default=0) for key in distinct]
    return Coverage(needed, sorted(largest, reverse=True)[needed - 1], tuple(seen))


def doubts(coverage: Coverage, seq: int, stated: str, deadline: str) -> list[str]:
    """Where the witnesses' time of a record contradicts its own, or its deadline (empty: none); in words.

    A witness may have been asked late: that the record was in time is then the gate's word alone. Nobody can be
    asked too early: then the gate's clock was ahead, and with it every time that had to pass was shorter.
    """
    seen = coverage.first_time(seq)
    if seen is None:
        return []
    told = []
    if deadline and seen > parse_time(deadline):
        told.append(
            f"by the gate's clock before what it rests on ended at {deadline}; the witnesses first saw it at "
            f"{format_time(seen)}"
        )
    if seen + TOLERANCE < parse_time(stated):
        told.append(f"it states {stated}, but the witnesses saw it before that, at {format_time(seen)}")
    return told


def require(coverage: Coverage, size: int) -> None:
    """Refuse a log whose newest records the witnesses have not seen."""
    if coverage.size < size:
        raise LogVerificationError(
            f"{size - coverage.size} of {size} records are not covered by a checkpoint that "
            f"{coverage.threshold} of the given witnesses cosigned",
            index=coverage.size,
            hint="`interlock log checkpoint --witness` asks them; if they refuse, this log was forked",
        )
