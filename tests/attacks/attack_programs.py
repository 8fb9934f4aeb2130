"""Attacks that a hostile job could try, run inside an isolation level.

Run as a program: ``python -I -S attack_programs.py REQUEST``. Each attack runs in a process of its own and
says whether it got through; what leaves a trace outside is checked there as well. The request tells an
attack everything that an insider could know: paths, ports, process numbers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Attack = Callable[[Request], bool]

ATTACKS: dict[str, Attack] = {}
# At level ``none`` these get through only for root: the kernel itself stops them for others.
NEEDS_ROOT: set[str] = set()
# Not on every machine or kernel; without a control that gets through, the case says nothing.
MAY_BE_ABSENT: set[str] = set()

_X86 = os.uname().machine == "x86_64"
# x86_64, aarch64
_CALLS = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264), "personality": (135, 92), "memfd_create": (319, 279),
    "fanotify_init": (300, 262), "syslog": (103, 116), "sethostname": (170, 161), "init_module": (175, 105),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "vmsplice": (278, 75), "tee": (276, 77), "setxattr": (188, 5), "clone3": (435, 435), "kcmp": (312, 272),
    "mlockall": (151, 230), "sched_setscheduler": (144, 119), "ioprio_set": (251, 30), "chroot": (161, 51),
    "clone": (56, 220), "openat2": (437, 437), "prlimit64": (302, 261), "io_setup": (206, 0),
    "process_madvise": (440, 440), "modify_ldt": (154, -1), "ioperm": (173, -1), "acct": (163, 89),
    "inotify_init1": (294, 26), "quotactl": (179, 60), "lookup_dcookie": (212, 18), "open_tree": (428, 428),
    "fsopen": (430, 430), "pivot_root": (155, 41), "swapoff": (168, 225), "mknodat": (259, 33),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_UNREACHED = (errno.EPERM, errno.ENOSYS, errno.EACCES)


def _attack(*, root: bool = False, optional: bool = False) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        name = function.__name__.strip("_")
        ATTACKS[name] = function
        if root:
            NEEDS_ROOT.add(name)
        if optional:
            MAY_BE_ABSENT.add(name)
        return function

    return register


def _call(name: str, *arguments: Any) -> int:
    """A raw system call: its result, or minus the error number."""
    number = _CALLS[name][0 if _X86 else 1]
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *wide)
    return -ctypes.get_errno() if result == -1 else int(result)


def _reached(result: int) -> bool:
    """Whether the kernel's own code ran: success, or a complaint about the arguments."""
    return -result not in _UNREACHED


# --- network ---------------------------------------------------------------------------------


@_attack()
def _tcp_connect(request: Request) -> bool:
    with socket.create_connection(("127.0.0.1", request["tcp"]), timeout=2) as connection:
        connection.sendall(b"x")
    return True


@_attack()
def _tcp_fast_open(request: Request) -> bool:
    with socket.socket() as connection:
        return connection.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", request["tcp"])) > 0


@_attack()
def _tcp_listen(_: Request) -> bool:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
    return True


@_attack()
def _udp_send(request: Request) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"x", ("127.0.0.1", request["udp"])) > 0


@_attack()
def _unix_connect(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(request["unix"])
    return True


@_attack()
def _unix_connect_abstract(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + request["abstract"])
    return True


@_attack()
def _datagram_from_socketpair(request: Request) -> bool:
    first, _second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return first.sendto(b"x", request["datagram"]) > 0


@_attack()
def _connect_socketpair(request: Request) -> bool:
    first, _second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.connect(request["datagram"])
    return first.send(b"x") > 0


@_attack()
def _netlink(_: Request) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
        connection.bind((0, 0))
    return True


@_attack(root=True)
def _raw_socket(_: Request) -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True


@_attack(root=True, optional=True)
def _packet_socket(_: Request) -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return True


@_attack(optional=True)
def _crypto_socket(_: Request) -> bool:
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    return True


@_attack(optional=True)
def _vsock(_: Request) -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0).close()
    return True


# --- files -------------------------------------------------------------------------------------


