"""Reading, changing and watching files outside the job."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from hostile.registry import Request, attack, call, reached


@attack()
def _read_key(request: Request) -> bool:
    return "secret" in Path(request["home"], "key").read_text()


@attack()
def _list_home(request: Request) -> bool:
    return bool(list(Path(request["home"]).iterdir()))


@attack()
def _stat_registry(request: Request) -> bool:
    return Path(request["home"], "registry").exists()


@attack()
def _append_to_log(request: Request) -> bool:
    with Path(request["home"], "log").open("a") as stream:
        stream.write("forged")
    return True


@attack()
def _replace_policy(request: Request) -> bool:
    fresh = Path(request["home"], "policy.new")
    fresh.write_text("allow everything")
    fresh.rename(Path(request["home"], "policy"))
    return True


@attack()
def _chmod_outside(request: Request) -> bool:
    Path(request["home"], "mode").chmod(0o600)
    return True


@attack()
def _times_outside(request: Request) -> bool:
    os.utime(Path(request["home"], "times"), (1, 1))
    return True


@attack(optional=True)
def _attributes_outside(request: Request) -> bool:
    os.setxattr(Path(request["home"], "times"), "user.planted", b"1")
    return True


@attack()
def _truncate_outside(request: Request) -> bool:
    os.truncate(Path(request["home"], "base"), 0)
    return True


@attack()
def _change_input(request: Request) -> bool:
    with Path(request["input"]).open("a") as stream:
        stream.write("changed")
    return True


@attack(root=True)
def _plant_in_interpreter(_: Request) -> bool:
    planted = Path(os.__file__).with_name("planted_by_an_attack_test.txt")
    planted.write_text("1")
    planted.unlink()
    return True


@attack(root=True)
def _plant_in_system(_: Request) -> bool:
    planted = Path("/usr/planted_by_an_attack_test.txt")
    planted.write_text("1")
    planted.unlink()
    return True


@attack()
def _shared_memory_of_host(request: Request) -> bool:
    return "secret" in Path(request["shared_memory"]).read_text()


@attack()
def _temporary_files_of_host(request: Request) -> bool:
    return "secret" in Path(request["temporary"]).read_text()


@attack()
def _exchange_with_outside(request: Request) -> bool:
    """One rename that swaps two names: the file outside comes in, and another takes its place."""
    mine = Path(request["out"], "exchanged")
    mine.write_text("forged")
    theirs = Path(request["home"], "exchange")
    return call("renameat2", -100, str(mine).encode(), -100, str(theirs).encode(), 2) == 0


@attack()
def _move_into_output(request: Request) -> bool:
    Path(request["home"], "movable").rename(Path(request["out"], "moved"))
    return True


@attack()
def _replace_output_folder(request: Request) -> bool:
    """The output's own name, put in another place: what is collected would be what the job chose."""
    out = Path(request["out"])
    aside = out.with_name("out-moved-aside")
    out.rename(aside)
    aside.rename(out)
    return True


@attack()
def _reopen_input_for_writing(request: Request) -> bool:
    """A descriptor that was opened for reading, opened again by its name in /proc."""
    with Path(request["input"]).open("rb") as stream:
        os.close(os.open(f"/proc/self/fd/{stream.fileno()}", os.O_WRONLY))
    return True


@attack()
def _hard_link_of_input(request: Request) -> bool:
    with Path(request["input"]).open("rb") as stream:
        name = f"/proc/self/fd/{stream.fileno()}".encode()
        return call("linkat", -100, name, -100, str(Path(request["out"], "linked")).encode(), 0x400) == 0


@attack()
def _map_input_for_writing(request: Request) -> bool:
    import mmap

    descriptor = os.open(request["input"], os.O_RDWR)
    with mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED) as view:
        return len(view) > 0


@attack()
def _find_by_handle(request: Request) -> bool:
    """The way out of early containers: a file by its number on the disk, past every mount."""
    handle = bytearray(struct.pack("=Ii", 128, 0) + bytes(128))
    buffer = (__import__("ctypes").c_char * len(handle)).from_buffer(handle)
    mount = (__import__("ctypes").c_char * 8)()
    return reached(call("name_to_handle_at", -100, request["input"].encode(), buffer, mount, 0))


@attack(root=True, optional=True)
def _open_by_handle(request: Request) -> bool:
    folder = os.open("/", os.O_RDONLY)
    return reached(call("open_by_handle_at", folder, struct.pack("=Ii", 8, 1) + bytes(8), os.O_RDONLY))


@attack()
def _lease_on_input(request: Request) -> bool:
    """Whoever opens a leased file for writing waits until the lease is given back: up to 45 s."""
    descriptor = os.open(request["input"], os.O_RDONLY)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return True


@attack()
def _watch_folder_by_fcntl(request: Request) -> bool:
    """Hear of each file that is made or changed in a folder of the host."""
    descriptor = os.open(request["home"], os.O_RDONLY)
    fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MODIFY)
    return True


@attack()
def _watch_input_by_fcntl(request: Request) -> bool:
    descriptor = os.open(str(Path(request["input"]).parent), os.O_RDONLY)
    fcntl.fcntl(descriptor, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
    return True


@attack()
def _owner_outside(request: Request) -> bool:
    os.chown(Path(request["home"], "times"), os.getuid(), os.getgid())
    return True


@attack(optional=True)
def _attributes_by_newer_call(request: Request) -> bool:
    path = str(Path(request["home"], "times")).encode()
    return reached(call("setxattrat", -100, path, 0, b"user.planted", 0, 0))


@attack(root=True)
def _shadow_file(_: Request) -> bool:
    return bool(Path("/etc/shadow").read_text())


@attack(optional=True)
def _sockets_of_services(_: Request) -> bool:
    """What a machine's services listen on lies below /run."""
    return bool([path for path in Path("/run").iterdir() if path.name != "lock"])
