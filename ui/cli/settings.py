"""The configuration as it is used, and completion for shells.

Invariants: shows what holds and where it comes from, never a password; changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import UsageError
from ui.cli.bench import RUNNER
from ui.cli.group import add, command, group
from ui.cli.output import heading, line, table
from ui.cli.session import HOME, WHO, Session

if TYPE_CHECKING:
    from rich.console import Console

    from ui.wiring import Workspace

config = group("config", "Show the configuration.")

_ENVIRONMENT = (HOME, WHO, RUNNER, "INTERLOCK_DATABASE_URL", "NO_COLOR")


@add(config, "show", help="The configuration as it is used.")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
def show_(session: Session, origin: bool) -> None:
    """Show the configuration."""
    from sandbox.config import FILE_NAME

    workspace = session.workspace
    values = _values(workspace)
    origins = {key: _origin(workspace, key) for key in values}
    data: dict[str, Any] = {
        "workspace": str(workspace.path),
        "file": str(workspace.path / FILE_NAME),
        "values": values,
    }
    if origin:
        data["origin"] = origins

    def draw(console: Console) -> None:
        console.print(line(heading("Configuration"), f"· {data['file']}"))
        columns = ("Key", "Value", "Origin") if origin else ("Key", "Value")
        cells = [(key, str(value), origins[key])[: len(columns)] for key, value in values.items()]
        console.print(table(columns, cells))

    session.output.result("config show", data, draw)


def _values(workspace: Workspace) -> dict[str, Any]:
    """Every setting by its dotted name, passwords hidden."""
    import dataclasses

    from sqlalchemy import make_url

    found: dict[str, Any] = {"workspace": str(workspace.path)}
    found["database"] = make_url(workspace.database_url).render_as_string(hide_password=True)
    found["loop.pause_s"] = workspace.config.pause_s
    for name, known in workspace.config.models.items():
        for item in dataclasses.fields(known):
            value = getattr(known, item.name)
            if item.name == "limits":
                found |= {f"models.{name}.limits.{k}": v for k, v in dataclasses.asdict(value).items()}
            elif item.name == "recipes":
                value = [{"technique": recipe.technique, **recipe.settings} for recipe in value]
                found[f"models.{name}.recipes"] = value
            elif item.name != "name":
                found[f"models.{name}.{item.name}"] = list(value) if isinstance(value, tuple) else value
    for name, learner in workspace.config.learners.items():
        found[f"learners.{name}.command"] = list(learner.command)
        if learner.files is not None:
            found[f"learners.{name}.files"] = str(learner.files)
        if learner.limits is not None:
            limits = dataclasses.asdict(learner.limits)
            found |= {f"learners.{name}.limits.{key}": value for key, value in limits.items()}
    found |= {
        f"environment.{name}": os.environ[name]
        for name in _ENVIRONMENT
        if name in os.environ and "URL" not in name
    }
    return found


def _origin(workspace: Workspace, key: str) -> str:
    if key.startswith("environment."):
        return "environment"
    if key == "workspace":
        return "--workspace" if HOME not in os.environ else f"--workspace, or {HOME}"
    if key == "database":
        return "INTERLOCK_DATABASE_URL" if os.environ.get("INTERLOCK_DATABASE_URL") else "default"
    return workspace.config.origin.get(key, "default")


# --- completion ----------------------------------------------------------------------------


@command(
    "completion",
    help='Print a script that completes commands; for bash: eval "$(interlock completion bash)".',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(session: Session, shell: str) -> None:
    """Print a completion script."""
    from click.shell_completion import get_completion_class

    from ui.cli.main import PROGRAM, root

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    script = found(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()
    session.output.result(
        "completion", {"shell": shell, "script": script}, lambda console: click.echo(script)
    )