@_attack()
def _read_key(request: Request) -> bool:
    return "secret" in Path(request["home"], "key").read_text()


@_attack()
def _list_home(request: Request) -> bool:
    return bool(list(Path(request["home"]).iterdir()))


@_attack()
def _stat_registry(request: Request) -> bool:
    return Path(request["home"], "registry").exists()


@_attack()
def _append_to_log(request: Request) -> bool:
    with Path(request["home"], "log").open("a") as stream:
        stream.write("forged")
    return True


@_attack()
def _replace_policy(request: Request) -> bool:
    fresh = Path(request["home"], "policy.new")
    fresh.write_text("allow everything")
    fresh.rename(Path(request["home"], "policy"))
    return True


@_attack()
def _chmod_outside(request: Request) -> bool:
    Path(request["home"], "mode").chmod(0o600)
    return True


@_attack()
def _times_outside(request: Request) -> bool:
    os.utime(Path(request["home"], "times"), (1, 1))
    return True


@_attack(optional=True)
def _attributes_outside(request: Request) -> bool:
    os.setxattr(Path(request["home"], "times"), "user.planted", b"1")
    return True


@_attack()
def _truncate_outside(request: Request) -> bool:
    os.truncate(Path(request["home"], "base"), 0)
    return True


@_attack()
def _hard_link_into_output(request: Request) -> bool:
    Path(request["out"], "base").hardlink_to(Path(request["home"], "base"))
    return True


@_attack()
def _hard_link_inside_output(request: Request) -> bool:
    first = Path(request["out"], "one")
    first.write_text("1")
    Path(request["out"], "two").hardlink_to(first)
    return True


@_attack()
def _symbolic_link_in_output(request: Request) -> bool:
    Path(request["out"], "link").symlink_to(Path(request["home"], "key"))
    return True


@_attack()
def _write_through_link(request: Request) -> bool:
    link = Path(request["out"], "way-out")
    link.symlink_to(request["home"])
    (link / "through-link").write_text("1")
    return True


@_attack()
def _fifo_in_output(request: Request) -> bool:
    os.mkfifo(Path(request["out"], "fifo"))
    return True


@_attack()
def _socket_in_output(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(request["out"], "socket")))
    return True


@_attack()
def _socket_node_by_mknod(request: Request) -> bool:
    os.mknod(Path(request["out"], "node"), 0o140600)
    return True


@_attack(root=True)
def _device_node(request: Request) -> bool:
    os.mknod(Path(request["out"], "device"), 0o060600, os.makedev(7, 0))
    return True


@_attack()
def _set_id_by_open(request: Request) -> bool:
    path = Path(request["out"], "set-id-open")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    return bool(path.stat().st_mode & 0o4000)


@_attack()
def _set_id_by_chmod(request: Request) -> bool:
    path = Path(request["out"], "set-id-chmod")
    path.write_text("1")
    path.chmod(0o4755)
    return bool(path.stat().st_mode & 0o4000)


