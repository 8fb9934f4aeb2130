"""Which system calls a job may make, and their numbers on each supported machine.

Invariants:
- This is an allowlist: a call that is not named here does not reach the kernel.
- A machine without a column here is refused; no numbers are ever guessed.
- Calls whose danger lies in an argument are in ``CHECKED``, and ``seccomp`` compares that argument.

Left out on purpose, among others: every socket but a socketpair, namespaces and mounts, ptrace and
reading another process's memory, io_uring, bpf, perf_event, userfaultfd, keys, System V and POSIX
message queues, file handles, extended attributes, device nodes, links, and ``openat2``/``clone3``
(their flags lie behind a pointer that a filter cannot read; libraries fall back on ``ENOSYS``).
"""

from __future__ import annotations

MACHINES = ("x86_64", "aarch64")
ABSENT = -1

# In the order of ``MACHINES``; ``ABSENT`` where the machine has no such call.
Numbers = tuple[int, int]

ALLOWED: dict[str, Numbers] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "close_range": (436, 436), "dup": (32, 23), "dup3": (292, 24), "flock": (73, 32),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "truncate": (76, 45),
    "fallocate": (285, 47), "fadvise64": (221, 223), "readahead": (187, 213),
    "copy_file_range": (326, 285), "sendfile": (40, 71),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "renameat": (264, 38), "unlinkat": (263, 35), "umask": (95, 166),
    "readlinkat": (267, 78), "newfstatat": (262, 79), "statx": (332, 291),
    "faccessat": (269, 48), "faccessat2": (439, 439), "statfs": (137, 43), "fstatfs": (138, 44),
    "pipe2": (293, 59), "eventfd2": (290, 19), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "ppoll": (271, 73), "pselect6": (270, 72),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "signalfd4": (289, 74),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233), "membarrier": (324, 283),
    "get_mempolicy": (239, 236),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigqueueinfo": (129, 138),
    "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "execve": (59, 221), "execveat": (322, 281), "exit": (60, 93), "exit_group": (231, 94),
    "wait4": (61, 260), "waitid": (247, 95), "getpid": (39, 172), "getppid": (110, 173),
    "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
    "getpgid": (121, 155), "getsid": (124, 156), "set_tid_address": (218, 96),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "futex": (202, 98), "futex_waitv": (449, 449), "capget": (125, 90),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "getrusage": (98, 165), "times": (100, 153),
    "sysinfo": (99, 179), "uname": (63, 160), "getcpu": (309, 168), "getrandom": (318, 278),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_getattr": (315, 275),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getpriority": (140, 141),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "getitimer": (36, 102), "setitimer": (38, 103),
    "timer_create": (222, 107), "timer_settime": (223, 110), "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109), "timer_delete": (226, 111),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209),
}  # fmt: skip

# Older spellings that only x86_64 has; each equals a call above.
ALLOWED |= {
    name: (number, ABSENT)
    for name, number in {
        "stat": 4, "lstat": 6, "poll": 7, "access": 21, "pipe": 22, "select": 23, "dup2": 33, "pause": 34,
        "alarm": 37, "fork": 57, "vfork": 58, "getdents": 78, "rename": 82, "rmdir": 84, "unlink": 87,
        "readlink": 89, "getpgrp": 111, "arch_prctl": 158, "time": 201, "epoll_create": 213,
        "epoll_wait": 232, "signalfd": 282, "eventfd": 284,
    }.items()
}  # fmt: skip

# Allowed only with arguments that ``seccomp`` compares.
CHECKED: dict[str, Numbers] = {
    "open": (2, ABSENT), "creat": (85, ABSENT), "openat": (257, 56), "mkdir": (83, ABSENT),
    "mkdirat": (258, 34),
    "chmod": (90, ABSENT), "fchmod": (91, 52), "fchmodat": (268, 53),
    "clone": (56, 220), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261),
    "fcntl": (72, 25), "setsockopt": (54, 208),
    "socketpair": (53, 199), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "renameat2": (316, 276), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212),
}  # fmt: skip

# Of these, the ones refused with another answer than ``EPERM``: "this descriptor has no such control".
CHECKED_REFUSED_AS = {"ioctl": "ENOTTY"}

# Harmless where the job has mounts and process numbers of its own; refused where it shares the host's:
# Landlock does not cover times of files, and a new session would leave the group that is killed.
ONLY_IN_NAMESPACES: dict[str, Numbers] = {
    "utimensat": (280, 88), "utime": (132, ABSENT), "utimes": (235, ABSENT), "futimesat": (261, ABSENT),
    "setsid": (112, 157), "setpgid": (109, 154),
}  # fmt: skip

# Refused with an answer that libraries take for "not supported here", rather than for a failure.
REFUSED_AS: dict[str, tuple[Numbers, str]] = {
    "clone3": ((435, 435), "ENOSYS"), "openat2": ((437, 437), "ENOSYS"),
    "fchmodat2": ((452, 452), "ENOSYS"), "memfd_create": ((319, 279), "ENOSYS"),
    "getxattr": ((191, 8), "ENOTSUP"), "lgetxattr": ((192, 9), "ENOTSUP"),
    "fgetxattr": ((193, 10), "ENOTSUP"), "listxattr": ((194, 11), "ENOTSUP"),
    "llistxattr": ((195, 12), "ENOTSUP"), "flistxattr": ((196, 13), "ENOTSUP"),
    "io_uring_setup": ((425, 425), "ENOSYS"), "pidfd_open": ((434, 434), "ENOSYS"),
}  # fmt: skip


def number(numbers: Numbers, machine: str) -> int | None:
    """The call's number on a machine, or None where that machine lacks it."""
    value = numbers[MACHINES.index(machine)]
    return None if value == ABSENT else value
