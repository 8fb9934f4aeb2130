"""What other distributions bring: checks and learners by entry point, and only those that are named. No probes.

Invariants:
- Nothing is imported because it is installed: a configuration or a policy names ``DISTRIBUTION:NAME``, and only
  that entry point is loaded, by whoever asked for it.
- What may run is named by the digest of every file that the distribution installed, taken at the time of asking.
- A distribution that is absent, that lacks the entry point, or whose files cannot be read is an error. So is one whose
  entry point is in none of its files (editable installs), and one whose compiled files say something else than its code.

Entry points: https://packaging.python.org/en/latest/specifications/entry-points/ — the groups are ``GROUPS``.
"""

from __future__ import annotations

import importlib.util
import marshal
import re
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, digest, digest_file, encode
from guardrails.errors import InvalidInputError

CHECKS, LEARNERS = "interlock.checks", "interlock.learners"
GROUPS = (CHECKS, LEARNERS)
REFERENCE = re.compile(r"(?!command:)[a-z0-9][a-z0-9-]{0,63}:[a-z0-9][a-z0-9_.-]{0,63}")
"""``DISTRIBUTION:NAME``, the distribution as normalised by PEP 503. ``command:NAME`` means a program of the workspace's."""


@dataclass(frozen=True)
class Brought:
    """One entry point of one distribution. ``code`` is the digest of all that the distribution installed."""

    reference: str
    distribution: str
    version: str
    code: Digest
    point: metadata.EntryPoint
    file: Path

    def load(self) -> Any:
        """Import what the entry point names; raises InvalidInputError where that cannot be done.

        It runs in the process that asks, with all that this process may do.
        """
        try:
            brought = self.point.load()
        except Exception as error:  # whatever a stranger's module raises
            raise InvalidInputError(
                f"{self.reference}: {self.point.value} cannot be loaded: {type(error).__name__}: {error}"
            ) from None
        origin = getattr(getattr(sys.modules.get(self.point.module), "__spec__", None), "origin", None)
        if origin is None or Path(origin).resolve() != self.file.resolve():
            raise InvalidInputError(
                f"{self.reference}: {self.point.module} was imported from {origin or 'elsewhere'}, not from {self.file}",
                hint="another module of that name comes first on the path: remove it",
            )
        return brought

    def provenance(self) -> dict[str, str]:
        """Lines for a record: who made it, which version, which bytes."""
        return {"distribution": f"{self.distribution} {self.version}", "code": str(self.code)}


def is_reference(text: str) -> bool:
    """True for ``DISTRIBUTION:NAME``."""
    return REFERENCE.fullmatch(text) is not None


def find(group: str, reference: str) -> Brought:
    """The entry point that a reference names in one of ``GROUPS``; nothing is imported.

    Raises:
        InvalidInputError: It is not installed here, or brings nothing of that name.
    """
    if not is_reference(reference):
        raise InvalidInputError(f"{reference!r:.80} is not DISTRIBUTION:NAME")
    wanted, _, name = reference.partition(":")
    try:
        found = metadata.distribution(wanted)
    except metadata.PackageNotFoundError:
        raise InvalidInputError(
            f"{reference}: the distribution {wanted} is not installed here",
            hint="install it, or correct the name",
        ) from None
    points = [point for point in found.entry_points if point.group == group]
    chosen = [point for point in points if point.name == name]
    if len(chosen) != 1:
        known = ", ".join(sorted(f"{wanted}:{point.name}" for point in points)) or "nothing"
        raise InvalidInputError(
            f"{reference}: no such entry point of {group}", hint=f"{wanted} brings {known}"
        )
    return Brought(
        reference, found.metadata["Name"], found.version, _code(found, wanted), chosen[0],
        _file_of(found, wanted, chosen[0].module),
    )  # fmt: skip


def _code(found: metadata.Distribution, name: str) -> Digest:
    """One digest over path and bytes of every file that the distribution installed.

    Left out is what Python compiled, after a look whether it is what the code says; compiled modules that stand for
    themselves, outside ``__pycache__``, are code like any other.
    """
    listed: dict[str, str] = {}
    for entry in found.files or ():
        if entry.suffix == ".pyc" and entry.parent.name == "__pycache__":
            continue
        path = Path(str(found.locate_file(entry)))
        try:
            listed[str(entry).encode("utf-8", "surrogateescape").hex()] = str(digest_file(path))
            honest = entry.suffix != ".py" or _is_compiled_from(path)
        except OSError as error:
            raise InvalidInputError(
                f"{name}: {entry}: {error.strerror}", hint="install the distribution anew"
            ) from None
        if not honest:
            raise InvalidInputError(
                f"{name}: {entry}: what was compiled of it is not what it says, and would run in its place",
                hint=f"remove {importlib.util.cache_from_source(str(path))}, and find out where it is from",
            )
    return digest(encode(listed))


def _is_compiled_from(source: Path) -> bool:
    """Whether the compiled file that Python would run in place of a source, if there is one, is compiled from it."""
    compiled = Path(importlib.util.cache_from_source(str(source)))
    if not compiled.is_file():
        return True
    data, status = compiled.read_bytes(), source.stat()
    if data[:4] != importlib.util.MAGIC_NUMBER or len(data) < 16:
        return True  # of another Python: not used
    flags, written, size = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12))
    if not flags and (written, size) != (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF):
        return True  # stale: not used
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
        return bool(marshal.loads(data[16:]) == expected)  # noqa: S302 - compared, and run by nobody here
    except (SyntaxError, ValueError, EOFError, TypeError):
        return False


def _file_of(found: metadata.Distribution, name: str, module: str) -> Path:
    """The file of a module, which must be one of those that the distribution lists."""
    path = module.replace(".", "/")
    wanted = [f"{path}{suffix}" for suffix in (".py", "/__init__.py", *EXTENSION_SUFFIXES)]
    for entry in found.files or ():
        if entry.as_posix() in wanted:
            return Path(str(found.locate_file(entry)))
    raise InvalidInputError(
        f"{name}: the distribution does not list its modules, so that what would run has no digest: {module}",
        hint="install it as a package, not in editable mode",
    )
