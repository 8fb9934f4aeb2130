"""Erasing names and free text: a signed record says which commitments lose their text, and stays for ever.

Invariants:
- The threshold of roots signs it, as a request like any other; the record holds commitments, never the texts.
- The request's digest is that of the list, so nobody adds a commitment to what others have signed.
- The tree and every record stay as they were. The rows here say who erased what; the verifier refuses a text
  that is there although a record erased it.
"""

from __future__ import annotations

from collections.abc import Sequence

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import ERASED_TABLE, Tables
from guardrails.errors import DeniedError, RecordError
from guardrails.ledger.rows import RequestRow
from guardrails.records import Commitment

MAX_TEXTS = 300
"""So many commitments fit into one record beside everything else."""


def digest_of_list(commitments: Sequence[Commitment]) -> Digest:
    """What a request to erase these is bound to."""
    return canonical.digest(canonical.encode([item.sha256 for item in commitments]))


def check_erase(tables: Tables, request: RequestRow) -> None:
    """Refuse a list that is empty, too long, unsorted, repeated, altered, or erased already."""
    names = [item.sha256 for item in request.erase]
    if not names or len(names) > MAX_TEXTS or names != sorted(set(names)):
        raise RecordError(f"erase: a sorted list of 1 to {MAX_TEXTS} different commitments is needed")
    for name in names:
        Digest(name)
        done = tables.get(ERASED_TABLE, name)
        if done is not None:
            raise DeniedError(f"erase: {name[:12]} was erased by record {done['seq']} already")
    if request.digest != digest_of_list(request.erase):
        raise RecordError("erase: the digest is not that of the list")


def erase(tables: Tables, entry: Entry, request: RequestRow) -> None:
    """Note that these texts are erased, and by which record."""
    for item in request.erase:
        row = {"request": request.id, "seq": entry.seq, "at": entry.statement.time}
        tables.put(ERASED_TABLE, item.sha256, row)
