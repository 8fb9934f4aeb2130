"""Is everything here that a run needs? Each check says what is wrong and what to do.

Invariants: changes nothing; works without a workspace and on a core installation; a failed check never hides
another.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from guardrails.errors import InterlockError, IsolationUnavailableError
from ui import presenters
from ui.cli.group import command
from ui.cli.output import marked, table
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

OK, WARN, FAIL = "ok", "warn", "fail"
_MARKS = {
    OK: presenters.Mark("✓", "ok", "good"),
    WARN: presenters.Mark("▲", "note", "caution"),
    FAIL: presenters.Mark("✕", "fails", "bad"),
}
_CORE = ("pyyaml", "jsonschema", "cryptography", "sqlalchemy", "click", "rich", "numpy")
_EXTRAS = {
    "sandbox": ("torch", "transformers", "peft", "safetensors", "ray", "minigrid"),
    "ui": ("streamlit",),
}
_LEAST_DISK, _LEAST_MEMORY = 5 << 30, 4 << 30


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``status`` is the exit status that a failure stands for."""

    name: str
    outcome: str
    detail: str
    hint: str = ""
    status: int = 1


@command("doctor", help="Check this machine, the installation and the workspace.")
def doctor(session: Session) -> None:
    """Check everything."""
    checks = list(_checks(session))
    failed = [check for check in checks if check.outcome == FAIL]
    data = {"ok": not failed, "checks": [asdict(check) for check in checks]}

    def draw(console: Console) -> None:
        cells = [
            (
                marked(_MARKS[c.outcome]),
                c.name,
                f"{c.detail}\n{c.hint}" if c.hint and c.outcome != OK else c.detail,
            )
            for c in checks
        ]
        console.print(table(("", "Check", "What was found"), cells))

    session.output.result("doctor", data, draw)
    if failed:
        raise Finished(failed[0].status)


def _checks(session: Session) -> Iterator[Check]:
    yield _python()
    yield _packages("core", _CORE, needed=True)
    for extra, names in _EXTRAS.items():
        yield _packages(extra, names, needed=False)
    yield from _isolation()
    yield _totals()
    yield _ray()
    yield _memory()
    yield _disk(session.path)
    yield from _workspace(session)


def _python() -> Check:
    found = f"Python {platform.python_version()} on {platform.machine()}"
    return Check("python", OK if sys.version_info >= (3, 11) else FAIL, found, "3.11 or newer is needed")


def _packages(name: str, packages: tuple[str, ...], *, needed: bool) -> Check:
    found, absent = [], []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            absent.append(package)
    if not absent:
        return Check(f"packages: {name}", OK, ", ".join(found))
    hint = f"pip install 'interlock[{name}]'" if not needed else "pip install interlock"
    return Check(f"packages: {name}", FAIL if needed else WARN, f"not installed: {', '.join(absent)}", hint)


def _isolation() -> Iterator[Check]:
    from ui.cli.isolation import STRICT, levels_here

    for found in levels_here():
        detail = "its behavioural probe passed" if found["ok"] else "; ".join(found["failures"])
        outcome = OK if found["ok"] else FAIL if found["level"] == STRICT else WARN
        yield Check(
            f"isolation: {found['level']}", outcome, detail, "interlock sandbox doctor",
            IsolationUnavailableError.exit_status,
        )  # fmt: skip


def _totals() -> Check:
    """Who keeps a job's totals: the kernel at each step, or a watchdog that looks twenty times a second."""
    from sandbox.isolation import controllers

    found = controllers.available()
    if not found.missing:
        return Check("job totals", OK, "memory, processes and CPU time are kept by control groups")
    reasons = "; ".join(f"{kind}: {why}" for kind, why in found.missing.items())
    hint = "run as root, or in a control group that this user may divide and that hands out memory and pids"
    return Check("job totals", WARN, f"kept by {found.measured_by} ({reasons})", hint)


