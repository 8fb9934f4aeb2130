"""The guard's Landlock rules: which paths a job may read, and which it may write.

Invariants:
- Rights are granted, never withheld: what no rule names can be neither opened nor executed.
- No rule ever grants the making of links, sockets, pipes or device nodes, or the execution of what
  a job can write. (The latter is tidiness, not a boundary: an interpreter still reads any script.)
- Network and abstract sockets are refused entirely wherever the kernel can refuse them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET = 444  # the same number on every machine
_VERSION_QUERY = 1

# For ``strict`` the mounts already bound what can be named; alone, Landlock must also keep abstract
# sockets and signals inside, which it can from this version on.
NEEDED_INSIDE_MOUNTS = 1
NEEDED_ALONE = 6

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REGULAR, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    READ_FILE | READ_DIR | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REGULAR | REFER | TRUNCATE
)
IOCTL_DEVICE = 1 << 15
_DEVICE = READ_FILE | WRITE_FILE
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# What a language runtime reads of the host where it has no /proc of its own. No other process's
# folder is among it: command lines of the host stay unread.
_PROC_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory")

Rule = tuple[str, int]


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none or it is switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_QUERY)))


def rules_inside_mounts(programs: Iterable[str], devices: Iterable[str] = ()) -> tuple[Rule, ...]:
    """For a job that has mounts of its own: all it sees is readable, ``programs`` executable.

    ``devices`` may be opened for writing and controlled.
    """
    # Rights add up along a path: execution must not be granted at the root.
    rules = [("/", READ_FILE | READ_DIR), *((path, READ) for path in programs)]
    rules += [(path, WRITE) for path in ("/out", "/scratch", "/dev/shm", "/tmp")]  # noqa: S108 - the job's own
    rules += [(device, _DEVICE | IOCTL_DEVICE) for device in devices]
    return (*rules, *((device, _DEVICE) for device in _DEVICES))


def rules_alone(readable: Iterable[Path], writable: Iterable[Path]) -> tuple[Rule, ...]:
    """For a job on the host's own file system. Paths that do not exist are left out."""
    rules = [(str(path), READ) for path in readable if path.exists()]
    rules += [(str(path), WRITE) for path in writable]
    rules += [(path, READ_FILE) for path in _PROC_FILES if os.access(path, os.R_OK)]
    rules += [("/proc/self", READ_FILE | READ_DIR)]
    return (*rules, *((device, _DEVICE) for device in _DEVICES))
