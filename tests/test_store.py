"""The log as its users meet it: several processes, crashes, refusals, damaged files, read-only copies."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from guardrails.canonical import digest
from guardrails.decision_log import checkpoint, database, merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.envelope import Reference, Statement, format_time, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.store import Entry, Log, Snapshot
from guardrails.decision_log.tables import MemoryTables, Tables
from guardrails.errors import (
    DeniedError,
    InterlockError,
    LogVerificationError,
    RecordError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from guardrails.records import Commitment, Opening, open_text

ORIGIN = "interlock/00000000-0000-4000-8000-000000000000"
KEY = ServiceKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
COUNTER = itertools.count()


def project(tables: Tables, entry: Entry) -> None:
    """A projection that touches two tables before it makes up its mind."""
    total = (tables.get("totals", "all") or {"count": 0})["count"]
    tables.put("totals", "all", {"count": total + 1})
    tables.put("rows", f"{entry.seq:08}", dict(entry.statement.body))
    if entry.statement.body.get("refuse"):
        raise DeniedError("the projection refuses this")


def record(body: dict[str, Any] | None = None, *references: Reference, log: str = ORIGIN) -> bytes:
    """A sealed record, different each time."""
    body = {"n": next(COUNTER), "pid": os.getpid()} | (body or {})
    moment = format_time(datetime.now(UTC))
    return seal(Statement("proposal", {"x": digest(b"x")}, body, log, moment, references).encode(), KEY)


def add(log: Log, *envelopes: bytes) -> list[Entry]:
    with log.transaction() as transaction:
        return [transaction.append(envelope) for envelope in envelopes or (record(),)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    with Log.create(url, ORIGIN, KEY, project) as made:
        yield made


def check(snapshot: Snapshot) -> list[Entry]:
    """Everything that must hold of any state of any log; returns its records."""
    found = list(snapshot.entries())
    assert [entry.seq for entry in found] == list(range(snapshot.size))
    tree, replayed = merkle.Tree(), MemoryTables()
    heads = {Checkpoint(ORIGIN, 0, tree.root().hex())}
    for entry in found:
        tree.append(merkle.leaf_hash(entry.envelope))
        heads.add(Checkpoint(ORIGIN, tree.size, tree.root().hex()))
        project(replayed, entry)
    assert snapshot.root == tree.root().hex()
    newest = checkpoint.verify(snapshot.checkpoint(), ORIGIN, KEY.public_base64)
    assert newest == Checkpoint(ORIGIN, snapshot.size, snapshot.root)
    noted = [checkpoint.verify(note, ORIGIN, KEY.public_base64) for note in snapshot.checkpoints()]
    assert set(noted) <= heads
    assert noted[0].size == 0
    assert noted[-1] == newest
    assert snapshot.tables.names() == replayed.names()
    for name in replayed.names():
        assert list(snapshot.tables.scan(name)) == list(replayed.scan(name))
    return found


# --- appending and reading -----------------------------------------------------------------


def test_a_new_log_is_empty_and_signed(log: Log, url: str):
    with log.read() as snapshot:
        assert check(snapshot) == []
        assert snapshot.root == merkle.EMPTY_ROOT.hex()
    with Log.open(url) as again, again.read() as snapshot:
        assert (again.origin, snapshot.size) == (ORIGIN, 0)


def test_records_come_back_as_they_went_in(log: Log):
    envelopes = [record() for _ in range(5)]
    with log.transaction() as transaction:
        for position, envelope in enumerate(envelopes):
            assert transaction.next_seq == position
            entry = transaction.append(envelope)
            assert (entry.seq, entry.envelope) == (position, envelope)
            assert entry.leaf == merkle.leaf_hash(envelope).hex()
            assert transaction.entry(position) == entry  # visible at once to the transaction itself
    with log.read() as snapshot:
        assert [entry.envelope for entry in check(snapshot)] == envelopes
        assert [entry.seq for entry in snapshot.entries(1, 3)] == [1, 2]
        assert [entry.seq for entry in snapshot.entries(3, 99)] == [3, 4]
        assert snapshot.entry(4).statement.body["n"] == snapshot.tables.get("rows", "00000004")["n"]
        for missing in (-1, 5):
            with pytest.raises(UnknownNameError, match="the log has 5"):
                snapshot.entry(missing)


def test_more_records_than_one_batch_holds(log: Log):
    add(log, *(record() for _ in range(1100)))
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1100


def test_each_commit_leaves_one_checkpoint_and_proofs_lead_to_it(log: Log):
    for count in (1, 3, 2, 7):
        add(log, *(record() for _ in range(count)))
    with log.read() as snapshot:
        check(snapshot)
        heads = [checkpoint.verify(note, ORIGIN, KEY.public_base64) for note in snapshot.checkpoints()]
        assert [head.size for head in heads] == [0, 1, 4, 6, 13]
        root = bytes.fromhex(snapshot.root)
        for head in heads:
            proof = snapshot.consistency_proof(head.size)
            merkle.verify_consistency(head.size, 13, bytes.fromhex(head.root), root, proof)
        for entry in snapshot.entries():
            path = snapshot.inclusion_proof(entry.seq)
            merkle.verify_inclusion(bytes.fromhex(entry.leaf), entry.seq, 13, path, root)


def test_a_transaction_that_appends_nothing_changes_nothing(log: Log):
    with log.transaction() as transaction:
        assert transaction.size == 0
    with log.read() as snapshot:
        assert len(list(snapshot.checkpoints())) == 1


def test_a_snapshot_does_not_move_and_does_not_block(log: Log):
    add(log)
    with log.read() as before:
        add(log)
        assert len(check(before)) == 1
        with log.read() as after:
            assert len(check(after)) == 2
        assert before.tables.get("totals", "all") == {"count": 1}


def test_appending_stays_cheap_as_the_log_grows(log: Log):
    statements: list[str] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def count(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    try:
        costs = []
        for size in (3, 1023):  # the worst positions: every peak stands, and the append completes them all
            with log.transaction() as transaction:
                while transaction.size < size:
                    transaction.append(record())
            statements.clear()
            add(log)
            costs.append(len(statements))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
    assert 0 < costs[1] - costs[0] <= 2 * 8, costs  # 8 more levels


# --- refusing ------------------------------------------------------------------------------


def test_an_exception_undoes_everything(log: Log):
    add(log)
    opening = open_text("Ada Lovelace")
    with log.read() as snapshot:
        before = (snapshot.size, snapshot.root, list(snapshot.checkpoints()))

    def interrupted(error: type[BaseException]) -> None:
        with log.transaction() as transaction:
            transaction.append(record(), [opening])
            transaction.append(record())
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(error)
    with log.read() as snapshot:
        check(snapshot)
        assert (snapshot.size, snapshot.root, list(snapshot.checkpoints())) == before
        assert snapshot.opening(opening.commitment()) is None
    assert [entry.seq for entry in add(log)] == [1]  # no gap


def test_a_refused_record_leaves_no_trace_and_the_transaction_goes_on(log: Log):
    opening = open_text("reason")
    with log.transaction() as transaction:
        first = transaction.append(record())
        with pytest.raises(DeniedError, match="the projection refuses this"):
            transaction.append(record({"refuse": True}), [opening])
        assert (transaction.size, transaction.opening(opening.commitment())) == (1, None)
        second = transaction.append(record())
    assert (first.seq, second.seq) == (0, 1)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 2


def test_records_that_do_not_belong(log: Log):
    [first] = add(log)
    refused: list[tuple[bytes, str]] = [
        (record(log="interlock/other"), "of log 'interlock/other' cannot enter"),
        (first.envelope, "already in the log, as record 0"),
        (record(None, Reference(1, first.leaf)), "record 1 that this log does not have"),
        (record(None, Reference(0, "ab" * 32)), "record 0 that this log does not have"),
        (record(None, first.reference, Reference(7, "ab" * 32)), "record 7 that this log does not have"),
        (b"", "not JSON"),
        (b"{}", "not an object with exactly"),
        (first.envelope + b"\n", "not canonical JSON"),
    ]
    for envelope, reason in refused:
        with pytest.raises(RecordError, match=reason), log.transaction() as transaction:
            transaction.append(envelope)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1
    add(log, record(None, first.reference))  # the control: a true reference is fine


def test_one_record_may_refer_to_another_of_the_same_transaction(log: Log):
    with log.transaction() as transaction:
        first = transaction.append(record())
        transaction.append(record(None, first.reference))
    with log.read() as snapshot:
        assert check(snapshot)[1].statement.references == (first.reference,)


def test_the_same_record_twice_in_one_transaction(log: Log):
    envelope = record()
    with pytest.raises(RecordError, match="already in the log"):
        add(log, envelope, envelope)
    with log.read() as snapshot:
        assert snapshot.size == 0


# --- openings ------------------------------------------------------------------------------


def test_openings_lie_beside_the_log_and_can_be_erased(log: Log, tmp_path: Path):
    opening = open_text("Ada Lovelace, née Byron")
    with log.transaction() as transaction:
        transaction.append(record(), [opening, opening])
        assert transaction.opening(opening.commitment()) == opening
    with log.transaction() as transaction:
        transaction.append(record(), [opening])  # said again: kept once
    with log.read() as snapshot:
        assert snapshot.opening(opening.commitment()) == opening
        assert snapshot.opening(Commitment("00" * 32)) is None
    tamper(tmp_path, "DELETE FROM openings")
    with log.read() as snapshot:
        assert snapshot.opening(opening.commitment()) is None
        check(snapshot)  # the tree never held it


def test_an_altered_opening_is_noticed(log: Log, tmp_path: Path):
    opening = open_text("approved because the tests pass")
    with log.transaction() as transaction:
        transaction.append(record(), [opening])
    tamper(tmp_path, "UPDATE openings SET text = 'approved because I was told to'")
    with log.read() as snapshot, pytest.raises(LogVerificationError, match="not what that binds"):
        snapshot.opening(opening.commitment())


def test_a_malformed_opening_is_refused(log: Log):
    with pytest.raises(RecordError, match="salt"), log.transaction() as transaction:
        transaction.append(record(), [Opening("not hexadecimal", "x")])
    with log.read() as snapshot:
        assert snapshot.size == 0


# --- projections ---------------------------------------------------------------------------


def test_rebuilding_undoes_whatever_was_done_to_the_projection(log: Log, tmp_path: Path):
    add(log, *(record() for _ in range(4)))
    tamper(tmp_path, "UPDATE projection SET body = x'7b7d' WHERE key = '00000001'")
    tamper(tmp_path, "INSERT INTO projection VALUES ('champions', 'navigator', x'7b7d')")
    tamper(tmp_path, "DELETE FROM projection WHERE key = 'all'")
    with log.read() as snapshot, pytest.raises(AssertionError):
        check(snapshot)
    assert log.rebuild() == 4
    with log.read() as snapshot:
        assert len(check(snapshot)) == 4
        assert len(list(snapshot.checkpoints())) == 2  # nothing was appended, so nothing was signed


def test_a_record_that_cannot_be_replayed_is_named_and_nothing_is_lost(log: Log, url: str):
    add(log, record(), record(), record())

    def choosy(tables: Tables, entry: Entry) -> None:
        if entry.seq == 1:
            raise DeniedError("no longer allowed")
        project(tables, entry)

    reason = "record 1: it cannot be replayed: no longer allowed"
    with Log.open(url, KEY, choosy) as other, pytest.raises(LogVerificationError, match=reason):
        other.rebuild()
    with log.read() as snapshot:
        check(snapshot)


# --- several processes ---------------------------------------------------------------------

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["guardrails.decision_log.store"])


def append_many(url: str, count: int) -> None:
    with Log.open(url, KEY, project) as log:
        for _ in range(count):
            add(log)


def test_processes_append_at_once_without_gaps_or_losses(log: Log, url: str):
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
    per_process: dict[int, list[int]] = {}
    for entry in found:
        per_process.setdefault(entry.statement.body["pid"], []).append(entry.statement.body["n"])
    assert sorted(len(numbers) for numbers in per_process.values()) == [25] * 5
    assert all(numbers == sorted(numbers) for numbers in per_process.values())


def test_another_process_sees_a_record_as_soon_as_it_is_acknowledged(log: Log, url: str):
    def wrong(_tables: Tables, _entry: Entry) -> None:
        pytest.fail("a reader projects nothing")

    with Log.open(url, None, wrong) as reader:
        for size in range(1, 6):
            add(log)
            with reader.read() as snapshot:
                assert len(check(snapshot)) == size
    append = PROCESSES.Process(target=append_many, args=(url, 1))
    append.start()
    append.join(60)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 6


def append_until_killed(url: str, acknowledge: Connection, seed: int) -> None:
    """Append batches for ever; say which records are committed only after the commit."""
    chance = random.Random(seed)
    with Log.open(url, KEY, project) as log:
        for batch in itertools.count():
            size = chance.choice([1, 1, 2, 5])
            bodies = [{"batch": f"{seed}/{batch}", "of": size} for _ in range(size)]
            entries = add(log, *(record(body) for body in bodies))
            acknowledge.send([(entry.seq, entry.leaf) for entry in entries])


def drain(source: Connection) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    try:
        while True:
            found += source.recv()
    except (EOFError, OSError):
        return found


def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(log: Log, url: str):
    chance = random.Random(20260131)
    acknowledged: list[tuple[int, str]] = []
    kills = unacknowledged = 0
    for turn in range(12):
        writers = []
        for which in range(2):  # two at once, so that one is also killed while the other waits for its lock
            ours, theirs = PROCESSES.Pipe(duplex=False)
            seed = turn * 2 + which
            process = PROCESSES.Process(target=append_until_killed, args=(url, theirs, seed))
            process.start()
            theirs.close()
            writers.append((process, ours))
        for process, ours in writers:
            for _ in range(chance.randrange(1, 5)):
                acknowledged += ours.recv()
            time.sleep(chance.uniform(0, 0.012))
            os.kill(process.pid or 0, signal.SIGKILL)
        for process, ours in writers:
            process.join(30)
            assert process.exitcode == -signal.SIGKILL
            acknowledged += drain(ours)
            kills += 1
        with log.read() as snapshot:
            found = check(snapshot)
        for seq, leaf in acknowledged:
            assert found[seq].leaf == leaf
        unacknowledged = len(found) - len(acknowledged)
        batches: dict[str, list[int]] = {}
        for entry in found:
            batches.setdefault(entry.statement.body["batch"], []).append(entry.statement.body["of"])
        assert all(sizes == [sizes[0]] * sizes[0] for sizes in batches.values())  # no half transaction
    assert kills >= 20
    assert unacknowledged <= 5 * kills  # committed, and killed before they could say so
    with Log.open(url, KEY, project) as again:
        [entry] = add(again, record({"batch": "after", "of": 1}))
        assert entry.seq == len(found)


def test_commits_wait_for_the_disk(log: Log):
    settings: set[tuple[str, int]] = set()

    def look(connection: Any, *_rest: Any) -> None:
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
        settings.add((journal, connection.execute("PRAGMA synchronous").fetchone()[0]))

    sa.event.listen(sa.Pool, "checkout", look)
    try:
        add(log)
    finally:
        sa.event.remove(sa.Pool, "checkout", look)
    assert settings == {("wal", 2)}  # 2 is FULL


# --- tampering -----------------------------------------------------------------------------


def tamper(folder: Path, *statements: str) -> None:
    """What somebody can do who can write the file: the triggers do not stop them."""
    connection = sqlite3.connect(folder / "log.db")
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("table", ["entries", "nodes", "checkpoints"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "UPDATE {} SET rowid = rowid"])
def test_accidents_are_stopped_by_the_database(log: Log, tmp_path: Path, table: str, verb: str):
    add(log)
    connection = sqlite3.connect(tmp_path / "log.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(verb.format(table))
    connection.close()
    tamper(tmp_path)
    with log.read() as snapshot:
        check(snapshot)


def forged() -> str:
    return record({"forged": True}).hex()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM entries WHERE seq = 6", "covers 7 records"),
        ("DELETE FROM checkpoints WHERE size = 7", "covers 6 records"),
        ("DELETE FROM entries WHERE seq = 6; DELETE FROM nodes WHERE level = 0 AND position = 6", "covers 7"),
        ("DELETE FROM checkpoints", "no checkpoint"),
        ("DELETE FROM nodes WHERE level = 2", "tree node 2/0 is missing"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2", "checkpoint has root"),
        ("UPDATE checkpoints SET note = replace(note, '7', '8') WHERE size = 7", "checkpoint"),
        (
            "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 6)",
            "covers 6",
        ),
        ("INSERT INTO entries VALUES (7, 'ff', x'00', '')", "covers 7 records, the log has 8"),
    ],
)
def test_a_log_that_was_altered_at_its_end_is_not_extended(
    log: Log, tmp_path: Path, statement: str, reason: str
):
    for _ in range(7):
        add(log)
    tamper(tmp_path, *statement.split("; "))
    with pytest.raises(LogVerificationError, match=reason):
        add(log)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE entries SET envelope = x'{forged}' WHERE seq = 2", "record 2: its bytes are not those"),
        ("UPDATE entries SET envelope = x'7b7d' WHERE seq = 2", "record 2: .* not an object"),
        ("DELETE FROM entries WHERE seq = 2", "record 2: it is missing"),
        ("UPDATE entries SET leaf = 'ff' WHERE seq = 2", "record 2: its bytes are not those"),
    ],
)
def test_an_altered_record_is_named_when_it_is_read(log: Log, tmp_path: Path, statement: str, reason: str):
    add(log, *(record() for _ in range(5)))
    tamper(tmp_path, statement.format(forged=forged()))
    with log.read() as snapshot:
        assert [entry.seq for entry in snapshot.entries(0, 2)] == [0, 1]
        with pytest.raises(LogVerificationError, match=reason) as caught:
            list(snapshot.entries())
        assert caught.value.index == 2


def use_everything(url: str) -> None:
    with Log.open(url, KEY, project) as log:
        with log.read() as snapshot:
            list(snapshot.entries())
            list(snapshot.tables.scan("rows"))
        add(log)
        log.rebuild()


def test_the_control_of_what_follows(log: Log, url: str):
    add(log, record(), record())
    use_everything(url)


@pytest.mark.parametrize("value", ["1000000000000", "'text'", "1.5", "x'ff'", "x'" + "00" * 32 + "'"])
@pytest.mark.parametrize(
    "column",
    ["entries.leaf", "entries.envelope", "nodes.hash", "checkpoints.note", "projection.body", "meta.value"],
)
def test_values_of_the_wrong_kind_are_an_error_of_ours(
    log: Log, url: str, tmp_path: Path, column: str, value: str
):
    """SQLite stores anything in any column; no such value may crash whoever reads it."""
    add(log, record(), record())
    table, name = column.split(".")
    tamper(tmp_path, f"UPDATE OR IGNORE {table} SET {name} = {value}")
    with pytest.raises(InterlockError):
        use_everything(url)


def test_a_consistent_forgery_is_caught_by_the_signed_checkpoint(log: Log, tmp_path: Path):
    """Bytes, leaf and tree nodes all rewritten; only the checkpoint cannot be, without the key."""
    add(log)
    envelope = record({"forged": True})
    leaf = merkle.leaf_hash(envelope).hex()
    tamper(
        tmp_path,
        f"UPDATE entries SET envelope = x'{envelope.hex()}', leaf = '{leaf}'",
        f"UPDATE nodes SET hash = x'{leaf}'",
    )
    with log.read() as snapshot, pytest.raises(AssertionError):
        check(snapshot)
    with pytest.raises(LogVerificationError, match="the newest checkpoint has root"):
        add(log)


def test_another_services_key_cannot_extend_the_log(log: Log, url: str):
    add(log)
    reason = "not signed by this log's key"
    with (
        Log.open(url, ServiceKey.generate(), project) as other,
        pytest.raises(LogVerificationError, match=reason),
    ):
        add(other)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1


# --- databases that cannot be used ---------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////x.db?mode=ro",
        "mysql://h/d",
        "sqlite://h/x",
    ],
)
def test_urls_that_are_none(bad: str):
    with pytest.raises(UsageError):
        Log.create(bad, ORIGIN, KEY, project)
    with pytest.raises(UsageError):
        Log.open(bad, KEY, project)


def test_a_log_is_made_once(log: Log, url: str):
    add(log)
    with pytest.raises(UsageError, match="holds a decision log already"):
        Log.create(url, "interlock/second", KEY, project)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1


def test_an_origin_that_no_checkpoint_can_carry_makes_no_file(url: str, tmp_path: Path):
    with pytest.raises(UsageError, match="origin"):
        Log.create(url, "with space", KEY, project)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_log(tmp_path: Path):
    with pytest.raises(StorageError, match="there is no decision log here"):
        Log.open(f"sqlite:///{tmp_path / 'missing.db'}", KEY, project)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(StorageError, match="there is no decision log here"):
        Log.open(f"sqlite:///{tmp_path}", KEY, project)
    with pytest.raises(StorageError, match="cannot make the decision log"):
        Log.create(f"sqlite:///{tmp_path / 'no' / 'log.db'}", ORIGIN, KEY, project)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageError, match="holds no decision log"):
        Log.open(f"sqlite:///{tmp_path / 'empty.db'}", KEY, project)
    (tmp_path / "text.db").write_text("not a database\n" * 100)
    for signer in (KEY, None):
        with pytest.raises(LogVerificationError, match=r"text.db is damaged: file is not a database"):
            Log.open(f"sqlite:///{tmp_path / 'text.db'}", signer, project)


def test_a_log_of_another_version_is_not_touched(log: Log, url: str, tmp_path: Path):
    tamper(tmp_path, "UPDATE meta SET value = '2' WHERE key = 'schema'")
    with pytest.raises(StorageError, match="its format is '2', this version reads 1"):
        Log.open(url, KEY, project)


def test_a_log_that_stays_locked(log: Log, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add(log)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    hog = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    with Log.open(url, KEY, project) as other:
        with pytest.raises(StorageError, match=r"locked .* nothing was written"):
            add(other)
        with other.read() as snapshot:  # reading needs no lock
            assert len(check(snapshot)) == 1
        hog.execute("ROLLBACK")
        hog.close()
        add(other)


def append_endlessly(log: Log) -> None:
    while True:
        add(log, record({"text": "x" * 20_000}))


def go_on_regardless(log: Log) -> None:
    """Swallow the error and append on: not even so is half of a transaction committed."""
    with log.transaction() as transaction:
        with contextlib.suppress(StorageError):
            for _ in range(20):
                transaction.append(record({"text": "x" * 20_000}))
        with pytest.raises(StorageError, match="failed within this transaction"):
            transaction.append(record())


def test_a_full_disk_loses_nothing_and_the_log_goes_on(url: str, tmp_path: Path):
    limit = [0]

    def fill(connection: Any, *_rest: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit[0] or 1 << 30}")

    sa.event.listen(sa.Pool, "checkout", fill)
    try:
        with Log.create(url, ORIGIN, KEY, project) as log:
            add(log)
            limit[0] = 40
            with pytest.raises(StorageError, match="the disk is full; nothing was written"):
                append_endlessly(log)
            with pytest.raises(StorageError, match="failed within this transaction"):
                go_on_regardless(log)
            with log.read() as snapshot:
                before = len(check(snapshot))
            limit[0] = 0
            [entry] = add(log)
            assert entry.seq == before
            with log.read() as snapshot:
                check(snapshot)
    finally:
        sa.event.remove(sa.Pool, "checkout", fill)


FAILING_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import test_store as t
log = t.Log.open(sys.argv[1], t.KEY, t.project)
t.add(log)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for count in range(100):
        t.add(log, t.record({"text": "x" * 20_000}))
        print("acknowledged", flush=True)
except t.StorageError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses(log: Log, url: str, tmp_path: Path):
    """A limit on the size of files stands for a disk that fails: write(2) itself returns an error."""
    command = [sys.executable, "-c", FAILING_DISK, url, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    *acknowledged, last = done.stdout.splitlines()
    assert 0 < len(acknowledged) < 100
    assert "nothing was" in last
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1 + len(acknowledged)
    add(log)


def test_random_damage_never_shows_as_anything_but_our_errors(url: str, tmp_path: Path):
    with Log.create(url, ORIGIN, KEY, project) as log:
        add(log, *(record() for _ in range(40)))
        with log.read() as snapshot:
            true = [entry.envelope for entry in check(snapshot)]
    whole = (tmp_path / "log.db").read_bytes()
    chance, noticed = random.Random(7), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 50])):
            at = chance.randrange(len(damaged))
            damaged[at : at + 8] = chance.randbytes(len(damaged[at : at + 8]))
        for stale in tmp_path.glob("log.db*"):
            stale.unlink()
        (tmp_path / "log.db").write_bytes(damaged)
        try:
            with Log.open(url, KEY, project) as broken:
                with broken.read() as snapshot:
                    assert [entry.envelope for entry in snapshot.entries()] == true[: snapshot.size]
                    snapshot.checkpoint()
                add(broken)
                broken.rebuild()
        except InterlockError:
            noticed += 1
    assert noticed > 20


# --- reading without writing ---------------------------------------------------------------


def test_a_log_opened_for_reading_refuses_to_write(log: Log, url: str, tmp_path: Path):
    add(log)
    before = (tmp_path / "log.db").read_bytes()
    with Log.open(url) as reader:
        with pytest.raises(UsageError, match="for reading only"), reader.transaction():
            pytest.fail("never reached")
        with pytest.raises(UsageError, match="for reading only"):
            reader.rebuild()
        with reader.read() as snapshot:
            assert len(check(snapshot)) == 1
            assert not hasattr(snapshot.tables, "put")
    assert (tmp_path / "log.db").read_bytes() == before


def test_the_file_is_private(log: Log, tmp_path: Path):
    add(log)
    for path in tmp_path.glob("log.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


AUDITOR = """
import os, sys
sys.path.insert(0, sys.argv[2])
import test_store as t
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
path = sys.argv[1]
assert not os.access(path, os.W_OK) and not os.access(os.path.dirname(path), os.W_OK)
try:
    with t.Log.open("sqlite:///" + path) as log, log.read() as snapshot:
        print(len(t.check(snapshot)))