@_attack()
def _set_id_by_openat2(request: Request) -> bool:
    path = Path(request["out"], "set-id-openat2")
    how = struct.pack("=QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    return _call("openat2", -100, str(path).encode(), how, len(how)) >= 0


@_attack()
def _set_id_folder(request: Request) -> bool:
    path = Path(request["out"], "set-id-folder")
    path.mkdir()
    path.chmod(0o2777)
    return bool(path.stat().st_mode & 0o2000)


@_attack()
def _run_what_it_wrote(request: Request) -> bool:
    program = Path(request["out"], "program")
    shutil.copyfile("/bin/true", program)
    program.chmod(0o755)
    return os.spawnv(os.P_WAIT, program, ["program"]) == 0


@_attack()
def _run_from_memory(_: Request) -> bool:
    descriptor = _call("memfd_create", b"x", 0)
    if descriptor < 0:
        return False
    os.write(descriptor, Path("/bin/true").read_bytes())
    return os.spawnv(os.P_WAIT, f"/proc/self/fd/{descriptor}", ["x"]) == 0


@_attack()
def _change_input(request: Request) -> bool:
    with Path(request["input"]).open("a") as stream:
        stream.write("changed")
    return True


@_attack(root=True)
def _plant_in_interpreter(_: Request) -> bool:
    planted = Path(os.__file__).with_name("planted_by_an_attack_test.txt")
    planted.write_text("1")
    planted.unlink()
    return True


@_attack(root=True)
def _plant_in_system(_: Request) -> bool:
    planted = Path("/usr/planted_by_an_attack_test.txt")
    planted.write_text("1")
    planted.unlink()
    return True


@_attack()
def _shared_memory_of_host(request: Request) -> bool:
    return "secret" in Path(request["shared_memory"]).read_text()


@_attack()
def _temporary_files_of_host(request: Request) -> bool:
    return "secret" in Path(request["temporary"]).read_text()


@_attack()
def _write_next_to_output(request: Request) -> bool:
    Path(request["out"], "..", "beside-output").write_text("1")
    return True


@_attack(root=True, optional=True)
def _kernel_messages_device(_: Request) -> bool:
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    return True


@_attack(root=True, optional=True)
def _disk_device(request: Request) -> bool:
    os.close(os.open(request["disk"], os.O_RDONLY))
    return True


# --- /proc and /sys ----------------------------------------------------------------------------


@_attack()
def _environment_of_another(request: Request) -> bool:
    return b"PLANTED" in Path(f"/proc/{request['victim']}/environ").read_bytes()


@_attack(root=True, optional=True)
def _environment_of_init(_: Request) -> bool:
    """Inside, process 1 is what set the sandbox up: its environment must be empty or closed."""
    return Path("/proc/1/environ").read_bytes() != b""


@_attack()
def _command_line_of_another(request: Request) -> bool:
    return b"planted-argument" in Path(f"/proc/{request['victim']}/cmdline").read_bytes()


@_attack(optional=True)
def _memory_of_another(request: Request) -> bool:
    with Path(f"/proc/{request['victim']}/mem").open("rb", buffering=0):
        return True


@_attack(root=True, optional=True)
def _memory_of_init(_: Request) -> bool:
    with Path("/proc/1/mem").open("r+b", buffering=0):
        return True


@_attack()
def _files_of_another(request: Request) -> bool:
    return bool(list(Path(f"/proc/{request['victim']}/fd").iterdir()))


@_attack()
def _root_of_another(request: Request) -> bool:
    return "secret" in Path(f"/proc/{request['victim']}/root" + request["home"] + "/key").read_text()


@_attack(root=True)
def _core_pattern(_: Request) -> bool:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return True


@_attack(root=True, optional=True)
def _system_request(_: Request) -> bool:
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return True


@_attack()
def _out_of_memory_score(_: Request) -> bool:
    Path("/proc/self/oom_score_adj").write_text("500")
    return True


@_attack(root=True, optional=True)
def _kernel_memory(_: Request) -> bool:
    os.close(os.open("/proc/kcore", os.O_RDONLY))
    return True


@_attack(root=True)
def _kernel_setting(_: Request) -> bool:
    os.close(os.open("/sys/kernel/mm/transparent_hugepage/enabled", os.O_WRONLY))
    return True


@_attack(root=True, optional=True)
def _control_group(_: Request) -> bool:
    for base in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        folder = Path(base, "planted-by-an-attack-test")
        try:
            folder.mkdir()
        except OSError:
            continue
        folder.rmdir()
        return True
    return False


# --- processes ---------------------------------------------------------------------------------


@_attack()
def _signal_another(request: Request) -> bool:
    os.kill(request["kill_me"], signal.SIGTERM)
    return False  # only the other side knows whose process had this number


@_attack(optional=True)
def _trace_another(request: Request) -> bool:
    seize = 0x4206
    return _call("ptrace", seize, request["victim"], 0, 0) == 0


@_attack()
def _trace_own_child(_: Request) -> bool:
    return _call("ptrace", 0, 0, 0, 0) == 0


@_attack(optional=True)
def _read_memory_of_another(request: Request) -> bool:
    return _reached(_call("process_vm_readv", request["victim"], 0, 0, 0, 0, 0))


@_attack(optional=True)
def _take_descriptor_of_another(request: Request) -> bool:
    descriptor = _call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and _call("pidfd_getfd", descriptor, 1, 0) >= 0


@_attack()
def _signal_by_descriptor(request: Request) -> bool:
    descriptor = _call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and _call("pidfd_send_signal", descriptor, 0, 0, 0) == 0


@_attack()
def _limits_of_another(request: Request) -> bool:
    return (
        _call("prlimit64", request["victim"], resource.RLIMIT_NOFILE, 0, ctypes.create_string_buffer(16)) == 0
    )


@_attack()
def _priority_of_another(request: Request) -> bool:
    os.setpriority(os.PRIO_PROCESS, request["victim"], 5)
    return True


@_attack()
def _processors_of_another(request: Request) -> bool:
    os.sched_setaffinity(request["victim"], os.sched_getaffinity(0))
    return True


@_attack(optional=True)
def _compare_processes(request: Request) -> bool:
    return _reached(_call("kcmp", os.getpid(), request["victim"], 2, 0, 0))


@_attack(optional=True)
def _advise_another(request: Request) -> bool:
    descriptor = _call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and _reached(_call("process_madvise", descriptor, 0, 0, 20, 0))


# --- namespaces and privileges -------------------------------------------------------------------


@_attack(optional=True)
def _new_user_namespace(_: Request) -> bool:
    return _call("unshare", 0x10000000) == 0


@_attack(root=True)
def _new_network_namespace(_: Request) -> bool:
    return _call("unshare", 0x40000000) == 0


@_attack(optional=True)
def _new_namespace_by_clone(_: Request) -> bool:
    child = _call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return child > 0


@_attack(optional=True)
def _new_namespace_by_clone3(_: Request) -> bool:
    arguments = struct.pack("=8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    child = _call("clone3", arguments, len(arguments))
    if child == 0:
        os._exit(0)
    return child > 0


@_attack()
def _join_namespace(request: Request) -> bool:
    descriptor = os.open(f"/proc/{request['victim']}/ns/uts", os.O_RDONLY)
    return _call("setns", descriptor, 0) == 0 or os.geteuid() != 0


@_attack(root=True)
def _mount(request: Request) -> bool:
    target = request["out"].encode()
    done = _call("mount", b"none", target, b"tmpfs", 0, 0) == 0
    if done:
        _call("umount2", target, 2)
    return done


@_attack(root=True)
def _new_mount_interface(_: Request) -> bool:
    return _call("fsopen", b"tmpfs", 0) >= 0


@_attack()
def _detached_tree(_: Request) -> bool:
    return _reached(_call("open_tree", -100, b"/", 0x80000))


@_attack(root=True)
def _change_root(_: Request) -> bool:
    os.chroot("/")
    return True


@_attack(root=True)
def _become_another_user(_: Request) -> bool:
    os.setuid(12345)
    return True


@_attack(root=True, optional=True)
def _raise_limits(_: Request) -> bool:
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 30, max(hard, 1 << 30)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (500_000, 500_000))
    return True


@_attack(root=True)
def _host_name(_: Request) -> bool:
    name = os.uname().nodename.encode()
    return _call("sethostname", name, len(name)) == 0


@_attack(root=True)
def _realtime(_: Request) -> bool:
    return _call("sched_setscheduler", 0, 1, struct.pack("=i", 1)) == 0


# --- the kernel's rarer doors ---------------------------------------------------------------------


@_attack(optional=True)
def _keys(_: Request) -> bool:
    return _call("add_key", b"user", b"planted", b"1", 1, -2) > 0


@_attack(optional=True)
def _keyrings(_: Request) -> bool:
    return _reached(_call("keyctl", 0, -3, 1))


@_attack(optional=True)
def _user_faults(_: Request) -> bool:
    return _call("userfaultfd", 1) >= 0


@_attack(optional=True)
def _io_uring(_: Request) -> bool:
    return _call("io_uring_setup", 1, ctypes.create_string_buffer(120)) >= 0


@_attack(root=True)
def _bpf(_: Request) -> bool:
    return _reached(_call("bpf", 0, ctypes.create_string_buffer(128), 128))


@_attack(optional=True)
def _performance_events(_: Request) -> bool:
    return _reached(_call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0))


