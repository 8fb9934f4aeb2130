"""Which control groups hold here: found where this process runs, and tried before they are trusted.

Invariants:
- A controller is used only if it was seen to hold: a small program that breaks each limit is refused,
  counted or ended by it. One that exists and does nothing is left to the watchdog, with the reason.
- Only success is remembered beyond this process, and only for this boot, place, code and user.
- Nothing is changed about the groups that are there: ours are added below them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from sandbox.isolation import cgroup, notes
from sandbox.isolation.cgroup import CPU, KINDS, MEMORY, PROCESSES, Available, Group, remove_abandoned
from sandbox.isolation.spec import MIB, Limits

_NOTE = "control-groups"

# What each kind is called in the first and in the second version of the interface.
_FIRST = {MEMORY: "memory", PROCESSES: "pids", CPU: "cpuacct"}
_SECOND = {MEMORY: "memory", PROCESSES: "pids"}  # CPU time is counted in every group

_CHECK_MEMORY, _CHECK_PROCESSES, _CHECK_CPU_S = 48 * MIB, 4, 0.05
_CHECK_TIMEOUT_S = 20.0
_CHECK = """
import os, sys, time
sys.stdin.readline()
started = 0
for _ in range(12):
    try:
        child = os.fork()
    except OSError:
        break
    if not child:
        sys.stdin.read()
        os._exit(0)
    started += 1
until = time.process_time() + 0.1
while time.process_time() < until:
    pass
os.write(1, b"%d\\n" % started)
filled = bytearray(96 << 20)
os.write(1, b"had it\\n")
"""


_lock = threading.Lock()
_found: list[Available] = []


def available(cache: Path | None = None) -> Available:
    """What holds here. Found out once by trying, then remembered; ``cache`` keeps it until the next boot."""
    with _lock:
        if not _found:
            _found.append(_find(cache))
        return _found[0]


def _find(cache: Path | None) -> Available:
    bases = candidates(Path("/proc/self/cgroup"), Path("/proc/self/mountinfo"))
    absent = dict.fromkeys(KINDS, "no control group here in which this user may make others")
    if not bases:
        return Available({}, absent)
    for base in set(bases.values()):
        remove_abandoned(base)
    files = [Path(__file__), Path(cgroup.__file__)]
    key = notes.key([f"{kind}={base}" for kind, base in sorted(bases.items())], files)
    known, _, kinds = notes.read(cache, _NOTE).partition("\n")
    if known == key and set(kinds.split()) == set(bases):
        return Available(bases, {kind: absent[kind] for kind in KINDS if kind not in bases})
    failures = _failures(bases)
    missing = {
        kind: failures.get(kind, absent[kind]) for kind in KINDS if kind in failures or kind not in bases
    }
    held = {kind: base for kind, base in bases.items() if kind not in failures}
    if not failures:
        notes.write(cache, _NOTE, f"{key}\n{' '.join(sorted(held))}")
    return Available(held, missing)


def candidates(membership: Path, mounts: Path) -> dict[str, Path]:
    """For each kind, the folder below which this process could make a group: its own, as a rule.

    Args:
        membership: this process's ``/proc/self/cgroup``.
        mounts: its ``/proc/self/mountinfo``.
    """
    paths: dict[str, str] = {}
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in cgroup.read(membership).splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
        for line in cgroup.read(mounts).splitlines():
            fields, _, system = line.partition(" - ")
            root, point = fields.split()[3:5]
            kind, _, options = system.split()[:3]
            if kind == "cgroup":
                held = [k for k in KINDS if _FIRST[k] in options.split(",") and _FIRST[k] in paths]
                for name in held:
                    own = _below(Path(point), root, paths[_FIRST[name]])
                    if own is not None and _may_make_groups(own):
                        found[name] = own
            elif kind == "cgroup2" and "" in paths:
                own = _below(Path(point), root, paths[""])
                base = own and _second_base(own, Path(point))
                if base:
                    found = dict.fromkeys(KINDS, base) | found
    return found


def _below(point: Path, root: str, path: str) -> Path | None:
    """Where a control group's path lies in a mount that shows the hierarchy from ``root`` on."""
    try:
        relative = Path(path).relative_to(root)
    except ValueError:
        return None
    return None if ".." in relative.parts else point / relative


def _second_base(own: Path, top: Path) -> Path | None:
    """The nearest group, from ours upwards, that hands out limits and that this user may divide."""
    for folder in (own, *own.parents):
        with contextlib.suppress(OSError):
            handed_out = set(cgroup.read(folder / "cgroup.subtree_control").split())
            if set(_SECOND.values()) <= handed_out and _may_make_groups(folder):
                return folder
        if folder == top:
            return None
    return None


def _may_make_groups(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _failures(bases: Mapping[str, Path]) -> dict[str, str]:
    """The kinds that do not hold, with what was seen, from a program that breaks each limit."""
    limits = Limits(memory_bytes=_CHECK_MEMORY, processes=_CHECK_PROCESSES)
    try:
        group = Group(Available(bases, {}), limits)
    except OSError as error:
        return dict.fromkeys(bases, f"could not be set up: {error}")
    try:
        argv = [sys.executable, "-I", "-S", "-c", _CHECK]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, start_new_session=True
        ) as program:
            try:
                group.add(program.pid)
                said = program.communicate(b"\n", timeout=_CHECK_TIMEOUT_S)[0].split(b"\n")
                return _judge(group, program.returncode, said)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return dict.fromkeys(bases, f"could not be tried: {error}")
    finally:
        group.kill()
        group.remove()


def _judge(group: Group, status: int, said: list[bytes]) -> dict[str, str]:
    failures = {}
    if PROCESSES in group and not 0 < int(said[0] or 0) < _CHECK_PROCESSES:
        failures[PROCESSES] = f"a limit of {_CHECK_PROCESSES} let {int(said[0] or 0)} more begin"
    if CPU in group and group.cpu_s() < _CHECK_CPU_S:
        failures[CPU] = "time that was used was not counted"
    if MEMORY in group and (b"had it" in said or status != -signal.SIGKILL or not group.ran_out_of_memory()):
        failures[MEMORY] = f"a limit of {_CHECK_MEMORY} bytes did not end a program that took twice that"
    return failures
