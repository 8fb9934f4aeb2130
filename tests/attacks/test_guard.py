"""The guard where the machine gives it less than it needs: the program never runs, and the status says so."""

from __future__ import annotations

import marshal
import os
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest

from sandbox.isolation import guard, landlock, profile


class _Kernel:
    """Answers the question for Landlock's version, and counts what else is asked of it."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.more: list[tuple[Any, ...]] = []

    def syscall(self, *arguments: Any) -> int:
        if arguments[1] is None:
            return self.version
        self.more.append(arguments)
        return -1


@pytest.mark.parametrize(
    ("version", "needed"),
    [(0, landlock.NEEDED_INSIDE_MOUNTS), (-1, landlock.NEEDED_INSIDE_MOUNTS), (0, landlock.NEEDED_ALONE),
     (3, landlock.NEEDED_ALONE), (5, landlock.NEEDED_ALONE)],
)  # fmt: skip
def test_an_older_landlock_is_refused(monkeypatch: pytest.MonkeyPatch, version: int, needed: int) -> None:
    kernel = _Kernel(version)
    monkeypatch.setattr(guard, "_libc", kernel)
    with pytest.raises(OSError, match=f"version {max(version, 0)}, version {needed} is needed"):
        guard._landlock((), needed)
    assert kernel.more == []


def test_a_newer_landlock_is_asked_for_more_than_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with a version that suffices, rules are made (and here refused by the stand-in)."""
    kernel = _Kernel(7)
    monkeypatch.setattr(guard, "_libc", kernel)
    with pytest.raises(OSError, match=r"."):
        guard._landlock((), landlock.NEEDED_ALONE)
    assert len(kernel.more) == 1


def _start(change: dict[str, Any]) -> tuple[int, str, str]:
    """Give the guard, run as an ordinary program, instructions for a job; its status, words and output."""
    ours, theirs = socket.socketpair()
    filter_ = profile.seccomp.compile_filter(os.uname().machine, namespaces=False)
    instructions = {
        "program": sys.executable, "argv": ["python", "-c", "print('ran')"], "env": {}, "cwd": "/", "uid": 60999,
        "parent": 0, "rlimits": {}, "landlock": (), "landlock_needed": 1, "machine": os.uname().machine,
        "filter": filter_, "observed_filter": filter_, **change,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(profile.GUARD), str(theirs.fileno())],
        pass_fds=(theirs.fileno(),), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    theirs.close()
    message = marshal.dumps(instructions)
    ours.sendall(struct.pack("=I", len(message)) + message)
    ours.settimeout(20)
    said = ours.recv(8192).decode("utf-8", "replace")
    output, _ = process.communicate(timeout=20)
    ours.close()
    return process.returncode, said, output


@pytest.mark.skipif(os.geteuid() != 0, reason="the guard gives up root here")
@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"landlock_needed": 99}, "restricting files with Landlock"),
        ({"landlock": (("/no/such/folder", 4),)}, "restricting files with Landlock"),
        ({"machine": "riscv64"}, "installing the system call filter"),
        ({"filter": bytes(8), "observed_filter": bytes(8)}, "installing the system call filter"),
        ({"uid": 0}, "dropping to the job's user"),
        ({"rlimits": {10_000: 1}}, "setting limits"),
        ({"cwd": "/no/such/folder"}, "changing directory"),
    ],
)
def test_a_step_that_fails_ends_with_97(change: dict[str, Any], step: str) -> None:
    status, said, output = _start(change)
    assert status == guard.FAILED == 97
    assert said.startswith(f"{step}: ")
    assert output == ""
