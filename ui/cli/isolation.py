"""The isolation that jobs run in: does it hold here, and running any program in it.

Invariants: needs no workspace; never runs at a lower level than was asked for (exit status 8 instead); returns
the program's own exit status, 128+n after signal n.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import InterlockError, IsolationUnavailableError, UsageError
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import line
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from sandbox.isolation.spec import JobOutcome, JobSpec

sandbox = group("sandbox", "Check the isolation, or run a program in it.")

LEVELS = ("none", "landlock", "strict")
STRICT = "strict"
_KILLED = 128 + signal.SIGKILL
_POLL_S = 0.02


@add(sandbox, "doctor", help="Try every isolation level here; exit status 8 if `strict` does not hold.")
def doctor(session: Session) -> None:
    """Probe the levels."""
    data = {"levels": levels_here()}

    def draw(console: Console) -> None:
        for found in data["levels"]:
            draw_level(console, found)

    session.output.result("sandbox doctor", data, draw)
    if not next(found["ok"] for found in data["levels"] if found["level"] == STRICT):
        raise Finished(IsolationUnavailableError.exit_status)


def levels_here() -> list[dict[str, Any]]:
    """Each confining level, whether its behavioural probe passed, and if not, why."""
    from sandbox.isolation import levels

    found = []
    for level in LEVELS[:0:-1]:
        try:
            levels.require(level)
            found.append({"level": level, "ok": True, "failures": []})
        except IsolationUnavailableError as error:
            found.append({"level": level, "ok": False, "failures": list(error.failures)})
    return found


def draw_level(console: Console, found: dict[str, Any]) -> None:
    """One level and what is wrong with it."""
    mark = (
        presenters.Mark("✓", "holds", "good") if found["ok"] else presenters.Mark("✕", "does not hold", "bad")
    )
    console.print(line(f"isolation {found['level']:9}", mark))
    for failure in found["failures"]:
        console.print(line(f"  - {failure}"), soft_wrap=True)


@add(
    sandbox, "run", help="Run a program isolated: no network, only /in, /out and /scratch. Write -- before it.",
    context_settings={"allow_interspersed_args": False},
)  # fmt: skip
@click.option("--level", type=click.Choice(LEVELS), default=STRICT, show_default=True)
@click.option("--in", "in_", type=click.Path(path_type=Path), metavar="DIR", help="Shown read-only at /in.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="An empty directory, writable at /out."
)
@click.option("--wall", type=float, metavar="S", help="Seconds of wall clock.")
@click.option("--cpu", type=float, metavar="S", help="Seconds of CPU, over all processes.")
@click.option("--memory", type=int, metavar="BYTES", help="Peak memory, over all processes.")
@click.option("--processes", type=int, metavar="N", help="Processes and threads at once.")
@click.option("--disk", type=int, metavar="BYTES", help="Bytes below /out, and below /scratch.")
@click.argument("command", nargs=-1, required=True, metavar="-- CMD…")
def run(
    session: Session, level: str, in_: Path | None, out: Path | None, command: tuple[str, ...],
    **limits: float | None,
) -> None:  # fmt: skip
    """Run a program in isolation."""
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-run-")))
        spec = _spec(command, in_, out or private / "out", private / "log.txt", limits)
        outcome = _run(session, spec, level)
    data = {
        "level": outcome.level,
        "exit": outcome.exit,
        "killed": outcome.killed or None,
        "denied": [dict(vars(denial)) for denial in outcome.denied],
        "usage": presenters.compute_fields(outcome.compute),
        "measured_by": outcome.compute.measured_by,
    }
    if session.output.json:
        session.output.result("sandbox run", data, lambda console: None)
    elif outcome.killed:
        session.output.warn(f"ended by the supervisor: {outcome.killed}")
    status = _KILLED if outcome.exit is None else outcome.exit
    if status:
        raise Finished(status)


def _spec(
    command: tuple[str, ...], in_: Path | None, out: Path, log: Path, given: dict[str, float | None]
) -> JobSpec:
    from sandbox.isolation.spec import JobSpec, Limits, Mount

    if in_ is not None and not in_.is_dir():
        raise UsageError(f"--in {in_}: not a directory")
    names = {"wall": ("wall_s",), "cpu": ("cpu_s",), "memory": ("memory_bytes",), "processes": ("processes",),
             "disk": ("output_bytes", "scratch_bytes")}  # fmt: skip
    limits: dict[str, Any] = {}
    for option, value in given.items():
        if value is not None:
            limits |= dict.fromkeys(names[option], value)
    inputs = (Mount(in_.absolute(), "/in"),) if in_ is not None else ()
    return JobSpec(tuple(command), inputs, out.absolute(), log, Limits(**limits))


def _run(session: Session, spec: JobSpec, level: str) -> JobOutcome:
    """Run to the end, passing the program's output on as it comes."""
    from sandbox.isolation import levels
    from sandbox.runner import LocalRunner

    levels.require(level)
    runner = LocalRunner()
    printed = 0
    stream = sys.stderr if session.output.json else sys.stdout
    try:
        handle = runner.start(spec, level)
        while (outcome := handle.poll()) is None:
            printed = _pass_on(spec.log, printed, stream)
            time.sleep(_POLL_S)
        _pass_on(spec.log, printed, stream)
    except InterlockError:
        _pass_on(spec.log, printed, stream)
        raise
    finally:
        # Also on Ctrl-C: the program ends with the command.
        runner.shutdown()
    return outcome


def _pass_on(log: Path, start: int, stream: Any) -> int:
    """Print what the program has written since ``start``: as it is into files, made safe on a terminal."""
    try:
        with log.open("rb") as source:
            source.seek(start)
            data = source.read()
    except FileNotFoundError:
        return start
    if data:
        if stream.isatty():
            stream.write(presenters.plain(data.decode("utf-8", "replace").replace("\t", "    ")))
        else:
            stream.flush()
            stream.buffer.write(data)
        stream.flush()
    return start + len(data)
