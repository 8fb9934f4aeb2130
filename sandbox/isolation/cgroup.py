"""Totals that the kernel keeps: a control group for each job, where this machine lets us make one.

Invariants:
- A job's program enters its group before its first instruction; all that it starts is born inside.
- Only groups of our own making are ever removed, and only where the program that made them is gone.
- Groups are made below the one that we run in, so that limits set on us from outside still hold.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.isolation.folders import identity, is_alive
from sandbox.isolation.spec import Limits

MEMORY, PROCESSES, CPU = "memory", "processes", "cpu"
KINDS = (MEMORY, PROCESSES, CPU)
_PREFIX = "interlock"
_REMOVE_S = 2.0

_LIMIT_FILES = {
    MEMORY: ("memory.max", "memory.limit_in_bytes"),
    PROCESSES: ("pids.max",),
}
# Swap is memory too. The first version counts both together, and lacks the file without swap accounting.
_NO_SWAP = (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", ""), ("memory.swappiness", "0"))


@dataclass(frozen=True)
class Available:
    """Where job groups can be made, by kind, and why the kinds that are missing are."""

    bases: Mapping[str, Path]
    missing: Mapping[str, str]

    @property
    def measured_by(self) -> str:
        """``cgroup`` if it keeps all totals, ``watchdog`` if none, else which keeps which."""
        kept, others = ([kind for kind in KINDS if (kind in self.bases) is held] for held in (True, False))
        if not others:
            return "cgroup"
        return f"cgroup: {', '.join(kept)}; watchdog: {', '.join(others)}" if kept else "watchdog"


NOTHING = Available({}, dict.fromkeys(KINDS, "not looked for"))


class Group:
    """One job's control group, in as many hierarchies as its totals need."""

    def __init__(self, where: Available, limits: Limits) -> None:
        """Make it. On OSError nothing is left."""
        self.where = where
        name = _name()
        self._folders = {kind: base / name for kind, base in where.bases.items()}
        try:
            for folder in sorted(set(self._folders.values())):
                folder.mkdir()
            if MEMORY in self._folders:
                self._limit(MEMORY, int(limits.memory_bytes))
                self._forbid_swap(int(limits.memory_bytes))
            if PROCESSES in self._folders:
                self._limit(PROCESSES, int(limits.processes))
        except OSError:
            self.remove()
            raise

    def __contains__(self, kind: str) -> bool:
        return kind in self._folders

    def add(self, pid: int) -> None:
        """Move a process in. What it has used so far is not counted; what it starts from now on is inside."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def cpu_s(self) -> float:
        """Seconds of CPU time of all processes that are or were inside."""
        folder = self._folders[CPU]
        if (folder / "cpuacct.usage").exists():
            return int(read(folder / "cpuacct.usage")) / 1e9
        return _field(folder / "cpu.stat", "usage_usec") / 1e6

    def memory_bytes(self) -> int:
        """What the job holds now and the kernel cannot take back: its own memory and its memory files."""
        counted = _fields(self._folders[MEMORY] / "memory.stat")
        own = counted.get("total_rss", counted.get("anon", 0))
        return own + counted.get("total_shmem", counted.get("shmem", 0)) + counted.get("total_swap", 0)

    def peak_bytes(self) -> int:
        """The most that the job held, seen from after its end: the kernel's peak, without the contents of
        files that it still keeps for the job. 0 where the kernel keeps no peak.
        """
        counted = _fields(self._folders[MEMORY] / "memory.stat")
        files = counted.get("total_cache", counted.get("file", 0))
        files -= counted.get("total_shmem", counted.get("shmem", 0))
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with contextlib.suppress(OSError):
                return max(0, int(read(self._folders[MEMORY] / name)) - files)
        return 0

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process inside because of the limit."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                return _field(self._folders[MEMORY] / name, "oom_kill") > 0
        return False

    def refused_processes(self) -> int:
        """How many times a process or thread was refused because of the limit."""
        with contextlib.suppress(OSError):
            return _field(self._folders[PROCESSES] / "pids.events", "max")
        return 0

    def members(self) -> list[int]:
        """The processes inside."""
        found: set[int] = set()
        for folder in set(self._folders.values()):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in read(folder / "cgroup.procs").split()}
        return sorted(found - {0})

    def kill(self) -> None:
        """Kill everything inside at once: first nothing may start any more, then nothing lives."""
        if PROCESSES in self._folders:
            with contextlib.suppress(OSError):
                self._limit(PROCESSES, 0)
        for folder in set(self._folders.values()):
            with contextlib.suppress(OSError):
                if (folder / "cgroup.kill").exists():
                    (folder / "cgroup.kill").write_text("1", encoding="ascii")
        for pid in self.members():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove it, killing what should not be there any more. Never raises: the next start tries again."""
        for folder in set(self._folders.values()):
            _remove(folder, self)

    def _limit(self, kind: str, value: int) -> None:
        for name in _LIMIT_FILES[kind]:
            path = self._folders[kind] / name
            if path.exists():
                path.write_text(str(value), encoding="ascii")
                return
        raise FileNotFoundError(f"{self._folders[kind]} has none of {', '.join(_LIMIT_FILES[kind])}")

    def _forbid_swap(self, memory: int) -> None:
        for name, value in _NO_SWAP:
            path = self._folders[MEMORY] / name
            with contextlib.suppress(OSError):
                if path.exists():
                    path.write_text(value or str(memory), encoding="ascii")


def remove_abandoned(base: Path) -> None:
    """Remove the groups below ``base`` that a program of ours left behind when it was killed."""
    with contextlib.suppress(OSError):
        for folder in base.glob(f"{_PREFIX}-*"):
            owner = _owner(folder.name)
            if owner is not None and folder.lstat().st_uid == os.geteuid() and not is_alive(owner):
                _remove(folder, None)


def _name() -> str:
    me = identity(os.getpid())
    return f"{_PREFIX}-{_view()}-{me['pid']}-{me['started']}-{secrets.token_hex(4)}"


def _owner(name: str) -> dict[str, str | int] | None:
    """Who made a group, by its name; None if that cannot be said from here."""
    parts = name.split("-")
    if len(parts) != 5 or parts[1] != _view() or not parts[2].isdecimal():
        return None
    return {**identity(os.getpid()), "pid": int(parts[2]), "started": parts[3]}


def _view() -> str:
    """Which processes our numbers stand for: another container counts its own."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _remove(folder: Path, group: Group | None) -> None:
    deadline = time.monotonic() + _REMOVE_S
    while folder.exists():
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            inside = group.members() if group else [int(pid) for pid in _lines(folder / "cgroup.procs")]
            for pid in inside:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _lines(path: Path) -> list[str]:
    try:
        return read(path).split()
    except OSError:
        return []


def read(path: Path) -> str:
    """What a file of the kernel says."""
    return path.read_text(encoding="ascii")


def _fields(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in read(path).splitlines())}


def _field(path: Path, name: str) -> int:
    return _fields(path).get(name, 0)
