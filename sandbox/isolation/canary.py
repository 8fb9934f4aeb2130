"""What a hostile job would try first, run inside a profile to see whether that profile holds.

Run as a program: ``python -S canary.py REQUEST``. It attacks what ``probe`` planted and reports, for
each attack, whether it got through; ``probe`` also looks at its own side of each attack.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    """Try everything in the request, and write what got through."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = {name: _try(attack, request) for name, attack in ATTACKS.items()}
    Path(request["report"]).write_text(json.dumps(results), encoding="utf-8")


def _try(attack: Callable[[dict[str, Any]], bool], request: dict[str, Any]) -> str:
    try:
        return "open" if attack(request) else "blocked"
    except Exception as error:
        return f"blocked: {type(error).__name__}"


def _read_secret(request: dict[str, Any]) -> bool:
    return Path(request["secret"]).read_text(encoding="utf-8") != ""


def _see_secret(request: dict[str, Any]) -> bool:
    return Path(request["secret"]).exists()


def _write_outside(request: dict[str, Any]) -> bool:
    Path(request["outside"]).write_text("written by the canary", encoding="utf-8")
    return True


def _write_input(request: dict[str, Any]) -> bool:
    with Path(request["input"]).open("a", encoding="utf-8") as stream:
        stream.write("changed")
    return True


def _tcp(request: dict[str, Any]) -> bool:
    with socket.create_connection(("127.0.0.1", request["tcp"]), timeout=2) as connection:
        connection.sendall(b"canary")
    return True


def _udp(request: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"canary", ("127.0.0.1", request["udp"])) > 0


def _unix(request: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(request["unix"])
    return True


def _abstract(request: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect("\0" + request["abstract"])
    return True


def _unix_datagram(request: dict[str, Any]) -> bool:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second:
        return first.sendto(b"canary", request["datagram"]) > 0


def _interfaces(_: dict[str, Any]) -> bool:
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    return any(line.split(":")[0].strip() != "lo" for line in lines)


def _see_process(request: dict[str, Any]) -> bool:
    # Numbers repeat between process namespaces; a start time identifies the process.
    fields = Path(f"/proc/{request['victim']}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return bool(fields[19] == request["victim_started"])


def _end_process(request: dict[str, Any]) -> bool:
    if request["victim"] in (os.getpid(), os.getppid()):
        return False
    os.kill(request["victim"], signal.SIGTERM)
    return False  # whether it was the victim that got the signal, only the other side knows


def _foreign_environment(_: dict[str, Any]) -> bool:
    own = str(os.getpid())
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != own:
            try:
                if (folder / "environ").read_bytes():
                    return True
            except OSError:
                continue
    return False


def _namespace(_: dict[str, Any]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _link_in_output(request: dict[str, Any]) -> bool:
    os.symlink("/etc/passwd", request["out"] + "/link")  # noqa: PTH211 - the call itself is tried
    return True


def _set_id_file(request: dict[str, Any]) -> bool:
    path = request["out"] + "/set-id"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    return bool(Path(path).stat().st_mode & 0o4000)


def _root(_: dict[str, Any]) -> bool:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    privileged = int(fields["CapEff"], 16) != 0 or int(fields["CapPrm"], 16) != 0
    return privileged or fields["NoNewPrivs"] != "1" or fields.get("Seccomp", "0") != "2" or os.getuid() == 0


def _many_processes(request: dict[str, Any]) -> bool:
    children = []
    try:
        for _ in range(request["processes"] + 8):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
        return True
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)


ATTACKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "read a file outside": _read_secret,
    "see that a file outside exists": _see_secret,
    "write outside": _write_outside,
    "write to an input": _write_input,
    "connect by TCP": _tcp,
    "send by UDP": _udp,
    "connect to a socket file": _unix,
    "connect to an abstract socket": _abstract,
    "send a datagram to a socket file": _unix_datagram,
    "see network interfaces": _interfaces,
    "see a process outside": _see_process,
    "end a process outside": _end_process,
    "read another process's environment": _foreign_environment,
    "enter a new namespace": _namespace,
    "make a link in the output": _link_in_output,
    "make a set-id file": _set_id_file,
    "hold privileges": _root,
    "start processes past the limit": _many_processes,
}


if __name__ == "__main__":
    main()
