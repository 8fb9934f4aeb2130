"""Keeping a workspace: back it up, restore it, remove what nobody needs any more.

Invariants: a backup is taken while others work; a restore verifies everything before it replaces anything;
``gc`` removes only what the log says may go, and says so in the log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ui import presenters
from ui.cli.group import command
from ui.cli.output import line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.archive import Contents


@command("backup", help="Write the whole workspace, as it is now, to one new file. Others may go on working.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--no-artifacts", is_flag=True, help="Only the log, the configuration and the keys of the services."
)
@click.option("--people-keys", is_flag=True, help="Also people's private keys, behind their passphrases.")
def backup(session: Session, file: Path, no_artifacts: bool, people_keys: bool) -> None:
    """Back up."""
    from guardrails.archive import write_archive

    workspace = session.workspace
    contents = write_archive(
        file.absolute(), workspace.path, workspace.database_url, workspace.store, session.now(),
        artifacts=not no_artifacts, people_keys=people_keys,
    )  # fmt: skip
    size = file.stat().st_size
    data = {"file": str(file), "bytes": size, **_told(contents)}

    def draw(console: Console) -> None:
        what = f"{presenters.counted(contents.extent.entries, 'record')} saved to {file}, {presenters.size(size)}"
        kept = "with people's keys" if people_keys else "without people's keys"
        show(
            console,
            line(presenters.Mark("✓", what, "good")),
            line(f"It holds the keys of the services, {kept}: keep it where nobody reads it."),
        )

    session.output.result("backup", data, draw)


@command("restore", help="Make a workspace of a backup. Everything is verified before anything is replaced.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move a workspace that is there aside.")
@click.option(
    "--discard-newer",
    is_flag=True,
    help="Also where the log that is there has records that the backup has not.",
)
@click.option(
    "--root-key",
    "root_keys",
    multiple=True,
    metavar="KEY|FILE",
    help="A root key that must have signed the first roster; those pinned here must have, too.",
)
def restore_(
    session: Session, file: Path, replace: bool, discard_newer: bool, root_keys: tuple[str, ...]
) -> None:
    """Restore."""
    from guardrails.restore import restore
    from ui import pins
    from ui.wiring import DATABASE

    # The backup brings a list of its own along, which says nothing: it may be anybody's.
    wanted = [*pins.pinned(session.path), *(key for given in root_keys for key in pins.read_keys(given))]
    done = restore(
        file, session.path, os.environ.get(DATABASE, ""), replace=replace, discard_newer=discard_newer,
        root_pins=wanted,
    )  # fmt: skip
    aside = str(done.aside) if done.aside else None
    data = {
        "workspace": str(session.path), "aside": aside, "notes": done.verification.notes, **_told(done.contents),
    }  # fmt: skip

    def draw(console: Console) -> None:
        extent = done.contents.extent
        what = f"{presenters.counted(extent.entries, 'record')} restored to {session.path}, saved {done.contents.made_at}"
        items = [
            ("root", extent.root),
            *(("root key", key) for key in done.verification.root_keys),
            *(("note", note) for note in done.verification.notes),
        ]
        if not done.contents.people_keys:
            items.append(("note", f"people's keys were not in it: put yours into {session.path}/keys/people"))
        if aside:
            items.append(("the former one", aside))
        show(console, line(presenters.Mark("✓", what, "good")), pairs(items))

    session.output.result("restore", data, draw)


def _told(contents: Contents) -> dict[str, Any]:
    return {
        "entries": contents.extent.entries, "root": contents.extent.root, "log": contents.extent.origin,
        "made_at": contents.made_at, "artifacts": contents.artifacts, "people_keys": contents.people_keys,
    }  # fmt: skip


@command("gc", help="Remove bundles whose retention time is over, and what interrupted jobs have left.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and change nothing.")
def gc(session: Session, dry_run: bool) -> None:
    """Collect garbage."""
    from guardrails.retention import collect
    from sandbox.answers.forgetting import forget_erased

    workspace = session.workspace
    if not dry_run:
        with session.proven_view() as view:
            forget_erased(workspace.path, view.snapshot, workspace.store)
    done = collect(session.workspace.gate, session.now(), dry_run=dry_run)
    data = {
        "dry_run": dry_run, "proposals": list(done.proposals), "files": done.files, "bytes": done.size,
        "kept_young": done.young,
    }  # fmt: skip

    def draw(console: Console) -> None:
        verb = "would be removed" if dry_run else "removed"
        what = f"{presenters.counted(done.files, 'file')}, {presenters.size(done.size)}, {verb}"
        items = [("proposals", ", ".join(done.proposals) or "none")]
        if done.young:
            items.append(
                ("too young", f"{presenters.counted(done.young, 'file')} of the last day, left for later")
            )
        show(console, line(what), pairs(items))

    session.output.result("gc", data, draw)
