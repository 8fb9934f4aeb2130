"""A job's supervisor: what runs in another process than the one that asked for the job.

    asked for by                         supervisor
    control/request    ── JSON text ──>  reads it once
    control/cancel     ── a reason ───>  looks for it all the time
                       <── JSON text ──  the outcome, or the error

Invariants:
- Only JSON text crosses, both ways; nothing that a job made is in it but the tail of its log.
- It ends the job when whoever asked for it is gone.
- It imports what a job needs and nothing else: each running job pays for its supervisor's memory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from guardrails import errors
from guardrails.errors import InterlockError, IsolationUnavailableError, JobFailedError
from sandbox.isolation import levels
from sandbox.isolation.folders import identity, is_alive
from sandbox.isolation.spec import (
    JobOutcome,
    JobSpec,
    outcome_from_json,
    outcome_to_json,
    spec_from_json,
    spec_to_json,
)


def ask(control: Path, spec: JobSpec, level: str, cache: Path | None) -> None:
    """Leave a request in a fresh private folder, which then belongs to this one job."""
    request = {
        "spec": spec_to_json(spec),
        "level": level,
        "cache": str(cache) if cache else "",
        "asker": identity(os.getpid()),
    }
    control.mkdir(mode=0o700)
    (control / "request").write_text(json.dumps(request), encoding="utf-8")


def cancel(control: Path, reason: str) -> bool:
    """Ask for the job's end; False if no supervisor has taken it up, which then none will."""
    # Atomically, and before looking whether the supervisor has begun: it looks the other way round,
    # so at least one of the two sees the other.
    fresh = control / "cancel.new"
    fresh.write_text(reason, encoding="utf-8")
    fresh.replace(control / "cancel")
    return (control / "begun").exists()


def supervise(control: Path) -> str:
    """Run the job that was asked for to its end; the answer is for ``decode``."""
    request = json.loads((control / "request").read_text(encoding="utf-8"))
    asker = request["asker"]

    def should_stop() -> str:
        if (control / "cancel").exists():
            return (control / "cancel").read_text(encoding="utf-8")
        return "" if is_alive(asker) else "the program that started it is gone"

    try:
        _begin(control)
        if should_stop():
            raise JobFailedError("cancelled before it began")
        cache = Path(request["cache"]) if request["cache"] else None
        outcome = levels.run_job(spec_from_json(request["spec"]), request["level"], should_stop, cache=cache)
    except InterlockError as error:
        return json.dumps({"error": _encode_error(error)})
    except OSError as error:
        return json.dumps(
            {"error": _encode_error(JobFailedError(f"the job could not be supervised: {error}"))}
        )
    return json.dumps({"outcome": outcome_to_json(outcome)})


def _begin(control: Path) -> None:
    """Once only: whoever would run the request again finds that it has begun."""
    try:
        (control / "begun").touch(exist_ok=False)
    except FileExistsError:
        raise JobFailedError("the job was run before; it is not repeated") from None


def decode(text: str) -> JobOutcome | InterlockError:
    """What ``supervise`` said."""
    answer = json.loads(text)
    return _decode_error(answer["error"]) if "error" in answer else outcome_from_json(answer["outcome"])


def _encode_error(error: InterlockError) -> dict[str, Any]:
    encoded: dict[str, Any] = {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, IsolationUnavailableError):
        encoded |= {"level": error.level, "failures": list(error.failures)}
    return encoded


def _decode_error(data: dict[str, Any]) -> InterlockError:
    if data["class"] == "IsolationUnavailableError":
        return IsolationUnavailableError(data["level"], data["failures"])
    if data["class"] == "JobFailedError":  # its constructor differs, and callers record such a failure
        return JobFailedError(data["message"], hint=data["hint"])
    known = getattr(errors, data["class"], InterlockError)
    simple = isinstance(known, type) and issubclass(known, InterlockError)
    plain = known if simple and known.__init__ is InterlockError.__init__ else InterlockError
    return plain(data["message"], hint=data["hint"])
