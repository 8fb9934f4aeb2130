"""From nothing to a running system: init, up, console.

Invariants: what is given (name, passphrase) is checked before a workspace is made; set-up that was interrupted
goes on where it stopped; the console is a process of its own, ended with ``up``.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.decision_log.keys import KDF_ROUNDS
from guardrails.errors import DeniedError, InterlockError, UsageError
from guardrails.records import Role, Surface
from ui import presenters
from ui.cli.bench import runner_of
from ui.cli.group import command
from ui.cli.loop import chosen_models, give_rounds, run_loop
from ui.cli.output import line, pairs, show
from ui.cli.session import Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.decision_log.keys import PersonKey
    from ui.wiring import Workspace

PORT = 8700
_START_S = 60.0


# --- init ----------------------------------------------------------------------------------


@command("init", help="Make a workspace. With --operator also its first person, policy and champions.")
@click.option("--operator", default="", metavar="NAME", help="The first person: root and operator.")
@click.option(
    "--recovery-key",
    "recovery",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the key of a second root there, to be kept elsewhere: it replaces a lost key.",
)
@click.option(
    "--successor-of",
    "former",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on from a workspace whose roots are lost: verify it, name it in the first roster, take over its champions.",
)
def init(session: Session, operator: str, recovery: Path | None, former: Path | None) -> None:  # fmt: skip
    """Make a workspace."""
    from ui import setup

    if not operator and (recovery is not None or former is not None):
        raise UsageError("--recovery-key and --successor-of need --operator NAME")
    if recovery is not None and recovery.exists():
        raise UsageError(f"{recovery} exists already; a private key is never overwritten")
    passphrase = _first_passphrase(session, operator) if operator else ""
    if former is not None:
        _succeed(session, former, operator, passphrase, recovery)
        return
    workspace = _created(session)
    if operator:
        key = setup.found(workspace, operator, passphrase, recovery=recovery, rounds=KDF_ROUNDS)
        _complete(session, workspace, key)
    elif setup.is_founded(workspace) and not setup.is_ready(workspace):
        person = session.person()
        if Role.ROOT not in person.roles:
            raise DeniedError(
                "only a root can complete the set-up", hint="--as a root; interlock roster show"
            )
        with session.view() as view:
            name = view.name_of(person.id)
        _complete(session, workspace, session.unlock(person, name))
    _give_workspace(session, workspace)


def _succeed(session: Session, former: Path, name: str, passphrase: str, recovery: Path | None) -> None:
    """A workspace whose log goes on from another one."""
    from ui.succession import inheritance_of, take_over
    from ui.wiring import open_workspace

    before = open_workspace(former)
    session.output.note("verifying the former log")
    inherited = inheritance_of(before)
    predecessor = inherited.predecessor
    workspace = _created(session)
    with session.output.progress() as report:
        take_over(
            workspace, before, inherited, name, passphrase, report, recovery=recovery, rounds=KDF_ROUNDS
        )
    session.output.note(f"it follows {predecessor.origin}, at {predecessor.size} records; keep that log too")
    _give_workspace(session, workspace)


def _first_passphrase(session: Session, name: str) -> str:
    """Check what was given before anything is made."""
    from ui.setup import MIN_PASSPHRASE_CHARS

    clean = " ".join(name.split())
    if not clean or len(clean) > 80 or not clean.isprintable():
        raise UsageError("a name of 1 to 80 printable characters is needed")
    if (session.path / "interlock.toml").is_file():
        with session.view() as view:
            if view.roster is not None:
                raise DeniedError(
                    "this workspace has its first person already", hint="interlock operator add NAME"
                )
    passphrase = session.passphrase(f"New passphrase of {clean}: ", fresh=True)
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise UsageError(
            f"the passphrase needs at least {MIN_PASSPHRASE_CHARS} characters; nothing was changed"
        )
    return passphrase


def _created(session: Session) -> Workspace:
    """The workspace, made where it is not there yet."""
    from sandbox.config import FILE_NAME
    from ui.wiring import create_workspace

    if not (session.path / FILE_NAME).is_file():
        create_workspace(session.path)
        session.output.note(f"workspace made in {session.path}")
    return session.workspace


def _complete(session: Session, workspace: Workspace, key: PersonKey) -> None:
    from ui import setup

    with runner_of(session, local=True) as runner, session.output.progress() as report:
        setup.complete(workspace, key, runner, Surface.CLI, report)


def _give_workspace(session: Session, workspace: Workspace) -> None:
    with session.view() as view:
        people = [(person, name) for person, name in view.people()]
        roots = [
            key.public
            for person, _ in people
            if Role.ROOT in person.roles
            for key in person.keys
            if not key.revoked
        ]
        data: dict[str, Any] = {
            "workspace": str(workspace.path),
            "operators": [{"id": p.id, "name": n, "roles": [r.value for r in p.roles]} for p, n in people],
            "root_keys": roots,
            "policies": [presenters.policy_fields(row) for row in view.policies()],
            "models": [{"name": row.name, "champion_digest": str(row.champion)} for row in view.models()],
        }

    def draw(console: Console) -> None:
        show(console, line(presenters.Mark("✓", f"workspace {workspace.path}", "good")))
        items = [("person", f"{item['name']} ({', '.join(item['roles'])})") for item in data["operators"]]
        items += [("root key", key) for key in roots]
        items += [("policy", f"{item['name']} {item['digest']}") for item in data["policies"]]
        items += [("champion", f"{item['name']} {item['champion_digest']}") for item in data["models"]]
        console.print(pairs(items))
        if not people:
            console.print(line("next: interlock init --operator NAME, or interlock up and the browser"))
            return
        if len(roots) == 1:
            console.print(line(
                "Write the root key down: `interlock log verify --root-key` checks the log against it. Add a second "
                "root (interlock operator add NAME --role root --role safety): who loses the only root key cannot "
                "change the roster any more."
            ), soft_wrap=True)  # fmt: skip
        else:
            console.print(line(
                "Write the root keys down: `interlock log verify --root-key` checks the log against them. "
                "A recovery key belongs on another medium, away from this machine."
            ), soft_wrap=True)  # fmt: skip
        console.print(line("next: interlock loop run --rounds 1, or interlock up"))

    session.output.result("init", data, draw)


# --- up ------------------------------------------------------------------------------------


@command("up", help="Set up if needed, run the loop on all models, open the console. Ctrl-C ends it.")
@click.option("--no-console", is_flag=True, help="No console: work unattended; the workspace must be set up.")
@click.option("--rounds", type=click.IntRange(min=1), help="End the loop after so many rounds.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeat for several.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="The console's port."
)
def up(session: Session, no_console: bool, rounds: int | None, models: tuple[str, ...], port: int) -> None:
    """Run everything."""
    from ui import setup

    if no_console:
        if not setup.is_founded(session.workspace):
            raise UsageError(
                "nobody has been set up in this workspace", hint="interlock init --operator NAME"
            )
        if not setup.is_ready(session.workspace):
            raise UsageError("the set-up is not complete", hint="interlock init completes it")
        made = run_loop(session, chosen_models(session, models), rounds, lambda: False)
        give_rounds(session, "up", made)
        return
    workspace = _created(session)
    with _console(session, port) as alive:
        _wait_for_setup(session, workspace, alive)
        names = chosen_models(session, models)
        session.output.note(f"the loop runs on {', '.join(names)}; Ctrl-C ends it")
        made = run_loop(session, names, rounds, lambda: not alive())
        give_rounds(session, "up", made)
        if rounds is not None and alive():
            session.output.note("the rounds are done; the console stays open until Ctrl-C")
        while alive():
            time.sleep(0.5)
    raise InterlockError("the console ended by itself", hint="see its messages above")


def _wait_for_setup(session: Session, workspace: Workspace, alive: Callable[[], bool]) -> None:
    """Print the one-time token where nobody is set up, and wait until somebody is."""
    from ui import setup

    if setup.is_ready(workspace):
        return
    if setup.is_founded(workspace):
        session.output.warn("the set-up is not complete; `interlock init` completes it")
    else:
        token = setup.make_setup_token(workspace)
        session.output.announce(f"Set-up token (once, in the browser): {token}")
    while not setup.is_ready(workspace):
        if not alive():
            raise InterlockError("the console ended by itself", hint="see its messages above")
        time.sleep(0.5)


@contextmanager
def _console(session: Session, port: int) -> Iterator[Callable[[], bool]]:
    """The console as a process of its own; gives a function that says whether it lives."""
    argv = [
        sys.executable,
        "-m",
        "ui.console.serve",
        "--workspace",
        str(session.workspace.path),
        "--port",
        str(port),
    ]
    session.output.note("starting the console")
    # It prints its address once the port is its own; what goes wrong it says on standard error, which it shares with us.
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        address = _address(process)
        session.output.announce(f"Console: {address}")
        yield lambda: process.poll() is None
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _console_failed(status: int) -> InterlockError:
    """The console said why on standard error; its status is kept where it means something."""
    if status == UsageError.exit_status:
        return UsageError("the console could not start", hint="see its message above")
    return InterlockError(f"the console ended with status {status} before it answered")


def _address(process: subprocess.Popen[str]) -> str:
    """Where the console listens, as it says itself: somebody else may answer on a port that it did not get."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for said in process.stdout or ():  # to the end, so that it never waits for a reader
            told.put(said)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            before, _, address = told.get(timeout=0.1).strip().partition("console: ")
            if address and not before:
                return address
        if process.poll() is not None:
            raise _console_failed(process.returncode)
    raise InterlockError(f"the console has not said within {_START_S} s where it listens")


@command("console", help="Serve the console for this workspace, without the loop.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Answer to this host name too.")
def console_(session: Session, port: int, host: str, hosts: tuple[str, ...]) -> None:
    """Serve the console."""
    from ui import setup
    from ui.console.serve import serve

    workspace = _created(session)
    if not setup.is_founded(workspace):
        session.output.announce(f"Set-up token (once, in the browser): {setup.make_setup_token(workspace)}")
    serve(workspace.path, port, host, hosts=hosts)
