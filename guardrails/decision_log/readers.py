"""Reading the records of a log by several processes: bytes, form and signatures; never rules.

Invariants:
- Every record is checked in the same way by whoever does it; what is refused is refused at its place in the order.
- A signature that was found to hold is named by its public key (``Entry.proven``). Whether that key may sign is for
  the rules to say; a signature whose key is not named they verify themselves.
- A process that ends early, or falls silent, is an error: nothing is taken to be good for want of an answer.
- Memory is bounded: some thousand records are under way at a time.
"""

from __future__ import annotations

import contextlib
import marshal
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from guardrails.decision_log import sshsig
from guardrails.decision_log.crew import Crew, Work
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.envelope import NAMESPACE, PAYLOAD_TYPE, pae
from guardrails.decision_log.garbage import seldom_sought
from guardrails.decision_log.keys import service_keyid, verify_service
from guardrails.errors import DeniedError, InterlockError, LogVerificationError, RecordError

if TYPE_CHECKING:
    from guardrails.decision_log.snapshot import Row, Snapshot

_AHEAD = 3
"""For each process, so many batches are read before they are needed."""


class Refused(NamedTuple):
    """A record that is not well-formed: where, and why."""

    seq: int
    reason: str


class Batch(NamedTuple):
    """Records that follow each other, and what stands where the next one should be, if that is none."""

    entries: list[Entry]
    refused: Refused | None = None


def batches_of(snapshot: Snapshot, jobs: int) -> Generator[list[Entry], None, None]:
    """The records of a snapshot in order, some hundred at a time, read by so many processes, this one included.

    Raises:
        LogVerificationError: after the records before it: a record is missing, unreadable, or not what its leaf
            hash says.
        InterlockError: one of the processes ended early, or does not answer.
    """
    if jobs < 2:
        yield from _good(_alone(snapshot))
        return
    with Crew(jobs - 1, read_packed) as crew:
        yield from _good(_together(snapshot, crew, _AHEAD * jobs))


def _good(batches: Iterator[Batch]) -> Iterator[list[Entry]]:
    for entries, refused in batches:
        if entries:
            yield entries
        if refused is not None:
            raise LogVerificationError(refused.reason, index=refused.seq)


def read(rows: list[Row], services: frozenset[str]) -> Batch:
    """The records of some rows, up to the first that is refused, with the keys whose signatures hold.

    First all are read, then all signatures are verified: what one kind of work needs stays in the processor's cache.
    ``services``: public keys, for hints only.
    """
    entries: list[Entry] = []
    refused = None
    for row in rows:
        try:
            entries.append(Entry.stored(*row))
        except LogVerificationError as error:
            refused = Refused(error.index, error.reason)
            break
    by_id = _by_id(services | services_in(entries))
    return Batch([entry.proven_by(_proven(entry, by_id)) for entry in entries], refused)


@seldom_sought()
def read_packed(rows: list[Row], services: frozenset[str]) -> bytes:
    """What ``read`` finds, for another process."""
    entries, refused = read(rows, services)
    return marshal.dumps(([entry.packed() for entry in entries], None if refused is None else tuple(refused)))


def _unpacked(rows: list[Row], answer: bytes) -> Batch:
    packed, refused = marshal.loads(answer)  # noqa: S302 - from a process that was started here
    entries = [Entry.unpacked(row[0], row[2], one) for row, one in zip(rows, packed, strict=False)]
    return Batch(entries, None if refused is None else Refused(*refused))


def services_in(entries: list[Entry]) -> frozenset[str]:
    """The services' keys in the rosters among some records."""
    rosters = (entry.statement.body for entry in entries if entry.statement.record == "roster")
    return frozenset().union(*map(_services, rosters))


def _proven(entry: Entry, services: Mapping[str, str]) -> tuple[str, ...]:
    """The public keys under which a signature that states the key holds. ``services``: by key id, for hints only."""
    message, found = pae(PAYLOAD_TYPE, entry.payload), []
    for signature in entry.signatures:
        try:
            if signature.keyid.startswith(sshsig.FINGERPRINT):  # a person's signature names its whole key
                public = sshsig.key_of(signature.signature)
                if public.keyid == signature.keyid:
                    sshsig.verify(public, message, signature.signature, NAMESPACE)
                    found.append(public.text)
            elif signature.keyid in services:
                key = services[signature.keyid]
                verify_service(key, message, signature.signature)
                found.append(key)
        except (DeniedError, RecordError):
            continue
    return tuple(found)


def _by_id(services: frozenset[str]) -> dict[str, str]:
    found = {}
    for key in services:
        with contextlib.suppress(RecordError):  # what is no key proves nothing
            found[service_keyid(key)] = key
    return found


def _alone(snapshot: Snapshot) -> Iterator[Batch]:
    services = _first_services(snapshot)
    for rows in snapshot.rows():
        batch = read(rows, services)
        yield batch
        services |= services_in(batch.entries)


def _together(snapshot: Snapshot, crew: Crew, ahead: int) -> Iterator[Batch]:
    services = _first_services(snapshot)
    rows, waiting = snapshot.rows(), deque[_Piece]()
    here: dict[int, Batch] = {}
    end: Batch | None = None
    while True:
        while end is None and len(waiting) < ahead:
            try:
                some = next(rows, [])
                end = None if some else Batch([])
            except LogVerificationError as error:  # told after the records before it
                some, end = [], Batch([], Refused(error.index, error.reason))
            if some:
                waiting.append(_Piece(some, services, Work(some, services)))
                crew.submit(waiting[-1].work)
        if not waiting:
            yield end or Batch([])
            return
        batch = _done(waiting.popleft(), waiting, here, crew)
        yield batch
        services |= services_in(batch.entries)


class _Piece(NamedTuple):
    """Some rows, what was known of the services' keys, and the work to have them read elsewhere."""

    rows: list[Row]
    services: frozenset[str]
    work: Work


def _done(piece: _Piece, waiting: deque[_Piece], here: dict[int, Batch], crew: Crew) -> Batch:
    """What is in a piece; while a process still reads it, others are read here."""
    first = piece.rows[0][0]
    while piece.work.answer is None and first not in here:
        mine = next((one for one in (piece, *reversed(waiting)) if crew.take_back(one.work)), None)
        if mine is None:
            break
        here[mine.rows[0][0]] = read(mine.rows, mine.services)
    return here.pop(first, None) or _unpacked(piece.rows, crew.answer(piece.work))


def _first_services(snapshot: Snapshot) -> frozenset[str]:
    with contextlib.suppress(InterlockError):  # a hint, which may be missing or wrong
        return _services((snapshot.tables.get("roster", "current") or {}).get("roster"))
    return frozenset()


def _services(roster: Any) -> frozenset[str]:
    """The services' keys in the body of a roster."""
    services = roster.get("services") if isinstance(roster, Mapping) else None
    return frozenset(map(str, services.values())) if isinstance(services, Mapping) else frozenset()
