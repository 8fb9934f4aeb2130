"""One isolated job of a round, from its request to its end.

Invariants:
- A job that does not end well raises JobFailedError with the reason, what was refused, and the end of its log.
- A halt ends a running job: it is looked for twice a second. So does whatever ends the wait for it.
- What a job prints is shown to people, and nothing else is made of it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from guardrails.errors import HaltedError, JobFailedError, UsageError
from sandbox.command_learner import Staged
from sandbox.config import ModelConfig
from sandbox.isolation import interpreter
from sandbox.isolation.gpu import LEVEL as GPU_LEVEL
from sandbox.isolation.spec import JobOutcome, JobSpec, Limits, Mount
from sandbox.rounds.bench import Bench, Report

POLL_S = 0.1
HALT_CHECK_S = 0.5
_LINES_LOOKED_AT = 100


def run(
    bench: Bench, model: ModelConfig, folder: Path, stage: str, request: dict[str, Any],
    mounts: dict[str, Path], report: Report, staged: Staged | None = None, gpu: int | None = None,
) -> JobOutcome:  # fmt: skip
    """Run one worker, or a program in its place, to its end; raises JobFailedError unless it exits with 0.

    With the number of a GPU the job has that one, and the level that such jobs have instead of the bench's.
    """
    interpreter.refuse_to_show(bench.workspace)
    own = folder / stage
    (own / "out").mkdir(parents=True)
    request_file = own / "request.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    limits = model.limits
    if staged is not None:
        mounts = mounts | staged.mounts
    spec = JobSpec(
        argv=staged.argv if staged else ("python", "-m", f"sandbox.worker.{stage}", "/in/request.json"),
        inputs=(Mount(request_file, "/in/request.json"), *(Mount(path, to) for to, path in sorted(mounts.items()))),
        out=own / "out",
        log=own / "log.txt",
        limits=Limits(
            wall_s=limits.wall_s, cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes,
            processes=limits.processes, output_bytes=limits.disk_bytes, scratch_bytes=limits.disk_bytes,
        ),
        # Waiting threads sleep: spinning ones slow a busy machine down several times.
        env={"OMP_NUM_THREADS": str(model.threads), "OMP_WAIT_POLICY": "PASSIVE"},
        gpu=gpu,
    )  # fmt: skip
    outcome = _wait(bench, spec, stage, report)
    if outcome.killed or outcome.exit != 0:
        reason = outcome.killed or f"exit status {outcome.exit}"
        last = outcome.log_tail.strip().splitlines()[-1:] or ["no output"]
        refused = ", ".join(f"{denial.what} ({denial.count})" for denial in outcome.denied if denial.count)
        raise JobFailedError(
            f"{stage} job ended: {reason}: {last[0][:300]}"
            + (f"; refused: {refused[:300]}" if refused else ""),
            log_tail=outcome.log_tail,
            compute=outcome.compute,
        )
    report(stage, 1.0)
    return outcome


def _wait(bench: Bench, spec: JobSpec, stage: str, report: Report) -> JobOutcome:
    handle = bench.runner.start(spec, bench.level if spec.gpu is None else GPU_LEVEL)
    look_at = time.monotonic() + HALT_CHECK_S
    try:
        while (outcome := handle.poll()) is None:
            show_latest(handle.lines(), stage, report)
            if time.monotonic() > look_at:
                _require_no_halt(bench)
                look_at = time.monotonic() + HALT_CHECK_S
            time.sleep(POLL_S)
    except UsageError as error:
        # The job cannot be run as described, for example because there is no such program.
        raise JobFailedError(f"{stage} job could not be started: {error.message}", hint=error.hint) from None
    except BaseException as error:
        # Also on Ctrl-C: whoever stops waiting ends the job.
        handle.cancel(str(error) or type(error).__name__)
        raise
    return outcome


def _require_no_halt(bench: Bench) -> None:
    if bench.gate.halted_by():
        raise HaltedError("halted: the running job was ended", hint="`interlock resume` lifts it")


def show_latest(lines: list[str], stage: str, report: Report) -> None:
    """Forward the last of a job's progress lines. It is a claim for the eye only; anything odd is left out.

    Not every line: a job can print them faster than anybody can be shown them, and a halt waits meanwhile.
    """
    for line in lines[: -_LINES_LOOKED_AT - 1 : -1]:
        try:
            value = json.loads(line)
            share, name = float(value["progress"]), str(value.get("stage", stage))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
        if 0.0 <= share <= 1.0:
            report(f"{stage}: {''.join(c for c in name[:40] if c.isprintable())}", share)
            return
