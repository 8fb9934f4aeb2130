"""What may not come into being where the job may write."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
from pathlib import Path

from hostile.registry import Request, attack, call


@attack()
def _hard_link_into_output(request: Request) -> bool:
    Path(request["out"], "base").hardlink_to(Path(request["home"], "base"))
    return True


@attack()
def _hard_link_inside_output(request: Request) -> bool:
    first = Path(request["out"], "one")
    first.write_text("1")
    Path(request["out"], "two").hardlink_to(first)
    return True


@attack()
def _symbolic_link_in_output(request: Request) -> bool:
    Path(request["out"], "link").symlink_to(Path(request["home"], "key"))
    return True


@attack()
def _write_through_link(request: Request) -> bool:
    link = Path(request["out"], "way-out")
    link.symlink_to(request["home"])
    (link / "through-link").write_text("1")
    return True


@attack()
def _fifo_in_output(request: Request) -> bool:
    os.mkfifo(Path(request["out"], "fifo"))
    return True


@attack()
def _socket_in_output(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(request["out"], "socket")))
    return True


@attack(optional=True)
def _device_by_renaming(request: Request) -> bool:
    """A rename can leave a "whiteout" behind: a character device, made without privilege."""
    here, there = Path(request["out"], "covered"), Path(request["out"], "moved")
    here.write_text("1")
    call("renameat2", -100, str(here).encode(), -100, str(there).encode(), 4)
    return here.exists() and here.is_char_device()


@attack()
def _socket_node_by_mknod(request: Request) -> bool:
    os.mknod(Path(request["out"], "node"), 0o140600)
    return True


@attack(root=True)
def _device_node(request: Request) -> bool:
    os.mknod(Path(request["out"], "device"), 0o060600, os.makedev(7, 0))
    return True


@attack()
def _set_id_by_open(request: Request) -> bool:
    path = Path(request["out"], "set-id-open")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    return bool(path.stat().st_mode & 0o4000)


@attack()
def _set_id_by_chmod(request: Request) -> bool:
    path = Path(request["out"], "set-id-chmod")
    path.write_text("1")
    path.chmod(0o4755)
    return bool(path.stat().st_mode & 0o4000)


@attack()
def _set_id_by_openat2(request: Request) -> bool:
    path = Path(request["out"], "set-id-openat2")
    how = struct.pack("=QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    return call("openat2", -100, str(path).encode(), how, len(how)) >= 0


@attack()
def _set_id_folder(request: Request) -> bool:
    path = Path(request["out"], "set-id-folder")
    path.mkdir()
    path.chmod(0o2777)
    return bool(path.stat().st_mode & 0o2000)


@attack()
def _run_what_it_wrote(request: Request) -> bool:
    program = Path(request["out"], "program")
    shutil.copyfile("/bin/true", program)
    program.chmod(0o755)
    return os.spawnv(os.P_WAIT, program, ["program"]) == 0


@attack()
def _write_next_to_output(request: Request) -> bool:
    Path(request["out"], "..", "beside-output").write_text("1")
    return True


@attack()
def _set_id_by_fchmodat2(request: Request) -> bool:
    path = Path(request["out"], "set-id-fchmodat2")
    path.write_text("1")
    return call("fchmodat2", -100, str(path).encode(), 0o4755, 0) == 0


@attack()
def _set_id_by_nameless_file(request: Request) -> bool:
    descriptor = os.open(request["out"], os.O_TMPFILE | os.O_WRONLY, 0o4755)
    return bool(os.fstat(descriptor).st_mode & 0o4000)


@attack(optional=True)
def _attributes_inside(request: Request) -> bool:
    path = Path(request["out"], "attributes")
    path.write_text("1")
    os.setxattr(path, "user.planted", b"1")
    return True


@attack(root=True, optional=True)
def _capabilities_of_a_file(request: Request) -> bool:
    path = Path(request["out"], "capable")
    path.write_text("1")
    os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0, 0))
    return True


@attack(optional=True)
def _flags_of_a_file(request: Request) -> bool:
    """An immutable or append-only file could not be removed after the job."""
    path = Path(request["out"], "flags")
    path.write_text("1")
    descriptor = os.open(path, os.O_RDONLY)
    flags = bytearray(8)
    fcntl.ioctl(descriptor, 0x80086601, flags)
    fcntl.ioctl(descriptor, 0x40086602, bytes([flags[0] | 0x40]) + bytes(flags[1:]))
    return True


@attack(optional=True)
def _hard_link_of_nameless_file(request: Request) -> bool:
    descriptor = os.open(request["out"], os.O_TMPFILE | os.O_RDWR, 0o600)
    name = f"/proc/self/fd/{descriptor}".encode()
    return call("linkat", -100, name, -100, str(Path(request["out"], "named-later")).encode(), 0x400) == 0


@attack()
def _symbolic_link_in_scratch(_: Request) -> bool:
    """Nothing of scratch is collected, but at level ``landlock`` it is a folder of the host."""
    Path(os.environ["TMPDIR"], "link").symlink_to("/etc/passwd")
    return True


@attack()
def _run_from_scratch(_: Request) -> bool:
    program = Path(os.environ["TMPDIR"], "program")
    shutil.copyfile("/bin/true", program)
    program.chmod(0o755)
    return os.spawnv(os.P_WAIT, program, ["program"]) == 0
