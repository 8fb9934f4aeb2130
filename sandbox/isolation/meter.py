"""What a job uses, measured from outside, and whether that is too much.

Invariants:
- A total that a control group keeps is read there, and the kernel enforces it. The others are totals
  over the tree below the job's first process, and everything else in that process's session.
- CPU time counts processes that are gone: through the times that their reapers inherit, and
  through the last sample of each, whichever is more.
- Memory is the sum of proportional set sizes, plus what lies in the job's memory file systems and what fits
  into its pipes and sockets; with a control group, what the kernel charged the job for and cannot take back.
- However much a job makes the supervisor look at, a request to end it is heard in between.
- The walk over a job's output follows no link, and its own depth and length are bounded.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.isolation import cgroup, nameless
from sandbox.isolation.spec import Limits

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_IN_MEMORY = ("/scratch", "/dev/shm", "/tmp")  # noqa: S108 - the job's own, in the strict profile
_MAX_FILES = 10_000
_MAX_DEPTH = 12
# Looking at every descriptor costs more than the rest of a sample: at most a quarter of the time goes there.
_NAMELESS_S = 0.25
_NAMELESS_SHARE = 4
# What a file costs the kernel in memory besides its contents, with the longest name.
_FILE_MEMORY_BYTES = 1536
# The init process and the program that sets up the namespaces are not the job's own.
_OVERHEAD_PROCESSES = 3


def _never() -> str:
    return ""


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    group: int
    session: int
    cpu: int
    children_cpu: int
    threads: int
    started: int
    resident: int
    running: bool


@dataclass
class Usage:
    """Totals so far; memory and disk are peaks."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass
class Watchdog:
    """Samples a job's processes and folders. ``sample`` says which limit is broken, if any.

    ``first`` is the process whose descendants and session are the job; ``scratch`` is a host folder,
    or None where scratch is a memory file system that only the job's own view shows.
    """

    first: int
    out: Path
    scratch: Path | None
    limits: Limits
    group: cgroup.Group | None = None
    usage: Usage = field(default_factory=Usage)
    _held: nameless.Held = field(default_factory=nameless.Held)
    _look_again: float = _NAMELESS_S
    _seen: dict[tuple[int, int], int] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def sample(self, should_stop: Callable[[], str] = _never) -> str:
        """Measure once; the reason to end the job, or an empty string.

        ``should_stop`` is asked on the way: a job decides how long a sample takes.
        """
        processes = [] if self._kept(*cgroup.KINDS) else self._processes()
        self._look_at_descriptors(processes)
        scratch, in_memory, crowded = self._scratch_bytes(processes)
        output, trouble = self._output()
        cpu, threads = self._cpu(processes), 0
        memory = self._memory(processes, in_memory + self._held.buffers, should_stop)
        if not self._kept(cgroup.PROCESSES):
            threads = sum(process.threads for process in processes) - _OVERHEAD_PROCESSES
        self.usage.cpu_s = max(self.usage.cpu_s, cpu)
        self.usage.memory_bytes = max(self.usage.memory_bytes, memory)
        self.usage.disk_bytes = max(self.usage.disk_bytes, output + scratch)
        for name, used in (
            ("wall_s", self.wall_s),
            ("cpu_s", self.usage.cpu_s),
            ("memory_bytes", memory),
            ("processes", threads),
            ("output_bytes", output),
            ("scratch_bytes", scratch),
        ):
            limit = getattr(self.limits, name)
            if used > limit:
                return f"{name}: {used:.10g} is more than the limit of {limit:.10g}"
        if trouble or crowded:
            return f"output_bytes: {trouble}" if trouble else f"scratch_bytes: {crowded}"
        return self._out_of_memory()

    @property
    def wall_s(self) -> float:
        """Seconds since the job was started."""
        return time.monotonic() - self._started

    def sample_end(self, cpu_s: float) -> str:
        """The last word, when no process is left: what is in the output, and what the kernel counted.

        ``cpu_s`` is the time of all processes that were waited for.
        """
        output, trouble = folder_bytes(self.out)
        self.usage.cpu_s = max(self.usage.cpu_s, self._cpu([]) if self._kept(cgroup.CPU) else cpu_s)
        self.usage.disk_bytes = max(self.usage.disk_bytes, output)
        if self.group is not None and self._kept(cgroup.MEMORY):
            # A job may be over before the first sample.
            self.usage.memory_bytes = max(self.usage.memory_bytes, self.group.peak_bytes())
        if self.usage.cpu_s > self.limits.cpu_s and self._kept(cgroup.CPU):
            return f"cpu_s: {self.usage.cpu_s:.10g} is more than the limit of {self.limits.cpu_s:.10g}"
        if output > self.limits.output_bytes:
            return f"output_bytes: {output} is more than the limit of {self.limits.output_bytes}"
        return f"output_bytes: {trouble}" if trouble else self._out_of_memory()

    def _look_at_descriptors(self, processes: list[_Process]) -> None:
        if self.wall_s < self._look_again:
            return
        pids = [process.pid for process in processes]
        if not pids and self.group is not None:
            pids = self.group.members()
        began = self.wall_s
        self._held = nameless.held(pids, (self.out, self.scratch) if self.scratch else (self.out,))
        self._look_again = self.wall_s + max(_NAMELESS_S, _NAMELESS_SHARE * (self.wall_s - began))

    def _output(self) -> tuple[int, str]:
        """Bytes in the output, those without a name among them, and what is wrong with it."""
        named, trouble = folder_bytes(self.out)
        return named + self._held.disk, trouble or self._held.hidden

    def _kept(self, *kinds: str) -> bool:
        return self.group is not None and all(kind in self.group for kind in kinds)

    def _out_of_memory(self) -> str:
        if self.group is None or not self._kept(cgroup.MEMORY) or not self.group.ran_out_of_memory():
            return ""
        return f"memory_bytes: the kernel ended a process at the limit of {self.limits.memory_bytes:.10g}"

    def _processes(self) -> list[_Process]:
        members = {self.first}
        found: list[_Process] = []
        # A child can have a lower number than its parent, so look until nothing is added.
        remaining = _process_table()
        while True:
            added = [p for p in remaining if {p.pid, p.parent} & members or p.session == self.first]
            if not added:
                return found
            found += added
            members |= {process.pid for process in added}
            remaining = [process for process in remaining if process.pid not in members]

    def _cpu(self, processes: list[_Process]) -> float:
        if self.group is not None and self._kept(cgroup.CPU):
            return self.group.cpu_s()
        for process in processes:
            key = (process.pid, process.started)
            self._seen[key] = max(self._seen.get(key, 0), process.cpu)
        inherited = sum(process.cpu + process.children_cpu for process in processes)
        return max(inherited, sum(self._seen.values())) / _TICK

    def _memory(self, processes: list[_Process], besides: int, should_stop: Callable[[], str]) -> int:
        """Proportional sizes, but only where the cheaper resident sizes could be a new peak."""
        if self.group is not None and self._kept(cgroup.MEMORY):
            return self.group.memory_bytes()
        resident = sum(process.resident for process in processes) + besides
        if resident <= self.usage.memory_bytes:
            return resident
        total = besides
        for process in processes:
            if self.wall_s > self.limits.wall_s or should_stop():
                break  # it is ended anyway, and asking the kernel about many shared pages takes seconds
            total += _proportional(process)
        return total

    def _scratch_bytes(self, processes: list[_Process]) -> tuple[int, int, str]:
        """Bytes in scratch, how much memory they and their files take, and what is wrong with its shape."""
        if self.scratch is not None:
            on_disk, crowded = folder_bytes(self.scratch)
            return on_disk, 0, crowded
        for pid in [*(process.pid for process in reversed(processes)), self.first]:
            try:
                folders = [f"/proc/{pid}/root{path}" for path in _IN_MEMORY]
                used = [_file_system(folder, self.limits.scratch_bytes) for folder in folders]
            except OSError:
                continue
            contents = sum(found[0] for found in used)
            return contents, contents + sum(found[1] for found in used) * _FILE_MEMORY_BYTES, ""
        return 0, 0, ""


