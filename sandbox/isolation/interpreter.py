"""Which host files a Python inside a job needs, and the environment it starts with.

Invariants:
- Read-only and by directory: the interpreter's prefixes, its site-packages, the packages
  ``guardrails`` and ``sandbox``; the rest of a checkout, the workspace and the home stay outside.
- Nothing of the supervisor's own environment is passed on.
- A prefix that holds a home directory is refused rather than shown, and so is one that holds the workspace.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import guardrails
from guardrails.errors import IsolationUnavailableError

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Names of libraries, choices between programs (links into /usr), and the shape of the processors.
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu")


@dataclass(frozen=True)
class Interpreter:
    """The program to start for ``python``, what must be visible for it, and extra import paths."""

    program: str
    mounts: tuple[Path, ...]
    import_path: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """Where a job finds its three folders: fixed in a mount namespace, host folders elsewhere."""

    inputs: str = "/in"
    out: str = "/out"
    scratch: str = "/scratch"


def current() -> Interpreter:
    """The interpreter that Interlock runs on."""
    executable = Path(sys.executable)
    wanted = [Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)]
    wanted.append(executable.resolve().parent.parent)
    sites = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    packages = [Path(guardrails.__file__).parent, Path(__file__).parents[1]]
    mounts = _outermost([path for path in [*wanted, *sites, *packages] if path.is_dir()])
    for path in mounts:
        _refuse_home(path)
    users = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    return Interpreter(str(executable), mounts, (users,) if users in sys.path else ())


def refuse_to_show(private: Path) -> None:
    """Raise if a job would see a folder that it must not, because it lies where programs do.

    Raises:
        IsolationUnavailableError: naming both folders.
    """
    hidden = private.resolve()
    for shown in (*map(Path, SYSTEM), *current().mounts):
        if hidden.is_relative_to(shown.resolve()):
            raise IsolationUnavailableError(
                "strict",
                [
                    f"{private} lies inside {shown}, which every job can read; keep it outside the installation"
                ],
            )


def environment(
    interpreter: Interpreter, places: Places, level: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """A job's whole environment: no network lookups, no telemetry, one thread unless a recipe says more."""
    binaries = [str(Path(interpreter.program).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    values = {
        "PATH": ":".join(binaries),
        "HOME": places.scratch,
        "TMPDIR": places.scratch,
        "USER": "job",
        "LOGNAME": "job",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "DO_NOT_TRACK": "1",
        "INTERLOCK_LEVEL": level,
        "INTERLOCK_IN": places.inputs,
        "INTERLOCK_OUT": places.out,
        "INTERLOCK_SCRATCH": places.scratch,
    }
    if interpreter.import_path:
        values["PYTHONPATH"] = os.pathsep.join(interpreter.import_path)
    return {**values, **extra}


def _outermost(paths: list[Path]) -> tuple[Path, ...]:
    """Without those that lie in another one or in a system directory that is shown anyway."""
    unique = sorted(set(paths), key=lambda path: len(path.parts))
    kept: list[Path] = []
    for path in unique:
        inside = any(path.is_relative_to(other) for other in (*kept, *(Path(name) for name in SYSTEM)))
        if not inside:
            kept.append(path)
    return tuple(kept)


def _refuse_home(path: Path) -> None:
    home = Path("~").expanduser()
    if home.is_relative_to(path) or path == Path("/"):
        raise IsolationUnavailableError(
            "strict",
            [f"the Python installation {path} holds a home directory; install Interlock in a venv"],
        )
