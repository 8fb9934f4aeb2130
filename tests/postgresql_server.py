"""A PostgreSQL server of the tests' own, started from its binaries; skipped, with the reason, where there are none.

It listens on a socket in a private folder and, for tests of lost connections, on the loopback interface; it runs as
an unprivileged user when the tests run as root, and is gone afterwards, also when the tests were killed.
``INTERLOCK_REQUIRE_POSTGRESQL=1`` turns a skip into a failure.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

REQUIRED = "INTERLOCK_REQUIRE_POSTGRESQL"
USER, PASSWORD = "interlock", "not-to-be-printed"
# Waits for the end of the process that holds the other end of its input, and clears up after it.
WATCH = """
cat > /dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null)
is_ours() { [ -n "$pid" ] && tr '\\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -qF "$1"; }
is_ours "$1" && kill -QUIT "$pid"
while is_ours "$1"; do sleep 0.1; done
rm -rf "$1"
"""


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``: of the newest version that Debian keeps, or of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    candidates = [*([Path(on_path).resolve().parent] if on_path else []), *versions[::-1]]
    return next(
        (path for path in candidates if (path / "initdb").is_file() and (path / "postgres").is_file()), None
    )


class Server:
    """One server. ``stop`` and ``start`` may be called again and again; the data stays."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="interlock-pg-", dir=memory if memory.is_dir() else None))
        self.identity: dict[str, Any] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        # In a session of its own, so that what ends all of the tests' processes at once spares it.
        self._watcher = subprocess.Popen(
            ["sh", "-c", WATCH, "sh", str(self.folder)], stdin=subprocess.PIPE, start_new_session=True,
            **self.identity,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}",
            "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.start()

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *words], cwd=self.folder, capture_output=True, text=True, check=False,
            **self.identity,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        words = [
            str(self.binaries / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder),
            "-h", "127.0.0.1", "-p", str(self.port), "-c", "max_connections=60", "-c", "shared_buffers=16MB",
            "-c", "default_transaction_isolation=serializable", "-c", "synchronous_commit=off",
            "-c", "max_prepared_transactions=2",
        ]  # fmt: skip  # defaults that would be wrong for the log: it must not depend on them
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                words,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                **self.identity,
            )
        engine = sa.create_engine(self.url("postgres"), poolclass=sa.NullPool)
        end = time.monotonic() + 60
        while True:
            try:
                engine.connect().close()
            except sa.exc.OperationalError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < end, "the server does not answer"
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: SIGQUIT as a crash would (no shutdown checkpoint), SIGINT in order."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def url(self, database: str, *, tcp: bool = False) -> str:
        """The URL of a database on this server."""
        if tcp:
            return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"
        return f"postgresql+psycopg://{USER}:{PASSWORD}@/{database}?host={self.folder}&port={self.port}"

    def fresh(self, *, tcp: bool = False) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return self.url(name, tcp=tcp)

    def ask(self, database: str, *statements: str) -> list[Any]:
        """Run statements, each by itself, as the superuser; the rows of the last."""
        engine = sa.create_engine(self.url(database), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            results = [connection.exec_driver_sql(statement) for statement in statements]
            return list(results[-1]) if results and results[-1].returns_rows else []

    def close(self) -> None:
        """Stop and delete everything."""
        self.stop(signal.SIGINT)
        self._watcher.communicate(timeout=60)
        assert not self.folder.exists()


def start_server() -> Server:
    """A running server, or a skipped test (a failed one where PostgreSQL is required)."""
    binaries = find_binaries()
    try:
        import psycopg  # noqa: F401 - is it there?
    except ImportError:
        reason = "psycopg is not installed"
    else:
        if binaries is not None:
            return Server(binaries)
        reason = "no PostgreSQL binaries on PATH or below /usr/lib/postgresql"
    if os.environ.get(REQUIRED, "") not in ("", "0"):
        pytest.fail(f"{REQUIRED} is set, but {reason}")
    pytest.skip(reason)
