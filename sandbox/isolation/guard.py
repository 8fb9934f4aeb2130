"""What a job's process does to itself before it becomes the job.

Run as a program of its own: ``python -I -S guard.py CONTROL_FD``; it imports nothing but the
standard library, and of that as little as it can, because every job waits for it.

Invariants:
- Either every step succeeds or the job's program never runs: the process reports the failed step
  on the control socket and exits with status 97.
- The order matters: descriptors, identity, limits, Landlock, and last the filter, which refuses
  most of the calls that the steps before it needed.
- It decides nothing: rules, filter and numbers come from the supervisor.
"""

from __future__ import annotations

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
        step = f"starting {spec['argv'][0]}"
        os.write(control, READY)
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
        ("installing the system call filter", lambda: _seccomp(spec["filter"], spec["machine"])),
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


def _seccomp(instructions: bytes, machine: str) -> None:
    if os.uname().machine != machine:
        raise OSError(f"the filter is for {machine}, this is {os.uname().machine}")
    program = _FilterProgram(len(instructions) // 8, instructions)
    _checked(_libc.syscall(_SECCOMP_CALL[machine], _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(program)))


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
