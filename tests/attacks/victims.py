"""Runs every attack at one level, with things planted outside that it must not reach, and prints the outcome.

Run as a program: ``python victims.py LEVEL``, by whichever user is to be tried. An attack counts as stopped
only if it says so itself and nothing outside was touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.isolation import levels
from sandbox.isolation.spec import MIB, JobSpec, Limits, Mount

PROGRAMS = Path(__file__).with_name("hostile")
_FILES = ("key", "registry", "log", "mode", "times", "base", "exchange", "movable")
_PROCESSES = ("victim", "kill_me", "kill_by_owner", "stop_me")
_DISKS = ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0")


@dataclass
class Victims:
    """Things outside the job, open to everybody, so that only the isolation stands in the way."""

    folder: Path
    sockets: dict[str, socket.socket]
    processes: dict[str, subprocess.Popen[bytes]]
    shared_memory: Path

    def request(self) -> dict[str, object]:
        """Everything that an insider could know."""
        disks = [path for path in _DISKS if Path(path).exists()]
        return {
            "home": str(self.folder / "home"),
            "input": "/in/input.txt",
            "out": "/out",
            "report": "/out/report.json",
            "temporary": str(self.folder / "temporary"),
            "shared_memory": str(self.shared_memory),
            "disk": (disks or ["/dev/no-disk"])[0],
            "tcp": self.sockets["tcp"].getsockname()[1],
            "udp": self.sockets["udp"].getsockname()[1],
            "unix": self.sockets["stream"].getsockname(),
            "abstract": self.sockets["abstract"].getsockname()[1:].decode(),
            "datagram": self.sockets["datagram"].getsockname(),
            "supervisor": os.getpid(),
            **{name: process.pid for name, process in self.processes.items()},
        }

    def touched(self) -> set[str]:
        """The attacks whose effect is seen here, whatever the attack itself says."""
        home = self.folder / "home"
        effects = {
            "append_to_log": "forged" in (home / "log").read_text(),
            "replace_policy": (home / "policy").read_text() != "policy",
            "exchange_with_outside": "forged" in (home / "exchange").read_text(),
            "move_into_output": not (home / "movable").exists(),
            "chmod_outside": (home / "mode").stat().st_mode & 0o777 != 0o666,
            "times_outside": (home / "times").stat().st_mtime == 1,
            "truncate_outside": (home / "base").stat().st_size == 0,
            "hard_link_into_output": (home / "base").stat().st_nlink > 1,
            "write_through_link": (home / "through-link").exists(),
            "write_next_to_output": (self.folder / "beside-output").exists(),
            "change_input": (self.folder / "input.txt").read_text() != "input",
            "hard_link_of_input": (self.folder / "input.txt").stat().st_nlink > 1,
            "tcp_connect": _pending(self.sockets["tcp"]),
            "udp_send": _pending(self.sockets["udp"]),
            "unix_connect": _pending(self.sockets["stream"]),
            "unix_connect_abstract": _pending(self.sockets["abstract"]),
            "datagram_from_socketpair": _pending(self.sockets["datagram"]),
            "signal_another": self.processes["kill_me"].poll() is not None,
            "signal_by_pipe_owner": self.processes["kill_by_owner"].poll() is not None,
            "stop_another": _state(self.processes["stop_me"].pid) == "T",
        }
        return {name for name, seen in effects.items() if seen}


def outcomes(level: str) -> dict[str, str]:
    """What every attack came to at a level: one job, planted victims, both sides looked at."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    folder.chmod(0o777)
    try:
        with _planted(folder) as victims:
            (folder / "request.json").write_text(json.dumps(victims.request()))
            # A descriptor that a careless supervisor would pass on.
            secret = os.open(folder / "home" / "key", os.O_RDONLY)
            os.set_inheritable(secret, True)
            spec = JobSpec(
                argv=("python", "-I", "-S", "/in/hostile/__main__.py", "/in/request.json"),
                inputs=(
                    Mount(PROGRAMS, "/in/hostile"),
                    Mount(folder / "request.json", "/in/request.json"),
                    Mount(folder / "input.txt", "/in/input.txt"),
                ),
                out=folder / "out",
                log=folder / "log",
                limits=Limits(120, 60, 512 * MIB, 64, 64 * MIB, 64 * MIB),
            )
            outcome = levels.run_job(spec, level)
            if not outcome.ok:
                raise SystemExit(f"the attacks did not run: {outcome}")
            results = json.loads((folder / "out" / "report.json").read_text())
            return {**results, **dict.fromkeys(victims.touched(), "open")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _planted(folder: Path) -> Iterator[Victims]:
    home = folder / "home"
    home.mkdir()
    home.chmod(0o777)
    shared = Path("/dev/shm", f"planted-{folder.name}")
    for path in (*(home / name for name in _FILES), folder / "temporary", shared):
        path.write_text("secret")
        path.chmod(0o666)
    for path, text in ((home / "policy", "policy"), (folder / "input.txt", "input")):
        path.write_text(text)
        path.chmod(0o666)
    with contextlib.ExitStack() as stack:
        stack.callback(shared.unlink)
        sockets = {
            name: stack.enter_context(_listener(*kind, address))
            for name, kind, address in (
                ("tcp", (socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", 0)),
                ("udp", (socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 0)),
                ("stream", (socket.AF_UNIX, socket.SOCK_STREAM), str(folder / "stream")),
                ("abstract", (socket.AF_UNIX, socket.SOCK_STREAM), f"\0{folder.name}"),
                ("datagram", (socket.AF_UNIX, socket.SOCK_DGRAM), str(folder / "datagram")),
            )
        }
        for name in ("stream", "datagram"):
            (folder / name).chmod(0o777)
        processes = {}
        for name in _PROCESSES:
            processes[name] = _process(home)
            stack.callback(processes[name].wait)
            stack.callback(processes[name].kill)
        yield Victims(folder, sockets, processes, shared)


def _listener(family: int, kind: int, address: object) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    return listener


def _process(folder: Path) -> subprocess.Popen[bytes]:
    """A process with a number so high that none of the job's own can have the same."""
    while True:
        process = subprocess.Popen(
            ["planted-argument", "300"],
            executable="/bin/sleep",
            env={"PLANTED": "secret", "PATH": "/usr/bin:/bin"},
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if process.pid > 1000:
            return process
        process.kill()
        process.wait()


def _pending(listener: socket.socket) -> bool:
    watched = select.poll()
    watched.register(listener, select.POLLIN)
    return bool(watched.poll(0))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    print(json.dumps(outcomes(sys.argv[1])))
