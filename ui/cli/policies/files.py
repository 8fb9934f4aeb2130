"""Policy files: check them, and print what editors and readers need.

Nothing here needs a workspace or a key; where there is a workspace, a file that is not what is in force is named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import InterlockError, PolicyError, Problem, UsageError
from ui import presenters
from ui.cli.group import add
from ui.cli.output import heading, line, marked, pairs, show
from ui.cli.policies.groups import policy
from ui.cli.policies.in_force import draw_apart
from ui.cli.session import Finished, Session
from ui.presenters.texts import counted

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.authoring.on_disk import Apart


@add(policy, "check", help="Check policy files; all problems at once, with file, line and column.")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
def check(session: Session, files: tuple[Path, ...]) -> None:
    """Check policy files."""
    from guardrails.policy import lint, load_policy
    from sandbox.tasks import TASKS

    errors: list[Problem] = []
    warnings: list[Problem] = []
    suites = known_suites(session)
    sound: list[dict[str, Any]] = []
    for file in files:
        try:
            loaded = load_policy(file)
        except PolicyError as error:
            errors.extend(located(file, error.problems))
            continue
        warnings.extend(located(file, lint(loaded.policy, TASKS, suites)))
        sound.append({
            "file": str(file), "name": loaded.policy.name, "digest": str(loaded.source.digest),
            "rules": len(loaded.policy.rules), "mode": loaded.policy.mode,
        })  # fmt: skip
    warnings.extend(_same_names(sound))
    differing = _differing(session, files)
    for item in sound:
        item["differs_from_in_force"] = any(str(one.path) == item["file"] for one in differing)
    data = {
        "ok": not errors,
        "errors": [presenters.problem_fields(problem) for problem in errors],
        "warnings": [presenters.problem_fields(problem) for problem in warnings],
        "policies": sound,
        "differing_files": [presenters.apart_fields(one) for one in differing],
    }

    def draw(console: Console) -> None:
        for found in sound:
            mark = presenters.Mark("✓", f"{found['file']}", "good")
            console.print(
                line(
                    mark,
                    f"{found['name']} · {counted(found['rules'], 'rule')} · {found['mode']} · {found['digest']}",
                )
            )
        for tone, word, problems in (("bad", "error", errors), ("caution", "warning", warnings)):
            for problem in problems:
                console.print(
                    line(marked(presenters.Mark("✕" if tone == "bad" else "▲", word, tone)), str(problem)),
                    soft_wrap=True,
                )
        draw_apart(console, differing)

    session.output.result("policy check", data, draw)
    if errors:
        raise Finished(PolicyError.exit_status)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A folder to write to, made where it is missing; raises UsageError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"cannot write to {folder}: {reason}", hint="--out names a folder") from None


def known_suites(session: Session) -> set[str]:
    """Every suite that a policy which ships, a policy in force or a model of this workspace names."""
    from guardrails.ledger.in_force import policy_of
    from guardrails.policy import load_policy
    from guardrails.policy.lint import suites_of
    from ui.setup import DEFAULT_POLICY

    policies = [load_policy(path).policy for path in sorted(DEFAULT_POLICY.parent.glob("*.yaml"))]
    named: set[str] = set()
    if session.path.is_dir():
        try:
            with session.view() as view:
                policies += [policy_of(row.source) for row in view.policies()]
            for model in session.workspace.config.models.values():
                named |= {*model.controls, *(suite.name for suite in model.suites)}
        except InterlockError as error:
            session.output.warn(f"suites of this workspace are not known: {error.message}")
    for one in policies:
        named.update(name for rule in one.rules for name in suites_of(rule))
    return named


def _same_names(sound: Sequence[dict[str, Any]]) -> list[Problem]:
    """Files of one name: whichever is activated last replaces the other."""
    first: dict[str, str] = {}
    found = []
    for item in sound:
        other = first.setdefault(item["name"], item["file"])
        if other != item["file"]:
            told = f"the policy is named '{item['name']}' like the one in {other}"
            found.append(Problem(item["file"], 1, 1, told, "activating one replaces the other: rename one"))
    return found


def _differing(session: Session, files: Sequence[Path]) -> list[Apart]:
    """Where there is a workspace: the files that are not what is in force under their names."""
    from guardrails.authoring.on_disk import apart

    if not session.path.is_dir():
        return []
    try:
        with session.view() as view:
            return apart(view.policies(), [file for file in files if file.is_file()])
    except InterlockError as error:
        session.output.warn(f"not compared with what is in force: {error.message}")
        return []


def located(file: Path, problems: Sequence[Problem]) -> list[Problem]:
    """Problems with the files as seen from here, so that an editor or a terminal can open them."""
    return [replace(problem, file=str(file.parent / problem.file)) for problem in problems]


@add(policy, "explain", help="Say what a rule of a policy asks for, in words; without --rule, all of them.")
@click.argument("target", metavar="FILE|NAME")
@click.option("--rule", default="", metavar="RULE", help="Only this rule.")
def explain(session: Session, target: str, rule: str) -> None:
    """Explain a policy."""
    from guardrails.authoring.reference import rule_fields
    from guardrails.errors import UnknownNameError
    from guardrails.policy import combine
    from ui.cli.policies.past import policy_at

    found = policy_at(session, target).policy
    rules = [one for one in found.rules if rule in ("", one.id)]
    if not rules:
        known = ", ".join(one.id for one in found.rules) or "none"
        raise UnknownNameError(f"policy {found.name} has no rule {rule:.80}", hint=f"its rules: {known}")
    effective = combine([found])
    told = [rule_fields(one, effective) for one in rules]

    def draw(console: Console) -> None:
        for item in told:
            show(
                console,
                heading(item["rule"]),
                pairs([(k, v) for k, v in item.items() if v and k != "rule"]),
                "",
            )

    session.output.result("policy explain", {"policy": found.name, "rules": told}, draw)


@add(policy, "schema", help="Print the JSON Schema (draft-07) of policies, or of cases, for editors.")
@click.option("--cases", is_flag=True, help="The schema of case files.")
def schema(session: Session, cases: bool) -> None:
    """Print the schema."""
    from guardrails.authoring.case_schema import cases_schema
    from guardrails.policy import policy_schema

    data = cases_schema() if cases else policy_schema()
    session.output.result("policy schema", data, lambda console: click.echo(json.dumps(data, indent=2)))


@add(policy, "docs", help="Write the documentation of every check, and of policies as pages (Markdown).")
@click.argument("files", nargs=-1, metavar="[FILE…]", type=click.Path(path_type=Path))
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Write checks.md and NAME.md there."
)
def docs(session: Session, files: tuple[Path, ...], out: Path | None) -> None:
    """Generate documentation."""
    from guardrails.authoring.reference import checks_page, policy_page
    from guardrails.policy import load_policy

    policies = [load_policy(file).policy for file in files]
    for name, count in Counter(one.name for one in policies).items():
        if count > 1:
            raise UsageError(
                f"{count} of these policies are named {name}", hint="one page a name: leave one out"
            )
    pages = {"checks.md": checks_page()} | {f"{one.name}.md": policy_page(one) for one in policies}
    written = []
    if out is not None:
        with writing(out):
            for name, text in pages.items():
                (out / name).write_text(text, encoding="utf-8")
                written.append(str(out / name))
    data = {"files": written, "pages": {} if written else pages}

    def draw(console: Console) -> None:
        for name in written:
            console.print(line(presenters.Mark("✓", name, "good")))
        if not written:
            click.echo("\n".join(pages.values()), nl=False)

    session.output.result("policy docs", data, draw)
