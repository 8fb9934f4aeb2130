"""Reading the records of a log by several processes: bytes, form and signatures; never rules.

Invariants:
- Every record is checked in the same way by whoever does it; what is refused is refused at its place in the order.
- A signature that was found to hold is named by its public key (``Entry.proven``). Whether that key may sign is for
  the rules to say; a signature whose key is not named they verify themselves.
- A process that ends early is an error: nothing is taken to be good for want of an answer.
- Memory is bounded: some thousand records are under way at a time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from guardrails.decision_log import sshsig
from guardrails.decision_log.entry import Entry
from guardrails.decision_log.envelope import PAYLOAD_TYPE, pae
from guardrails.decision_log.keys import service_keyid, verify_person, verify_service
from guardrails.errors import DeniedError, InterlockError, LogVerificationError, RecordError

if TYPE_CHECKING:
    from guardrails.decision_log.snapshot import Row, Snapshot

_AHEAD = 3
"""For each process, so many batches are read before they are needed."""


class Refused(NamedTuple):
    """A record that is not well-formed: where, and why."""

    seq: int
    reason: str


def entries_of(snapshot: Snapshot, jobs: int) -> Generator[Entry, None, None]:
    """The records of a snapshot in order, read by so many processes, this one included.

    Raises:
        LogVerificationError: a record is missing, unreadable, or not what its leaf hash says.
        InterlockError: one of the processes ended early.
    """
    if jobs < 2:
        yield from snapshot.entries()
        return
    pool = ProcessPoolExecutor(jobs - 1, mp_context=multiprocessing.get_context("spawn"))
    try:
        for item in _in_order(snapshot, pool, _AHEAD * jobs):
            if isinstance(item, Refused):
                raise LogVerificationError(item.reason, index=item.seq)
            yield item
    except BrokenProcessPool as error:
        raise InterlockError(
            "a process that reads records ended early; nothing is known of the log",
            hint="was it out of memory? try fewer --jobs",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def read(rows: list[Row], services: frozenset[str]) -> list[Entry | Refused]:
    """The records of some rows, with the keys whose signatures hold; ends with the first that is refused."""
    found: list[Entry | Refused] = []
    for row in rows:
        try:
            entry = Entry.stored(*row)
        except LogVerificationError as error:
            found.append(Refused(error.index, error.reason))
            break
        found.append(replace(entry, proven=_proven(entry, services)))
    return found


def _proven(entry: Entry, services: frozenset[str]) -> tuple[str, ...]:
    """The public keys under which a signature that states the key holds. ``services``: candidates, for hints only."""
    message, found = pae(PAYLOAD_TYPE, entry.payload), []
    for signature in entry.signatures:
        try:
            if signature.keyid.startswith(sshsig.FINGERPRINT):  # a person's signature names its whole key
                public = sshsig.read(signature.signature).key
                if public.keyid == signature.keyid:
                    verify_person(public.text, message, signature.signature)
                    found.append(public.text)
                continue
            for key in services:
                if service_keyid(key) == signature.keyid:
                    verify_service(key, message, signature.signature)
                    found.append(key)
        except (DeniedError, RecordError):
            continue
    return tuple(found)


class _Batch:
    """Some rows, and what was found in them: here, or by a process that is at it."""

    def __init__(self, rows: list[Row], future: Future[list[Entry | Refused]]) -> None:
        self._rows = rows
        self.future = future
        self.found: list[Entry | Refused] | None = None

    def take_over(self, services: frozenset[str]) -> bool:
        """Read here what no process has begun with; False where one has."""
        if self.found is not None or not self.future.cancel():
            return False
        self.found = read(self._rows, services)
        return True


def _in_order(snapshot: Snapshot, pool: ProcessPoolExecutor, ahead: int) -> Iterator[Entry | Refused]:
    services: frozenset[str] = frozenset()
    with contextlib.suppress(InterlockError):  # a hint, which may be missing or wrong
        services = _services((snapshot.tables.get("roster", "current") or {}).get("roster"))
    rows, waiting = snapshot.rows(), deque[_Batch]()
    end: list[Refused] | None = None
    while True:
        while end is None and len(waiting) < ahead:
            try:
                batch = next(rows, [])
                end = None if batch else []
            except LogVerificationError as error:  # told after the records before it
                batch, end = [], [Refused(error.index, error.reason)]
            if batch:
                waiting.append(_Batch(batch, pool.submit(read, batch, services)))
        if not waiting:
            yield from end or ()
            return
        for item in _found(waiting.popleft(), waiting, services):
            if isinstance(item, Entry) and item.statement.record == "roster":
                services |= _services(item.statement.body)
            yield item


def _found(batch: _Batch, waiting: deque[_Batch], services: frozenset[str]) -> list[Entry | Refused]:
    """What is in a batch; while a process still reads it, others are read here."""
    while batch.found is None and not batch.future.done():
        if not any(one.take_over(services) for one in (batch, *reversed(waiting))):
            break
    return batch.future.result() if batch.found is None else batch.found


def _services(roster: Any) -> frozenset[str]:
    """The services' keys in the body of a roster."""
    services = roster.get("services") if isinstance(roster, Mapping) else None
    return frozenset(map(str, services.values())) if isinstance(services, Mapping) else frozenset()
