"""The kernel's rarer doors: calls that few programs need and many holes were found in."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path

from hostile.registry import X86, Request, attack, call, numbered, reached


@attack(optional=True)
def _keys(_: Request) -> bool:
    return call("add_key", b"user", b"planted", b"1", 1, -2) > 0


@attack(optional=True)
def _keyrings(_: Request) -> bool:
    return reached(call("keyctl", 0, -3, 1))


@attack(optional=True)
def _user_faults(_: Request) -> bool:
    return call("userfaultfd", 1) >= 0


@attack(optional=True)
def _io_uring(_: Request) -> bool:
    return call("io_uring_setup", 1, ctypes.create_string_buffer(120)) >= 0


@attack(root=True)
def _bpf(_: Request) -> bool:
    return reached(call("bpf", 0, ctypes.create_string_buffer(128), 128))


@attack(optional=True)
def _performance_events(_: Request) -> bool:
    return reached(call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0))


@attack()
def _file_handles(_: Request) -> bool:
    return reached(
        call("name_to_handle_at", -100, b"/", struct.pack("=Ii", 0, 0) + b"\0" * 128, b"\0" * 8, 0)
    )


@attack()
def _personality(_: Request) -> bool:
    return call("personality", 0x0040000) >= 0


@attack(optional=True)
def _asynchronous_io(_: Request) -> bool:
    return call("io_setup", 1, ctypes.create_string_buffer(8)) == 0


@attack(root=True, optional=True)
def _watch_whole_system(_: Request) -> bool:
    return call("fanotify_init", 0, 0) >= 0


@attack()
def _watch_files(_: Request) -> bool:
    return call("inotify_init1", 0) >= 0


@attack(root=True, optional=True)
def _kernel_log(_: Request) -> bool:
    return call("syslog", 10, 0, 0) >= 0


@attack(root=True, optional=True)
def _kernel_module(_: Request) -> bool:
    return reached(call("init_module", b"x", 1, b""))


@attack(optional=True)
def _system_v_memory(_: Request) -> bool:
    return call("shmget", 0, 4096, 0o1600) >= 0


@attack(optional=True)
def _system_v_messages(_: Request) -> bool:
    return call("msgget", 0, 0o1600) >= 0


@attack(optional=True)
def _system_v_semaphores(_: Request) -> bool:
    return call("semget", 0, 1, 0o1600) >= 0


@attack(optional=True)
def _message_queue(_: Request) -> bool:
    return call("mq_open", b"planted", os.O_CREAT | os.O_RDWR, 0o600, 0) >= 0


@attack()
def _splice_memory(_: Request) -> bool:
    _reader, writer = os.pipe()
    return reached(call("vmsplice", writer, 0, 0, 0))


@attack()
def _duplicate_pipe(_: Request) -> bool:
    one, other = os.pipe(), os.pipe()
    return reached(call("tee", one[0], other[1], 1, 2))


@attack(root=True)
def _lock_all_memory(_: Request) -> bool:
    return call("mlockall", 1) == 0


@attack()
def _io_priority(_: Request) -> bool:
    return call("ioprio_set", 1, 0, 2 << 13 | 4) == 0


@attack(root=True, optional=True)
def _disk_quota(_: Request) -> bool:
    return reached(call("quotactl", 0x800001 << 8, 0, 0, 0))


@attack(optional=True)
def _segment_table(_: Request) -> bool:
    return X86 and call("modify_ldt", 0, ctypes.create_string_buffer(16), 16) >= 0


@attack(root=True, optional=True)
def _port_access(_: Request) -> bool:
    return X86 and call("ioperm", 0x80, 1, 1) == 0


@attack(optional=True)
def _thirty_two_bit_calls(_: Request) -> bool:
    """``int 0x80`` enters the kernel by another table of numbers: 20 is getpid there."""
    if not X86:
        return False
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function() == os.getpid()


@attack(optional=True)
def _x32_calls(_: Request) -> bool:
    """A third table of numbers, for programs with short pointers: 39 is getpid there."""
    return X86 and numbered(0x40000000 | 39) == os.getpid()


@attack()
def _file_in_memory(_: Request) -> bool:
    return call("memfd_create", b"x", 0) >= 0


@attack()
def _run_file_in_memory(_: Request) -> bool:
    """A program that never was on a disk."""
    descriptor = call("memfd_create", b"x", 0)
    if descriptor < 0:
        return False
    os.write(descriptor, Path("/bin/true").read_bytes())
    child = os.fork()
    if child == 0:
        os.execve(descriptor, ["true"], {})
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@attack(optional=True)
def _secret_memory(_: Request) -> bool:
    """Memory that nobody can look into, and that no limit on resident size sees."""
    return call("memfd_secret", 0) >= 0


@attack()
def _splice(_: Request) -> bool:
    """Moving pages between files and pipes without copying: Dirty Pipe came from here."""
    reader, writer = os.pipe()
    return reached(call("splice", reader, 0, writer, 0, 1, 2))


@attack(optional=True)
def _request_a_key(_: Request) -> bool:
    """Can start a helper program of the system, as root."""
    return reached(call("request_key", b"user", b"planted", 0, 0))


@attack(optional=True)
def _filter_for_packets(_: Request) -> bool:
    """bpf's other door: a program attached to a socket."""
    import socket

    first, _second = socket.socketpair()
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
    fields = struct.pack("=H6xQ", 1, ctypes.addressof(program))
    first.setsockopt(socket.SOL_SOCKET, 26, fields)
    return True


@attack(optional=True)
def _address_space_without_chance(_: Request) -> bool:
    return call("personality", 0x0040000 | 0x0400000) >= 0


@attack(optional=True)
def _thread_segment(_: Request) -> bool:
    return X86 and reached(call("set_thread_area", 0))


@attack(root=True, optional=True)
def _all_ports(_: Request) -> bool:
    return X86 and reached(call("iopl", 0))


@attack(optional=True)
def _old_library_loader(_: Request) -> bool:
    return X86 and reached(call("uselib", b"/no/such/library"))


@attack()
def _memory_policy(_: Request) -> bool:
    return reached(call("mbind", 0, 0, 0, 0, 0, 0))


@attack()
def _file_pages_rearranged(_: Request) -> bool:
    return reached(call("remap_file_pages", 0, 0, 0, 0, 0))


@attack(optional=True)
def _pages_in_cache(request: Request) -> bool:
    """Which pages of a file somebody has read lately."""
    descriptor = os.open(request["input"], os.O_RDONLY)
    return reached(call("cachestat", descriptor, 0, 0, 0))
