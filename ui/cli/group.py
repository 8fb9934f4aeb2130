"""Click, so that global options stand anywhere and a misspelt command is answered with the nearest one.

Invariants: every command takes the global options, before and after its own name, and they mean the same
in both places; modules of commands are imported only when a command in them is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from ui.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note a global option where it was really given; a default never overrides what was."""
    given = ctx.get_parameter_source(str(param.name)) is click.core.ParameterSource.COMMANDLINE
    session = ctx.find_object(Session)
    if given and session is not None and not ctx.resilient_parsing:
        setattr(session.options, str(param.name).removeprefix("global_"), value)


def _globals(*, hidden: bool) -> list[click.Parameter]:
    def option(flag: str, name: str, text: str, **more: Any) -> click.Option:
        return click.Option(
            [flag, f"global_{name}"], expose_value=False, callback=_keep, hidden=hidden, help=text, **more
        )

    return [
        option("--workspace", "workspace", "The workspace [$INTERLOCK_HOME, else ./.interlock].", metavar="DIR"),
        option("--as", "person", "Who signs: a name or an id from the roster [$INTERLOCK_AS].", metavar="PERSON"),
        option("--passphrase-file", "passphrase_file", "Read the passphrase from a file.", metavar="FILE"),
        option(
            "--passphrase-fd", "passphrase_fd", "Read the passphrase from an open file descriptor.",
            metavar="N", type=click.IntRange(min=0),
        ),
        option("--json", "json", "One JSON object on standard output.", is_flag=True),
        option("--quiet", "quiet", "No progress, results only.", is_flag=True),
    ]  # fmt: skip


_SHOWN, _HIDDEN = _globals(hidden=False), _globals(hidden=True)


class UnknownCommandError(click.UsageError):
    """There is no such command; ``hint`` names the nearest."""

    def __init__(self, message: str, hint: str, ctx: click.Context) -> None:
        super().__init__(message, ctx)
        self.hint = hint


class Command(click.Command):
    """A command that takes the global options after its name too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters and the global ones."""
        return [*super().get_params(ctx), *_HIDDEN]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say where the global options are described."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("Global options: interlock --help")


class Group(click.Group):
    """A group of commands, all of this module's kind."""

    command_class = Command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters and the global ones; only the outermost group shows them."""
        return [*super().get_params(ctx), *(_HIDDEN if ctx.parent else _SHOWN)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was named; raises UnknownCommandError with the nearest name."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"did you mean '{near[0]}'?" if near else f"see `{ctx.command_path} --help`"
            raise UnknownCommandError(f"there is no command '{ctx.command_path} {name:.80}'", hint, ctx)
        return super().resolve_command(ctx, args)


class LateGroup(Group):
    """The outermost group: knows its commands by name, and imports them when they are wanted.

    ``sections`` maps a heading to ``{command: (module, one line of help)}``; the module has a Click command
    of that name (``-`` written ``_``, with a trailing ``_`` where the name is taken).
    """

    def __init__(self, *args: Any, sections: dict[str, dict[str, tuple[str, str]]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.sections = sections
        self._where = {name: place for commands in sections.values() for name, place in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of help."""
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self._where:
            return None
        module = import_module(self._where[cmd_name][0])
        found = next(
            (
                item
                for item in vars(module).values()
                if isinstance(item, click.Command) and item.name == cmd_name
            ),
            None,
        )
        if found is None:
            raise LookupError(f"{module.__name__} has no command {cmd_name}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what they are for."""
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def command(name: str, **more: Any) -> Callable[[F], Command]:
    """Decorate a function as a command that gets the session first."""

    def wrap(function: F) -> Command:
        made: Command = click.command(name, cls=Command, **more)(click.pass_obj(function))
        return made

    return wrap


def group(name: str, text: str) -> Group:
    """An empty group of commands."""
    return Group(name=name, help=text, short_help=text)


def add(to: Group, name: str, **more: Any) -> Callable[[F], Command]:
    """Decorate a function as a command of a group that gets the session first."""

    def wrap(function: F) -> Command:
        made = command(name, **more)(function)
        to.add_command(made)
        return made

    return wrap