@_attack()
def _file_handles(_: Request) -> bool:
    return _reached(
        _call("name_to_handle_at", -100, b"/", struct.pack("=Ii", 0, 0) + b"\0" * 128, b"\0" * 8, 0)
    )


@_attack()
def _personality(_: Request) -> bool:
    return _call("personality", 0x0040000) >= 0


@_attack(optional=True)
def _asynchronous_io(_: Request) -> bool:
    return _call("io_setup", 1, ctypes.create_string_buffer(8)) == 0


@_attack(root=True, optional=True)
def _watch_whole_system(_: Request) -> bool:
    return _call("fanotify_init", 0, 0) >= 0


@_attack()
def _watch_files(_: Request) -> bool:
    return _call("inotify_init1", 0) >= 0


@_attack(root=True, optional=True)
def _kernel_log(_: Request) -> bool:
    return _call("syslog", 10, 0, 0) >= 0


@_attack(root=True, optional=True)
def _kernel_module(_: Request) -> bool:
    return _reached(_call("init_module", b"x", 1, b""))


@_attack(optional=True)
def _system_v_memory(_: Request) -> bool:
    return _call("shmget", 0, 4096, 0o1600) >= 0


@_attack(optional=True)
def _system_v_messages(_: Request) -> bool:
    return _call("msgget", 0, 0o1600) >= 0


