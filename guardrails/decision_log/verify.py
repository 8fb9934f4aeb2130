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
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from guardrails.answers import require_as_recorded
from guardrails.canonical import Digest
from guardrails.decision_log import coverage
from guardrails.decision_log.cosignature import VerifierKey
from guardrails.decision_log.coverage import Coverage
from guardrails.decision_log.garbage import seldom_sought
from guardrails.decision_log.growth import Growth
from guardrails.decision_log.readers import batches_of
from guardrails.decision_log.roots import predecessor, require_pinned, root_keys
from guardrails.decision_log.scratch import Leaves, ReplayTables, Scratch
from guardrails.decision_log.store import Entry, Project, Snapshot
from guardrails.decision_log.tables import ANSWERS_TABLE, ERASED_TABLE, Reader, decoded
from guardrails.decision_log.texts import TextCheck, Texts
from guardrails.errors import InterlockError, LogVerificationError, RecordError

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


@seldom_sought()
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
    statements: Callable[[Digest], bytes] | None = None,
    recompute: Recompute | None = None,
    expiry: Recompute | None = None,
    compare_tables: bool = True,
    jobs: int = 1,
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
        statements: Reads the artifact of a digest and checks its bytes: what people handed in must say what its record
            says. None: not checked.
        recompute: Re-runs the engine on a verdict; None: not done.
        expiry: Says until when a promotion or a rollback was allowed, from the state before it; this, and the time
            that the record states, are then compared with what witnesses say of the time.
        compare_tables: False where there are none, as in an exported bundle.
        jobs: So many processes, this one included, read records and verify their signatures; the rules are always
            replayed here, in order.
    """
    result = Verification(entries=snapshot.size)
    known = [note for note in (known_checkpoint, *known_checkpoints) if note]
    scratch = Scratch()
    try:
        deadlines: dict[int, tuple[str, str]] = {}
        watch = None if expiry is None or not witness_keys else _watcher(expiry, deadlines)
        growth, tables, texts = Growth(snapshot, known), ReplayTables(scratch), TextCheck(scratch)
        leaves, evidence = Leaves(scratch), Evidence(scratch)

        def judge(entry: Entry) -> None:
            flaw = _recompute(recompute, tables, entry, result)
            if watch is not None:
                watch(tables, entry)
            _apply(project, tables, entry, flaw)

        with contextlib.closing(batches_of(snapshot, jobs)) as batches:
            for batch in batches:
                _check_all(batch, leaves, lambda entry: texts.check(snapshot, entry), judge)
                evidence.note(batch)
                growth.add(batch)
                result.newest = batch[-1].statement.time
        result.root = growth.root().hex()
        growth.require_nodes()
        _check_roots(snapshot, result, [*([root_key] if root_key else []), *root_pins])
        growth.require_checkpoints()
        _check_witnesses(snapshot, known, witness_keys, witness_threshold, result, deadlines)
        result.texts = texts.finish(tables)
        if compare_tables:
            _check_tables(snapshot, tables)
        _check_artifacts(tables, evidence, artifacts, result)
        _check_statements(snapshot.origin, tables, statements, result)
    except LogVerificationError as error:
        result.index = error.index if error.index >= 0 else None
        result.reason = error.reason
    finally:
        scratch.close()
    return result


def _check_all(
    batch: Sequence[Entry],
    leaves: Leaves,
    text: Callable[[Entry], None],
    judge: Callable[[Entry], None],
) -> None:
    """One kind of check after the other, which is quicker; what is told is what each record in turn would tell first.

    That is its place, then the rules, then its texts: so rules are asked up to the record whose text is not right.
    """
    held, misplaced = _all_but_flawed(batch, _place_check(leaves, batch))
    held, garbled = _all_but_flawed(held, text)
    upto = len(held) + (garbled is not None)
    _, refused = _all_but_flawed(batch[:upto], judge)
    for flaw in (refused, garbled, misplaced):
        if flaw is not None:
            raise flaw


def _all_but_flawed(
    batch: Sequence[Entry], check: Callable[[Entry], None]
) -> tuple[Sequence[Entry], LogVerificationError | None]:
    """The records before the first that does not pass, and what is wrong with that one."""
    for at, entry in enumerate(batch):
        try:
            check(entry)
        except LogVerificationError as error:
            return batch[:at], error
    return batch, None


def _place_check(leaves: Leaves, batch: Sequence[Entry]) -> Callable[[Entry], None]:
    """Refuses a record that rests on what is not there, or that is there already."""
    repeated = leaves.add([(entry.seq, bytes.fromhex(entry.leaf)) for entry in batch])

    def check(entry: Entry) -> None:
        for reference in entry.statement.references:
            if reference.seq >= entry.seq or leaves.at(reference.seq) != bytes.fromhex(reference.sha256):
                raise LogVerificationError(
                    f"it rests on a record {reference.seq} that is not there", index=entry.seq
                )
        if entry.seq in repeated:
            raise LogVerificationError(f"it is record {repeated[entry.seq]} once more", index=entry.seq)

    return check


def _apply(project: Project, tables: ReplayTables, entry: Entry, flaw: str) -> None:
    """Refuse a record that the rules do not allow, or in whose verdict there is a flaw."""
    try:
        project(tables, entry)
    except InterlockError as error:
        raise LogVerificationError(error.message, index=entry.seq) from None
    if flaw:
        raise LogVerificationError(flaw, index=entry.seq)


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


def _check_roots(snapshot: Snapshot, result: Verification, pins: Sequence[str]) -> None:
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


def _check_tables(snapshot: Snapshot, replayed: ReplayTables) -> None:
    for name in sorted({*replayed.names(), *snapshot.tables.names()}):
        for key, stored, expected in _pairs(snapshot.projected(name), replayed.bodies(name)):
            if stored == expected:
                continue
            what = "is missing" if stored is None else "is not in the log" if expected is None else "differs"
            if stored is not None:
                what = _damage(stored) or what
            raise LogVerificationError(
                f"projection {name}/{key} {what}: the table says something else than the records",
                hint="`interlock log rebuild` makes the tables anew; find out who changed them",
            )


def _pairs(
    stored: Iterator[tuple[str, bytes]], replayed: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """The rows of both, by key; None where one has none."""
    left = ((key, body, None) for key, body in stored)
    right = ((key, None, body) for key, body in replayed)
    for key, same in itertools.groupby(heapq.merge(left, right, key=_key), key=_key):
        rows = list(same)
        yield (
            key,
            next((row[1] for row in rows if row[1] is not None), None),
            next((row[2] for row in rows if row[2] is not None), None),
        )


def _key(row: tuple[str, bytes | None, bytes | None]) -> str:
    return row[0]


def _damage(body: bytes) -> str:
    try:
        decoded(body)
    except RecordError as error:
        return f"is damaged ({error.message})"
    return ""


class Evidence:
    """The numbers behind every measurement that the log holds, by digest, each once."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def note(self, batch: Sequence[Entry]) -> None:
        """Take in the next records, which the rules allow."""
        named = [
            (str(entry.statement.body["measurements"]), entry.seq)
            for entry in batch
            if entry.statement.record == "evidence"
        ]
        self._scratch.tell("INSERT OR IGNORE INTO digests VALUES (?, ?)", named)

    def all(self) -> Iterator[tuple[str, int]]:
        """Each digest with the first record that names it, in the order of the log."""
        yield from self._scratch.ask("SELECT digest, seq FROM digests ORDER BY seq")


