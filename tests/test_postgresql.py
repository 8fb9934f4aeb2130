"""The log on PostgreSQL: the whole suite of the store and of the gate again, and what only a server can do to it.

The tests themselves are those of ``test_store`` and ``test_gate``; here only the database is another one.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
import test_gate
import test_store
from fakes import Site, policy
from log_samples import KEY, ORIGIN, add, check, project, record
from log_writers import appended_at_once, drain, two_writers
from postgresql_server import PASSWORD, Server, start_server

from guardrails.decision_log import postgresql
from guardrails.decision_log.store import Log, Transaction
from guardrails.errors import InterlockError, StorageError

# Only a SQLite column holds values of another kind than its own.
_SQLITE_ONLY = ("test_values_of_the_wrong_kind_are_an_error_of_ours",)

for _module in (test_store, test_gate):
    for _name, _test in inspect.getmembers(_module, inspect.isfunction):
        if _name.startswith("test_") and _test.__module__ == _module.__name__ and _name not in _SQLITE_ONLY:
            assert _name not in globals(), f"{_name} stands in two suites"
            globals()[_name] = _test


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.fresh()


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    with Log.create(url, ORIGIN, KEY, project) as made:
        yield made


@pytest.fixture
def site(folder: Path, url: str) -> Iterator[Site]:
    made = Site(folder / "site", url=url)
    yield made
    made.close()


@pytest.fixture
def make(folder: Path, postgresql_server: Server):
    made: list[Site] = []

    def build(people=None, **changes: str) -> Site:
        fields = {"people": people} if people else {}
        where = postgresql_server.fresh()
        made.append(Site(folder / f"made-{len(made)}", source=policy(**changes), url=where, **fields))
        return made[-1]

    yield build
    for one in made:
        one.close()


# --- several processes ---------------------------------------------------------------------


def test_processes_append_at_once_without_gaps_or_losses(log: Log, url: str):
    appended_at_once(log, url)


def test_two_processes_cannot_both_make_the_log(url: str):
    results: list[str] = []

    def create() -> None:
        try:
            Log.create(url, ORIGIN, KEY, project).close()
        except InterlockError as error:
            results.append(error.message)
        else:
            results.append("made")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted("made" if text == "made" else text.split()[-3] for text in results) == ["decision"] * 3 + [
        "made"
    ]


def test_the_lock_does_not_wait_for_ever(log: Log, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgresql, "LOCK_TIMEOUT_S", 0.2)
    with Log.open(url, KEY, project) as other, log.transaction() as transaction:
        transaction.append(record())
        with pytest.raises(StorageError, match=r"locked .* nothing was written"):
            add(other)
        with other.read() as snapshot:  # reading waits for nobody
            assert snapshot.size == 0
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1


def test_a_commit_does_not_depend_on_the_servers_defaults(log: Log, url: str):
    """The server of these tests has other defaults, on purpose."""
    with log.transaction() as transaction:
        ask = transaction._connection.exec_driver_sql
        assert ask("SHOW synchronous_commit").scalar() == "on"
        assert ask("SHOW transaction_isolation").scalar() == "read committed"
    with log.read() as snapshot:
        ask = snapshot._connection.exec_driver_sql
        assert ask("SHOW transaction_isolation").scalar() == "repeatable read"
        assert ask("SHOW transaction_read_only").scalar() == "on"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:  # the control
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"


# --- a server that goes away ---------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that a test may stop and start."""
    made = start_server()
    yield made
    made.close()


def interrupted(transaction: Transaction, by: Callable[[], object]) -> None:
    transaction.append(record())
    by()
    transaction.append(record())


def test_a_server_that_dies_in_a_transaction_loses_nothing(own_server: Server):
    url = own_server.fresh(tcp=True)
    with Log.create(url, ORIGIN, KEY, project) as log:
        known = [add(log)[0] for _ in range(3)]
        with pytest.raises(StorageError, match="lost") as caught, log.transaction() as transaction:
            interrupted(transaction, own_server.stop)
        assert "look before you repeat it" in caught.value.hint
        with pytest.raises(StorageError, match="cannot be reached; nothing was written"):
            add(log)
        with pytest.raises(StorageError, match="cannot be reached"):
            Log.open(url)
        own_server.start()
        with log.read() as snapshot:
            assert check(snapshot) == known
        assert add(log)[0].seq == 3


def test_a_connection_that_is_cut_loses_nothing(postgresql_server: Server, log: Log, url: str):
    add(log)
    database = sa.make_url(url).database
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    with pytest.raises(StorageError, match="lost"), log.transaction() as transaction:
        interrupted(transaction, lambda: postgresql_server.ask("postgres", cut))
    # Between transactions a cut is not even noticed.
    assert add(log)[0].seq == 1
    postgresql_server.ask("postgres", cut)
    assert add(log)[0].seq == 2
    with log.read() as snapshot:
        assert len(check(snapshot)) == 3


