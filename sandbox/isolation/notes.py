"""Small notes of what was found out about this machine, kept between runs.

Invariants:
- A note that somebody else could have written proves nothing: it is not read.
- A note that cannot be written is merely found out again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path


def key(parts: Iterable[str], files: Iterable[Path]) -> str:
    """Digest of everything that an answer depends on: this boot, kernel, user, view of it, and ``parts`` and ``files``."""
    digest = hashlib.sha256()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    here = [str(os.geteuid()), os.uname().release, os.uname().machine, sys.executable, boot]
    here += [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "user")]
    for part in (*parts, *here):
        digest.update(part.encode() + b"\0")
    for path in files:
        digest.update(str(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read(cache: Path | None, name: str) -> str:
    """A note of ours, or an empty string."""
    if cache is None:
        return ""
    path = cache / name
    try:
        status = path.lstat()
        ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        return path.read_text(encoding="ascii") if ours and not path.is_symlink() else ""
    except (OSError, UnicodeError):
        return ""


def write(cache: Path | None, name: str, text: str) -> None:
    """Leave a note that only this user can change."""
    if cache is None:
        return
    with contextlib.suppress(OSError):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = cache / f".{name}.{os.getpid()}"
        fresh.write_text(text, encoding="ascii")
        fresh.chmod(0o600)
        fresh.replace(cache / name)
