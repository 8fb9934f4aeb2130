"""The loop on the command line: run it, see what it does, stop it.

Invariants: one loop a workspace (a lock that dies with its process); the loop can approve nothing; however it
ends, its job ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import DeniedError
from ui import presenters
from ui.cli import drawing
from ui.cli.bench import open_bench
from ui.cli.group import add, group
from ui.cli.jobs import configured
from ui.cli.label import open_counts
from ui.cli.look import next_step
from ui.cli.output import empty, line, pairs, show, table
from ui.cli.session import Session
from ui.presenters import labelling

if TYPE_CHECKING:
    from rich.console import Console

    from sandbox.loop import Event

loop = group("loop", "Run, watch or stop the loop.")

LOCK, STOP = "loop.lock", "loop.stop"


@add(loop, "run", help="Propose and measure, round by round, until stopped (or --rounds are done).")
@click.option("--rounds", type=click.IntRange(min=1), help="End after so many rounds.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeat for several.")
def run_(session: Session, rounds: int | None, models: tuple[str, ...]) -> None:
    """Run the loop."""
    names = chosen_models(session, models)
    made = run_loop(session, names, rounds, lambda: False)
    give_rounds(session, "loop run", made)


def chosen_models(session: Session, models: tuple[str, ...]) -> list[str]:
    """The models to work on: those named, else all that are configured."""
    names = list(dict.fromkeys(models)) or list(session.workspace.config.models)
    for name in names:
        configured(session, name)
    return names


def run_loop(
    session: Session, names: list[str], rounds: int | None, should_stop: Callable[[], bool]
) -> list[str]:
    """Run rounds until done or stopped; returns the ids of the proposals that were made."""
    from sandbox import loop as rounds_of

    stop_file = session.workspace.path / STOP
    with _only_loop(session.workspace.path), open_bench(session) as bench:
        stop_file.unlink(missing_ok=True)
        with session.view() as view:
            before = {row.id for row in view.proposals()}
        with session.output.progress() as report:

            def tell(event: Event) -> None:
                text = f"{event.model} · {event.text}" if event.model else event.text
                if event.kind == "stage" and (event.share > 0 or ": " in event.text):
                    report(text, event.share)
                elif event.kind == "problem":
                    session.output.warn(text)
                else:
                    session.output.note(text)

            def stop() -> bool:
                return should_stop() or stop_file.exists()

            try:
                rounds_of.run(bench, session.workspace.config, names, rounds, tell, stop)
            finally:
                stop_file.unlink(missing_ok=True)
    with session.view() as view:
        return [row.id for row in view.proposals()[::-1] if row.id not in before]


def give_rounds(session: Session, kind: str, made: list[str]) -> None:
    """Say what the rounds came to."""
    now = session.now()
    with session.view() as view:
        rows = [view.proposal(proposal) for proposal in made]
        whys = [next_step(view, row, now) for row in rows]

    def draw(console: Console) -> None:
        if not rows:
            asked = labelling.waiting(open_counts(session))
            told = f"No proposal was made: {asked}." if asked else "No proposal was made."
            empty(console, told, "interlock label" if asked else "interlock loop run --rounds 1")
            return
        cells = [
            (row.id, row.model, drawing.marked_state(row), presenters.one_line(why, 160))
            for row, why in zip(rows, whys, strict=True)
        ]
        console.print(table(("ID", "Model", "State", "Why, and what next"), cells))

    session.output.result(kind, {"proposals": [presenters.proposal_fields(row) for row in rows]}, draw)


@add(loop, "status", help="What the loop is doing.")
def status(session: Session) -> None:
    """Show the loop's state."""
    data = {**loop_state(session), "questions": open_counts(session)}

    def draw(console: Console) -> None:
        if told := labelling.waiting(data["questions"]):
            show(console, line(presenters.Mark("?", f"{told}: interlock label", "caution")))
        if not data["running"]:
            empty(console, "No loop is running in this workspace.", "interlock loop run, or interlock up")
            return
        show(console, line(presenters.Mark("✓", str(data["state"]), "good")))
        items = [(key, str(data[key])) for key in ("model", "stage", "since", "pid") if data[key]]
        if data["stage"]:
            items.append(("done", f"{100 * data['share']:.0f} %"))
        if data["halted_by"]:
            items.append(("halted by", data["halted_by"]))
        console.print(pairs(items))

    session.output.result("loop status", data, draw)


@add(loop, "stop", help="Ask the running loop to end after the step that it is at.")
def stop_(session: Session) -> None:
    """Stop the loop."""
    running = loop_state(session)["running"]
    if running:
        (session.workspace.path / STOP).touch()
    told = (
        "the loop ends after its present step (halt ends running jobs at once)"
        if running
        else "no loop is running"
    )
    data = {"running": running, "asked": running}
    session.output.result("loop stop", data, lambda console: console.print(line(told)))


def loop_state(session: Session) -> dict[str, Any]:
    """What the loop says of itself, and whether it is really alive."""
    from sandbox.loop import STATE_FILE

    path = session.workspace.path
    data: dict[str, Any] = {
        "state": "stopped",
        "model": "",
        "stage": "",
        "share": 0.0,
        "since": "",
        "pid": None,
    }
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        data |= {key: told[key] for key in data if isinstance(told, dict) and key in told}
    alive = _is_running(path)
    with session.view() as view:
        halted = view.halted_by
    state = data["state"] if alive else "stopped"
    return {**data, "state": state, "running": alive, "halted_by": halted.id if halted else ""}


@contextmanager
def _only_loop(workspace: Path) -> Iterator[None]:
    """Hold the workspace's loop lock, or refuse."""
    descriptor = os.open(workspace / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DeniedError(
            "a loop is running in this workspace already", hint="interlock loop status"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _is_running(workspace: Path) -> bool:
    try:
        with _only_loop(workspace):
            return False
    except DeniedError:
        return True
