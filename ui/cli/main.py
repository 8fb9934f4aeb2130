"""The entry of ``interlock``, and the one place where an error becomes an exit status.

    0 ok · 1 internal · 2 usage · 3 invalid policy or bundle · 4 blocked · 5 review needed ·
    6 denied or stale · 7 log verification failed · 8 isolation unavailable · 130 interrupted

Invariants: never a traceback (``INTERLOCK_DEBUG=1`` shows it), never more than one JSON object on
standard output, never a passphrase in an argument.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from ui.cli.group import LateGroup
from ui.cli.session import Finished, Session

PROGRAM = "interlock"
DEBUG = "INTERLOCK_DEBUG"
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


_SECTIONS = {
    "Start": {
        "up": ("ui.cli.start", "Set up if needed, run the loop, open the console."),
        "init": ("ui.cli.start", "Make a workspace, and its first operator."),
        "doctor": ("ui.cli.doctor", "Check this machine and this workspace."),
        "config": ("ui.cli.settings", "Show the configuration."),
        "model": ("ui.cli.models", "Add, list and show models."),
        "pull": ("ui.cli.pull", "Write a verified copy of a champion."),
    },
    "Propose and measure": {
        "propose": ("ui.cli.jobs", "Train a candidate in isolation, measure and judge it."),
        "submit": ("ui.cli.jobs", "Hand in an update that was trained elsewhere."),
        "measure": ("ui.cli.jobs", "Measure a proposal again, and judge it."),
        "reproduce": ("ui.cli.jobs", "Train a proposal again; does the same come out?"),
        "loop": ("ui.cli.loop", "Run, watch or stop the loop."),
        "label": ("ui.cli.label", "Answer what learners ask people."),
    },
    "Look": {
        "list": ("ui.cli.look", "List proposals."),
        "show": ("ui.cli.look", "Show all that is known of a proposal or a request."),
        "explain": ("ui.cli.look", "Say why a proposal got its verdict, rule by rule."),
        "verdict": ("ui.cli.look", "The verdict, as an exit status too; or what another policy would say."),
        "samples": ("ui.cli.look", "What champion and candidate wrote, side by side."),
    },
    "Decide": {
        "approve": ("ui.cli.decide", "Approve a proposal, or sign a request."),
        "reject": ("ui.cli.decide", "Reject a proposal or a request."),
        "withdraw": ("ui.cli.decide", "Take back what you signed, or a proposal."),
        "request-changes": ("ui.cli.decide", "Hold a proposal up until a change is made."),
        "comment": ("ui.cli.remarks", "Say something of a proposal or a request."),
        "rollback": ("ui.cli.decide", "Return a model to an earlier champion."),
        "halt": ("ui.cli.decide", "Stop every job and every promotion now."),
        "resume": ("ui.cli.decide", "Lift a halt."),
        "decision": ("ui.cli.offline", "Show what is to be signed offline."),
        "tick": ("ui.cli.decide", "Do what is due: promotions after a cool-down, expiries."),
        "clock": ("ui.cli.remarks", "Set the log's time right, by the roots."),
    },
    "Rules and people": {
        "policy": ("ui.cli.policies", "Check, show and activate policies."),
        "waiver": ("ui.cli.policies", "Grant, list and revoke exceptions."),
        "operator": ("ui.cli.people", "Add people, revoke and replace their keys."),
        "roster": ("ui.cli.rosters", "Show and change who may decide what."),
    },
    "Record": {
        "log": ("ui.cli.log", "Read, verify and export the decision log."),
    },
    "Upkeep": {
        "backup": ("ui.cli.upkeep", "Write the whole workspace to one file, while it is in use."),
        "restore": ("ui.cli.upkeep", "Make a workspace of a backup, verified first."),
        "gc": ("ui.cli.upkeep", "Remove bundles whose retention time is over."),
    },
    "Tools": {
        "sandbox": ("ui.cli.isolation", "Check the isolation, or run a program in it."),
        "console": ("ui.cli.start", "Open the console in the browser."),
        "completion": ("ui.cli.settings", "Print a script that completes commands in a shell."),
    },
}

root = LateGroup(
    PROGRAM,
    sections=_SECTIONS,
    help=(
        "A model may improve itself; nothing changes until the guardrails have measured the change "
        "and a person has signed for it."
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
root.params.append(
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, help="Print the version.",
        callback=lambda ctx, param, value: _print_version(ctx) if value else None,
    )
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its status."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: list[str]) -> int:
    """Run one command; returns its exit status. Never raises for anything that a command can do."""
    session = Session()
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        from click.shell_completion import shell_complete

        variable = f"_{PROGRAM.upper()}_COMPLETE"
        return shell_complete(root, {"obj": session}, PROGRAM, variable, os.environ[variable])
    with _terminable():
        return _guarded(session, argv)


def _guarded(session: Session, argv: list[str]) -> int:
    from guardrails.errors import InterlockError

    try:
        with root.make_context(PROGRAM, list(argv), obj=session) as context:
            root.invoke(context)
        sys.stdout.flush()
    except Finished as finished:
        return finished.status
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except InterlockError as error:
        _trace_if_wanted()
        session.output.error(error.message, error.hint, error.exit_status)
        return error.exit_status
    except click.ClickException as error:
        _trace_if_wanted()
        return _usage(session, argv, error)
    except _TerminatedError:
        session.output.error("terminated; what was not acknowledged did not happen", "", TERMINATED)
        return TERMINATED
    except (KeyboardInterrupt, EOFError, click.Abort):
        sys.stderr.write("\n")
        session.output.error("interrupted", "what was not acknowledged did not happen", INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        _trace_if_wanted()
        return _internal(session, error)
    return 0


def _usage(session: Session, argv: list[str], error: click.ClickException) -> int:
    # Parsing may have ended before it came to --json; the answer still has the form that was asked for.
    session.options.json |= "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None and not session.options.json:
        click.echo(context.get_help(), err=True)
        return error.exit_code
    path = context.command_path if context is not None else PROGRAM
    message = (
        "a command is missing" if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
    )
    hint = getattr(error, "hint", "") or f"see `{path} --help`"
    session.output.error(message.rstrip("."), hint, error.exit_code)
    return error.exit_code


def _internal(session: Session, error: Exception) -> int:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ModuleNotFoundError):
        session.output.error(
            f"this command needs a package that is not installed: {error.name}",
            "install Interlock with its extras: pip install 'interlock[all]'", 1,
        )  # fmt: skip
        return 1
    session.output.error(
        f"internal error: {type(error).__name__}: {text}", f"run it again with {DEBUG}=1 for the details", 1
    )
    return 1


def _trace_if_wanted() -> None:
    if os.environ.get(DEBUG, "") not in ("", "0"):
        import traceback

        traceback.print_exc(file=sys.stderr)


class _TerminatedError(BaseException):
    """SIGTERM, as an exception: open transactions roll back, running jobs end."""


class _terminable:  # noqa: N801 - used as a with-statement word
    """Turns SIGTERM into an exception while a command runs."""

    def __enter__(self) -> None:
        def end(number: int, frame: FrameType | None) -> None:
            raise _TerminatedError

        self._before: Any = None
        try:
            self._before = signal.signal(signal.SIGTERM, end)
        except ValueError:  # not in the main thread: the caller's business
            self._before = None

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _print_version(context: click.Context) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"{PROGRAM} {version(PROGRAM)}")
    except PackageNotFoundError:
        click.echo(f"{PROGRAM} (not installed as a package)")
    context.exit()
