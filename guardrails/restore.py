"""From a backup to a workspace: everything is verified before anything is replaced.

Invariants:
- A workspace appears whole or not at all: it is made and verified beside its place, then moved there in one step.
- What is there is never overwritten. ``replace`` moves it aside, and nothing but a person removes it.
- A log that the given root keys did not found is refused, whatever else was asked for: whose log it is, a backup does
  not get to say.
- A backup that has less than the log that is there, or another history, is refused unless that is asked for.
- Interrupted at any point, the same command can be given again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrails.archive import Contents, extract, sync_folder
from guardrails.decision_log import merkle
from guardrails.decision_log.dump import Extent, extent_of, load
from guardrails.decision_log.snapshot import Snapshot
from guardrails.decision_log.store import Log
from guardrails.decision_log.verify import Verification, verify_log
from guardrails.errors import InterlockError, LogVerificationError, StaleError, UsageError
from guardrails.ledger import project
from guardrails.registry import ArtifactStore

_HINT = "--discard-newer restores it all the same"


@dataclass(frozen=True)
class Restored:
    """What was restored, what verification found, and where the former workspace lies now, if there was one."""

    contents: Contents
    verification: Verification
    aside: Path | None


def restore(
    source: Path, workspace: Path, url: str, *, replace: bool = False, discard_newer: bool = False,
    root_pins: Sequence[str] = (),
) -> Restored:  # fmt: skip
    """Make a workspace of a backup.

    Args:
        source: The backup.
        workspace: Where the workspace will be; absent or empty unless ``replace``.
        url: A database of its own for the log; empty: a SQLite file in the workspace.
        replace: A workspace that is there is moved aside.
        discard_newer: Also where it has records that the backup does not have.
        root_pins: Root keys that must have signed the first roster of the backup's log, whatever it says itself.

    Raises:
        UsageError: there is a workspace already; the backup cannot be read.
        StaleError: the log that is there has what the backup does not.
        LogVerificationError: the backup is damaged, or its log does not hold.
    """
    workspace = workspace.absolute()
    occupied = workspace.is_symlink() or (workspace.exists() and any(workspace.iterdir()))
    if occupied and not replace:
        raise UsageError(f"{workspace} is not empty; nothing was changed", hint="--replace moves it aside")
    staging = workspace.with_name(f".{workspace.name}.restoring")
    if staging.exists():  # an interrupted restore has left it
        shutil.rmtree(staging)
    try:
        workspace.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir(mode=0o700)
        contents = extract(source, staging)
        standing = _standing(url or f"sqlite:///{workspace / 'log.db'}", contents.extent, discard_newer)
        if url and standing not in (None, contents.extent) and not replace:
            raise UsageError("the database holds a log already; nothing was changed", hint="--replace")
        verification = _load(staging, url, contents, None if discard_newer else standing, root_pins)
        aside = _publish(staging, workspace, contents.made_at if occupied else "")
    except OSError as error:
        raise UsageError(f"{workspace} cannot be restored: {error.strerror or error}") from None
    finally:
        if staging.exists():
            shutil.rmtree(staging)
    return Restored(contents, verification, aside)


def _standing(url: str, saved: Extent, discard_newer: bool) -> Extent | None:
    """The log that is there now; raises StaleError where it says more, or something else, than the backup."""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    try:
        with Log.open(url) as log, log.read() as snapshot:
            there = extent_of(snapshot)
    except LogVerificationError as error:
        if discard_newer:
            return None
        raise StaleError(
            f"what the log there holds cannot be told: {error.message}; nothing was changed", hint=_HINT
        ) from None
    except InterlockError as error:
        if "holds no decision log" in error.message:
            return None
        raise
    if there.origin != saved.origin and not discard_newer:
        raise StaleError(f"the log there is another one, {there.origin}; nothing was changed", hint=_HINT)
    if there.entries > saved.entries and not discard_newer:
        raise StaleError(
            f"the log there has {there.entries} records, the backup {saved.entries}; nothing was changed",
            hint=_HINT,
        )
    return there


def _load(
    staging: Path, url: str, contents: Contents, standing: Extent | None, root_pins: Sequence[str]
) -> Verification:
    """Make the log of the dumped tables, verify it with its artifacts, and commit it only if it holds."""
    store = ArtifactStore(staging / "workspace" / "artifacts")
    found: list[Verification] = []

    def check(snapshot: Snapshot) -> None:
        if extent_of(snapshot) != contents.extent:
            raise LogVerificationError("the backup's log is not the one that was saved")
        if standing is not None and merkle.root(snapshot.node, standing.entries).hex() != standing.root:
            raise StaleError(
                "the log there has another history than the backup; nothing was changed", hint=_HINT
            )
        found.append(
            verify_log(
                snapshot,
                project,
                root_pins=root_pins,
                artifacts=None if contents.artifacts is None else store.verify,
                statements=None if contents.artifacts is None else store.get_bytes,
            )
        )
        if not found[0].ok:
            raise LogVerificationError(
                f"the backup's log does not hold: {found[0].reason}",
                index=-1 if found[0].index is None else found[0].index,
            )

    own = url or f"sqlite:///{staging / 'workspace' / 'log.db'}"
    load(own, staging / "log", check, replace=bool(url))
    return found[0]


def _publish(staging: Path, workspace: Path, made_at: str) -> Path | None:
    """Move the finished workspace to its place; what is there goes aside first."""
    aside = None
    (staging / "workspace" / "keys" / "people").mkdir(parents=True, exist_ok=True, mode=0o700)
    if made_at:
        aside = _free_name(workspace)
        workspace.rename(aside)
    (staging / "workspace").rename(workspace)  # an empty folder is replaced in the same step
    sync_folder(workspace.parent)
    return aside


def _free_name(workspace: Path) -> Path:
    number = 1
    while (name := workspace.with_name(f"{workspace.name}.before-restore-{number}")).exists():
        number += 1
    return name