@_attack(optional=True)
def _system_v_semaphores(_: Request) -> bool:
    return _call("semget", 0, 1, 0o1600) >= 0


@_attack(optional=True)
def _message_queue(_: Request) -> bool:
    return _call("mq_open", b"planted", os.O_CREAT | os.O_RDWR, 0o600, 0) >= 0


@_attack()
def _splice_memory(_: Request) -> bool:
    _reader, writer = os.pipe()
    return _reached(_call("vmsplice", writer, 0, 0, 0))


@_attack()
def _duplicate_pipe(_: Request) -> bool:
    one, other = os.pipe(), os.pipe()
    return _reached(_call("tee", one[0], other[1], 1, 2))


@_attack(root=True)
def _lock_all_memory(_: Request) -> bool:
    return _call("mlockall", 1) == 0


@_attack()
def _io_priority(_: Request) -> bool:
    return _call("ioprio_set", 1, 0, 2 << 13 | 4) == 0


@_attack(root=True, optional=True)
def _disk_quota(_: Request) -> bool:
    return _reached(_call("quotactl", 0x800001 << 8, 0, 0, 0))


@_attack(optional=True)
def _segment_table(_: Request) -> bool:
    return _X86 and _call("modify_ldt", 0, ctypes.create_string_buffer(16), 16) >= 0


@_attack(root=True, optional=True)
def _port_access(_: Request) -> bool:
    return _X86 and _call("ioperm", 0x80, 1, 1) == 0


@_attack(optional=True)
def _thirty_two_bit_calls(_: Request) -> bool:
    """``int 0x80`` enters the kernel by another table of numbers: 20 is getpid there."""
    if not _X86:
        return False
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function() == os.getpid()


# --- running them ------------------------------------------------------------------------------


def main() -> None:
    """Run every attack in a process of its own, and write what got through."""
    request = json.loads(Path(sys.argv[1]).read_text())
    results = {name: _run(attack, request) for name, attack in ATTACKS.items()}
    Path(request["report"]).write_text(json.dumps(results))


def _run(attack: Attack, request: Request) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            said = "open" if attack(request) else "blocked"
        except Exception as error:
            said = "blocked: " + traceback.format_exception_only(error)[-1].strip()[:200]
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or f"blocked: ended by signal {-status}"


if __name__ == "__main__":
    main()
