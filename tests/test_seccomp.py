"""The system call filter, run on paper for both machines, and its numbers against the kernel's headers."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.errors import IsolationUnavailableError
from sandbox.isolation import refused, syscalls
from sandbox.isolation.seccomp import compile_filter

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, ASK = 0x7FFF0000, 0x80000000, 0x7FC00000
EPERM = 0x50000 | errno.EPERM

_TABLES = {**syscalls.ALLOWED, **syscalls.CHECKED, **syscalls.ONLY_IN_NAMESPACES}


def run(program: bytes, call: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel's interpreter of classic BPF would answer; written from its documentation."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", call, arch, 0, *(value % 2**64 for value in padded))
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    accumulator, position = 0, 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: accumulator & value != 0,
            }[operation]
            position += if_true if holds else if_false


def answer(machine: str, name: str, *arguments: int, namespaces: bool = True) -> int:
    call = syscalls.number(_TABLES[name], machine)
    assert call is not None
    return run(compile_filter(machine, namespaces=namespaces), call, ARCH[machine], arguments)


machines = pytest.mark.parametrize("machine", syscalls.MACHINES)


@machines
@given(call=st.integers(0, 600), namespaces=st.booleans())
def test_only_listed_calls_are_ever_allowed(machine: str, call: int, namespaces: bool) -> None:
    said = run(compile_filter(machine, namespaces=namespaces), call, ARCH[machine])
    listed = {syscalls.number(numbers, machine) for numbers in _TABLES.values()}
    unchecked = {syscalls.number(numbers, machine) for numbers in syscalls.ALLOWED.values()}
    if call not in listed:
        assert said & 0xFFFF0000 == 0x50000
    if call in unchecked:
        assert said == ALLOW


@machines
@given(call=st.integers(0, 2**31 - 1), arch=st.integers(0, 2**32 - 1))
def test_another_machines_calls_kill(machine: str, call: int, arch: int) -> None:
    said = run(compile_filter(machine, namespaces=True), call, arch)
    assert said == KILL or arch == ARCH[machine]


@given(call=st.integers(0x40000000, 0x400002FF))
def test_x32_calls_kill(call: int) -> None:
    assert run(compile_filter("x86_64", namespaces=True), call, ARCH["x86_64"]) == KILL


_values = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 5, 0o4755, 0o101, 0x5401, 0x5412]))


@machines
@given(
    call=st.one_of(
        st.integers(0, 600), st.sampled_from([numbers[0] for numbers in syscalls.CHECKED.values()])
    ),
    arguments=st.tuples(*[_values] * 6),
    namespaces=st.booleans(),
    foreign=st.booleans(),
)
def test_the_observed_filter_asks_exactly_where_the_plain_one_refuses(
    machine: str, call: int, arguments: tuple[int, ...], namespaces: bool, foreign: bool
) -> None:
    """And the supervisor, who knows the call's number only, gives the very answer of the plain filter."""
    arch = 0x40000003 if foreign else ARCH[machine]
    plain, observed = (
        run(compile_filter(machine, namespaces=namespaces, observed=asked), call, arch, arguments)
        for asked in (False, True)
    )
    if plain in (ALLOW, KILL):
        assert observed == plain
    else:
        assert observed == ASK
        _, reason = refused.answers(machine).get(call, ("", refused.ORDINARY))
        assert plain == 0x50000 | getattr(errno, reason)


@machines
def test_a_filter_fits_and_its_jumps_stay_inside(machine: str) -> None:
    for observed in (False, True):
        program = compile_filter(machine, namespaces=True, observed=observed)
        assert len(program) // 8 < 4096
        for call in range(500):
            run(program, call, ARCH[machine])


@machines
def test_every_call_has_one_name(machine: str) -> None:
    assert not set(refused.NEVER) & ({*_TABLES} | {*syscalls.REFUSED_AS})
    tables = [
        *_TABLES.values(),
        *refused.NEVER.values(),
        *(numbers for numbers, _ in syscalls.REFUSED_AS.values()),
    ]
    present = [value for numbers in tables if (value := syscalls.number(numbers, machine)) is not None]
    assert len(present) == len(set(present)) == len(refused.answers(machine))


@machines
def test_no_machine_uses_a_number_twice(machine: str) -> None:
    unsupported = {name: numbers for name, (numbers, _) in syscalls.REFUSED_AS.items()}
    used = [syscalls.number(numbers, machine) for numbers in [*_TABLES.values(), *unsupported.values()]]
    present = [number for number in used if number is not None]
    assert len(present) == len(set(present))


