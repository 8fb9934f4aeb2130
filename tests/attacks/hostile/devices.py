"""Devices that a host has and a job must not."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
from collections.abc import Callable
from pathlib import Path

from hostile.registry import Request, attack


@attack(root=True, optional=True)
def _kernel_messages_device(_: Request) -> bool:
    os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    return True


@attack(root=True, optional=True)
def _disk_device(request: Request) -> bool:
    os.close(os.open(request["disk"], os.O_RDONLY))
    return True


def _opens(path: str, flags: int) -> Callable[[Request], bool]:
    def attempt(_: Request) -> bool:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
        return True

    attempt.__name__ = "device_" + path.removeprefix("/dev/").replace("/", "_").replace("-", "_")
    return attempt


for _path in ("mem", "port", "kvm", "fuse", "net/tun", "loop-control", "userfaultfd", "hpet", "uinput",
              "vhost-net", "vsock", "snapshot", "mapper/control", "cuse", "btrfs-control", "autofs"):  # fmt: skip
    attack(root=True, optional=True)(_opens(f"/dev/{_path}", os.O_RDWR))
attack(root=True, optional=True)(_opens("/dev/console", os.O_WRONLY))


@attack(optional=True)
def _type_into_a_terminal(_: Request) -> bool:
    """TIOCSTI: what is pushed into a terminal is read by whoever reads from it next."""
    _keeper, terminal = pty.openpty()
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    return True


@attack()
def _make_a_terminal(_: Request) -> bool:
    """The first step of every attack over terminals, TIOCLINUX among them."""
    pty.openpty()
    return True


@attack(optional=True)
def _terminals_of_host(_: Request) -> bool:
    return any(path.name.isdigit() for path in Path("/dev/pts").iterdir())


@attack(optional=True)
def _message_queues_of_host(_: Request) -> bool:
    return bool(list(Path("/dev/mqueue").iterdir()))


@attack(root=True, optional=True)
def _ports_of_disks(_: Request) -> bool:
    return any(path.is_block_device() for path in Path("/dev").iterdir())
