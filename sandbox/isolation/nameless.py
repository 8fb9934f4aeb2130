"""What a job holds that no walk over its folders finds: files without a name (any more), and the kernel's buffers.

Invariants:
- Only files of the file systems that the job writes to count; what lies in its memory is counted as memory.
- A buffer counts with all that fits into it: how full it is cannot be seen from outside.
- Looking costs a bounded time: a job that holds more than can be looked at in it is said to, not waited for.
- A file without a name that is mapped but not open has a size that nobody outside can see: that is said
  instead of counted as nothing.
- A process that ends or hides while it is looked at counts with what was seen.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Mappings that are memory, not files on a disk, however they are called.
_MEMORY = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "/scratch/", "/anon_hugepage")  # noqa: S108


MAX_LOOKED_AT = 200_000
"""Descriptors and mappings, over all of a job's processes: some tenths of a second."""

_PIPE_BYTES = 64 << 10


@dataclass(frozen=True)
class Held:
    """Bytes on disk in files without a name, bytes of buffers in the kernel, and what could not be measured."""

    disk: int = 0
    buffers: int = 0
    hidden: str = ""


def held(pids: Iterable[int], folders: Iterable[Path]) -> Held:
    """What these processes hold open, of files on the disks of ``folders``."""
    devices = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            devices.add(folder.stat().st_dev)
    files: dict[tuple[int, int], int] = {}
    buffers: dict[int, int] = {}
    mapped: set[tuple[int, int]] = set()
    left = MAX_LOOKED_AT
    for pid in pids:
        left = _mapped_files(pid, devices, mapped, _open_files(pid, devices, files, buffers, left))
        if left < 0:
            hidden = f"more than {MAX_LOOKED_AT} open files and mappings, too many to be measured"
            break
    else:
        unseen = mapped - files.keys()
        hidden = "a mapped file has neither a name nor a descriptor, so its size is hidden" if unseen else ""
    return Held(sum(files.values()), sum(buffers.values()), hidden)


def _open_files(
    pid: int, devices: set[int], files: dict[tuple[int, int], int], buffers: dict[int, int], left: int
) -> int:
    """Enter what one process has open; how many more may be looked at."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - several times a second
    except OSError:
        return left
    if len(names) > left:
        return -1
    for name in names:
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            buffers[status.st_ino] = _socket_bytes()
        elif stat.S_ISFIFO(status.st_mode):
            buffers[status.st_ino] = _PIPE_BYTES
        elif status.st_nlink == 0 and status.st_dev in devices and stat.S_ISREG(status.st_mode):
            files[status.st_dev, status.st_ino] = status.st_blocks * 512
    return left - len(names)


@cache
def _socket_bytes() -> int:
    """The most that can wait in one end of a socketpair: twice what the kernel lets anybody ask for."""
    try:
        return 2 * int(Path("/proc/sys/net/core/wmem_max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 2 * 212_992


def _mapped_files(pid: int, devices: set[int], mapped: set[tuple[int, int]], left: int) -> int:
    """Enter the nameless files that one process has mapped; how many more mappings may be looked at."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as stream:  # noqa: PTH123 - several times a second
            for line in stream:
                left -= 1
                if left < 0:
                    break
                if not line.endswith(b" (deleted)\n"):
                    continue
                fields = line.split(None, 5)
                major, minor = (int(part, 16) for part in fields[3].split(b":"))
                path = fields[5].decode("utf-8", "replace")
                if (device := os.makedev(major, minor)) in devices and not path.startswith(_MEMORY):
                    mapped.add((device, int(fields[4])))
    except OSError:
        return left
    return left
