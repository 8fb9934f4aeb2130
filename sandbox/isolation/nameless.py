"""Disk space that no walk over a folder finds: files that a job holds open but that have no name (any more).

Invariants:
- Only files of the output's own file system count; what lies in a job's memory is counted as memory.
- A file without a name that is mapped but not open has a size that nobody outside can see: that is said
  instead of counted as nothing.
- A process that ends or hides while it is looked at counts with what was seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

# Mappings that are memory, not files on a disk, however they are called.
_MEMORY = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "/scratch/", "/anon_hugepage")  # noqa: S108


def held_bytes(pids: Iterable[int], folder: Path) -> tuple[int, str]:
    """Bytes on the disk of ``folder`` in nameless files of these processes, and what cannot be measured."""
    try:
        device = folder.stat().st_dev
    except OSError:
        return 0, ""
    sizes: dict[int, int] = {}
    mapped: set[int] = set()
    for pid in pids:
        sizes |= _open_files(pid, device)
        mapped |= _mapped_files(pid, device)
    if mapped - sizes.keys():
        return sum(sizes.values()), "a mapped file has neither a name nor a descriptor, so its size is hidden"
    return sum(sizes.values()), ""


def _open_files(pid: int, device: int) -> dict[int, int]:
    found = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - several times a second
    except OSError:
        return {}
    for name in names:
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
        except OSError:
            continue
        if status.st_nlink == 0 and status.st_dev == device and stat.S_ISREG(status.st_mode):
            found[status.st_ino] = status.st_blocks * 512
    return found


def _mapped_files(pid: int, device: int) -> set[int]:
    found = set()
    try:
        with open(f"/proc/{pid}/maps", "rb") as stream:  # noqa: PTH123 - several times a second
            for line in stream:
                if not line.endswith(b" (deleted)\n"):
                    continue
                fields = line.split(None, 5)
                major, minor = (int(part, 16) for part in fields[3].split(b":"))
                path = fields[5].decode("utf-8", "replace")
                if os.makedev(major, minor) == device and not path.startswith(_MEMORY):
                    found.add(int(fields[4]))
    except OSError:
        return found
    return found
