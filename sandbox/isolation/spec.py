"""What a job is, and what came of it.

Invariants:
- A job sees its inputs read-only below ``/in``, and writes only below ``/out`` and ``/scratch``.
- Every limit is a total over all of the job's processes, and every limit is finite.
- Values of these types are checked where they are built, so that no later step has to ask.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails.errors import UsageError
from guardrails.records import Compute

MIB = 1 << 20
GIB = 1 << 30

_TARGET = re.compile(r"/in(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,8}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Variables that change what a program loads belong to the profile, not to a recipe.
_RESERVED_ENV = re.compile(r"(LD_|GLIBC_|GCONV_|PYTHON(?!HASHSEED$)|INTERLOCK_).*|(PATH|HOME|TMPDIR)")


@dataclass(frozen=True)
class Mount:
    """One host file or directory, shown to the job read-only at ``target`` (``/in`` or below)."""

    source: Path
    target: str

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.target):
            raise UsageError(f"mount target {self.target!r} is not /in or a plain path below it")


@dataclass(frozen=True)
class Limits:
    """Totals over all processes of a job. ``processes`` counts threads too, as the kernel does."""

    wall_s: float = 600.0
    cpu_s: float = 1200.0
    memory_bytes: int = 4 * GIB
    processes: int = 256
    output_bytes: int = 2 * GIB
    scratch_bytes: int = 1 * GIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 2**53:
                raise UsageError(f"limit {name} must be a positive, finite number, not {value!r}")


@dataclass(frozen=True)
class JobSpec:
    """A program to run isolated.

    ``argv[0] == "python"`` means the interpreter that Interlock runs on, with its packages. ``out``
    is made if missing and must be empty; it appears as ``/out``. ``log`` receives standard output
    and standard error, up to a cap. ``env`` adds to the profile's environment. ``gpu`` is the number of the one GPU that the
    job may use, at the level ``strict+gpu``.
    """

    argv: tuple[str, ...]
    inputs: tuple[Mount, ...]
    out: Path
    log: Path
    limits: Limits = field(default_factory=Limits)
    env: Mapping[str, str] = field(default_factory=dict)
    gpu: int | None = None

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0] or any("\0" in arg for arg in self.argv):
            raise UsageError("a job needs a program to run, and arguments without NUL bytes")
        targets = sorted(mount.target for mount in self.inputs)
        for above, below in itertools.pairwise(targets):
            if below == above or below.startswith(above + "/"):
                raise UsageError(f"mount targets {above} and {below} overlap")
        for name, value in self.env.items():
            if not _ENV_NAME.fullmatch(name) or "\0" in value or _RESERVED_ENV.fullmatch(name):
                raise UsageError(f"environment variable {name!r} may not be set for a job")


@dataclass(frozen=True)
class Denial:
    """Something that the profile refused a job.

    ``what`` is a system call's name, or a kind of access; ``answer`` the error that the job got.
    ``count`` is how often it was refused, and None where nobody outside can know: not the same as never.
    """

    what: str
    count: int | None
    answer: str


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended, as its supervisor saw it.

    ``exit`` is the program's status (128+n after signal n), None where the supervisor ended it;
    ``killed`` then says why: a limit's name and what was measured, or the reason given to cancel.
    ``denied`` is what the profile refused, and which refusals could not be observed; empty at a level
    that refuses nothing.
    ``log_tail`` is the end of the log with control characters made visible.
    """

    exit: int | None
    killed: str
    level: str
    compute: Compute
    denied: tuple[Denial, ...]
    log_tail: str

    @property
    def ok(self) -> bool:
        """True only for a job that ended by itself with status 0."""
        return self.exit == 0 and not self.killed


def spec_to_json(spec: JobSpec) -> dict[str, Any]:
    """A job as plain JSON values, to cross a process boundary without pickling."""
    return {
        "argv": list(spec.argv),
        "inputs": [[str(mount.source), mount.target] for mount in spec.inputs],
        "out": str(spec.out),
        "log": str(spec.log),
        "limits": dict(vars(spec.limits)),
        "env": dict(spec.env),
        "gpu": spec.gpu,
    }


def spec_from_json(data: Mapping[str, Any]) -> JobSpec:
    """The job that ``spec_to_json`` wrote."""
    return JobSpec(
        argv=tuple(data["argv"]),
        inputs=tuple(Mount(Path(source), target) for source, target in data["inputs"]),
        out=Path(data["out"]),
        log=Path(data["log"]),
        limits=Limits(**data["limits"]),
        env=dict(data["env"]),
        gpu=data.get("gpu"),
    )


def outcome_to_json(outcome: JobOutcome) -> dict[str, Any]:
    """An outcome as plain JSON values."""
    denied = [dict(vars(denial)) for denial in outcome.denied]
    return {**vars(outcome), "compute": dict(vars(outcome.compute)), "denied": denied}


def outcome_from_json(data: Mapping[str, Any]) -> JobOutcome:
    """The outcome that ``outcome_to_json`` wrote."""
    denied = tuple(Denial(**denial) for denial in data["denied"])
    return JobOutcome(**{**data, "compute": Compute(**data["compute"]), "denied": denied})
