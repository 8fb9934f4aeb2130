"""What other distributions bring: checks, probes and learners by entry point, and only those that are named.

Invariants:
- Nothing is imported because it is installed: a configuration or a policy names ``DISTRIBUTION:NAME``, and only
  that entry point is loaded, by whoever asked for it.
- What may run is named by the digest of every file that the distribution installed, taken at the time of asking.
- A distribution that is absent, that lacks the entry point, or whose files cannot be read is an error.

Entry points: https://packaging.python.org/en/latest/specifications/entry-points/ — the groups are ``GROUPS``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, digest, digest_file, encode
from guardrails.errors import InvalidInputError

CHECKS, PROBES, LEARNERS = "interlock.checks", "interlock.probes", "interlock.learners"
GROUPS = (CHECKS, PROBES, LEARNERS)
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

    def load(self) -> Any:
        """Import what the entry point names; raises InvalidInputError where that cannot be done."""
        try:
            return self.point.load()
        except Exception as error:  # whatever a stranger's module raises
            raise InvalidInputError(
                f"{self.reference}: {self.point.value} cannot be loaded: {type(error).__name__}: {error}"
            ) from None

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
    return Brought(reference, found.metadata["Name"], found.version, _code(found, wanted), chosen[0])


def _code(found: metadata.Distribution, name: str) -> Digest:
    """One digest over path and bytes of every file that the distribution installed, compiled ones apart."""
    files = [entry for entry in found.files or () if entry.suffix != ".pyc"]
    listed: dict[str, str] = {}
    for entry in files:
        path = Path(str(found.locate_file(entry)))
        try:
            listed[str(entry).encode("utf-8", "surrogateescape").hex()] = str(digest_file(path))
        except OSError as error:
            raise InvalidInputError(
                f"{name}: {entry}: {error.strerror}", hint="install the distribution anew"
            ) from None
    if not any(entry.suffix == ".py" for entry in files):
        raise InvalidInputError(
            f"{name}: the distribution does not list its modules, so that what would run has no digest",
            hint="install it as a package, not in editable mode",
        )
    return digest(encode(listed))
