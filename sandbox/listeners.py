"""Who listens for TCP connections, and whether others than this machine can reach it.

Invariants: reads ``/proc`` and opens nothing; an address that is not surely loopback counts as open to others.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket: which process holds it, and where it listens."""

    pid: int
    program: str
    address: str
    port: int

    @property
    def only_here(self) -> bool:
        """Whether only this machine can connect."""
        address = ip_address(self.address)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback


def listeners(root: int) -> list[Listener]:
    """What a process and all that it has started, directly or not, listen on."""
    sockets = _listening()
    found = []
    for pid in _tree(root):
        inodes = set(_socket_inodes(pid))
        name = _text(f"/proc/{pid}/comm").strip()
        found += [Listener(pid, name, *sockets[inode]) for inode in sorted(inodes & sockets.keys())]
    return found


def _listening() -> dict[str, tuple[str, int]]:
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _text(table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                address, _, port = fields[1].partition(":")
                found[fields[9]] = (_address(address), int(port, 16))
    return found


def _address(text: str) -> str:
    """The kernel prints each 32-bit word of an address in the machine's own byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _socket_inodes(pid: int) -> Iterable[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names are all that is needed
    except OSError:
        return
    for name in names:
        try:
            target = str(Path(f"/proc/{pid}/fd/{name}").readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def _tree(root: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _text(f"/proc/{folder.name}/stat").rpartition(")")[2].split()
            if fields:
                parents[int(folder.name)] = int(fields[1])
    members = {root}
    while added := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= added
    return sorted(members)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
