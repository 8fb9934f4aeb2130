"""Policy files: check them, and print what editors and readers need. Nothing here needs a workspace or a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import PolicyError, Problem
from ui import presenters
from ui.cli.group import add
from ui.cli.output import line, marked
from ui.cli.policies.groups import policy
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console


@add(policy, "check", help="Check policy files; all problems at once, with file, line and column.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
def check(session: Session, files: tuple[Path, ...]) -> None:
    """Check policy files."""
    from guardrails.policy import lint, load_policy

    errors: list[Problem] = []
    warnings: list[Problem] = []
    sound: list[dict[str, Any]] = []
    for file in files:
        try:
            loaded = load_policy(file)
        except PolicyError as error:
            errors.extend(error.problems)
            continue
        warnings.extend(lint(loaded.policy))
        sound.append({
            "file": str(file), "name": loaded.policy.name, "digest": str(loaded.source.digest),
            "rules": len(loaded.policy.rules), "mode": loaded.policy.mode,
        })  # fmt: skip
    data = {
        "ok": not errors,
        "errors": [presenters.problem_fields(problem) for problem in errors],
        "warnings": [presenters.problem_fields(problem) for problem in warnings],
        "policies": sound,
    }

    def draw(console: Console) -> None:
        for found in sound:
            mark = presenters.Mark("✓", f"{found['file']}", "good")
            console.print(
                line(mark, f"{found['name']} · {found['rules']} rules · {found['mode']} · {found['digest']}")
            )
        for tone, word, problems in (("bad", "error", errors), ("caution", "warning", warnings)):
            for problem in problems:
                console.print(
                    line(marked(presenters.Mark("✕" if tone == "bad" else "▲", word, tone)), str(problem)),
                    soft_wrap=True,
                )

    session.output.result("policy check", data, draw)
    if errors:
        raise Finished(PolicyError.exit_status)


@add(policy, "schema", help="Print the JSON Schema (draft-07) of policies, or of cases, for editors.")
@click.option("--cases", is_flag=True, help="The schema of case files.")
def schema(session: Session, cases: bool) -> None:
    """Print the schema."""
    from guardrails.authoring.case_schema import cases_schema
    from guardrails.policy import policy_schema

    data = cases_schema() if cases else policy_schema()
    session.output.result("policy schema", data, lambda console: click.echo(json.dumps(data, indent=2)))