def _ray() -> Check:
    """Who can reach Ray's ports."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Check("ray", OK, "starts with the first job, and listens on this machine's loopback only")
    detail = f"RAY_ADDRESS: jobs run on the cluster at {address}; who reaches its ports runs programs there"
    return Check(
        "ray", WARN, detail, "unset RAY_ADDRESS, or keep the cluster's ports in a network of their own"
    )


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    outcome = OK if total >= _LEAST_MEMORY else WARN
    return Check("memory", outcome, presenters.size(total), "the assistant's jobs want 4 GiB or more")


def _disk(path: Path) -> Check:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    hint = "each proposal of the assistant keeps about 270 MB"
    return Check(
        "disk", OK if free >= _LEAST_DISK else WARN, f"{presenters.size(free)} free at {place}", hint
    )


def _workspace(session: Session) -> Iterator[Check]:
    from ui.wiring import open_workspace

    try:
        workspace = open_workspace(session.path)
    except InterlockError as error:
        yield Check("workspace", WARN, error.message, "interlock init --operator NAME")
        return
    yield _tried("configuration", lambda: ", ".join(workspace.config.models) or "no models")
    yield _tried(
        "keys", lambda: f"{len(workspace.service_keys())} service keys, readable by their owner only"
    )
    yield _database(session)
    yield _tried("decision log", lambda: _log(session))
    yield from _answers(session)
    yield from _clock(session)
    yield from _policies(session)


def _database(session: Session) -> Check:
    try:
        told, worries = session.workspace.log.describe()
    except InterlockError as error:
        return Check("database", FAIL, error.message, error.hint, error.exit_status)
    return Check("database", WARN if worries else OK, told, "; ".join(worries))


def _log(session: Session) -> str:
    with session.view() as view:
        if view.roster is None:
            return "empty: nobody has been set up yet (interlock init --operator NAME)"
        head = view.snapshot.root[:12]
        halted = f", halted by {view.halted_by.id}" if view.halted_by else ""
        size = presenters.counted(view.snapshot.size, "record")
        return f"{size}, root {head}…{halted}; `interlock log verify` checks every byte"


def _answers(session: Session) -> Iterator[Check]:
    """What people handed in: whatever the log names and no record erased, the artifact store has."""
    from sandbox.answers.forgetting import erased_and_there

    workspace = session.workspace
    for model in workspace.models_asked_about():
        yield _tried(f"answers: {model}", lambda model=model: _book(session, model))  # type: ignore[misc]
    try:
        with session.view() as view:
            left = len(erased_and_there(view.snapshot, workspace.store))
    except InterlockError:
        return  # said already
    if left:
        told = f"{presenters.counted(left, 'statement')} that a record erased, and that are still there"
        yield Check("erased answers", WARN, told, "interlock log erase --scrub")


def _book(session: Session, model: str) -> str:
    book = session.workspace.desk(model).book()
    counts = f"{presenters.counted(len(book.final), 'answer')} handed in, {len(book.open())} open"
    return "; ".join([counts, *book.set_aside])


def _clock(session: Session) -> Iterator[Check]:
    """A log that was dated ahead takes no machine record until its time has come, or until the roots set it."""
    from guardrails.decision_log.coverage import TOLERANCE
    from guardrails.decision_log.envelope import parse_time
    from guardrails.ledger.rows import workspace_time

    now = session.now()
    try:
        with session.view() as view:
            newest = workspace_time(view.snapshot.tables)
    except InterlockError:
        return  # said already
    if newest and parse_time(newest) > parse_time(now) + TOLERANCE:
        yield Check(
            "clock", WARN, f"the newest record of a service is dated {newest}, this machine's clock says {now}",
            "until then nothing but decisions and rollbacks is recorded; set the clock right, or, if it is: "
            "interlock clock confirm --reason …",
        )  # fmt: skip


def _policies(session: Session) -> Iterator[Check]:
    """Files that say something else than what is in force: somebody may think that they count."""
    from ui.cli.look import told_apart

    try:
        with session.view() as view:
            told = told_apart(session, view.policies())
    except InterlockError:
        return  # said already
    if told:
        yield Check(
            "policies", WARN, told, "what is in force changes by: interlock policy activate FILE --reason …"
        )


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, OK, look())
    except InterlockError as error:
        return Check(name, FAIL, error.message, error.hint, error.exit_status)
