"""Private folders of running programs, and the removal of those that a killed program left behind.

Invariants:
- A folder is made with mode 0700 and a random name, and says whose it is.
- Only this user's folders are removed, and only if the program that made them is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

_OWNER = "owner"
_checked: set[tuple[Path, str]] = set()


def private_folder(prefix: str, base: Path | None = None) -> Path:
    """A fresh folder that only this user can enter; the caller removes it."""
    base = base or Path(tempfile.gettempdir())
    if (base, prefix) not in _checked:
        remove_abandoned(prefix, base)
        _checked.add((base, prefix))
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    (folder / _OWNER).write_text(json.dumps(identity(os.getpid())), encoding="utf-8")
    return folder


def remove_abandoned(prefix: str, base: Path) -> None:
    """Remove folders of programs that were killed before they could clean up."""
    for folder in base.glob(f"{prefix}*"):
        try:
            owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
            abandoned = folder.lstat().st_uid == os.geteuid() and not is_alive(owner)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if abandoned and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def identity(pid: int) -> dict[str, str | int]:
    """A process, told apart from a later one with the same number, and from one on another machine."""
    return {"pid": pid, "started": _start_time(pid), "machine": _machine()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process still runs; of one on another machine that cannot be said, so: yes."""
    return bool(process["machine"] != _machine() or _start_time(process["pid"]) == process["started"])


def _start_time(pid: int) -> str:
    try:
        text = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _machine() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
