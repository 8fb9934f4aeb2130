"""Processes that write to one log at once, and how they end: for tests of every database."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from multiprocessing.connection import Connection
from typing import Any

from log_samples import KEY, add, check, project, record

from guardrails.decision_log.store import Entry, Log

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["guardrails.decision_log.store"])


def append_many(url: str, count: int) -> None:
    """Append so many records, one by one."""
    with Log.open(url, KEY, project) as log:
        for _ in range(count):
            add(log)


def appended_at_once(log: Log, url: str) -> list[Entry]:
    """All records, when this process and four others have appended 25 each, which is checked."""
    workers = [PROCESSES.Process(target=append_many, args=(url, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    mine = [add(log)[0] for _ in range(25)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    with log.read() as snapshot:
        found = check(snapshot)
    assert len(found) == 125
    assert [found[entry.seq] for entry in mine] == mine
    return found


def append_until_killed(url: str, acknowledge: Connection, seed: int) -> None:
    """Append batches for ever; say which records are committed only after the commit."""
    chance = random.Random(seed)
    with Log.open(url, KEY, project) as log:
        for batch in itertools.count():
            size = chance.choice([1, 1, 2, 5])
            bodies = [{"batch": f"{seed}/{batch}", "of": size} for _ in range(size)]
            entries = add(log, *(record(body) for body in bodies))
            acknowledge.send([(entry.seq, entry.leaf) for entry in entries])


def two_writers(url: str, turn: int) -> list[tuple[Any, Connection]]:
    """Two processes that append until they are killed, each with the pipe on which it acknowledges."""
    writers = []
    for which in range(2):
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=append_until_killed, args=(url, theirs, turn * 2 + which))
        process.start()
        theirs.close()
        writers.append((process, ours))
    return writers


def drain(source: Connection) -> list[tuple[int, str]]:
    """What else was acknowledged before the end."""
    found: list[tuple[int, str]] = []
    try:
        while True:
            found += source.recv()
    except (EOFError, OSError):
        return found
