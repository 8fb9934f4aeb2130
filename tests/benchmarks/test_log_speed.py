"""What the log costs: an append beside a bare SQLite commit, a batch, a million records, a proof from among them.

Ratios and rates are printed with what they were measured beside, in one run. The projection is one that does
nothing, where it says so; signing is done before, as whoever signs is another process. Run with
``make bench``; ``INTERLOCK_BENCH_RECORDS`` makes the large log smaller.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import statistics
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_samples import KEY, ORIGIN, record

from guardrails.decision_log import merkle
from guardrails.decision_log.store import Entry, Log
from guardrails.decision_log.tables import Tables

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
BATCH = 5_000
RECORDS = int(os.environ.get("INTERLOCK_BENCH_RECORDS", "1000000"))


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


def test_the_bare_rate_of_signatures():
    """What the figures above may be compared with."""
    key = Ed25519PrivateKey.generate()
    message, public = b"x" * 600, key.public_key()
    signature = key.sign(message)
    begun = time.process_time()
    for _ in range(5000):
        public.verify(signature, message)
    said(f"bare Ed25519 verifications: {5000 / (time.process_time() - begun):,.0f} per second and core")
    print()