def _file_system(path: str, size: float) -> tuple[int, int]:
    """Bytes and files in one of the job's memory file systems, none of which is larger than ``size``."""
    # A link would be followed on this side, not on the job's; what it leads to is counted anyway.
    if stat.S_ISLNK(os.lstat(path).st_mode):
        return 0, 0
    found = os.statvfs(path)
    # A larger one is the host's, shown by a profile that does not hold: that is for the probe to say.
    ours = found.f_blocks * found.f_frsize <= size + _PAGE
    return (
        ((found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree) if ours else (0, 0)
    )


def folder_bytes(path: Path) -> tuple[int, str]:
    """Bytes on disk below a folder, and what is wrong with its shape (empty if nothing)."""
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0, ""
    sealed: list[str] = []
    total, files, deepest = _walk(root, 0, 0, sealed)
    if sealed:
        return total, f"the folder {sealed[0]:.80} may not be looked into"
    if deepest > _MAX_DEPTH:
        return total, f"folders nested deeper than {_MAX_DEPTH}"
    return total, f"more than {_MAX_FILES} files" if files > _MAX_FILES else ""


def _walk(folder: int, depth: int, files: int, sealed: list[str]) -> tuple[int, int, int]:
    """Bytes, files and depth below an open folder, which is closed. Stops at the bounds."""
    total, deepest = 0, depth
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                files += 1
                if files > _MAX_FILES or depth > _MAX_DEPTH:
                    break
                try:
                    status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                        below = os.open(entry.name, flags, dir_fd=folder)
                        more, files, depth_below = _walk(below, depth + 1, files, sealed)
                        total, deepest = total + more, max(deepest, depth_below)
                except PermissionError:
                    sealed.append(ascii(entry.name))  # an ordinary supervisor has its job's rights, no more
                except OSError:
                    continue  # removed or replaced while we looked: the next sample sees what is there
    finally:
        os.close(folder)
    return total, files, deepest


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not been reaped."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as stream:  # noqa: PTH123 - every start waits for it
            return [int(child) for child in stream.read().split()]
    except OSError:  # gone, or a kernel without this file
        return [process.pid for process in _process_table() if process.parent == pid]


def group_lives(group: int) -> bool:
    """Whether a process group has a member that still runs."""
    return any(process.group == group and process.running for process in _process_table())


def _process_table() -> list[_Process]:
    table = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - ten times a second
        if name.isdigit():
            process = _read_process(int(name))
            if process is not None:
                table.append(process)
    return table


def _read_process(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123 - ten times a second
            # The name stands in brackets and may hold anything; the fields follow the last bracket.
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 22:
        return None
    return _Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu=int(fields[11]) + int(fields[12]),
        children_cpu=int(fields[13]) + int(fields[14]),
        threads=int(fields[17]),
        started=int(fields[19]),
        resident=int(fields[21]) * _PAGE,
        # A zombie runs nothing, but its times still count until somebody reaps it.
        running=fields[0] not in (b"Z", b"X"),
    )


def _proportional(process: _Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as stream:  # noqa: PTH123
            for line in stream:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # gone, or not ours to look into: its resident size counts in full
    return process.resident
