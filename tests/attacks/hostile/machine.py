"""Calls that change the whole machine. Each is asked for with arguments that the kernel must refuse."""

from __future__ import annotations

import resource

from hostile.registry import Request, attack, call, reached


@attack(root=True)
def _swap(_: Request) -> bool:
    return reached(call("swapon", b"/no/such/file", 0))


@attack(root=True)
def _restart(_: Request) -> bool:
    return reached(call("reboot", 0, 0, 0, 0))  # the wrong magic numbers


@attack(root=True, optional=True)
def _another_kernel(_: Request) -> bool:
    return reached(call("kexec_load", 0, 1_000_000, 0, 0xFF00))


@attack(root=True)
def _clock(_: Request) -> bool:
    return reached(call("clock_settime", 0, 0))


@attack(root=True)
def _time_of_day(_: Request) -> bool:
    return reached(call("settimeofday", 1, 0))


@attack(root=True)
def _adjust_the_clock(_: Request) -> bool:
    return reached(call("adjtimex", 1))


@attack(root=True, optional=True)
def _load_a_module(_: Request) -> bool:
    return reached(call("finit_module", -1, b"", 0))


@attack(root=True, optional=True)
def _remove_a_module(_: Request) -> bool:
    return reached(call("delete_module", b"no_such_module_planted", 0))


@attack(root=True, optional=True)
def _accounting(_: Request) -> bool:
    return reached(call("acct", b"/no/such/file"))


@attack(root=True, optional=True)
def _more_memory_locked(_: Request) -> bool:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return call("mlockall", 1) == 0
