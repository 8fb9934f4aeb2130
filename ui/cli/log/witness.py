"""A witness as a process of its own: its own folder and key, no workspace.

Invariants: it serves where it is told to, on loopback unless told otherwise; it reads no workspace and asks
nobody; a fork, a rollback or an unknown log gets no cosignature.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrails.errors import DeniedError, UsageError
from ui.cli.group import add
from ui.cli.log.group import log
from ui.cli.output import line, pairs
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.witness import Witness

_FILE = click.Path(path_type=Path)
DEFAULT = "127.0.0.1:8710"


@add(log, "witness", help="Run a witness: cosign the checkpoints of logs that only grow (C2SP tlog-witness).")
@click.option("--dir", "folder", type=_FILE, required=True, metavar="DIR", help="The witness's own folder.")
@click.option(
    "--name",
    default="",
    metavar="NAME",
    help="Make a witness of this name there, like witness.example/w1, and end.",
)
@click.option(
    "--add-log", "logs", multiple=True, metavar="KEY|FILE", help="Witness the log of this key, and end."
)
@click.option("--listen", default=DEFAULT, metavar="HOST:PORT", show_default=True, help="Where to serve.")
@click.option("--once", is_flag=True, help="Do not serve: cosign the file given with --checkpoint, and end.")
@click.option(
    "--checkpoint",
    "file",
    type=_FILE,
    metavar="FILE",
    help="With --once: what `log proof --consistency M` wrote, or a bare checkpoint if it is the first.",
)
@click.option(
    "--latest", default="", metavar="ORIGIN", help="Print the last checkpoint cosigned of a log, and end."
)
def witness(
    session: Session,
    folder: Path,
    name: str,
    logs: tuple[str, ...],
    listen: str,
    once: bool,
    file: Path | None,
    latest: str,
) -> None:
    """Run a witness."""
    from guardrails.decision_log.witness import Witness
    from ui.cli.log.verify import verifier_key

    if once != (file is not None):
        raise UsageError("--once and --checkpoint FILE belong together")
    own = Witness.create(folder, name) if name else Witness(folder)
    for given in logs:
        own.trust(verifier_key(given))
    if latest:
        _latest(session, own, latest)
    elif file is not None:
        _cosign(session, own, file)
    elif name or logs:
        _introduce(session, own)
    else:
        _serve(session, own, listen)


def _introduce(session: Session, own: Witness) -> None:
    data = {"name": own.name, "verifier_key": str(own.verifier_key), "logs": [key.name for key in own.logs]}

    def draw(console: Console) -> None:
        items = [("witness", own.name), ("key for verifiers", data["verifier_key"])]
        console.print(pairs([*items, *(("log", key.name) for key in own.logs)]))

    session.output.result("log witness", data, draw)


def _latest(session: Session, own: Witness, origin: str) -> None:
    note = own.latest(origin)
    if not note:
        raise UsageError(f"nothing was cosigned of {origin:.80}")
    data = {"origin": origin, "checkpoint": note}
    session.output.result(
        "log witness", data, lambda console: console.print(line(note), end="", soft_wrap=True)
    )


def _cosign(session: Session, own: Witness, file: Path) -> None:
    from ui.cli.log.verify import text_of

    text = text_of(file)
    body = text if text.startswith("old ") else f"old 0\n\n{text}"
    answer = own.add_checkpoint(body.encode("utf-8"))
    if not answer.ok:
        seen = " (the size that it has cosigned)" if answer.status == 409 else ""
        raise DeniedError(f"not cosigned, status {answer.status}: {answer.body.strip()}{seen}")
    data = {"status": answer.status, "cosignature": answer.body}
    session.output.result(
        "log witness", data, lambda console: console.print(line(answer.body), end="", soft_wrap=True)
    )


def _serve(session: Session, own: Witness, listen: str) -> None:
    from guardrails.decision_log.witness_server import WitnessServer

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"not HOST:PORT: {listen:.60}")
    server = WitnessServer((host.strip("[]"), int(port)), own, session.output.note)
    with server:
        where = f"http://{host}:{server.server_address[1]}"
        session.output.announce(f"{own.name} listens on {where} · key for verifiers {own.verifier_key}")
        server.serve_forever()
