"""What a refused system call is called, and what its caller is told.

Invariants:
- Naming decides nothing: a call that is missing here is refused all the same, and shown by its number.
- No call stands both here and in ``syscalls``.
- The answer is a function of the call's number alone, so that it is the same whether the filter gives it
  or the supervisor.
"""

from __future__ import annotations

from sandbox.isolation import syscalls
from sandbox.isolation.syscalls import ABSENT, Numbers

NEVER: dict[str, Numbers] = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "socket": (41, 198), "connect": (42, 203),
    "accept": (43, 202), "bind": (49, 200), "listen": (50, 201), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "fchown": (93, 55), "ptrace": (101, 117), "syslog": (103, 116),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setgroups": (116, 159), "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91), "personality": (135, 92), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_rr_get_interval": (148, 127), "mlock": (149, 228),
    "munlock": (150, 229), "mlockall": (151, 230), "munlockall": (152, 231), "vhangup": (153, 58),
    "pivot_root": (155, 41), "adjtimex": (159, 171), "chroot": (161, 51), "sync": (162, 81),
    "acct": (163, 89), "settimeofday": (164, 170), "mount": (165, 40), "umount2": (166, 39),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161),
    "setdomainname": (171, 162), "init_module": (175, 105), "delete_module": (176, 106),
    "quotactl": (179, 60), "nfsservctl": (180, 42), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "io_setup": (206, 0), "io_destroy": (207, 1), "io_getevents": (208, 4), "io_submit": (209, 2),
    "io_cancel": (210, 3), "lookup_dcookie": (212, 18), "remap_file_pages": (216, 234),
    "semtimedop": (220, 192), "clock_settime": (227, 112), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    "kexec_load": (246, 104), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "ioprio_set": (251, 30), "ioprio_get": (252, 31), "inotify_add_watch": (254, 27),
    "inotify_rm_watch": (255, 28), "migrate_pages": (256, 238), "mknodat": (259, 33), "fchownat": (260, 54),
    "linkat": (265, 37), "symlinkat": (266, 36), "unshare": (272, 97), "splice": (275, 76),
    "tee": (276, 77), "sync_file_range": (277, 84), "vmsplice": (278, 75), "move_pages": (279, 239),
    "accept4": (288, 242), "inotify_init1": (294, 26), "rt_tgsigqueueinfo": (297, 240),
    "perf_event_open": (298, 241), "recvmmsg": (299, 243), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266), "syncfs": (306, 267), "sendmmsg": (307, 269), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "finit_module": (313, 273), "sched_setattr": (314, 274), "seccomp": (317, 277),
    "kexec_file_load": (320, 294), "bpf": (321, 280), "userfaultfd": (323, 282), "mlock2": (325, 284),
    "pkey_mprotect": (329, 288), "pkey_alloc": (330, 289), "pkey_free": (331, 290),
    "io_pgetevents": (333, 292), "pidfd_send_signal": (424, 424), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "memfd_secret": (447, 447), "process_mrelease": (448, 448),
    "set_mempolicy_home_node": (450, 450),
}  # fmt: skip

# Only x86_64 has these.
NEVER |= {
    name: (number, ABSENT)
    for name, number in {
        "link": 86, "symlink": 88, "chown": 92, "lchown": 94, "mknod": 133, "uselib": 134, "ustat": 136,
        "sysfs": 139, "modify_ldt": 154, "iopl": 172, "ioperm": 173, "create_module": 174,
        "get_kernel_syms": 177, "query_module": 178, "getpmsg": 181, "putpmsg": 182, "afs_syscall": 183,
        "tuxcall": 184, "security": 185, "set_thread_area": 205, "get_thread_area": 211, "epoll_ctl_old": 214,
        "epoll_wait_old": 215, "vserver": 236, "inotify_init": 253,
    }.items()
}  # fmt: skip

# Calls of later kernels have one number on every machine.
NEVER |= {
    name: (number, number)
    for name, number in {
        "cachestat": 451, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
        "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
        "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465,
        "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
    }.items()
}  # fmt: skip

ORDINARY = "EPERM"


def answers(machine: str) -> dict[int, tuple[str, str]]:
    """For each known call's number: its name, and the name of the error with which it is refused."""
    tables = (syscalls.ALLOWED, syscalls.ONLY_IN_NAMESPACES, syscalls.CHECKED, NEVER)
    refused = {name: numbers for name, (numbers, _) in syscalls.REFUSED_AS.items()}
    found = {}
    for name, numbers in (item for table in (*tables, refused) for item in table.items()):
        value = syscalls.number(numbers, machine)
        if value is not None:
            found[value] = (name, reason(name))
    return found


def reason(name: str) -> str:
    """The name of the error with which a call is refused."""
    if name in syscalls.REFUSED_AS:
        return syscalls.REFUSED_AS[name][1]
    return syscalls.CHECKED_REFUSED_AS.get(name, ORDINARY)