except t.StorageError as error:
    print(error)
"""


def audit(copy: Path) -> str:
    """Read a copy in a folder that may not be written, as a user who is not root."""
    for path in copy.iterdir():
        path.chmod(0o444)
    copy.chmod(0o555)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    command = [sys.executable, "-c", AUDITOR, str(copy / "log.db"), str(Path(__file__).parent)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    finally:
        copy.chmod(0o755)
    return done.stdout.strip()


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Folders that any user may enter; pytest's own are private."""
    made: list[Path] = []

    def copy(*suffixes: str) -> Path:
        base = Path("/tmp") / f"interlock-test-{os.getpid()}-{next(COUNTER)}"
        base.mkdir(mode=0o755)
        made.append(base)
        for suffix in suffixes:
            shutil.copy(tmp_path / f"log.db{suffix}", base / f"log.db{suffix}")
        return base

    yield copy
    for base in made:
        shutil.rmtree(base)


def test_an_auditor_reads_a_copy_on_read_only_media(log: Log, copies: Callable[..., Path]):
    for _ in range(3):
        add(log)
    live = copies("", "-wal", "-shm")
    without = copies("", "-wal")
    log.close()  # folds the write-ahead log into the file
    assert audit(copies("")) == "3"
    assert audit(live) == "3"
    assert "copy the files into a folder that you may write" in audit(without)
    without.chmod(0o755)
    with Log.open(f"sqlite:///{without / 'log.db'}") as moved, moved.read() as snapshot:
        assert len(check(snapshot)) == 3


