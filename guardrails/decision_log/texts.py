"""Names and free text beside the log: are they what was committed to, and were the missing ones erased?

Invariants:
- A text that is kept must be the one that its commitment binds.
- A text that a signed record erased must be gone; if it is there, somebody put it back.
- A text that is gone without such a record breaks nothing, and is counted: it must not go unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardrails.decision_log.snapshot import Entry, Snapshot
from guardrails.decision_log.tables import ERASED_TABLE, Reader
from guardrails.errors import InterlockError, LogVerificationError
from guardrails.records import Commitment


@dataclass
class Texts:
    """How many texts are kept, were erased by a record, and are gone without one."""

    kept: int = 0
    erased: int = 0
    missing: int = 0
    known: set[str] = field(default_factory=set)
    first: dict[str, int] = field(default_factory=dict)

    def check(self, snapshot: Snapshot, entry: Entry) -> None:
        """Compare the texts of one record with its commitments; raises LogVerificationError."""
        for commitment in commitments(entry.statement.body):
            if commitment.sha256 in self.first:
                continue
            try:
                opening = snapshot.opening(commitment)
            except InterlockError as error:
                raise LogVerificationError(error.message, index=entry.seq) from None
            self.first[commitment.sha256] = entry.seq
            if opening is not None:
                self.known.add(commitment.sha256)

    def finish(self, tables: Reader) -> None:
        """Count, now that it is known what was erased; raises where an erased text is there again."""
        erased = dict(tables.scan(ERASED_TABLE))
        for sha256, seq in self.first.items():
            if sha256 in erased and sha256 in self.known:
                by = erased[sha256].get("seq")
                raise LogVerificationError(f"a text that record {by} erased is there again", index=seq)
        self.kept = len(self.known)
        self.erased = sum(1 for sha256 in self.first if sha256 in erased)
        self.missing = len(self.first) - self.kept - self.erased


def commitments(value: Any) -> Iterator[Commitment]:
    """Every commitment in a record's body."""
    if isinstance(value, Mapping):
        if set(value) == {"sha256"}:
            yield Commitment(str(value["sha256"]))
        else:
            for item in value.values():
                yield from commitments(item)
    elif isinstance(value, list):
        for item in value:
            yield from commitments(item)
