"""Every exception that Interlock raises on purpose.

Invariants: each message tells a person what happened, where, and what to do;
each class carries the command line's exit status, so no caller maps errors twice.

    InterlockError                       1  internal: a broken promise of ours
    ├── UsageError                       2  the command or its arguments are wrong
    │   └── UnknownNameError             2  no such id, model, person, suite …
    ├── InvalidInputError                3  a file or bundle was refused; nothing changed
    │   ├── ConfigError                  3  interlock.toml
    │   ├── PolicyError                  3  a policy file; holds every located problem
    │   └── BundleError                  3  a submitted or collected bundle
    ├── DeniedError                      6  the rules do not allow this decision
    │   ├── HaltedError                  6  a halt is in force
    │   └── StaleError                   6  what was decided on has changed meanwhile
    ├── LogVerificationError             7  the decision log does not hold together
    ├── IsolationUnavailableError        8  the required isolation level failed its probe
    ├── RecordError                      1  bytes that are not a well-formed record
    ├── StorageError                     1  the database is missing, locked, full or read-only
    ├── NotMeasuredError                 1  evidence lacks what a check asked for
    └── JobFailedError                   1  an isolated job ended without a usable result
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class InterlockError(Exception):
    """Base of all deliberate errors. ``exit_status`` is the command line's status."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(InterlockError):
    """The command or its arguments cannot be carried out as written."""

    exit_status = 2


class UnknownNameError(UsageError):
    """An id or a name that this workspace does not know."""


class InvalidInputError(InterlockError):
    """A file, bundle or record from outside was refused; nothing has changed."""

    exit_status = 3


class ConfigError(InvalidInputError):
    """``interlock.toml`` is not usable."""


class BundleError(InvalidInputError):
    """A bundle breaks the format, or holds something that no bundle may hold."""


@dataclass(frozen=True)
class Problem:
    """One located problem in an input file; line and column count from 1."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{hint}"


class PolicyError(InvalidInputError):
    """One or more problems in a policy; ``problems`` lists them all, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DeniedError(InterlockError):
    """The roster, the policy or the state does not allow this decision."""

    exit_status = 6


class HaltedError(DeniedError):
    """A halt is in force; only ``resume`` lifts it."""


class StaleError(DeniedError):
    """Bundle, champion, evidence, policy or roster changed since this was prepared."""


class LogVerificationError(InterlockError):
    """The log is not what it claims to be. ``index`` is the first bad record, -1 if none."""

    exit_status = 7

    def __init__(self, reason: str, *, index: int = -1, hint: str = "") -> None:
        where = f"record {index}: " if index >= 0 else ""
        super().__init__(f"{where}{reason}", hint=hint)
        self.index = index
        self.reason = reason


class IsolationUnavailableError(InterlockError):
    """The isolation level asked for cannot be had here; ``failures`` says why, probe by probe."""

    exit_status = 8

    def __init__(self, level: str, failures: Sequence[str]) -> None:
        self.level = level
        self.failures = tuple(failures)
        listed = "".join(f"\n  - {failure}" for failure in self.failures)
        super().__init__(f"isolation level '{level}' is not available on this machine:{listed}")


class RecordError(InterlockError):
    """Bytes that are not canonical JSON, or not the record they should be."""


class StorageError(InterlockError):
    """The database cannot be used as it is: missing, locked, full, read-only, or of another version."""


class NotMeasuredError(InterlockError):
    """The evidence does not hold what a check needs: never a pass."""


class JobFailedError(InterlockError):
    """An isolated job was killed, crashed or wrote nothing usable.

    ``log_tail`` is its last output; ``compute`` what it used (``records.Compute``), None if unknown.
    """

    def __init__(
        self, message: str, *, log_tail: str = "", hint: str = "", compute: object | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail
        self.compute = compute
