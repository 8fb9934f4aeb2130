"""One GPU for one job: which nodes and files of the host it needs, and nothing beyond them.

Invariants:
- Only the chosen device's node is shown, beside the three that every NVIDIA program opens; another
  device of the machine does not exist for the job.
- With MIG the job sees one instance: its capability nodes, and no other's.
- A device that is not there, or that the job's user could not open, is an error with its remedy; a job
  that asked for a GPU never runs without one.

What the level ``strict+gpu`` gives up against ``strict``: the driver's ioctls are a large part of the
kernel that no filter looks into, and memory on the device has no limit of its own.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from guardrails.errors import IsolationUnavailableError

LEVEL = "strict+gpu"
# Every program of the driver's interface opens these, whichever device it uses.
_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
# Where the driver's libraries look devices up, read-only; the libraries themselves lie below /usr.
_DESCRIPTIONS = ("/sys/bus/pci/devices", "/sys/module/nvidia/version", "/etc/nvidia", "/etc/OpenCL/vendors")
_HELP = "load the driver, and make its nodes with `nvidia-modprobe -c 0 -u`; see `nvidia-smi -L`"


@dataclass(frozen=True)
class Gpu:
    """What a job needs to use one device: ``nodes`` to open and control, ``files`` and folders to read."""

    index: int
    nodes: tuple[Path, ...]
    files: tuple[Path, ...]


def present(dev: Path = Path("/dev")) -> list[int]:
    """The numbers of the devices that this machine has nodes for."""
    found = (re.fullmatch(r"nvidia(\d{1,3})", path.name) for path in dev.glob("nvidia[0-9]*"))
    return sorted(int(match[1]) for match in found if match)


def first() -> int:
    """The device that the probe of the level is run with.

    Raises:
        IsolationUnavailableError: this machine has none.
    """
    found = present()
    if not found:
        raise IsolationUnavailableError(LEVEL, ["/dev/nvidia0: no such GPU", f"remedy: {_HELP}"])
    return found[0]


def find(index: int, *, dev: Path = Path("/dev"), root: Path = Path("/")) -> Gpu:
    """The device ``index``, as a job may see it.

    Args:
        index: the number in ``/dev/nvidiaN``.
        dev: where the nodes are.
        root: below which the machine's ``/sys`` and ``/proc`` are.

    Raises:
        IsolationUnavailableError: a node is missing, is no device, or is closed to other users.
    """
    chosen = dev / f"nvidia{index}"
    if index not in present(dev):
        others = ", ".join(str(number) for number in present(dev)) or "none"
        raise IsolationUnavailableError(
            LEVEL, [f"{chosen}: no such GPU; present: {others}", f"remedy: {_HELP}"]
        )
    needed = [*(dev / name for name in _SHARED[:2]), chosen]
    optional = [dev / _SHARED[2], *_instance_nodes(dev, root)]
    nodes = [*needed, *(path for path in optional if path.exists())]
    failures = [trouble for path in nodes if (trouble := _trouble(path))]
    if failures:
        raise IsolationUnavailableError(LEVEL, [*failures, f"remedy: {_HELP}"])
    below = (root / name.lstrip("/") for name in _DESCRIPTIONS)
    files = [path for path in below if path.exists()]
    files += [path.resolve() for path in sorted((root / "sys/bus/pci/devices").glob("*")) if _is_nvidia(path)]
    return Gpu(index, tuple(nodes), tuple(files))


def named(index: int, *, root: Path = Path("/")) -> str:
    """What the driver calls the device, with the driver's version; ``unknown`` where it does not say."""
    version = _read(root / "sys/module/nvidia/version")
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        told = dict(line.split(":", 1) for line in _read(path).splitlines() if ":" in line)
        told = {name.strip(): text.strip() for name, text in told.items()}
        if told.get("Device Minor") == str(index):
            name = f"{told.get('Model', 'unknown')}, driver {version or 'unknown'}"
            return "".join(c for c in name[:80] if c.isprintable())
    return "unknown"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _instance_nodes(dev: Path, root: Path) -> list[Path]:
    """The nodes of a single MIG instance; where there are several, none is guessed at."""
    access = sorted((root / "proc/driver/nvidia/capabilities").glob("gpu*/mig/gi*/**/access"))
    numbers = []
    for path in access:
        match = re.search(r"DeviceFileMinor:\s*(\d+)", path.read_text(encoding="ascii", errors="replace"))
        if match:
            numbers.append(int(match[1]))
    instances = {path.parts[path.parts.index("mig") + 1] for path in access}
    if len(instances) > 1:
        raise IsolationUnavailableError(
            LEVEL, [f"the GPU is split into {len(instances)} instances; remedy: leave one, or switch MIG off"]
        )
    return [dev / "nvidia-caps" / f"nvidia-cap{number}" for number in numbers]


def _trouble(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISCHR(mode):
        return f"{path}: not a device"
    if mode & 0o006 != 0o006:
        return f"{path}: mode {stat.S_IMODE(mode):04o} keeps other users out; jobs run as another user"
    return ""


def _is_nvidia(device: Path) -> bool:
    return _read(device / "vendor") == "0x10de"
