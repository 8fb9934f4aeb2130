"""Names and free text beside the log: are they what was committed to, and were the missing ones erased?

Invariants:
- A text that is kept must be the one that its commitment binds.
- A text that a signed record erased must be gone; if it is there, somebody put it back.
- A text that is gone without such a record breaks nothing, and is counted: it must not go unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guardrails.decision_log.entry import Entry
from guardrails.decision_log.scratch import Scratch
from guardrails.decision_log.snapshot import Snapshot
from guardrails.decision_log.tables import ERASED_TABLE, Reader
from guardrails.errors import InterlockError, LogVerificationError
from guardrails.records import Commitment


@dataclass
class Texts:
    """How many texts are kept, were erased by a record, and are gone without one."""

    kept: int = 0
    erased: int = 0
    missing: int = 0


class TextCheck:
    """Looks at the texts of one record after another; what was found is kept in the scratch file."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def check(self, snapshot: Snapshot, entry: Entry) -> None:
        """Compare the texts of one record with its commitments; raises LogVerificationError."""
        # In canonical bytes a commitment, and nothing else but a subject's digest, looks like this.
        if entry.payload.count(b'{"sha256":') == len(entry.statement.subjects):
            return
        for commitment in commitments(entry.statement.body):
            try:
                opening = snapshot.opening(commitment)
            except InterlockError as error:
                raise LogVerificationError(error.message, index=entry.seq) from None
            self._scratch.ask(
                "INSERT OR IGNORE INTO texts VALUES (?, ?, ?)",
                commitment.sha256,
                entry.seq,
                opening is not None,
            )

    def finish(self, tables: Reader) -> Texts:
        """Count, now that it is known what was erased; raises where an erased text is there again."""
        again: list[tuple[int, str]] = []
        erased = 0
        for sha256, row in tables.scan(ERASED_TABLE):
            seen = self._seen(sha256)
            erased += seen is not None
            if seen is not None and seen[1]:
                again.append((seen[0], f"a text that record {row.get('seq')} erased is there again"))
        for seq, flaw in sorted(again):
            raise LogVerificationError(flaw, index=seq)
        known, kept = self._scratch.ask("SELECT count(*), coalesce(sum(kept), 0) FROM texts").fetchone()
        return Texts(kept, erased, known - kept - erased)

    def _seen(self, sha256: str) -> tuple[int, bool] | None:
        row = self._scratch.ask("SELECT seq, kept FROM texts WHERE sha256 = ?", sha256).fetchone()
        return None if row is None else (row[0], bool(row[1]))


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
