"""A verified copy of a champion, to use anywhere.

Invariants: a directory is written only after the whole log has been verified, so that it justifies the champion
that it names; every byte is checked against that digest; the copy appears in one step or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrails.errors import DeniedError, InterlockError, LogVerificationError, UsageError
from ui import presenters
from ui.cli.group import command
from ui.cli.log import verified
from ui.cli.output import line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console


@command("pull", help="Write a verified copy of a model's champion to a new directory.")
@click.argument("model_name", metavar="MODEL")
@click.option(
    "--to",
    "to",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="A directory that is empty or not there.",
)
def pull(session: Session, model_name: str, to: Path) -> None:
    """Copy a champion out, verified."""
    with session.view() as view:
        champion = view.model(model_name).champion
    _require_free(to)
    session.output.note("verifying the decision log")
    result = verified(session)
    if not result.ok:
        raise LogVerificationError(result.reason, index=-1 if result.index is None else result.index,
                                   hint="nothing was written; the log does not justify this champion")  # fmt: skip
    with session.view() as view:
        if view.model(model_name).champion != champion:
            raise DeniedError(f"{model_name}: the champion changed meanwhile; nothing was written")
    store = session.workspace.store
    folder = _staging(to)
    try:
        store.checkout(champion, folder / "copy", below="model")
        _publish(folder / "copy", to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files = [entry for entry in store.tree(champion) if entry.path.startswith("model/")]
    data = {
        "model": model_name, "champion_digest": str(champion), "to": str(to), "log_root": result.root,
        "files": [{"path": e.path.removeprefix("model/"), "size": e.size, "sha256": e.sha256} for e in files],
    }  # fmt: skip

    def draw(console: Console) -> None:
        size = presenters.size(sum(entry.size for entry in files))
        mark = presenters.Mark("✓", f"{model_name} written to {to}", "good")
        show(
            console,
            line(mark),
            pairs(
                [("champion", str(champion)), ("files", f"{len(files)}, {size}"), ("log root", result.root)]
            ),
        )

    session.output.result("pull", data, draw)


def _require_free(to: Path) -> None:
    try:
        if to.is_symlink() or (to.exists() and not to.is_dir()):
            raise UsageError(f"{to} is not a directory; nothing was written")
        if to.is_dir() and any(to.iterdir()):
            raise UsageError(
                f"{to} is not empty; nothing was written", hint="give a new or an empty directory"
            )
    except OSError as error:
        raise UsageError(f"{to} cannot be read: {error.strerror}") from None


def _staging(to: Path) -> Path:
    """A folder beside the target, so that the finished copy appears in one step."""
    try:
        to.absolute().parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".interlock-pull-", dir=to.absolute().parent))
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None


def _publish(copy: Path, to: Path) -> None:
    copy.chmod(0o755)
    try:
        # Over an empty directory this is one step; somebody who filled it meanwhile wins.
        os.rename(copy, to.absolute())  # noqa: PTH104 - rename, not replace, says what is meant
    except OSError as error:
        raise InterlockError(f"{to} cannot be written: {error.strerror}; nothing was written") from None
