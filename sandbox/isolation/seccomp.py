"""The guard's system call filter, compiled to classic BPF.

Invariants:
- Whatever no rule allows is refused (``EPERM``); another machine's calls kill the process.
- The observed form of a filter refuses exactly what the plain form refuses: it leaves the answer to the
  supervisor, who hears of the call. What is allowed reaches neither.
- The program is a pure function of machine and profile, so that a filter for a machine that is
  not at hand can be tested by running it on paper.
- A filter sees numbers, never what a pointer points at: no rule relies on a path or a structure.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import refused
from sandbox.isolation.syscalls import (
    ALLOWED,
    CHECKED,
    MACHINES,
    ONLY_IN_NAMESPACES,
    REFUSED_AS,
    number,
)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_KILL = 0x80000000
_ERRNO = 0x00050000
_ASK = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: the caller waits until the holder of the listener answers
_ALLOW = 0x7FFF0000

# Offsets in the kernel's struct seccomp_data; both machines are little-endian.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06, 0x54

_SET_ID_BITS = 0o6000
_CREATING = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE: only then does open look at its mode
_CLONE_REFUSED = 0x7E020000 | 0x00008000  # every CLONE_NEW*, and CLONE_PARENT
_RENAME_WHITEOUT = 4  # leaves a device node in the place of what was moved; Landlock does not cover it
_MSG_OOB = 1  # rarely used, and a way into the kernel's memory before
_AF_UNIX = 1
_CONNECTED_TYPES = (1, 5)  # SOCK_STREAM, SOCK_SEQPACKET; a datagram pair can still send to any address

# Terminal size and kind, bytes waiting, blocking, close-on-exec: what runtimes ask of a descriptor.
_IOCTLS = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

# Duplicates, flags, locks, sizes of pipes, seals, hints. Left out: leases, which make others wait for a file;
# notes of what happens in a folder; and owners of descriptors, who get signals.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1025, 1030, 1031, 1032, 1033, 1034, 1035, 1036, 1037, 1038)

# Sizes of buffers, timeouts, keep-alive, lingering, credentials. Left out: everything that attaches a program.
_SOCKET_OPTIONS = (7, 8, 9, 13, 16, 18, 19, 20, 21)

# Names, timer slack, reading of seccomp, dumpable, bounding set, no_new_privs; naming of memory.
_PRCTLS = (2, 3, 15, 16, 21, 23, 29, 30, 38, 39, 42, 0x53564D41, 0x41555856)
_PR_SET_PDEATHSIG = 1
_PRIO_PROCESS = 0

Instruction = tuple[int, int, int, int]


def compile_filter(machine: str, *, namespaces: bool, observed: bool = False, gpu: bool = False) -> bytes:
    """The filter's instructions as bytes.

    Args:
        machine: ``os.uname().machine``.
        namespaces: whether the job has mounts and process numbers of its own; if not, calls are
            refused too that would reach past what Landlock covers.
        gpu: whether the job may control a GPU; Landlock says which.
        observed: whether refusals are left to a listener (``notify``) instead of being answered here.

    Raises:
        IsolationUnavailableError: there is no table for this machine.
    """
    if machine not in MACHINES:
        raise IsolationUnavailableError(
            "landlock",
            [f"system call filter: no table for {machine}; run Interlock on {' or '.join(MACHINES)}"],
        )
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        _answer(_KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32_BIT), _answer(_KILL)]
    for name, block in _checked(namespaces=namespaces, gpu=gpu):
        value = number(CHECKED[name], machine)
        if value is not None:
            program += [(_EQUAL, 0, len(block), value), *block]
    for numbers, reason in REFUSED_AS.values():
        value = number(numbers, machine)
        if value is not None:
            program += [(_EQUAL, 0, 1, value), _refusal(getattr(errno, reason))]
    allowed = {**ALLOWED, **ONLY_IN_NAMESPACES} if namespaces else ALLOWED
    known = (number(numbers, machine) for numbers in allowed.values())
    for low, high in _ranges(value for value in known if value is not None):
        if low == high:
            program += [(_EQUAL, 0, 1, low), _answer(_ALLOW)]
        else:
            program += [(_AT_LEAST, 0, 2, low), (_GREATER, 1, 0, high), _answer(_ALLOW)]
    program.append(_refusal(errno.EPERM))
    if observed:
        program = [_asked(instruction) for instruction in program]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _asked(instruction: Instruction) -> Instruction:
    """The same instruction, but that it asks the listener where it would refuse."""
    operation, _, _, value = instruction
    refuses = operation == _RETURN and value & 0xFFFF0000 == _ERRNO
    return _answer(_ASK) if refuses else instruction


def _checked(*, namespaces: bool, gpu: bool) -> Iterator[tuple[str, list[Instruction]]]:
    """For each call in ``CHECKED``: instructions that end in an answer, whatever the arguments."""
    for name, flags, mode in (("open", 1, 2), ("openat", 2, 3)):
        only_existing = [_load(flags), (_ANY_BIT, 1, 0, _CREATING), _answer(_ALLOW)]
        yield name, [*only_existing, *_no_bits(mode, _SET_ID_BITS)]
    for name, mode in (("creat", 1), ("mkdir", 1), ("mkdirat", 2)):
        yield name, _no_bits(mode, _SET_ID_BITS)
    for name, mode in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2)):
        # Landlock does not cover permissions: without its own mounts a job could change the host's.
        yield name, _no_bits(mode, _SET_ID_BITS) if namespaces else [_refusal(errno.EPERM)]
    yield "clone", _no_bits(0, _CLONE_REFUSED)
    ordinary = _one_of(1, _IOCTLS, getattr(errno, refused.reason("ioctl")))
    yield "ioctl", [*_driver_ioctls(), *ordinary] if gpu else ordinary
    # The parent-death signal is what ends a job without namespaces when its supervisor dies.
    yield "prctl", _one_of(0, (*_PRCTLS, _PR_SET_PDEATHSIG) if namespaces else _PRCTLS, errno.EPERM)
    yield "renameat2", _no_bits(4, _RENAME_WHITEOUT)
    for name, flags in (("sendto", 3), ("recvfrom", 3), ("sendmsg", 2), ("recvmsg", 2)):
        yield name, _no_bits(flags, _MSG_OOB)
    # 0 is the caller itself; other numbers could be other programs' where process numbers are shared, and
    # so could the caller's whole user be: only one process's priority is the caller's alone.
    itself = [_load(0), (_EQUAL, 1, 0, _PRIO_PROCESS), _refusal(errno.EPERM), *_one_of(1, (0,), errno.EPERM)]
    yield "setpriority", [_answer(_ALLOW)] if namespaces else itself
    yield "sched_setaffinity", [_answer(_ALLOW)] if namespaces else _one_of(0, (0,), errno.EPERM)
    yield "prlimit64", _one_of(0, (0,), errno.EPERM)
    yield "fcntl", _one_of(1, _FCNTLS, errno.EPERM)
    yield "setsockopt", _one_of(2, _SOCKET_OPTIONS, errno.EPERM)
    kinds = [(_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, 0xF)]
    for kind in _CONNECTED_TYPES:
        kinds += [(_EQUAL, 0, 1, kind), _answer(_ALLOW)]
    no = _refusal(errno.EPERM)
    yield "socketpair", [_load(0), (_EQUAL, 1, 0, _AF_UNIX), no, *kinds, no]


def _driver_ioctls() -> list[Instruction]:
    """Lets through what NVIDIA's driver is asked: its letter ``F``, and the plain numbers of its memory part."""
    block = [_load(1), (_AND, 0, 0, 0xFF00), (_EQUAL, 0, 1, ord("F") << 8), _answer(_ALLOW)]
    block += [_load(1), (_AND, 0, 0, 0xFFFFFF00), (_EQUAL, 0, 1, 0), _answer(_ALLOW)]
    for value in (0x30000001, 0x30000002):  # opening and closing the memory part
        block += [_load(1), (_EQUAL, 0, 1, value), _answer(_ALLOW)]
    return block


def _no_bits(argument: int, bits: int) -> list[Instruction]:
    return [_load(argument), (_ANY_BIT, 0, 1, bits), _refusal(errno.EPERM), _answer(_ALLOW)]


def _one_of(argument: int, values: Iterable[int], reason: int) -> list[Instruction]:
    block = [_load(argument)]
    for value in values:
        block += [(_EQUAL, 0, 1, value), _answer(_ALLOW)]
    return [*block, _refusal(reason)]


def _load(argument: int) -> Instruction:
    """Load the low half of an argument: the kernel takes these arguments as 32-bit values."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _answer(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _refusal(reason: int) -> Instruction:
    return _answer(_ERRNO | reason)


def _ranges(values: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted values as inclusive ranges, so that the filter stays short."""
    ranges: list[tuple[int, int]] = []
    for value in sorted(values):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], value)
        else:
            ranges.append((value, value))
    return ranges
