"""Removing what nobody needs any more: first the log says so, then the files go.

Invariants:
- The bundle of a proposal goes only after the log holds the record of its removal, which the ledger refuses for
  anything still needed (``ledger.removal``). Evidence, champions past and present, and originals stay for ever.
- What no record of the log names, and no tree of it holds, is a leftover of something interrupted, and goes too.
- The tables that say what is over, and what was champion, are compared with the records first, in the very snapshot that
  is then believed: who can write to the database does not get a champion removed.
- A file younger than the grace period stays, whatever is said of it: somebody may be about to record it. Storing
  the same bytes again makes a file young again, under the lock that removing takes.
- Interrupted at any point, the next run finishes: each step is decided anew from the log and the files.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from guardrails.canonical import Digest
from guardrails.decision_log.store import Snapshot
from guardrails.decision_log.verify import verify_log
from guardrails.errors import LogVerificationError, RecordError
from guardrails.gate import Gate
from guardrails.ledger import project, removal
from guardrails.ledger.rows import ModelRow, ProposalRow, read_all
from guardrails.registry import MAX_MANIFEST_BYTES, ArtifactError, ArtifactStore, decode_manifest

GRACE_S = 24 * 3600.0
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Swept:
    """What was removed, or would be: proposals by id, files, their bytes. ``young``: files left for now."""

    proposals: tuple[str, ...]
    files: int
    size: int
    young: int


def collect(gate: Gate, now: str, *, grace_s: float = GRACE_S, dry_run: bool = False) -> Swept:
    """Record the removals that are due, then remove what nothing needs.

    Args:
        gate: Signs the removals.
        now: The time, as records write it.
        grace_s: How old, in seconds, a file must be.
        dry_run: Say what would be removed, and change nothing.

    Raises:
        LogVerificationError: the log does not hold; nothing was removed.
    """
    with gate.log.read() as snapshot:
        _require_sound(snapshot)
        rows = list(read_all(snapshot.tables, ProposalRow))
        due = [row.id for row in rows if not removal.obstacle(snapshot.tables, row, now)]
    if not dry_run:
        for proposal in due:
            gate.remove(proposal)
    return _sweep(gate, tuple(due), grace_s, dry_run=dry_run)


def _sweep(gate: Gate, due: tuple[str, ...], grace_s: float, *, dry_run: bool) -> Swept:
    files = size = young = 0
    with gate.store.removing():
        # Only now, under the lock: whatever is stored from here on waits, or is young.
        with gate.log.read() as snapshot:
            _require_sound(snapshot)
            needed = reachable(snapshot, gate.store, due)
        for address, bytes_, modified in gate.store.everything():
            if address in needed:
                continue
            if time.time() - modified < grace_s:
                young += 1
                continue
            files += 1
            size += bytes_
            if not dry_run:
                gate.store.discard(address)
        if not dry_run:
            gate.store.discard_incoming(grace_s)
    return Swept(due, files, size, young)


def _require_sound(snapshot: Snapshot) -> None:
    """Refuse to remove anything by a log that does not hold, or by tables that say something else than it."""
    found = verify_log(snapshot, project)
    if not found.ok:
        raise LogVerificationError(
            found.reason, index=-1 if found.index is None else found.index,
            hint="nothing was removed; see `interlock log verify`",
        )  # fmt: skip


def reachable(snapshot: Snapshot, store: ArtifactStore, due: tuple[str, ...] = ()) -> set[Digest]:
    """Every address that the log may still need: all it names but removed bundles, and all that these hold.

    ``due`` are proposals to be treated as if they had been removed already.
    """
    removed: set[Digest] = set()
    kept: set[Digest] = set()
    for row in read_all(snapshot.tables, ProposalRow):
        if row.proposal is not None:
            (removed if row.removed_at or row.id in due else kept).add(row.proposal.bundle)
    for model in read_all(snapshot.tables, ModelRow):
        kept |= {model.champion, model.original, *(reign.digest for reign in model.history)}
    present = {address for address, _, _ in store.everything()}
    for address in sorted(kept - present, key=str):
        # What it holds cannot be told apart from what nobody needs.
        raise ArtifactError(f"{address} is missing; nothing was removed", hint="interlock log verify")
    found: set[Digest] = set()
    for entry in snapshot.entries():
        found |= _named(entry.statement.encode()) & present
    waiting = list(found - (removed - kept))
    needed = set(waiting)
    while waiting:
        for address in _held(store, waiting.pop()) & present:
            if address not in needed:
                needed.add(address)
                waiting.append(address)
    return needed


def _named(data: bytes) -> set[Digest]:
    """Everything in these bytes that may be an address."""
    return {Digest(name) for name in _NAME.findall(data.decode("utf-8", "replace"))}


def _held(store: ArtifactStore, address: Digest) -> set[Digest]:
    """The files of a tree; nothing where it is none. Raises ArtifactError where it is damaged."""
    if store.size_of(address) > MAX_MANIFEST_BYTES:
        return set()
    try:
        entries = decode_manifest(store.get_bytes(address))
    except RecordError:
        return set()
    return {Digest(entry.sha256) for entry in entries}
