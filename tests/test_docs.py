"""The documentation says what is there: commands, options, checks, metrics and examples are tried."""

import re
import shlex
from pathlib import Path

import click
import pytest

from guardrails.checks import CHECKS
from guardrails.policy import load_policy
from sandbox.config import load_config
from ui.cli.main import root as cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.name for page in PAGES]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Every `interlock …` of the pages: indented lines, and inline code."""
    found = []
    for page in PAGES:
        text = text_of(page).replace("\\\n", " ")
        lines = re.findall(r"^    (?:\.venv/bin/)?(interlock .*)$", text, flags=re.MULTILINE)
        inline = re.findall(r"`(interlock [^`]*)`", text)
        found += [(page.name, " ".join(line.split())) for line in lines + inline]
    return found


def parameters(command: click.Command) -> list[click.Parameter]:
    return command.get_params(click.Context(command))


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Follow words down the groups; returns the command and what is left. Global options come first."""
    command: click.Command = cli
    rest = list(words)
    while rest and rest[0].startswith("-"):
        options = {name: param for param in parameters(cli) for name in param.opts}
        option = options[rest.pop(0)]
        if not getattr(option, "is_flag", False):
            rest.pop(0)
    while isinstance(command, click.Group) and rest:
        context = click.Context(command)
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    return command, rest


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:60])
def test_every_command_in_the_pages_exists(page, line):
    words = shlex.split(line.replace("…", "X"))[1:]
    if "--" in words:
        words = words[: words.index("--")]
    command, rest = resolve(words)
    params = [*parameters(command), *parameters(cli)]
    known = {name for param in params for name in [*param.opts, *param.secondary_opts]}
    for word in rest:
        if word.startswith("--"):
            assert word in known, f"{page}: {line}: no option {word}"


def test_every_check_and_metric_stands_in_the_authors_page():
    page = text_of(ROOT / "docs" / "policy-authors.md")
    for name, check in CHECKS.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}`")), "")
        assert row, f"check {name} is not documented"
        for metric in check.metrics:
            assert f"`{metric}`" in row, f"metric {metric} of {name} is not documented"


def test_the_authors_page_names_no_check_that_is_not_there():
    page = text_of(ROOT / "docs" / "policy-authors.md")
    named = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)`", page, flags=re.MULTILINE))
    assert named == set(CHECKS)


def test_policy_examples_load(tmp_path):
    examples = blocks(ROOT / "docs" / "policy-authors.md", "yaml")
    assert examples
    for number, example in enumerate(examples):
        file = tmp_path / f"example{number}.yaml"
        file.write_text(example, encoding="utf-8")
        assert load_policy(file).policy.rules


def test_configuration_examples_load(tmp_path):
    examples = blocks(ROOT / "docs" / "learner-authors.md", "toml")
    assert examples
    for example in examples:
        (tmp_path / "interlock.toml").write_text(example, encoding="utf-8")
        assert load_config(tmp_path).models


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