@machines
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clone", (0x10000000 | 17,)),
        ("clone", (0x20000,)),
        ("clone", (0x40000000,)),
        ("clone", (0x8000,)),
        ("openat", (0, 0, 0o101, 0o4755)),
        ("openat", (0, 0, 0o20000001, 0o2755)),
        ("mkdirat", (0, 0, 0o2777)),
        ("fchmod", (3, 0o6755)),
        ("fchmodat", (0, 0, 0o4700)),
        ("socketpair", (1, 2)),  # datagrams can still be sent to any address
        ("socketpair", (1, 2 | 0o2000000)),
        ("socketpair", (2, 1)),
        ("prlimit64", (1,)),
        ("prctl", (0x1F,)),
    ],
)
def test_dangerous_arguments_are_refused(machine: str, name: str, arguments: tuple[int, ...]) -> None:
    assert answer(machine, name, *arguments) == EPERM


@machines
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clone", (0x3D0F00,)),  # a thread
        ("clone", (17 | 0x1200000,)),  # a fork
        ("openat", (0, 0, 0, 0o4755)),  # no file is made: the mode means nothing
        ("openat", (0, 0, 0o101, 0o644)),
        ("socketpair", (1, 1 | 0o2000000)),
        ("socketpair", (1, 5)),
        ("prlimit64", (0,)),
        ("ioctl", (1, 0x5401)),
        ("sched_setaffinity", (1234,)),
    ],
)
def test_ordinary_arguments_pass(machine: str, name: str, arguments: tuple[int, ...]) -> None:
    assert answer(machine, name, *arguments) == ALLOW


@machines
@pytest.mark.parametrize("command", [0x5412, 0x541C, 0x5414, 0x8933, 0xC0189436])
def test_terminal_input_and_device_control_are_refused(machine: str, command: int) -> None:
    assert answer(machine, "ioctl", 0, command) == 0x50000 | errno.ENOTTY


@machines
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fchmodat", (0, 0, 0o600)),
        ("utimensat", ()),
        ("setsid", ()),
        ("setpgid", ()),
        ("prctl", (1, 0)),  # would drop the signal that ends the job with its supervisor
        ("setpriority", (0, 1234)),
        ("setpriority", (1, 0)),
        ("setpriority", (2, 0)),  # everything of this user, the supervisor among it
        ("sched_setaffinity", (1234,)),
    ],
)
def test_without_namespaces_less_is_allowed(machine: str, name: str, arguments: tuple[int, ...]) -> None:
    assert answer(machine, name, *arguments, namespaces=False) == EPERM
    assert answer(machine, name, *arguments, namespaces=True) == ALLOW


@machines
@pytest.mark.parametrize(
    ("name", "harmless", "refused"),
    [
        ("renameat2", (0, 0, 0, 0, 2), (0, 0, 0, 0, 4)),  # an exchange; a device node left behind
        ("renameat2", (0, 0, 0, 0, 1), (0, 0, 0, 0, 6)),
        ("sendto", (3, 0, 1, 0x4000), (3, 0, 1, 0x4001)),
        ("recvfrom", (3, 0, 1, 2), (3, 0, 1, 1)),
        ("sendmsg", (3, 0, 0x4000), (3, 0, 1)),
        ("recvmsg", (3, 0, 0x40000000), (3, 0, 0x40000001)),
        ("setpriority", (0, 0), (0, 1234)),
    ],
)
def test_flags_of_harmless_calls(
    machine: str, name: str, harmless: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    assert answer(machine, name, *harmless, namespaces=False) == ALLOW
    assert answer(machine, name, *refused, namespaces=False) == EPERM


@pytest.mark.parametrize("machine", ["riscv64", "i686", "", "ppc64le"])
def test_a_machine_without_a_table_is_refused(machine: str) -> None:
    with pytest.raises(IsolationUnavailableError, match="no table"):
        compile_filter(machine, namespaces=True)


def _header(path: str) -> dict[str, int]:
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(path).read_text())
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize(
    ("machine", "path"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_are_the_kernels(machine: str, path: str) -> None:
    if machine == "x86_64" and os.uname().machine != "x86_64":
        pytest.skip("the header describes another machine")
    kernel = _header(path)
    other_names = {"newfstatat": "fstatat"}
    unsupported = {name: numbers for name, (numbers, _) in syscalls.REFUSED_AS.items()}
    newest = {"fchmodat2"}  # not in every header yet
    for name, numbers in {**_TABLES, **unsupported, **refused.NEVER}.items():
        expected = kernel.get(name, kernel.get(other_names.get(name, ""), None))
        if not (name in newest or max(numbers) > 450) or expected is not None:
            assert syscalls.number(numbers, machine) == expected, name