def commands() -> dict[int, str]:
    """The command line of every process; that of one which nobody has buried yet is empty."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def test_the_server_of_tests_that_were_killed_ends_and_leaves_nothing(postgresql_server: Server):
    code = (
        "from postgresql_server import start_server; s = start_server(); print(s.folder, flush=True); input()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert killed.stdout is not None
    folder = Path(killed.stdout.readline().strip())
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    assert str(folder) in commands()[pid], "the control: it runs"
    killed.kill()
    killed.communicate()
    end = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < end, "the server is still there"
        time.sleep(0.05)
    assert str(folder) not in commands().get(pid, "")
    assert postgresql_server.ask("postgres", "SELECT 1"), "another one is spared"


def test_kills_of_server_and_writers_lose_nothing(own_server: Server):
    """Writers are killed, and the server itself crashes between and during their transactions."""
    url = own_server.fresh()
    chance, acknowledged = random.Random(11), []
    with Log.create(url, ORIGIN, KEY, project):
        pass
    for turn in range(8):
        writers = two_writers(url, turn)
        for _, ours in writers:
            acknowledged += ours.recv()
        time.sleep(chance.uniform(0, 0.05))
        if turn % 2:
            own_server.stop()  # the writers end with an error of ours
        else:
            for process, _ in writers:
                os.kill(process.pid or 0, signal.SIGKILL)
        for process, ours in writers:
            process.join(30)
            assert process.exitcode not in (0, None)
            acknowledged += drain(ours)
        if turn % 2:
            own_server.start()
        with Log.open(url) as log, log.read() as snapshot:
            found = check(snapshot)
        assert all(found[seq].leaf == leaf for seq, leaf in acknowledged)
    assert len(acknowledged) >= 16


# --- what is said --------------------------------------------------------------------------


def messages(url: str) -> str:
    with pytest.raises(InterlockError) as caught, Log.open(url, KEY, project) as log:
        add(log)
    chain, text = caught.value, f"{caught.value} {caught.value.hint}"
    assert chain.exit_status in (1, 2)
    return text


def test_no_message_holds_a_password(postgresql_server: Server, url: str):
    port, folder = postgresql_server.port, postgresql_server.folder
    secret = "s3cret-s3cret"
    cases = {
        f"postgresql+psycopg://interlock:{secret}@127.0.0.1:{port}/postgres": "refuse|cannot be reached",
        f"postgresql+psycopg://interlock:{secret}@127.0.0.1:1/postgres": "cannot be reached",
        f"postgresql+psycopg://interlock@127.0.0.1:1/postgres?password={secret}": "cannot be reached",
        f"postgresql+psycopg://interlock:{secret}@127.0.0.1:port/postgres": "cannot be read",
        f"postgresql+psycopg://nobody:{secret}@/none?host={folder}&port={port}": "refuse|cannot be reached",
        f"postgresql+psycopg2://interlock:{secret}@127.0.0.1/postgres": "not supported",
        f"mysql://interlock:{secret}@127.0.0.1/postgres": "not supported",
        postgresql_server.url("postgres"): "holds no decision log",
        postgresql_server.url("missing"): "missing",
    }
    for bad, expected in cases.items():
        said = messages(bad)
        assert re.search(expected, said), said
        assert secret not in said
        assert PASSWORD not in said


def test_a_replica_or_a_foreign_user_is_told_apart(postgresql_server: Server, log: Log, url: str):
    add(log)
    name = sa.make_url(url).database
    role = f"reader_{name}"
    postgresql_server.ask(
        name, f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    )  # fmt: skip
    theirs = sa.make_url(url).set(username=role, password="x").render_as_string(hide_password=False)
    with Log.open(theirs) as reader, reader.read() as snapshot:
        assert len(check(snapshot)) == 1
    with (
        Log.open(theirs, KEY, project) as writer,
        pytest.raises(StorageError, match=r"may not do that|permission"),
    ):
        add(writer)
    postgresql_server.ask("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    log.close()  # what follows is a new connection
    with pytest.raises(StorageError, match="read-only; nothing was written"):
        add(log)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1


def test_what_is_said_of_the_server(postgresql_server: Server, log: Log):
    told, worries = log.describe()
    assert re.match(r"PostgreSQL \d+.*, fsync on, full_page_writes on, \d+\.\d MiB", told)
    assert worries == []
    system = "ALTER SYSTEM SET full_page_writes = off"
    postgresql_server.ask("postgres", system, "SELECT pg_reload_conf()")
    try:
        end = time.monotonic() + 10
        while not log.describe()[1]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "full_page_writes is off" in log.describe()[1][0]
    finally:
        postgresql_server.ask("postgres", "ALTER SYSTEM RESET full_page_writes", "SELECT pg_reload_conf()")
