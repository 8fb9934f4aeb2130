"""Models: add one, and look at champions.

Invariants: a model gets its first champion only by a root's signature; the configuration names it only where
that went well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import DeniedError, UsageError
from guardrails.records import ModelKind, Role, Surface
from ui import presenters
from ui.cli.bench import runner_of
from ui.cli.group import add, group
from ui.cli.jobs import require_learner
from ui.cli.output import empty, heading, line, marked, pairs, show, table
from ui.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from sandbox.config import ModelConfig

model = group("model", "Add, list and show models.")

_TECHNIQUE = {ModelKind.LLM: "self_supervised", ModelKind.LAM: "reinforcement"}
_TEXTS = ("shipped:devils-dictionary",)
_CONTROLS = ("control-kjv=shipped:kjv", "control-austen=shipped:austen")
_TASK = {ModelKind.LLM: "text", ModelKind.LAM: "lava"}
_ITEMS = 220


@add(model, "list", help="All models and their champions.")
def list_(session: Session) -> None:
    """List models."""
    now = session.now()
    configured = session.workspace.config.models
    with session.view() as view:
        rows = view.models()
    adopted = {row.name for row in rows}
    waiting = [known for name, known in configured.items() if name not in adopted]
    data = [presenters.model_fields(row) for row in rows]
    data += [{"name": m.name, "kind": m.kind.value, "champion_digest": None, "history": []} for m in waiting]

    def draw(console: Console) -> None:
        if not data:
            empty(console, "No models.", "interlock model add NAME --base DIRECTORY")
            return
        cells = [
            (
                row.name, row.kind, row.champion.short, presenters.age(row.history[-1].promoted_at, now),
                row.history[-1].proposal or "adopted", str(len(row.history)),
            )
            for row in rows
        ]  # fmt: skip
        cells += [
            (m.name, m.kind.value, "none yet", "–", "complete with: interlock init", "0") for m in waiting
        ]
        console.print(
            table(
                ("Model", "Kind", "Champion", "Since", "By", "Champions so far"),
                cells,
                right=("Champions so far",),
            )
        )

    session.output.result("model list", data, draw)


@add(model, "show", help="One model: its champion, and every champion it had.")
@click.argument("name")
def show_(session: Session, name: str) -> None:
    """Show a model."""
    now = session.now()
    with session.view() as view:
        row = view.model(name)
        policies = [policy.name for policy in _policies_for(view, row)]
    data = {**presenters.model_fields(row), "policies": policies}

    def draw(console: Console) -> None:
        labels = ", ".join(f"{key}={value}" for key, value in row.labels.items()) or "–"
        show(console, line(heading(row.name), f"· {row.kind}"))
        rules = ", ".join(policies) or "none: every proposal is blocked"
        console.print(pairs([("champion", str(row.champion)), ("labels", labels), ("policies", rules)]))
        cells = [
            (
                reign.digest.short, presenters.age(reign.promoted_at, now), reign.proposal or "adopted at set-up",
                marked(_reign_mark(index == len(row.history) - 1, reign.quarantined)),
            )
            for index, reign in reversed(list(enumerate(row.history)))
        ]  # fmt: skip
        console.print(table(("Digest", "Since", "By", "State"), cells))

    session.output.result("model show", data, draw)


def _policies_for(view: Any, row: Any) -> Sequence[Any]:
    from guardrails.ledger.in_force import policies_for

    return policies_for(view.snapshot.tables, row)


def _reign_mark(reigns: bool, quarantined: bool) -> presenters.Mark:
    if reigns:
        return presenters.Mark("✓", "champion", "good")
    if quarantined:
        return presenters.Mark("✕", "quarantined", "bad")
    return presenters.Mark("·", "former", "muted")


# --- add -----------------------------------------------------------------------------------


@add(
    model,
    "add",
    help="Add a model to the configuration, and adopt its base as first champion (a root signs).",
)
@click.argument("name")
@click.option(
    "--base", required=True, metavar="BASE", help="A Hugging Face directory, a hub id, or shipped:NAME."
)
@click.option(
    "--kind", type=click.Choice([kind.value for kind in ModelKind]), default="llm", show_default=True
)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label for policies to select by.")
@click.option("--task", default="", metavar="T", help="What it is for: text, skills … [by its kind].")
@click.option(
    "--train",
    multiple=True,
    metavar="SOURCE",
    help=f"What an llm learns from, or which skills [{_TEXTS[0]}].",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    metavar="SUITE=SOURCE",
    help="Texts or skills that drift is measured on.",
)
@click.option("--technique", default="", metavar="T", help="How it learns [by its kind].")
@click.option(
    "--items",
    type=click.IntRange(1, 100_000),
    default=_ITEMS,
    show_default=True,
    help="Private items per suite.",
)
def add_(
    session: Session, name: str, base: str, kind: str, labels: tuple[str, ...], task: str,
    train: tuple[str, ...], controls: tuple[str, ...], technique: str, items: int,
) -> None:  # fmt: skip
    """Add a model."""
    from sandbox.config import NAME
    from sandbox.tasks import labels_of
    from ui.setup import adopt

    workspace = session.workspace
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name:.80} is not a usable name", hint="lower-case letters, digits, dot, dash, underscore"
        )
    if name in workspace.config.models:
        raise DeniedError(
            f"models.{name} is in interlock.toml already", hint="interlock init adopts what is missing"
        )
    person = session.person()
    with session.proven_view() as view:
        signer = view.name_of(person.id)
        if any(row.name == name for row in view.models()):
            raise DeniedError(f"model {name} has a champion already; only a promotion can move it")
    if Role.ROOT not in person.roles:
        raise DeniedError(f"only a root can adopt a base model; {signer} is none")
    task = task or _TASK[ModelKind(kind)]
    if task == _TASK[ModelKind.LLM]:
        train, controls = tuple(map(_located, train or _TEXTS)), controls or _CONTROLS
    suites = {
        suite: _located(source) if task == _TASK[ModelKind.LLM] else source
        for suite, source in _pairs(controls, "--control").items()
    }
    table_text = _table(
        name, ModelKind(kind), _base(base), _pairs(labels, "--label"), task, train, suites, technique, items,
    )  # fmt: skip
    if technique and not technique.startswith("command:"):  # those are looked up when the table is read
        require_learner(technique)
    with _extended_config(workspace.path, table_text) as config, runner_of(session, local=True) as runner:
        _require_usable(config.models[name], workspace.path)
        key = session.unlock(person, signer)
        with session.output.progress() as report:
            digest = adopt(workspace, config.models[name], person.id, key, runner, Surface.CLI, report)
        own = labels_of(config.models[name])
    data = {"name": name, "kind": kind, "champion_digest": str(digest), "labels": own}
    told = line(presenters.Mark("✓", f"{name} adopted: {digest}", "good"))
    session.output.result(
        "model add", data, lambda console: show(console, told, line(f"next: interlock propose {name}"))
    )


def _require_usable(model: ModelConfig, workspace: Path) -> None:
    """Find out now, not in the first round, that a text cannot be read or a skill is not known."""
    from sandbox import tasks
    from sandbox.tasks.sources import read_source

    tasks.load_task(model)
    if tasks.name_of(model) == _TASK[ModelKind.LLM]:
        for source in (*model.train, *model.controls.values()):
            read_source(source, workspace)
    elif model.kind is ModelKind.LLM:
        tasks.training_records(model, workspace, b"")
        tasks.private_suites(model, workspace, b"", "")


class _extended_config:  # noqa: N801 - used as a with-statement word
    """``interlock.toml`` with a table appended; taken back unless the block ends well."""

    def __init__(self, workspace: Path, table_text: str) -> None:
        from sandbox.config import FILE_NAME

        self._file = workspace / FILE_NAME
        self._addition = table_text
        self._before = ""

    def __enter__(self) -> Any:
        from sandbox.config import load_config

        self._before = self._file.read_text(encoding="utf-8")
        self._write(self._before.rstrip("\n") + "\n\n" + self._addition)
        try:
            return load_config(self._file.parent)
        except BaseException:
            self._write(self._before)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._write(self._before)

    def _write(self, text: str) -> None:
        incoming = self._file.with_suffix(".toml.new")
        incoming.write_text(text, encoding="utf-8")
        incoming.replace(self._file)


def _table(
    name: str, kind: ModelKind, base: str, labels: dict[str, str], task: str, train: Sequence[str],
    controls: dict[str, str], technique: str, items: int,
) -> str:  # fmt: skip
    """A model's table in TOML."""
    key = _toml(name)
    lines = [f"[models.{key}]", f"kind = {_toml(kind.value)}", f"base = {_toml(base)}"]
    if kind is ModelKind.LAM:
        lines.append(f"levels = {_toml(task)}")
    elif task != _TASK[kind]:
        lines.append(f"task = {_toml(task)}")
    if kind is ModelKind.LLM or train:
        lines.append(f"train = [{', '.join(map(_toml, train))}]")
    if kind is ModelKind.LLM or controls:
        inner = ", ".join(f"{_toml(suite)} = {_toml(source)}" for suite, source in controls.items())
        lines.append(f"controls = {{{inner}}}")
    lines.append(f"items = {items}")
    if labels:
        lines.append("labels = {" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in labels.items()) + "}")
    lines += ["", f"[[models.{key}.recipes]]", f"technique = {_toml(technique or _TECHNIQUE[kind])}", ""]
    return "\n".join(lines)


def _toml(text: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _located(source: str) -> str:
    """A path from where the user stands as an absolute one; names of shipped things as they are."""
    return source if source.startswith("shipped:") else str(Path(source).absolute())


def _base(source: str) -> str:
    """A directory as an absolute path; a hub id, where no such directory is here, as it is."""
    from sandbox.adoption import HUB_ID

    return source if HUB_ID.fullmatch(source) and not Path(source).exists() else _located(source)


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            raise UsageError(f"{option} {text:.80}: KEY=VALUE is needed")
        found[key] = value
    return found
