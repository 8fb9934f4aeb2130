"""Does the log hold together? Recomputed from its bytes, trusting nothing that stands beside them.

Invariants:
- Every check names the record that fails it and why; the first failure is reported, the rest is not judged.
- The state is replayed in memory by the same function that the gate runs, then compared row by row with
  the tables in the database: a forged champion pointer is a difference, and a difference is a failure.
- A root key given from outside must be among the first roster's; without one, the report says that trust in
  the first roster is the reader's own.
- What was not checked (artifacts absent, an engine version that is gone) is said, never counted as fine.

What no log alone can show: a tail cut off together with its checkpoints, or a second version of the log
shown to somebody else. Checkpoints that were kept (``interlock log checkpoint``) and witnesses show both.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from guardrails.canonical import Digest
from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log import coverage, merkle
from guardrails.decision_log.cosignature import VerifierKey
from guardrails.decision_log.coverage import Coverage
from guardrails.decision_log.roots import predecessor, require_pinned, root_keys
from guardrails.decision_log.store import Entry, Project, Snapshot
from guardrails.decision_log.succession import LogKeys
from guardrails.decision_log.tables import MemoryTables, Reader
from guardrails.decision_log.texts import Texts
from guardrails.errors import InterlockError, LogVerificationError

Recompute = Callable[[Reader, Entry], str]
"""Recomputes one verdict from the state before it; returns a reason why it could not, or an empty text."""


@dataclass
class Verification:
    """What was found. ``ok`` only if every check that was made held. ``newest``: the time in the last record."""

    entries: int = 0
    root: str = ""
    newest: str = ""
    root_keys: tuple[str, ...] = ()
    index: int | None = None
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    recomputed: int = 0
    not_recomputed: int = 0
    texts: Texts = field(default_factory=Texts)
    coverage: Coverage | None = None

    @property
    def ok(self) -> bool:
        """True if nothing failed."""
        return not self.reason


def verify_log(
    snapshot: Snapshot,
    project: Project,
    *,
    root_key: str = "",
    root_pins: Sequence[str] = (),
    known_checkpoint: str = "",
    known_checkpoints: Sequence[str] = (),
    witness_keys: Sequence[VerifierKey] = (),
    witness_threshold: int = 0,
    artifacts: Callable[[Digest], None] | None = None,
    recompute: Recompute | None = None,
    expiry: Recompute | None = None,
    compare_tables: bool = True,
) -> Verification:
    """Check a whole log.

    Args:
        snapshot: The log, opened for reading.
        project: The projection function (``guardrails.ledger.project``).
        root_key: An OpenSSH public key that must be a root of the first roster; empty: none pinned.
        root_pins: More such keys; every one of them must have signed the first roster.
        known_checkpoint: A checkpoint kept from before: the log must extend it.
        known_checkpoints: More of them, from witnesses too.
        witness_keys: Witnesses that the verifier trusts: they must have seen every record. Empty: not asked.
        witness_threshold: So many of them suffice; 0: all.
        artifacts: Raises unless the artifact of a digest is present and intact; None: not checked.
        recompute: Re-runs the engine on a verdict; None: not done.
        expiry: Says until when a promotion or a rollback was allowed, from the state before it; this, and the time
            that the record states, are then compared with what witnesses say of the time.
        compare_tables: False where there are none, as in an exported bundle.
    """
    result = Verification(entries=snapshot.size)
    try:
        log_keys = LogKeys()
        deadlines: dict[int, tuple[str, str]] = {}
        watch = None if expiry is None or not witness_keys else _watcher(expiry, deadlines)
        tables, tree = _replay(snapshot, project, result, recompute, log_keys, watch)
        result.root = tree.root().hex()
        _check_roots(snapshot, tree, result, [*([root_key] if root_key else []), *root_pins])
        known = [note for note in (known_checkpoint, *known_checkpoints) if note]
        _check_checkpoints(snapshot, tree, log_keys, known)
        _check_witnesses(snapshot, known, witness_keys, witness_threshold, result, deadlines)
        result.texts.finish(tables)
        if compare_tables:
            _check_tables(snapshot, tables)
        _check_artifacts(tables, artifacts, result)
    except LogVerificationError as error:
        result.index = error.index if error.index >= 0 else None
        result.reason = error.reason
    return result


def _replay(
    snapshot: Snapshot,
    project: Project,
    result: Verification,
    recompute: Recompute | None,
    log_keys: LogKeys,
    watch: Callable[[Reader, Entry], None] | None,
) -> tuple[MemoryTables, merkle.Tree]:
    tables, tree = MemoryTables(), merkle.Tree()
    leaves: list[str] = []
    seen: dict[str, int] = {}
    for entry in snapshot.entries():
        for reference in entry.statement.references:
            if reference.seq >= len(leaves) or leaves[reference.seq] != reference.sha256:
                raise LogVerificationError(
                    f"it rests on a record {reference.seq} that is not there", index=entry.seq
                )
        if entry.leaf in seen:
            raise LogVerificationError(f"it is record {seen[entry.leaf]} once more", index=entry.seq)
        flaw = _recompute(recompute, tables, entry, result)
        if watch is not None:
            watch(tables, entry)
        try:
            project(tables, entry)
        except InterlockError as error:
            raise LogVerificationError(error.message, index=entry.seq) from None
        if flaw:
            raise LogVerificationError(flaw, index=entry.seq)
        result.texts.check(snapshot, entry)
        log_keys.learn(entry)
        result.newest = entry.statement.time
        leaves.append(entry.leaf)
        seen[entry.leaf] = entry.seq
        tree.append(bytes.fromhex(entry.leaf))
    return tables, tree


def _recompute(recompute: Recompute | None, tables: Reader, entry: Entry, result: Verification) -> str:
    """What is wrong with a verdict, judged again on the state before it; empty if nothing is."""
    if recompute is None or entry.statement.record != "verdict":
        return ""
    try:
        reason = recompute(tables, entry)
    except LogVerificationError as error:
        return error.reason
    except InterlockError as error:
        return error.message
    result.not_recomputed += bool(reason)
    result.recomputed += not reason
    if reason:
        result.notes.append(f"record {entry.seq}: not recomputed: {reason}")
    return ""


def _check_roots(snapshot: Snapshot, tree: merkle.Tree, result: Verification, pins: Sequence[str]) -> None:
    # Every node, not only those that the root of today needs: inclusion proofs are made of the others.
    for level in range(snapshot.size.bit_length()):
        stored = 0
        for position, value in itertools.islice(snapshot.level(level), snapshot.size >> level):
            if position != stored:
                break
            if value != tree.lookup(level, position):
                raise LogVerificationError(
                    f"the stored tree does not match the records at {level}/{position}"
                )
            stored += 1
        if stored < snapshot.size >> level:
            raise LogVerificationError(f"tree node {level}/{stored} is missing")
    if snapshot.size == 0:
        if pins:
            raise LogVerificationError("the log is empty: the root key that was given founded nothing here")
        result.notes.append("the log is empty: nobody has been set up")
        return
    result.root_keys = root_keys(snapshot.entry(0))
    if before := predecessor(snapshot.entry(0)):
        result.notes.append(
            f"this log follows {before.origin} (at {before.size} records, root {before.root}), which is not verified "
            "here; that its founder may go on from there is for whoever trusted the former roots to judge"
        )
    if not pins:
        result.notes.append("no root key was given: compare the root keys above with those you were handed")
        return
    require_pinned(snapshot.entry(0), pins)


def _check_checkpoints(
    snapshot: Snapshot, tree: merkle.Tree, log_keys: LogKeys, known: Sequence[str]
) -> None:
    sizes = []
    # Of an empty log nobody knows the key; but no checkpoint that somebody kept can be of a longer one.
    for note in [*(snapshot.checkpoints() if snapshot.size else ()), *known]:
        try:
            head = checkpoints.parse(note)[0]
            point = (
                checkpoints.verify(note, snapshot.origin, log_keys.at(head.size)) if snapshot.size else head
            )
        except InterlockError as error:
            raise LogVerificationError(f"a checkpoint does not hold: {error.message}") from None
        if point.size > snapshot.size:
            raise LogVerificationError(
                f"a checkpoint covers {point.size} records, the log has {snapshot.size}"
            )
        if point.root != tree.root(point.size).hex():
            raise LogVerificationError(
                f"the checkpoint of size {point.size} has another root than these records"
            )
        sizes.append(point.size)
    if snapshot.size and snapshot.size not in sizes:
        raise LogVerificationError("the newest records are covered by no checkpoint", index=snapshot.size - 1)


def _check_witnesses(
    snapshot: Snapshot,
    known: Sequence[str],
    keys: Sequence[VerifierKey],
    threshold: int,
    result: Verification,
    deadlines: Mapping[int, tuple[str, str]],
) -> None:
    """Every record must have been seen by the witnesses that the verifier trusts; say where time disagrees."""
    if not keys:
        return
    result.coverage = coverage.measure([*snapshot.notes(), *known], keys, threshold)
    coverage.require(result.coverage, snapshot.size)
    for seq, (stated, deadline) in deadlines.items():
        result.notes += [
            f"record {seq}: {told}" for told in coverage.doubts(result.coverage, seq, stated, deadline)
        ]


def _watcher(expiry: Recompute, deadlines: dict[int, tuple[str, str]]) -> Callable[[Reader, Entry], None]:
    def watch(tables: Reader, entry: Entry) -> None:
        if entry.statement.record in ("promotion", "rollback"):
            with contextlib.suppress(InterlockError):  # the projection refuses it next, with its reason
                deadlines[entry.seq] = entry.statement.time, expiry(tables, entry)

    return watch


def _check_tables(snapshot: Snapshot, replayed: MemoryTables) -> None:
    for name in sorted({*replayed.names(), *snapshot.tables.names()}):
        for key, stored, expected in _pairs(snapshot.tables, replayed, name):
            if stored != expected:
                what = (
                    "is missing" if stored is None else "is not in the log" if expected is None else "differs"
                )
                raise LogVerificationError(
                    f"projection {name}/{key} {what}: the table says something else than the records",
                    hint="`interlock log rebuild` makes the tables anew; find out who changed them",
                )


def _pairs(stored: Reader, replayed: Reader, table: str) -> Iterator[tuple[str, object, object]]:
    left, right = dict(stored.scan(table)), dict(replayed.scan(table))
    for key in sorted({*left, *right}):
        yield key, left.get(key), right.get(key)


def _check_artifacts(
    tables: MemoryTables, artifacts: Callable[[Digest], None] | None, result: Verification
) -> None:
    """Champions, past and present, and evidence: what the log may still need must be there, to the byte."""
    if artifacts is None:
        result.notes.append("artifacts were not checked")
        return
    for name, row in tables.scan("models"):
        for reign in row["history"]:
            try:
                artifacts(Digest.parse(reign["digest"]))
            except InterlockError as error:
                raise LogVerificationError(f"champion {reign['digest']} of {name}: {error.message}") from None
    removed = 0
    for name, row in tables.scan("proposals"):
        # The record of a removal is one that the ledger allowed, so a bundle that is gone was no longer needed.
        removed += "removed_at" in row
        digests = [row["proposal"]["bundle"]] if "proposal" in row and "removed_at" not in row else []
        digests += [row["evidence"]["measurements"]] if "evidence" in row else []
        for digest in digests:
            try:
                artifacts(Digest.parse(digest))
            except InterlockError as error:
                raise LogVerificationError(f"{name}: artifact {digest}: {error.message}") from None
    if removed:
        result.notes.append(
            f"{removed} bundles were removed when their time was over, each by a record of the log"
        )
