"""Where a command reads a log: in the workspace, or in a bundle that somebody was handed.

Invariants: a bundle is verified whole before a word of it is shown, by the root keys that were given; its tables
are made from its records, in memory. Nothing is written and no workspace is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from guardrails.errors import LogVerificationError, UsageError
from guardrails.view import View
from ui import pins
from ui.cli.log.verify import verified_bundle
from ui.cli.session import Session


@dataclass(frozen=True)
class Source:
    """A workspace's log (no ``bundle``), or a bundle and the root keys that must have founded its log."""

    bundle: Path | None = None
    root_keys: tuple[str, ...] = ()


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--bundle`` and ``--root-key``; the command is handed them as one ``source``."""

    @click.option(
        "--bundle", type=click.Path(path_type=Path), metavar="FILE",
        help="Read an exported bundle, verified first, instead of a workspace.",
    )  # fmt: skip
    @click.option(
        "--root-key", "root_keys", multiple=True, metavar="KEY|FILE",
        help="With --bundle: a root key that you were handed, or a file of them.",
    )  # fmt: skip
    @wraps(command)
    def with_source(*words: Any, bundle: Path | None, root_keys: tuple[str, ...], **options: Any) -> Any:
        if root_keys and bundle is None:
            raise UsageError(
                "--root-key belongs to --bundle", hint="a workspace's are pinned in keys/roots.pub"
            )
        keys = tuple(key for given in root_keys for key in pins.read_keys(given))
        return command(*words, source=Source(bundle, keys), **options)

    return with_source


@contextmanager
def reading(session: Session, source: Source) -> Iterator[View]:
    """What the log says.

    Raises:
        LogVerificationError: the bundle does not hold, or other roots founded its log.
    """
    if source.bundle is None:
        with session.view() as view:
            yield view
        return
    from guardrails.decision_log import bundle
    from guardrails.decision_log.tables import MemoryTables
    from guardrails.ledger import project

    keys = [*source.root_keys, *pins.given()]
    with bundle.opened(source.bundle) as laid_out:
        result = verified_bundle(laid_out, root_pins=keys)
        if not result.ok:
            index = -1 if result.index is None else result.index
            raise LogVerificationError(
                result.reason, index=index, hint=f"interlock log verify --bundle {source.bundle}"
            )
        if not keys:
            session.output.warn("no root key was given: that this log is the founders' was not checked")
        with laid_out.read() as snapshot:
            tables = MemoryTables()
            for entry in snapshot.entries():
                project(tables, entry)
            snapshot.tables = tables
            yield View(snapshot)