def _check_artifacts(
    tables: Reader, evidence: Evidence, artifacts: Callable[[Digest], None] | None, result: Verification
) -> None:
    """Champions, past and present, bundles and all evidence: what the log may still need is there, to the byte."""
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
        if "proposal" in row and "removed_at" not in row:
            digest = row["proposal"]["bundle"]
            try:
                artifacts(Digest.parse(digest))
            except InterlockError as error:
                raise LogVerificationError(f"{name}: artifact {digest}: {error.message}") from None
    # Also what was measured anew since: numbers are never removed, whatever becomes of the bundle.
    for digest, seq in evidence.all():
        try:
            artifacts(Digest.parse(digest))
        except InterlockError as error:
            raise LogVerificationError(f"evidence {digest}: {error.message}", index=seq) from None
    if removed:
        result.notes.append(
            f"{removed} bundles were removed when their time was over, each by a record of the log"
        )


def _check_statements(
    origin: str, tables: Reader, read: Callable[[Digest], bytes] | None, result: Verification
) -> None:
    """What people handed in says what its record says; what a record erased need not be there."""
    erased = left = unread = 0
    for name, row in tables.scan(ANSWERS_TABLE):
        if tables.get(ERASED_TABLE, name) is not None:
            erased += 1
            if read is not None:
                with contextlib.suppress(InterlockError):  # it is gone, as it should be
                    read(Digest(name))
                    left += 1
        elif read is None:
            unread += 1
        else:
            try:
                require_as_recorded(origin, read(Digest(name)), row)
            except InterlockError as error:
                raise LogVerificationError(
                    f"answers sha256:{name}: {error.message}", index=row["seq"]
                ) from None
    if erased:
        result.notes.append(f"{erased} statements of answers were erased, each by a record of the log")
    if left:
        result.notes.append(
            f"{left} of them are in the artifact store all the same: interlock log erase --scrub"
        )
    if unread:
        result.notes.append(f"{unread} statements of answers were not read")
