"""What /proc and /sys give away, and what can be changed there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hostile.registry import Request, attack


@attack()
def _environment_of_another(request: Request) -> bool:
    return b"PLANTED" in Path(f"/proc/{request['victim']}/environ").read_bytes()


@attack(root=True, optional=True)
def _environment_of_init(_: Request) -> bool:
    """Inside, process 1 is what set the sandbox up: its environment must be empty or closed."""
    return Path("/proc/1/environ").read_bytes() != b""


@attack()
def _command_line_of_another(request: Request) -> bool:
    return b"planted-argument" in Path(f"/proc/{request['victim']}/cmdline").read_bytes()


@attack(optional=True)
def _memory_of_another(request: Request) -> bool:
    with Path(f"/proc/{request['victim']}/mem").open("rb", buffering=0):
        return True


@attack(root=True, optional=True)
def _memory_of_init(_: Request) -> bool:
    with Path("/proc/1/mem").open("r+b", buffering=0):
        return True


@attack()
def _files_of_another(request: Request) -> bool:
    return bool(list(Path(f"/proc/{request['victim']}/fd").iterdir()))


@attack()
def _root_of_another(request: Request) -> bool:
    return "secret" in Path(f"/proc/{request['victim']}/root" + request["home"] + "/key").read_text()


@attack(root=True)
def _core_pattern(_: Request) -> bool:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return True


@attack(root=True, optional=True)
def _system_request(_: Request) -> bool:
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return True


@attack()
def _out_of_memory_score(_: Request) -> bool:
    Path("/proc/self/oom_score_adj").write_text("500")
    return True


@attack(root=True, optional=True)
def _kernel_memory(_: Request) -> bool:
    os.close(os.open("/proc/kcore", os.O_RDONLY))
    return True


@attack(root=True)
def _kernel_setting(_: Request) -> bool:
    os.close(os.open("/sys/kernel/mm/transparent_hugepage/enabled", os.O_WRONLY))
    return True


@attack(root=True, optional=True)
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


@attack()
def _own_memory(_: Request) -> bool:
    """Writing through /proc/self/mem ignores the protection of pages."""
    with Path("/proc/self/mem").open("r+b", buffering=0):
        return True


@attack(root=True, optional=True)
def _root_of_init(request: Request) -> bool:
    return "secret" in Path("/proc/1/root" + request["home"] + "/key").read_text()


@attack()
def _root_of_supervisor(request: Request) -> bool:
    return "secret" in Path(f"/proc/{request['supervisor']}/root" + request["home"] + "/key").read_text()


@attack()
def _folder_of_another(request: Request) -> bool:
    return "secret" in Path(f"/proc/{request['victim']}/cwd/key").read_text()


@attack()
def _program_of_another(request: Request) -> bool:
    with Path(f"/proc/{request['victim']}/exe").open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


@attack(optional=True)
def _layout_of_another(request: Request) -> bool:
    return bool(Path(f"/proc/{request['victim']}/maps").read_text())


@attack(optional=True)
def _environment_of_supervisor(request: Request) -> bool:
    return bool(Path(f"/proc/{request['supervisor']}/environ").read_bytes())


@attack(optional=True)
def _memory_of_supervisor(request: Request) -> bool:
    with Path(f"/proc/{request['supervisor']}/mem").open("r+b", buffering=0):
        return True


@attack(optional=True)
def _descriptors_of_supervisor(request: Request) -> bool:
    """Opening a descriptor by its name gives another one for the same file: the secret, here."""
    for entry in Path(f"/proc/{request['supervisor']}/fd").iterdir():
        try:
            if b"secret" in os.read(os.open(entry, os.O_RDONLY | os.O_NONBLOCK), 6):
                return True
        except OSError:
            continue
    return False


@attack()
def _threads_of_another(request: Request) -> bool:
    return bool(Path(f"/proc/{request['victim']}/task/{request['victim']}/status").read_text())


@attack()
def _score_of_another(request: Request) -> bool:
    """The next process to be killed for want of memory would be the victim."""
    Path(f"/proc/{request['victim']}/oom_score_adj").write_text("1000")
    return True


@attack()
def _core_filter_of_another(request: Request) -> bool:
    Path(f"/proc/{request['victim']}/coredump_filter").write_text("0x7f")
    return True


@attack(optional=True)
def _pages_of_another(request: Request) -> bool:
    """Clearing the marks of touched pages, and reading them again, shows what a process does."""
    Path(f"/proc/{request['victim']}/clear_refs").write_text("1")
    return True


@attack()
def _list_processes(request: Request) -> bool:
    return str(request["victim"]) in {path.name for path in Path("/proc").iterdir()}


def _writes(name: str, path: str) -> Callable[[Request], bool]:
    def attempt(_: Request) -> bool:
        os.close(os.open(path, os.O_WRONLY))
        return True

    attempt.__name__ = name
    return attempt


# Opened and closed again: each decides what the kernel runs as root, or how it protects itself.
for _name, _path in {
    "helper_for_modules": "/proc/sys/kernel/modprobe",
    "address_layout": "/proc/sys/kernel/randomize_va_space",
    "pipe_of_cores": "/proc/sys/kernel/core_uses_pid",
    "memory_overcommit": "/proc/sys/vm/overcommit_memory",
    "drop_caches": "/proc/sys/vm/drop_caches",
    "protected_links": "/proc/sys/fs/protected_symlinks",
    "most_open_files": "/proc/sys/fs/file-max",
    "host_name_by_proc": "/proc/sys/kernel/hostname",
    "foreign_binaries": "/proc/sys/fs/binfmt_misc/register",
    "helper_for_devices": "/sys/kernel/uevent_helper",
    "power_state": "/sys/power/state",
    "crash_memory": "/sys/kernel/kexec_crash_size",
    "helper_of_groups": "/sys/fs/cgroup/memory/release_agent",
    "interrupts": "/proc/irq/default_smp_affinity",
}.items():
    attack(root=True, optional=True)(_writes(_name, _path))


@attack(root=True, optional=True)
def _kernel_addresses(_: Request) -> bool:
    with Path("/proc/kallsyms").open() as stream:
        return any(int(line.split()[0], 16) for _index, line in zip(range(100), stream, strict=False))


@attack(root=True, optional=True)
def _kernel_debugging(_: Request) -> bool:
    return any(list(Path(path).iterdir()) for path in ("/sys/kernel/debug", "/sys/kernel/tracing"))


@attack(root=True, optional=True)
def _keys_in_use(_: Request) -> bool:
    return bool(Path("/proc/keys").read_text())


@attack(root=True, optional=True)
def _memory_of_kernel_objects(_: Request) -> bool:
    return bool(Path("/proc/slabinfo").read_text())


@attack(root=True, optional=True)
def _page_flags(_: Request) -> bool:
    os.close(os.open("/proc/kpageflags", os.O_RDONLY))
    return True


@attack(root=True, optional=True)
def _physical_pages(_: Request) -> bool:
    """With privilege this tells where in memory a page lies, which attacks on memory itself need."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as stream:
        stream.seek(id(stream) // 4096 * 8)
        return int.from_bytes(stream.read(8), "little") & ((1 << 55) - 1) != 0


@attack()
def _kernel_command_line(_: Request) -> bool:
    """Machines are told passwords in it."""
    return Path("/proc/cmdline").read_bytes() != b""


@attack()
def _names_of_disks(_: Request) -> bool:
    return Path("/proc/partitions").read_bytes() != b"" or Path("/proc/diskstats").read_bytes() != b""
