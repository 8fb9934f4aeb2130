"""The isolation that jobs run in: does it hold here, and running any program in it.

Invariants: needs no workspace; never runs at a lower level than was asked for (exit status 8 instead); returns
the program's own exit status, 128+n after signal n. What was refused is reported, and what cannot be observed is
reported as such. Nothing is protected at level `none`, and it says so.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import InterlockError, IsolationUnavailableError, UsageError
from ui import presenters
from ui.cli.group import add, group
from ui.cli.output import line
from ui.cli.quantities import BYTES, SECONDS
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from sandbox.isolation.spec import JobOutcome, JobSpec

sandbox = group("sandbox", "Check the isolation, or run a program in it.")

LEVELS = ("none", "landlock", "strict")
STRICT, STRICT_GPU = "strict", "strict+gpu"
_KILLED = 128 + signal.SIGKILL
# What the kernel ends by itself: one process that is over a limit of the whole job.
_ENDED_BY_KERNEL = {128 + signal.SIGXCPU: "cpu_s", 128 + signal.SIGXFSZ: "output_bytes"}
_POLL_S = 0.02
_MERELY_ABSENT = ("ENOSYS", "ENOTSUP")


@add(sandbox, "doctor", help="Try every isolation level here; exit status 8 if `strict` does not hold.")
def doctor(session: Session) -> None:
    """Probe the levels."""
    data: dict[str, Any] = {
        "machine": os.uname().machine,
        "kernel": os.uname().release,
        "levels": levels_here(),
    }

    def draw(console: Console) -> None:
        for found in data["levels"]:
            draw_level(console, found)

    session.output.result("sandbox doctor", data, draw)
    if not next(found["ok"] for found in data["levels"] if found["level"] == STRICT):
        raise Finished(IsolationUnavailableError.exit_status)


def levels_here() -> list[dict[str, Any]]:
    """Each confining level: whether its behavioural probe passed, each thing tried, and if it failed, the remedy."""
    from sandbox.isolation import levels

    found = []
    for level in LEVELS[:0:-1]:
        report = levels.examine(level)
        found.append(
            {
                "level": level,
                "ok": report.ok,
                "failures": list(report.failures),
                "probes": [asdict(probe) for probe in report.probes],
                "refusals_observed": report.observes,
            }
        )
    return found


def draw_level(console: Console, found: dict[str, Any]) -> None:
    """One level and what is wrong with it."""
    mark = (
        presenters.Mark("✓", "holds", "good") if found["ok"] else presenters.Mark("✕", "does not hold", "bad")
    )
    tried = len(found["probes"])
    console.print(line(f"isolation {found['level']:9}", mark, f"  {tried} probes" if found["ok"] else ""))
    if found["ok"] and not found["refusals_observed"]:
        console.print(line("  - refused system calls cannot be counted on this kernel"))
    for failure in found["failures"]:
        console.print(line(f"  - {failure}"), soft_wrap=True)


@add(
    sandbox, "run", help="Run a program isolated: no network, no input but /in, no output but /out. Write -- before it.",
    context_settings={"allow_interspersed_args": False},
)  # fmt: skip
@click.option("--level", type=click.Choice(LEVELS), default=STRICT, show_default=True)
@click.option(
    "--gpu", type=click.IntRange(0, 999), metavar="N", help="Show /dev/nvidiaN; the level is then strict+gpu."
)
@click.option("--in", "in_", type=click.Path(path_type=Path), metavar="DIR", help="Shown read-only at /in.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="An empty directory, writable at /out."
)
@click.option("--wall", type=SECONDS, metavar="TIME", help="Wall clock [600s].")
@click.option("--cpu", type=SECONDS, metavar="TIME", help="CPU time, over all processes [1200s].")
@click.option("--memory", type=BYTES, metavar="SIZE", help="Peak memory, over all processes [4GiB].")
@click.option(
    "--processes", type=click.IntRange(1, 1 << 20), metavar="N", help="Processes and threads at once [256]."
)
@click.option("--output", type=BYTES, metavar="SIZE", help="Bytes below /out [2GiB].")
@click.option("--scratch", type=BYTES, metavar="SIZE", help="Bytes below /scratch [1GiB].")
@click.option("--disk", type=BYTES, metavar="SIZE", help="Both --output and --scratch.")
@click.argument("command", nargs=-1, required=True, metavar="-- CMD…")
def run(
    session: Session, level: str, gpu: int | None, in_: Path | None, out: Path | None, command: tuple[str, ...],
    **limits: float | None,
) -> None:  # fmt: skip
    """Run a program in isolation."""
    if level == LEVELS[0]:
        session.output.warn("level none: nothing is protected; the program can do whatever you can")
    if gpu is not None:
        level = _with_gpu(session, level)
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-run-")))
        spec = replace(_spec(command, in_, out or private / "out", private / "log.txt", limits), gpu=gpu)
        outcome, cut = _run(session, spec, level)
    data = {
        "level": outcome.level,
        "exit": outcome.exit,
        "killed": outcome.killed or None,
        "limit_hit": _limit_hit(spec, outcome),
        "limits": dict(vars(spec.limits)),
        "denied": [asdict(denial) for denial in outcome.denied],
        "output_cut": cut,
        "usage": presenters.compute_fields(outcome.compute),
        "measured_by": outcome.compute.measured_by,
    }
    if session.output.json:
        session.output.result("sandbox run", data, lambda console: None)
    else:
        _tell(session, outcome, cut=cut)
    status = _KILLED if outcome.exit is None else outcome.exit
    if status:
        raise Finished(status)


def _with_gpu(session: Session, level: str) -> str:
    """The level of a program with a GPU, which is never quite ``strict``: said, not left to be found out."""
    if level != STRICT:
        raise UsageError(f"--gpu needs --level {STRICT}, not {level}")
    session.output.note(
        "strict+gpu: as strict, but the program talks to the GPU's driver in the kernel, and memory on the "
        "GPU has no limit"
    )
    return STRICT_GPU


def _limit_hit(spec: JobSpec, outcome: JobOutcome) -> str | None:
    """The name of the limit that ended the program, None if none did."""
    if outcome.exit in _ENDED_BY_KERNEL:
        return _ENDED_BY_KERNEL[outcome.exit]
    name = outcome.killed.partition(":")[0]
    return name if name in vars(spec.limits) else None


def _tell(session: Session, outcome: JobOutcome, *, cut: bool) -> None:
    """What a person should know besides the program's own output. Calls that libraries try and do without are left out."""
    refused = [f"{d.what} ({d.count})" for d in outcome.denied if d.count and d.answer not in _MERELY_ABSENT]
    if refused:
        session.output.note(f"refused: {', '.join(refused)}")
    if cut:
        session.output.warn("the program printed more than is kept; the end of its output is missing")
    if outcome.killed:
        session.output.warn(f"ended by the supervisor: {outcome.killed}")


