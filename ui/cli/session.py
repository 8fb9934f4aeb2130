"""One run of the command line: its options, its workspace, and who signs.

Invariants:
- A passphrase comes from a prompt, a file or a file descriptor; never from an argument or the environment.
- Nothing is opened before a command needs it: reading needs no key, and most commands no workspace.
- Who signs is never guessed between several people.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from guardrails.errors import UsageError
from ui.cli.output import Options, Output

if TYPE_CHECKING:
    from guardrails.decision_log.keys import PersonKey
    from guardrails.records import Person
    from guardrails.view import View
    from ui.wiring import Workspace

HOME, WHO = "INTERLOCK_HOME", "INTERLOCK_AS"
_MAX_PASSPHRASE_BYTES = 4096


class Finished(Exception):  # noqa: N818 - not an error: a command's own exit status
    """Raised by a command to end with a status after its result has been shown."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Session:
    """What a command is handed."""

    options: Options = field(default_factory=Options)
    export: Path | None = None
    """Where a decision is written to be signed elsewhere, instead of being signed here."""

    @cached_property
    def output(self) -> Output:
        """Where results and remarks go."""
        return Output(self.options)

    @property
    def path(self) -> Path:
        """The workspace directory, whether or not it exists."""
        return Path(self.options.workspace or os.environ.get(HOME) or ".interlock")

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace; raises UsageError if there is none."""
        from ui.wiring import open_workspace

        return open_workspace(self.path)

    @contextmanager
    def view(self) -> Iterator[View]:
        """What the log says now."""
        from guardrails.view import view_of

        with view_of(self.workspace.log) as view:
            yield view

    @contextmanager
    def proven_view(self) -> Iterator[View]:
        """What the signed records say now, whatever the tables say: for every command that ends in a signature."""
        from guardrails.view import proven_view_of

        with proven_view_of(self.workspace.gate.log) as view:
            yield view

    @staticmethod
    def now() -> str:
        """The machine's clock, as records write it."""
        from guardrails.decision_log.envelope import format_time
        from guardrails.gate import utc_now

        return format_time(utc_now())

    # --- who signs -----------------------------------------------------------------------

    def person(self) -> Person:
        """Who acts: ``--as``, ``$INTERLOCK_AS``, or the only person whose key lies in this workspace."""
        wanted = self.options.person or os.environ.get(WHO, "")
        with self.view() as view:
            if wanted:
                return view.person_called(wanted)
            people = view.people()
        here = [
            (person, name) for person, name in people if (self.workspace.people_keys / person.id).is_file()
        ]
        if len(here) == 1:
            return here[0][0]
        if not here:
            back = f"put your key back into {self.workspace.people_keys}, or sign offline with --as NAME --export FILE"
            raise UsageError(
                "nobody's key lies in this workspace",
                hint=back if people else "`interlock init --operator NAME` makes the first one",
            )
        names = ", ".join(name for _, name in here)
        raise UsageError("several people have keys here: say who signs", hint=f"--as PERSON, one of: {names}")

    def unlock(self, person: Person, name: str) -> PersonKey:
        """A person's key, after asking for the passphrase; raises DeniedError if it is wrong."""
        from guardrails.decision_log.keys import PersonKey

        path = self.workspace.people_keys / person.id
        if not path.is_file():
            raise UsageError(
                f"the key of {name} is not in this workspace",
                hint=f"it was looked for at {path}; to sign elsewhere: --export FILE",
            )
        return PersonKey.load(path, self.passphrase(f"Passphrase of {name}: "))

    def passphrase(self, prompt: str, *, fresh: bool = False) -> str:
        """The passphrase, from file, descriptor or prompt; a fresh one is asked for twice."""
        return read_passphrase(prompt, self.options.passphrase_file, self.options.passphrase_fd, fresh=fresh)


def read_passphrase(prompt: str, file: str, descriptor: int | None, *, fresh: bool = False) -> str:
    """One line from a file, a descriptor or the terminal. An empty one is refused.

    Raises:
        UsageError: nowhere to take it from, unreadable, or empty.
    """
    if file and descriptor is not None:
        raise UsageError("give either a passphrase file or a descriptor, not both")
    if file:
        text = _read(file, f"passphrase file {file}")
    elif descriptor is not None:
        text = _read(descriptor, f"file descriptor {descriptor}")
    elif sys.stdin.isatty():
        text = getpass.getpass(prompt, stream=sys.stderr)
        if fresh and text != getpass.getpass("The same again: ", stream=sys.stderr):
            raise UsageError("the two passphrases differ; nothing was changed")
    else:
        raise UsageError(
            "there is no terminal to ask for the passphrase", hint="use --passphrase-file or --passphrase-fd"
        )
    if not text:
        raise UsageError("the passphrase is empty; nothing was changed")
    return text


def _read(source: str | int, what: str) -> str:
    try:
        with open(source, "rb", closefd=isinstance(source, str)) as stream:
            data = stream.read(_MAX_PASSPHRASE_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or "it is not UTF-8 text"
        raise UsageError(f"{what} cannot be read: {reason}") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if len(data) > _MAX_PASSPHRASE_BYTES or "\n" in text:
        raise UsageError(f"{what} holds more than one line; one passphrase is needed")
    return text
