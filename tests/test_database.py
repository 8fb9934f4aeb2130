"""The database under the log: several processes, SIGKILL, full and failing disks, damage, read-only copies."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from log_samples import KEY, ORIGIN, add, check, project, record, tamper
from log_writers import PROCESSES, append_many, appended_at_once, drain, two_writers
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from guardrails.decision_log import database, sqlite
from guardrails.decision_log.store import Entry, Log
from guardrails.decision_log.tables import Tables
from guardrails.errors import InterlockError, LogVerificationError, StorageError, UsageError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    with Log.create(url, ORIGIN, KEY, project) as made:
        yield made


# --- several processes ---------------------------------------------------------------------


def test_processes_append_at_once_without_gaps_or_losses(log: Log, url: str):
    found = appended_at_once(log, url)
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


def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(log: Log, url: str):
    chance = random.Random(20260131)
    acknowledged: list[tuple[int, str]] = []
    kills = unacknowledged = 0
    for turn in range(12):
        # Two at once, so that one is also killed while the other waits for its lock.
        writers = two_writers(url, turn)
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


def test_a_log_of_another_version_is_not_touched(log: Log, url: str):
    tamper(url, "UPDATE meta SET value = '2' WHERE key = 'schema'")
    with pytest.raises(StorageError, match="its format is '2', this version reads 1"):
        Log.open(url, KEY, project)


def test_a_log_that_stays_locked(log: Log, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add(log)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)
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
import log_samples as t
from guardrails.errors import StorageError
log = t.Log.open(sys.argv[1], t.KEY, t.project)
t.add(log)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for count in range(100):
        t.add(log, t.record({"text": "x" * 20_000}))
        print("acknowledged", flush=True)
except StorageError as error:
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
import log_samples as t
import sqlalchemy as sa
from guardrails.errors import StorageError
sa.inspect(sa.create_engine("sqlite://").connect()).has_table("x")  # imports, while we still may read them
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
path = sys.argv[1]
assert not os.access(path, os.W_OK) and not os.access(os.path.dirname(path), os.W_OK)
try:
    with t.Log.open("sqlite:///" + path) as log, log.read() as snapshot:
        print(len(t.check(snapshot)))
except StorageError as error:
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
        base = Path(tempfile.mkdtemp())
        base.chmod(0o755)
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


def test_what_is_said_of_the_database(log: Log):
    told, worries = log.describe()
    assert told.startswith(f"SQLite {sqlite3.sqlite_version}, journal wal, ")
    assert "MiB free" in told
    assert bool(worries) is not sqlite.has_wal_reset_fix(sqlite3.sqlite_version_info)


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
    ],
)
def test_which_versions_are_warned_of(version: tuple[int, ...], fixed: bool):
    assert sqlite.has_wal_reset_fix(version) is fixed
