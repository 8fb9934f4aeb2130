"""What the log costs: an append beside a bare SQLite commit, a batch, a million records, a proof from among them.

Ratios and rates are printed with what they were measured beside, in one run. The projection is one that does
nothing, where it says so; signing is done before, as whoever signs is another process. Run with
``make bench``; ``INTERLOCK_BENCH_RECORDS`` makes the large log smaller, ``INTERLOCK_BENCH_VERIFIED`` says how long the
log is that is verified.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fakes import Site
from large_log import SET_UP, grow, proposals
from log_samples import KEY, ORIGIN, record

from guardrails.decision_log import merkle
from guardrails.decision_log.scratch import ReplayTables, Scratch
from guardrails.decision_log.store import Entry, Log
from guardrails.decision_log.tables import Tables
from guardrails.decision_log.verify import verify_log
from guardrails.ledger import project

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
BATCH = 5_000
RECORDS = int(os.environ.get("INTERLOCK_BENCH_RECORDS", "1000000"))
VERIFIED = int(os.environ.get("INTERLOCK_BENCH_VERIFIED", "20000"))
SPAWN = multiprocessing.get_context("spawn")


def nothing(_tables: Tables, _entry: Entry) -> None:
    """A projection that costs nothing."""


def said(text: str) -> None:
    print(f"\n  {text}", end="", flush=True)


def test_cpu_of_one_append_over_a_bare_commit(tmp_path: Path):
    envelopes = [record() for _ in range(600)]
    bare = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, envelope BLOB)")
    log = Log.create(f"sqlite:///{tmp_path / 'log.db'}", ORIGIN, KEY, nothing)
    costs: dict[str, list[float]] = {"bare": [], "log": []}
    for number, envelope in enumerate(envelopes):  # in turns, so that what else the machine does meets both
        begun = time.process_time()
        bare.execute("BEGIN IMMEDIATE")
        bare.execute("INSERT INTO t VALUES (?, ?)", (number, envelope))
        bare.execute("COMMIT")
        between = time.process_time()
        with log.transaction() as transaction:
            transaction.append(envelope)
        costs["bare"].append(between - begun)
        costs["log"].append(time.process_time() - between)
    bare_ms, log_ms = (statistics.median(costs[name][100:]) * 1e3 for name in ("bare", "log"))
    said(f"CPU per append, median of 500: log {log_ms:.2f} ms, bare SQLite FULL commit {bare_ms:.2f} ms, "
         f"difference {log_ms - bare_ms:.2f} ms")  # fmt: skip


def test_batched_appends(tmp_path: Path):
    log = Log.create(f"sqlite:///{tmp_path / 'log.db'}", ORIGIN, KEY, nothing)
    batches = [[record() for _ in range(BATCH)] for _ in range(3)]
    rates = []
    for batch in batches:
        begun = time.perf_counter()
        with log.transaction() as transaction:
            transaction.append_all(batch)
        rates.append(BATCH / (time.perf_counter() - begun))
    said(
        f"batches of {BATCH} in one transaction each: {statistics.median(rates):,.0f} appends/s (projection: none)"
    )


def test_a_large_log_in_constant_memory_and_its_proofs(tmp_path: Path):
    log = Log.create(f"sqlite:///{tmp_path / 'log.db'}", ORIGIN, KEY, nothing)
    peaks = {}
    begun = time.perf_counter()
    for done in range(BATCH, RECORDS + 1, BATCH):
        with log.transaction() as transaction:
            transaction.append_all([record() for _ in range(BATCH)])
        if done in (RECORDS // 10 // BATCH * BATCH, RECORDS):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = time.perf_counter() - begun
    said(f"{RECORDS:,} records made, signed and appended in {spent:.0f} s; peak memory "
         + ", ".join(f"{peak:.0f} MiB after {done:,}" for done, peak in peaks.items()))  # fmt: skip
    log.close()
    times: dict[str, list[float]] = {"inclusion": [], "consistency": []}
    with Log.open(f"sqlite:///{tmp_path / 'log.db'}") as reader:
        for number in range(200):
            seq = number * 7919 * 31 % RECORDS
            begun = time.perf_counter()
            with reader.read() as snapshot:  # a fresh snapshot: nothing is kept from the one before
                path = snapshot.inclusion_proof(seq)
            times["inclusion"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            with reader.read() as snapshot:
                proof = snapshot.consistency_proof(seq + 1)
            times["consistency"].append(time.perf_counter() - begun)
            with reader.read() as snapshot:
                root, entry = bytes.fromhex(snapshot.root), snapshot.entry(seq)
                merkle.verify_inclusion(bytes.fromhex(entry.leaf), seq, RECORDS, path, root)
                old = merkle.root(snapshot.node, seq + 1)
                merkle.verify_consistency(seq + 1, RECORDS, old, root, proof)
    for name, found in times.items():
        ranked = sorted(found)
        said(f"{name} proof from {RECORDS:,} records: median {ranked[100] * 1e3:.2f} ms, "
             f"95th percentile {ranked[190] * 1e3:.2f} ms, worst {ranked[-1] * 1e3:.2f} ms")  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory):
    """A log that the real rules accept: see ``large_log``."""
    site = grow(tmp_path_factory.mktemp("grown") / "site", VERIFIED)
    yield site
    site.close()


def bare(count: int) -> float:
    """Seconds of CPU for so many verifications of one signature: what everything else is compared with."""
    key = Ed25519PrivateKey.generate()
    message, public = b"x" * 900, key.public_key()
    signature = key.sign(message)
    begun = time.process_time()
    for _ in range(count):
        public.verify(signature, message)
    return time.process_time() - begun


def test_full_verification_over_bare_signatures(grown: Site):
    rates, plain = [], []
    for _ in range(3):  # in turns
        plain.append(3000 / bare(3000))
        begun = time.process_time()
        with Log.open(grown.url) as log, log.read() as snapshot:
            found = verify_log(snapshot, project, compare_tables=False)
        rates.append(found.entries / (time.process_time() - begun))
        assert found.ok, found.reason
    rate, alone = statistics.median(rates), statistics.median(plain)
    begun = time.process_time()
    with Log.open(grown.url) as log, log.read() as snapshot:
        whole = verify_log(snapshot, project, artifacts=grown.store.verify)
    more = time.process_time() - begun - whole.entries / rate
    with Log.open(grown.url) as log, log.read() as snapshot:
        kinds = Counter(one.keyid[:7] for entry in snapshot.entries() for one in entry.signatures)
    people, services = kinds["SHA256:"], kinds["sha256:"]
    said(f"bare Ed25519 verifications: {alone:,.0f} per second and core; {whole.entries:,} records have {services:,} "
         f"signatures of services and {people:,} of people (SSHSIG), one each")  # fmt: skip
    said(f"full verification of {whole.entries:,} records (tree, signatures, references, rules): {rate:,.0f}/s, "
         f"{rate / alone:.2f} of that; tables and artifacts {more / whole.entries * 1e6:.0f} us a record more")  # fmt: skip


def test_what_a_proposal_costs_in_a_long_log(grown: Site):
    """Its rules ask what was barred and what a model wrote: among as many proposals as there are."""
    envelopes = proposals(grown, 4_000)
    costs: dict[str, list[float]] = {}
    for how in ("found by label", "looked for among all"):
        scratch = Scratch()
        tables = ReplayTables(scratch)
        if how == "looked for among all":
            tables.labelled = None  # type: ignore[method-assign, assignment]
        with Log.open(grown.url) as log, log.read() as snapshot:
            for entry in snapshot.entries(0, SET_UP + 1):
                project(tables, entry)
        count = 4_000 if how == "found by label" else 1_000
        spent = []
        for at in range(0, count, 500):
            entries = [
                Entry.parse(SET_UP + 1 + at + n, one) for n, one in enumerate(envelopes[at : at + 500])
            ]
            begun = time.process_time()
            for entry in entries:
                project(tables, entry)
            spent.append((time.process_time() - begun) / 500 * 1e6)
        costs[how] = spent
        scratch.close()
    for how, spent in costs.items():
        said(
            f"a proposal {how}: {spent[0]:.0f} us among the first 500, {spent[-1]:.0f} us after {len(spent) * 500 - 500:,}"
        )


def used(who: int) -> float:
    found = resource.getrusage(who)
    return found.ru_utime + found.ru_stime


def verified(url: str, jobs: int) -> tuple[float, float]:
    """The seconds of CPU that the dearest of so many processes used for a whole verification, and all of them."""
    before = used(resource.RUSAGE_SELF), used(resource.RUSAGE_CHILDREN)
    with Log.open(url) as log, log.read() as snapshot:
        assert verify_log(snapshot, project, compare_tables=False, jobs=jobs).ok
    own, others = used(resource.RUSAGE_SELF) - before[0], used(resource.RUSAGE_CHILDREN) - before[1]
    return max(own, others / max(1, jobs - 1)), own + others


def test_what_two_processes_gain(grown: Site):
    """By the clock, which says something on an idle machine only, and by the CPU time of the dearer process."""
    clock: dict[str, list[float]] = {"bare": [], "log": []}
    dearest, extra = [], []
    for _ in range(3):
        spent, cpu = {}, {}
        for jobs in (1, 2):
            with SPAWN.Pool(jobs) as pool:
                pool.map(bare, [10] * jobs)
                begun = time.perf_counter()
                pool.map(bare, [10_000] * jobs, chunksize=1)
                spent["bare", jobs] = (time.perf_counter() - begun) / jobs
            begun = time.perf_counter()
            cpu[jobs] = verified(grown.url, jobs)
            spent["log", jobs] = time.perf_counter() - begun
        for what, found in clock.items():
            found.append(spent[what, 1] / spent[what, 2])
        dearest.append(cpu[1][0] / cpu[2][0])
        extra.append(cpu[2][1] / cpu[1][1])
    for what, found in {
        **clock,
        "log, CPU of the dearer process": dearest,
        "log, CPU of both": extra,
    }.items():
        said(f"two processes over one, {what}: {statistics.median(found):.2f} (runs: "
             + ", ".join(f"{gain:.2f}" for gain in found) + ")")  # fmt: skip


def resident(url: str, told: Any) -> None:
    """In a process of its own: verify a log, and tell the resident memory in MiB at every tenth of it."""
    held: list[int] = []

    def watched(tables: Tables, entry: Entry) -> None:
        if entry.seq % max(1, size // 10) == 0:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            held.append(pages * resource.getpagesize() >> 20)
        project(tables, entry)

    with Log.open(url) as log, log.read() as snapshot:
        size = snapshot.size
        begun = time.process_time()
        found = verify_log(snapshot, watched, compare_tables=False)
        spent = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    told.put((found.ok, found.entries, held, peak, spent))


def test_verification_in_constant_memory(tmp_path: Path):
    """A log of records that the real rules accept, of which only the records are laid out, not the tables."""
    site = grow(tmp_path / "site", RECORDS, projected=False)
    told = SPAWN.Queue()
    process = SPAWN.Process(target=resident, args=(site.url, told))
    process.start()
    ok, entries, steps, peak, spent = told.get()
    process.join()
    assert ok
    said(f"{entries:,} records verified in {spent:,.0f} s of CPU ({entries / spent:,.0f}/s); resident at each tenth: "
         + ", ".join(f"{step}" for step in steps) + f" MiB, peak {peak} MiB")  # fmt: skip
    site.close()
    print()
