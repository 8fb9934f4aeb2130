"""A verified copy of a champion, to use anywhere.

Invariants: a directory is written only after ``guardrails.loader`` has verified the whole log, so that it justifies
the champion, in the very snapshot that names it; every byte is checked against that digest; the copy appears in one
step or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrails.errors import InterlockError, UsageError
from ui import pins, presenters
from ui.cli.group import command
from ui.cli.log.verify import check_artifact, text_of
from ui.cli.output import line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.loader import Champion


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
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A checkpoint kept from before: a log that was cut back, or rewritten, is refused.",
)
@click.option("--strict", is_flag=True, help="Refuse a champion whose verdict cannot be judged again here.")
def pull(session: Session, model_name: str, to: Path, checkpoints: tuple[Path, ...], strict: bool) -> None:
    """Copy a champion out, verified."""
    with session.view() as view:
        view.model(model_name)  # a name that is not there is said before anything else is done
    _require_free(to)
    known = [text_of(path) for path in checkpoints]
    session.output.note("verifying the decision log")
    champion = _champion(session, model_name, known, strict=strict)
    folder = _staging(to)
    try:
        champion.checkout(folder / "copy")
        _publish(folder / "copy", to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files = champion.files()
    data = {
        "model": model_name, "champion_digest": str(champion.digest), "to": str(to), "log_root": champion.log_root,
        "doubt": champion.doubt,
        "files": [{"path": e.path.removeprefix("model/"), "size": e.size, "sha256": e.sha256} for e in files],
    }  # fmt: skip

    def draw(console: Console) -> None:
        size = presenters.size(sum(entry.size for entry in files))
        mark = presenters.Mark("✓", f"{model_name} written to {to}", "good")
        items = [("champion", str(champion.digest)), ("files", f"{len(files)}, {size}")]
        items.append(("log root", champion.log_root))
        if champion.doubt:
            items.append(("not judged again", champion.doubt))
        show(console, line(mark), pairs(items))

    session.output.result("pull", data, draw)


def _champion(session: Session, model_name: str, known: list[str], *, strict: bool) -> Champion:
    from guardrails.loader import champion_of

    workspace = session.workspace
    roots = pins.pinned(workspace.path)
    if not roots:
        session.output.note(
            "no root key is pinned here: that the first roster is the founders' was not checked"
        )
    with workspace.log.read() as snapshot:
        return champion_of(
            snapshot, workspace.store, model_name, roots, known,
            artifacts=lambda address: check_artifact(workspace.store, address), strict=strict,
        )  # fmt: skip


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
