"""Learners that are any program: what one is shown, and what the record says of it.

Invariants:
- Such a program gets the same profile, the same inputs and the same collector as a learner of ours.
- Its files are copied first, and the copy is what is digested and what is shown: the record names exactly
  the bytes that could have run.
- What it was refused is part of the record, and so is what could not be observed.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from guardrails.canonical import digest, digest_file, encode
from guardrails.errors import BundleError, JobFailedError
from sandbox.config import Learner
from sandbox.isolation.spec import JobOutcome

FILES = "/in/learner"
MAX_FILES_BYTES = 1 << 30
_SHOWN = 400


@dataclass(frozen=True)
class Staged:
    """A learner that is ready to run: its words as the job sees them, its files, and their provenance."""

    argv: tuple[str, ...]
    mounts: dict[str, Path]
    provenance: dict[str, str]


def stage(learner: Learner, folder: Path) -> Staged:
    """Copy a learner's files into ``folder`` and write its command out as the job will see it.

    A word of the command that is the path of a file in ``files``, relative to it, stands for that file.

    Raises:
        JobFailedError: the files are not there, or are too many.
    """
    provenance = {"learner.command": shlex.join(learner.command)[:_SHOWN]}
    if learner.files is None:
        return Staged(learner.command, {}, provenance)
    copy = folder / "learner"
    _copy(learner, copy)
    argv = [f"{FILES}/{word}" if _names_a_file(copy, word) else word for word in learner.command]
    provenance["learner.files"] = str(digest(encode(_listing(copy))))
    return Staged(tuple(argv), {FILES: copy}, provenance)


def refusals(outcome: JobOutcome) -> dict[str, str]:
    """What a job was refused, as lines of a record: ``denied.socket: 3 (EPERM)``."""
    return {
        f"denied.{denial.what}": "not observable"
        if denial.count is None
        else f"{denial.count} ({denial.answer})"
        for denial in outcome.denied
    }


def refused_bundle(error: BundleError, outcome: JobOutcome) -> JobFailedError:
    """The failure of a job that ended well and left something that cannot be taken."""
    advice = f" ({error.hint})" if error.hint else ""
    return JobFailedError(
        f"propose job left no usable bundle: {error.message}{advice}",
        log_tail=outcome.log_tail,
        compute=outcome.compute,
    )


def _copy(learner: Learner, to: Path) -> None:
    assert learner.files is not None  # noqa: S101 - the caller looked
    if not learner.files.is_dir():
        raise JobFailedError(
            f"learners.{learner.name}.files: {learner.files} is not a directory",
            hint="relative paths count from the workspace directory",
        )
    total = sum(path.lstat().st_size for path in learner.files.rglob("*"))
    if total > MAX_FILES_BYTES:
        raise JobFailedError(
            f"learners.{learner.name}.files: {total} bytes are more than the {MAX_FILES_BYTES} allowed"
        )
    try:
        shutil.copytree(
            learner.files, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv")
        )
    except (OSError, shutil.Error) as error:
        raise JobFailedError(f"learners.{learner.name}.files: cannot be copied: {error}") from None


def _names_a_file(folder: Path, word: str) -> bool:
    path = Path(word)
    return (
        not path.is_absolute() and ".." not in path.parts and len(word) < _SHOWN and (folder / path).is_file()
    )


def _listing(folder: Path) -> dict[str, str]:
    """Every file's digest by its path; a link's target in its place. Names in hexadecimal: keys are ASCII."""
    return {
        str(path.relative_to(folder)).encode("utf-8", "surrogateescape").hex(): (
            f"link:{path.readlink()}" if path.is_symlink() else str(digest_file(path))
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
