"""Reaching other processes, the supervisor among them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import struct
import time

from hostile.registry import Request, attack, call, reached


@attack()
def _signal_another(request: Request) -> bool:
    os.kill(request["kill_me"], signal.SIGTERM)
    return False  # only the other side knows whose process had this number


@attack(optional=True)
def _trace_another(request: Request) -> bool:
    seize = 0x4206
    return call("ptrace", seize, request["victim"], 0, 0) == 0


@attack()
def _trace_own_child(_: Request) -> bool:
    return call("ptrace", 0, 0, 0, 0) == 0


@attack(optional=True)
def _read_memory_of_another(request: Request) -> bool:
    return reached(call("process_vm_readv", request["victim"], 0, 0, 0, 0, 0))


@attack(optional=True)
def _take_descriptor_of_another(request: Request) -> bool:
    descriptor = call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and call("pidfd_getfd", descriptor, 1, 0) >= 0


@attack()
def _signal_by_descriptor(request: Request) -> bool:
    descriptor = call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and call("pidfd_send_signal", descriptor, 0, 0, 0) == 0


@attack()
def _limits_of_another(request: Request) -> bool:
    return (
        call("prlimit64", request["victim"], resource.RLIMIT_NOFILE, 0, ctypes.create_string_buffer(16)) == 0
    )


@attack()
def _priority_of_another(request: Request) -> bool:
    os.setpriority(os.PRIO_PROCESS, request["victim"], 5)
    return True


@attack()
def _processors_of_another(request: Request) -> bool:
    os.sched_setaffinity(request["victim"], os.sched_getaffinity(0))
    return True


@attack(optional=True)
def _compare_processes(request: Request) -> bool:
    return reached(call("kcmp", os.getpid(), request["victim"], 2, 0, 0))


@attack(optional=True)
def _advise_another(request: Request) -> bool:
    descriptor = call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and reached(call("process_madvise", descriptor, 0, 0, 20, 0))


@attack(optional=True)
def _write_memory_of_another(request: Request) -> bool:
    return reached(call("process_vm_writev", request["victim"], 0, 0, 0, 0, 0))


@attack()
def _signal_supervisor(request: Request) -> bool:
    os.kill(request["supervisor"], 0)  # what may ask may also stop or kill
    return True


@attack()
def _signal_by_thread(request: Request) -> bool:
    return call("tgkill", request["victim"], request["victim"], 0) == 0


@attack()
def _signal_with_value(request: Request) -> bool:
    information = struct.pack("=3i", 0, 0, -1) + bytes(128 - 12)
    return call("rt_sigqueueinfo", request["victim"], 0, information) == 0


@attack()
def _signal_by_pipe_owner(request: Request) -> bool:
    """A pipe can be told to signal any process when something arrives in it."""
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, request["kill_by_owner"])
    fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writer, b"x")
    time.sleep(0.05)
    return False  # only the other side knows whose process had this number


@attack()
def _stop_another(request: Request) -> bool:
    os.kill(request["stop_me"], signal.SIGSTOP)
    return False  # only the other side knows whose process had this number


@attack(optional=True)
def _trace_supervisor(request: Request) -> bool:
    seize = 0x4206
    return call("ptrace", seize, request["supervisor"], 0, 0) == 0


@attack(optional=True)
def _take_descriptor_of_supervisor(request: Request) -> bool:
    descriptor = call("pidfd_open", request["supervisor"], 0)
    return descriptor >= 0 and call("pidfd_getfd", descriptor, 1, 0) >= 0


@attack()
def _look_by_descriptor(request: Request) -> bool:
    """A process descriptor tells when a process ends, and is a key to many other calls."""
    return call("pidfd_open", request["victim"], 0) >= 0


@attack()
def _sibling_of_the_supervised(_: Request) -> bool:
    """A child whose parent is the supervisor: outside the tree that is watched."""
    child = call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return child > 0


@attack()
def _adopt_orphans(_: Request) -> bool:
    """Being the parent of every orphan below hides them from who watches a tree."""
    return call("prctl", 36, 1, 0, 0, 0) == 0


@attack()
def _hide_from_the_meter(_: Request) -> bool:
    """A process that is not dumpable cannot be measured by its own user."""
    return call("prctl", 4, 0, 0, 0, 0) == 0


@attack(root=True, optional=True)
def _rewrite_own_arguments(_: Request) -> bool:
    return reached(call("prctl", 35, 8, 1, 0, 0))


@attack(optional=True)
def _invite_tracers(_: Request) -> bool:
    return call("prctl", 0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0) == 0


@attack(optional=True)
def _answer_own_calls(_: Request) -> bool:
    """A second filter with a listener of its own would come between the job and who observes it."""
    call("prctl", 38, 1, 0, 0, 0)
    return reached(call("seccomp", 1, 8, 1))


@attack(optional=True)
def _reap_memory_of_another(request: Request) -> bool:
    descriptor = call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and reached(call("process_mrelease", descriptor, 0))


@attack()
def _pages_moved_of_another(request: Request) -> bool:
    return reached(call("move_pages", request["victim"], 0, 0, 0, 0, 0))


@attack()
def _memory_moved_of_another(request: Request) -> bool:
    return reached(call("migrate_pages", request["victim"], 0, 0, 0))


@attack(root=True, optional=True)
def _core_files(_: Request) -> bool:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    return True


@attack(root=True, optional=True)
def _more_processes(_: Request) -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    wanted = hard if hard == resource.RLIM_INFINITY else hard + 1
    resource.setrlimit(resource.RLIMIT_NPROC, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NPROC)[0] > 4096 or soft > 4096


@attack(root=True)
def _raise_priority(_: Request) -> bool:
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return True


@attack(root=True)
def _deadline(_: Request) -> bool:
    attributes = struct.pack("=2IQiI3Q", 48, 6, 0, 0, 0, 1_000_000, 10_000_000, 10_000_000)
    return reached(call("sched_setattr", 0, attributes, 0))


@attack(root=True)
def _realtime_disk(_: Request) -> bool:
    return call("ioprio_set", 1, 0, 1 << 13) == 0


@attack(root=True)
def _realtime_round_robin(_: Request) -> bool:
    return call("sched_setscheduler", 0, 2, struct.pack("=i", 99)) == 0
