"""The table of attacks, and how they reach the kernel without a library in between."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]
Attack = Callable[[Request], bool]

ATTACKS: dict[str, Attack] = {}
# At level ``none`` these get through only for root: the kernel itself stops them for others.
NEEDS_ROOT: set[str] = set()
# Not on every machine or kernel; without a control that gets through, the case says nothing.
MAY_BE_ABSENT: set[str] = set()

X86 = os.uname().machine == "x86_64"
NONE = -1  # this machine has no such call: the kernel answers ENOSYS
# x86_64, aarch64
_CALLS = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "personality": (135, 92), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "fanotify_init": (300, 262), "syslog": (103, 116), "sethostname": (170, 161), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "setdomainname": (171, 162),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "splice": (275, 76), "vmsplice": (278, 75), "tee": (276, 77), "clone3": (435, 435), "kcmp": (312, 272),
    "mlockall": (151, 230), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "clone": (56, 220), "openat2": (437, 437), "prlimit64": (302, 261),
    "io_setup": (206, 0), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "modify_ldt": (154, NONE), "set_thread_area": (205, NONE), "ioperm": (173, NONE), "iopl": (172, NONE),
    "acct": (163, 89), "inotify_init1": (294, 26), "quotactl": (179, 60), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "pivot_root": (155, 41),
    "swapon": (167, 224), "reboot": (169, 142), "kexec_load": (246, 104), "clock_settime": (227, 112),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mbind": (237, 235), "remap_file_pages": (216, 234), "cachestat": (451, 451), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "seccomp": (317, 277), "uselib": (134, NONE), "renameat2": (316, 276),
    "prctl": (157, 167), "linkat": (265, 37), "fchmodat2": (452, 452), "pkey_alloc": (330, 289), "setxattrat": (463, 463),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_UNREACHED = (errno.EPERM, errno.ENOSYS, errno.EACCES)


def attack(*, root: bool = False, optional: bool = False) -> Callable[[Attack], Attack]:
    """Enter a function into the table under its own name."""

    def register(function: Attack) -> Attack:
        name = function.__name__.strip("_")
        assert name not in ATTACKS, name
        ATTACKS[name] = function
        if root:
            NEEDS_ROOT.add(name)
        if optional:
            MAY_BE_ABSENT.add(name)
        return function

    return register


def call(name: str, *arguments: Any) -> int:
    """A raw system call: its result, or minus the error number."""
    return numbered(_CALLS[name][0 if X86 else 1], *arguments)


def numbered(number: int, *arguments: Any) -> int:
    """A raw system call by number: its result, or minus the error number."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *wide)
    return -ctypes.get_errno() if result == -1 else int(result)


def reached(result: int) -> bool:
    """Whether the kernel's own code ran: success, or a complaint about the arguments."""
    return -result not in _UNREACHED