def _spec(
    command: tuple[str, ...], in_: Path | None, out: Path, log: Path, given: dict[str, float | None]
) -> JobSpec:
    from sandbox.isolation.spec import JobSpec, Limits, Mount

    if in_ is not None and not in_.is_dir():
        raise UsageError(f"--in {in_}: not a directory")
    if given.get("disk") is not None:
        given = {**given, **{name: given[name] or given["disk"] for name in ("output", "scratch")}}
    names = {"wall": "wall_s", "cpu": "cpu_s", "memory": "memory_bytes", "processes": "processes",
             "output": "output_bytes", "scratch": "scratch_bytes"}  # fmt: skip
    limits: dict[str, Any] = {
        names[option]: value for option, value in given.items() if option in names and value is not None
    }
    inputs = (Mount(in_.absolute(), "/in"),) if in_ is not None else ()
    return JobSpec(tuple(command), inputs, out.absolute(), log, Limits(**limits))


def _run(session: Session, spec: JobSpec, level: str) -> tuple[JobOutcome, bool]:
    """Run to the end, passing the program's output on as it comes; the outcome, and whether output was cut."""
    from sandbox.isolation import levels
    from sandbox.isolation.joblog import LOG_CAP_BYTES
    from sandbox.isolation.startup import NOT_STARTED
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
        printed = _pass_on(spec.log, printed, stream)
    except InterlockError as error:
        _pass_on(spec.log, printed, stream)
        if error.hint == NOT_STARTED:
            raise UsageError(error.message, hint=error.hint) from None
        raise
    finally:
        # Also on Ctrl-C: the program ends with the command.
        runner.shutdown()
    return outcome, printed > LOG_CAP_BYTES


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
