"""What a job's process does to itself before it becomes the job.

Run as a program of its own: ``python -I -S guard.py CONTROL_FD``; it imports nothing but the
standard library, and of that as little as it can, because every job waits for it.

Invariants:
- Either every step succeeds or the job's program never runs: the process reports the failed step
  on the control socket and exits with status 97.
- The order matters: descriptors, identity, limits, Landlock, and last the filter, which refuses
  most of the calls that the steps before it needed.
- Where the kernel can say what the filter refuses, the listener goes to the supervisor together with
  the word that the job may begin, and nowhere else: it is closed here before the job's program starts.
  Where it cannot, the same calls are refused and nobody hears of them.
- It decides nothing: rules, filter and numbers come from the supervisor.
"""

from __future__ import annotations

import _socket
import ctypes
import marshal
import os
import resource
import struct
import sys
from typing import Any, NoReturn

FAILED = 97
READY = b"ready"

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_PATH_RULE = 1
_ALL_TCP = 0b11  # bind, connect
_ALL_SCOPES = 0b11  # abstract sockets, signals
_FILE_RIGHTS = 0b111 | 1 << 14 | 1 << 15  # execute, write, read, truncate, device ioctl
_SIGKILL = 9
_FILE_KIND, _DIRECTORY = 0o170000, 0o040000

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> NoReturn:
    """Confine this process as the supervisor says, then become the job."""
    control = int(sys.argv[1])
    step = "reading the instructions"
    try:
        spec = _receive(control)
        for name, act in _steps(spec, control):
            step = name
            act()
        # Made before the filter is there: from then on a refused call would wait for the supervisor.
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control)
        step = "installing the system call filter"
        listener = _seccomp(spec["observed_filter"], spec["filter"], spec["machine"])
        step = f"starting {spec['argv'][0]}"
        _report_ready(channel, listener)
        os.execve(spec["program"], spec["argv"], spec["env"])  # noqa: S606 - no shell is the point
    except BaseException as error:
        _fail(control, f"{step}: {type(error).__name__}: {error}")


def _steps(spec: dict[str, Any], control: int) -> list[tuple[str, Any]]:
    return [
        ("closing inherited descriptors", lambda: _close_descriptors(control)),
        ("tying the job to its supervisor", lambda: _die_with(spec["parent"])),
        ("dropping to the job's user", lambda: _become(spec["uid"])),
        ("changing directory", lambda: os.chdir(spec["cwd"])),
        ("forbidding new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        ("setting limits", lambda: _limit(spec["rlimits"])),
        ("restricting files with Landlock", lambda: _landlock(spec["landlock"], spec["landlock_needed"])),
    ]


def _receive(control: int) -> dict[str, Any]:
    """Length, then marshalled values; the other end is the supervisor, never a job."""
    size = struct.unpack("=I", _read_exactly(control, 4))[0]
    spec: dict[str, Any] = marshal.loads(_read_exactly(control, size))  # noqa: S302
    os.set_inheritable(control, False)
    return spec


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = os.read(descriptor, size - len(data))
        if not block:
            raise EOFError("the supervisor closed the control socket")
        data += block
    return data


def _close_descriptors(control: int) -> None:
    os.closerange(3, control)
    os.closerange(control + 1, 1 << 20)


def _die_with(parent: int) -> None:
    if parent:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() != parent:
            raise ProcessLookupError("the supervisor is gone")


def _become(uid: int) -> None:
    """Become ``uid`` for good; 0 keeps the present user, who is then not root."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise PermissionError("a job may not run as root")


def _limit(limits: dict[int, int]) -> None:
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (capped, capped))


def _landlock(rules: tuple[tuple[str, int], ...], needed: int) -> None:
    abi = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if abi < needed:
        raise OSError(f"the kernel offers Landlock version {max(abi, 0)}, version {needed} is needed")
    handled = (1 << 13) - 1  # version 1; later versions add one right each
    handled |= sum(1 << bit for version, bit in ((2, 13), (3, 14), (5, 15)) if abi >= version)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = struct.pack("=QQQ", handled, _ALL_TCP, _ALL_SCOPES)[:size]
    ruleset = _checked(_libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0))
    for path, access in rules:
        _allow(ruleset, path, access & handled)
    _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_mode & _FILE_KIND != _DIRECTORY:
            access &= _FILE_RIGHTS
        rule = struct.pack("=Qi", access, descriptor)
        _checked(_libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_RULE, rule, 0))
    finally:
        os.close(descriptor)


def _seccomp(observed: bytes, plain: bytes, machine: str) -> int:
    """Install the filter; the listener's descriptor, or -1 where refusals cannot be observed."""
    if os.uname().machine != machine:
        raise OSError(f"the filter is for {machine}, this is {os.uname().machine}")
    # Older kernels know no uninterrupted waiting; some know no listener, or have given theirs away.
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        listener = _install(observed, machine, flags)
        if listener >= 0:
            return listener
    _checked(_install(plain, machine, 0))
    return -1


def _install(instructions: bytes, machine: str, flags: int) -> int:
    program = _FilterProgram(len(instructions) // 8, instructions)
    call = _SECCOMP_CALL[machine]
    return int(_libc.syscall(call, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program)))


def _report_ready(channel: _socket.socket, listener: int) -> None:
    if listener < 0:
        channel.send(READY)
        return
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", listener))
    channel.sendmsg([READY], [rights])
    os.close(listener)


def _prctl(option: int, value: int) -> None:
    unused = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _fail(control: int, message: str) -> NoReturn:
    try:
        os.write(control, message.encode("utf-8", "replace")[:4096])
    finally:
        os._exit(FAILED)


if __name__ == "__main__":
    main()
