"""What it costs that the gate believes no table: a new process, a transaction, a look, in logs of three lengths.

Each figure is CPU time, beside the same without the guard, in turns in one run. Run with ``make bench``.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fakes import MODEL, Site, memory_folder, resume
from postgresql_server import Server

from guardrails.decision_log import postgresql
from guardrails.decision_log.store import Log
from guardrails.gate import Gate
from guardrails.ledger import project
from guardrails.records import Action, Failure

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
SIZES = tuple(int(size) for size in os.environ.get("INTERLOCK_BENCH_SIZES", "100,1000,10000").split(","))
TURNS = 9


def said(text: str) -> None:
    print(f"\n  {text}", end="", flush=True)


def gate_of(site: Site, *, prove: bool) -> Gate:
    log = Log.open(site.url, site.services["log"], project, prove=prove)
    return Gate(log, site.store, site.services, b"s" * 32, site.clock)


def timed(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return (time.process_time() - begun) * 1e3


def grown(records: int, url: str = "") -> Site:
    """A log of about so many records that the rules accept: decisions first, then jobs that failed, a row each."""
    site = Site(memory_folder(), url=url)
    while len(site.kinds()) < min(records, 200):
        site.decide("ada", Action.REJECT, site.judged())
    while (size := len(site.kinds())) < records:
        with site.log.transaction() as tx:
            for _ in range(min(1_000, records - size)):
                name = site.gate._clerk.next_id(tx, "P")
                made = Failure(name, MODEL, "propose", "again", "the job ran out of memory", "")
                site.gate._clerk.append(tx, made)
    return site


def bare_verifications(count: int) -> float:
    """CPU time of so many signatures alone, in milliseconds."""
    key, message = Ed25519PrivateKey.generate(), b"x" * 600
    public, signature = key.public_key(), key.sign(message)
    return timed(lambda: [public.verify(signature, message) for _ in range(count)])


def server_time() -> float:
    """CPU time of all servers of PostgreSQL on this machine, in milliseconds."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            if name.endswith("(postgres"):
                ticks += sum(map(int, rest.split()[11:13]))
    return ticks * 1e3 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("records", SIZES)
def test_an_append_on_postgresql(records: int, postgresql_server: Server):
    """With all rows compared each time, and only if somebody else has written, in turns."""
    site = grown(records, postgresql_server.fresh())
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def append() -> None:
        with site.log.transaction() as tx:
            again = Failure(site.gate._clerk.next_id(tx, "P"), MODEL, "propose", "again", "out of memory", "")
            site.gate._clerk.append(tx, again)

    for _ in range(3):
        for each_time in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if each_time:
                    patch.setattr(postgresql, "state", lambda *_: None)
                append()
                before = server_time()
                own = timed(lambda: [append() for _ in range(50)])
                found[each_time].append((own / 50, (server_time() - before) / 50))
    for each_time, turns in found.items():
        own, server = (", ".join(f"{turn[part]:.1f}" for turn in turns) for part in (0, 1))
        how = "compared each time" if each_time else "compared if somebody else wrote"
        said(f"{records:,} records on PostgreSQL, rows {how}: an append {own} ms, the server {server} ms")
    site.close()


@pytest.mark.parametrize("records", SIZES)
def test_a_gate_that_believes_no_table(records: int):
    site = grown(records)
    count = len(site.kinds())
    with site.log.read() as snapshot:
        rows = [body for name in snapshot.tables.names() for _, body in snapshot.tables.bodies(name)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gates = {prove: gate_of(site, prove=prove) for prove in (True, False)}
    first = {prove: timed(gate.halted_by) for prove, gate in gates.items()}
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    looks: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):
        for prove, gate in gates.items():
            looks[prove].append(timed(lambda gate=gate: gate.require_ready(MODEL)))
    overtaken: list[float] = []
    writes: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):
        for prove, gate in gates.items():
            site.gate = gate
            halt_ = site.draft("di", Action.HALT, "workspace")
            gates[True].halted_by()  # what the other one wrote is replayed beforehand
            writes[prove].append(
                timed(lambda gate=gate, draft=halt_: gate.commit(draft, site.people["di"].key))
            )
            resume(site)
            if (
                not prove
            ):  # another process has written: its records are replayed, and all rows compared again
                overtaken.append(timed(gates[True].halted_by))
    bare = bare_verifications(count)
    said(f"{count:,} records, {len(rows):,} rows of {sum(map(len, rows)) / 1e6:.1f} MB: a new process "
         f"{first[True]:,.0f} ms, without {first[False]:.1f} ms, as many bare signatures {bare:,.0f} ms; "
         f"peak memory grew by {grew:.0f} MiB")  # fmt: skip
    said(f"{count:,} records: a look after somebody else has written: {statistics.median(overtaken):.1f} ms")
    for name, found in (("a look (require_ready)", looks), ("a decision appended", writes)):
        with_, without = (statistics.median(found[prove]) for prove in (True, False))
        said(f"{count:,} records: {name}: {with_:.1f} ms, without the guard {without:.1f} ms")
