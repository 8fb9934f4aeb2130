"""New namespaces, mounts and privileges."""

from __future__ import annotations

import os
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from hostile.registry import Request, attack, call, reached


@attack(optional=True)
def _new_user_namespace(_: Request) -> bool:
    return call("unshare", 0x10000000) == 0


@attack(root=True)
def _new_network_namespace(_: Request) -> bool:
    return call("unshare", 0x40000000) == 0


@attack(optional=True)
def _new_namespace_by_clone(_: Request) -> bool:
    child = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return child > 0


@attack(optional=True)
def _new_namespace_by_clone3(_: Request) -> bool:
    arguments = struct.pack("=8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    child = call("clone3", arguments, len(arguments))
    if child == 0:
        os._exit(0)
    return child > 0


@attack()
def _join_namespace(request: Request) -> bool:
    descriptor = os.open(f"/proc/{request['victim']}/ns/uts", os.O_RDONLY)
    return call("setns", descriptor, 0) == 0 or os.geteuid() != 0


@attack(root=True)
def _mount(request: Request) -> bool:
    target = request["out"].encode()
    done = call("mount", b"none", target, b"tmpfs", 0, 0) == 0
    if done:
        call("umount2", target, 2)
    return done


@attack(root=True)
def _new_mount_interface(_: Request) -> bool:
    return call("fsopen", b"tmpfs", 0) >= 0


@attack()
def _detached_tree(_: Request) -> bool:
    return reached(call("open_tree", -100, b"/", 0x80000))


@attack(root=True)
def _change_root(_: Request) -> bool:
    os.chroot("/")
    return True


@attack(root=True)
def _become_another_user(_: Request) -> bool:
    os.setuid(12345)
    return True


@attack(root=True, optional=True)
def _raise_limits(_: Request) -> bool:
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 30, max(hard, 1 << 30)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (500_000, 500_000))
    return True


@attack(root=True)
def _host_name(_: Request) -> bool:
    name = os.uname().nodename.encode()
    return call("sethostname", name, len(name)) == 0


@attack(root=True)
def _realtime(_: Request) -> bool:
    return call("sched_setscheduler", 0, 1, struct.pack("=i", 1)) == 0


def _unshares(name: str, flag: int) -> Callable[[Request], bool]:
    def attempt(_: Request) -> bool:
        return call("unshare", flag) == 0

    attempt.__name__ = f"new_{name}_namespace"
    return attempt


for _name, _flag in {
    "mount": 0x20000, "process": 0x20000000, "message": 0x8000000, "name": 0x4000000, "group": 0x2000000,
    "time": 0x80,
}.items():  # fmt: skip
    attack(root=True, optional=True)(_unshares(_name, _flag))


@attack(optional=True)
def _namespaces_of_a_user(_: Request) -> bool:
    """The usual start of an attack on the kernel: a user namespace makes its owner root over the rest."""
    return call("unshare", 0x10000000 | 0x40000000 | 0x20000) == 0


@attack(root=True)
def _join_by_process_descriptor(request: Request) -> bool:
    descriptor = call("pidfd_open", request["victim"], 0)
    return descriptor >= 0 and call("setns", descriptor, 0x4000000) == 0


@attack(root=True, optional=True)
def _join_namespaces_of_init(_: Request) -> bool:
    """Into the mounts of process 1: the host's, where process numbers are shared."""
    descriptor = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    return call("setns", descriptor, 0x20000) == 0


@attack(root=True)
def _clone_mounts(_: Request) -> bool:
    return reached(call("open_tree", -100, b"/", 1 | 0x80000 | 0x8000))


@attack(root=True)
def _move_a_mount(_: Request) -> bool:
    return reached(call("move_mount", -1, b"", -100, b"/tmp", 0xFFFF))


@attack(root=True)
def _mount_by_descriptor(_: Request) -> bool:
    return reached(call("fsmount", -1, 0, 0))


@attack(root=True)
def _reconfigure_a_mount(_: Request) -> bool:
    return reached(call("fspick", -100, b"/", 0))


@attack(root=True)
def _attributes_of_a_mount(_: Request) -> bool:
    return reached(call("mount_setattr", -100, b"/", 0, struct.pack("=4Q", 0, 0, 0, 0), 32))


@attack(optional=True)
def _list_mounts(_: Request) -> bool:
    return reached(call("listmount", 1, 1, 0, 0))


@attack(optional=True)
def _describe_mounts(_: Request) -> bool:
    return reached(call("statmount", 1, 1, 0, 0))


@attack(root=True)
def _remount(request: Request) -> bool:
    return reached(call("mount", 0, str(Path(request["input"]).parent).encode(), 0, 0x20 | 0x1000, 0))


@attack(root=True)
def _unmount(_: Request) -> bool:
    return reached(call("umount2", b"/no/such/mount/point", 2))


@attack(root=True)
def _pivot(_: Request) -> bool:
    return reached(call("pivot_root", b"/no/such/folder", b"/no/such/folder"))


@attack(root=True)
def _leave_the_root_folder(request: Request) -> bool:
    """The oldest way out: a second root, and a descriptor that was opened before it."""
    outside = os.open("/", os.O_RDONLY)
    os.chroot(str(Path(request["input"]).parent))
    os.fchdir(outside)
    return True


@attack(root=True)
def _privileged_program(_: Request) -> bool:
    """A set-id program of the system must not make anybody root."""
    found = [
        path for path in map(Path, ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd")) if path.exists()
    ]
    if not any(path.stat().st_mode & 0o4000 for path in found):
        return os.geteuid() == 0
    status = Path("/proc/self/status").read_text()
    return "NoNewPrivs:\t0" in status or os.geteuid() == 0


@attack(root=True)
def _hold_capabilities(_: Request) -> bool:
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return any(int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapAmb"))


@attack(root=True)
def _domain_name(_: Request) -> bool:
    return reached(call("setdomainname", 0, 9999))