# --- PostgreSQL ----------------------------------------------------------------------------


def test_the_schema_needs_no_rewrite_for_postgresql():
    dialect = postgresql.dialect()
    for table in database.metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert "SERIAL" not in text  # positions are given under the lock, never by a sequence
        assert ("VARCHAR" in text) == ('COLLATE "C"' in text)
    select = sa.select(database.meta.c.value).with_for_update()
    assert str(select.compile(dialect=dialect)).endswith("FOR UPDATE")


@pytest.mark.skipif("INTERLOCK_TEST_POSTGRESQL" not in os.environ, reason="no PostgreSQL to test with")
def test_the_same_log_on_postgresql():
    url = os.environ["INTERLOCK_TEST_POSTGRESQL"]
    database.metadata.drop_all(sa.create_engine(url))
    opening = open_text("Ada")
    with Log.create(url, ORIGIN, KEY, project) as log:
        with pytest.raises(UsageError, match="already"):
            Log.create(url, ORIGIN, KEY, project)
        workers = [PROCESSES.Process(target=append_many, args=(url, 25)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        with log.read() as before:
            with log.transaction() as transaction:
                with pytest.raises(DeniedError):
                    transaction.append(record({"refuse": True}))
                transaction.append(record(), [opening])
            assert len(check(before)) == 100
        with log.read() as snapshot:
            assert len(check(snapshot)) == 101
            assert snapshot.opening(opening.commitment()) == opening
        assert log.rebuild() == 101
