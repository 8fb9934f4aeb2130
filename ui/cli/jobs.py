"""Commands that run isolated jobs: propose, submit, measure, reproduce.

Invariants: nothing is recorded that the gate did not accept; a job ends with its command; ``measure`` and
``submit --wait`` say the verdict as exit status, ``propose`` ends with 0 whatever the verdict; ``reproduce``
records nothing and ends with 1 where other bytes came out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.errors import JobFailedError, UnknownNameError, UsageError
from ui import presenters
from ui.cli import drawing
from ui.cli.bench import open_bench
from ui.cli.group import command
from ui.cli.look import give_verdict, next_step
from ui.cli.output import line, show, table
from ui.cli.session import Finished, Session

if TYPE_CHECKING:
    from rich.console import Console

    from guardrails.ledger.rows import ProposalRow
    from sandbox.answers.asking import Asked
    from sandbox.config import Learner, ModelConfig, Recipe

BUDGETS = ("wall_s", "cpu_s", "memory_bytes", "processes", "disk_bytes")


@command("propose", help="Train a candidate in isolation, measure it against the champion, and judge it.")
@click.argument("model")
@click.option("--technique", default="", metavar="T", help="How to train [the model's first recipe].")
@click.option(
    "-n", "count", type=click.IntRange(1, 100), default=1, show_default=True, help="How many proposals."
)
@click.option("--seed", type=click.IntRange(0, 2**53 - 1), help="Seed of the first; the next ones count up.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the recipe.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="KEY=NUMBER",
    help=f"A tighter limit of the job: {', '.join(BUDGETS)}.",
)
@click.option("--no-measure", is_flag=True, help="Stop after training; the loop or `measure` goes on.")
def propose(
    session: Session, model: str, technique: str, count: int, seed: int | None, settings: tuple[str, ...],
    budgets: tuple[str, ...], no_measure: bool,
) -> None:  # fmt: skip
    """Propose updates of a model."""
    from sandbox import loop, rounds
    from sandbox.answers.asking import Asked, QuestionsOpenError

    config = configured(session, model)
    config = _tightened(config, budgets)
    programs = {learner.technique: learner for learner in session.workspace.config.learners.values()}
    recipe = _recipe(config, technique, settings, programs)
    made: list[str] = []
    asked: list[Asked] = []
    failed: list[JobFailedError] = []
    with open_bench(session) as bench, session.output.progress() as report:
        next_seed = loop.next_seed(bench, config)
        for number in range(count):
            own_seed = (next_seed if seed is None else seed) + number
            try:
                proposed = rounds.propose(bench, config, recipe, own_seed, report)
                if isinstance(proposed, Asked):
                    asked.append(proposed)
                    break  # it waits for people now; another round would be refused
                made.append(proposed)
                if not no_measure:
                    rounds.measure(bench, config, proposed, report)
            except QuestionsOpenError as error:
                if not made:
                    raise
                # What was proposed asked as well; it is told, and the next one waits for the answers.
                session.output.note(str(error))
                break
            except JobFailedError as error:
                # The failure is on record; the others may still work.
                failed.append(error)
                session.output.note(str(error))
    _give_proposals(session, made, asked)
    if failed:
        raise failed[0]


def _give_proposals(session: Session, made: list[str], asked: list[Asked]) -> None:
    if asked and not made:
        first = asked[0]
        answer = {"id": "", "proposals": [], "asked": {"asker": first.asker, "questions": first.questions}}
        mark = presenters.Mark("✓", first.sentence, "good")
        session.output.result("propose", answer, lambda console: show(console, line(mark)))
        return
    for one in asked:
        session.output.note(one.sentence)
    if not made:
        return
    now = session.now()
    with session.view() as view:
        rows = [view.proposal(proposal) for proposal in made]
        whys = [next_step(view, row, now) for row in rows]
    data = {"id": rows[0].id, "proposals": [presenters.proposal_fields(row) for row in rows]}

    def draw(console: Console) -> None:
        cells = [
            (row.id, drawing.marked_state(row), presenters.one_line(why, 160))
            for row, why in zip(rows, whys, strict=True)
        ]
        console.print(table(("ID", "State", "Why, and what next"), cells))
        console.print(line(f"next: interlock explain {rows[0].id}"))

    session.output.result("propose", data, draw)


@command("submit", help="Hand in a bundle that was trained elsewhere; it takes the same way as any other.")
@click.argument("model")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--intent", default="", metavar="TEXT", help="What it is for [what the bundle says].")
@click.option("--wait", is_flag=True, help="Measure and judge at once; the exit status says the verdict.")
def submit(session: Session, model: str, bundle: Path, intent: str, wait: bool) -> None:
    """Submit a bundle."""
    from sandbox import rounds

    config = configured(session, model)
    if not bundle.is_dir():
        raise UsageError(
            f"{bundle} is not a directory", hint="a bundle holds proposal.json, model/ and data/"
        )
    proposer = session.person().id
    with open_bench(session) as bench, session.output.progress() as report:
        proposal = rounds.submit(bench, config, bundle, intent, proposer, report)
        if wait:
            rounds.measure(bench, config, proposal, report)
    row = _row(session, proposal)
    if wait:
        _give(session, "submit", row)
        return
    data = presenters.proposal_fields(row)

    def draw(console: Console) -> None:
        show(
            console,
            line(presenters.Mark("✓", f"{row.id} recorded", "good")),
            line(f"bundle {data['bundle_digest']}"),
        )
        console.print(line(f"next: interlock measure {row.id}, or let the loop do it"))

    session.output.result("submit", data, draw)


@command("measure", help="Measure a proposal (again) on newly drawn private items, and judge it.")
@click.argument("id_", metavar="ID")
def measure(session: Session, id_: str) -> None:
    """Measure and judge."""
    from sandbox import rounds

    row = _row(session, id_.upper())
    config = configured(session, row.model)
    with open_bench(session) as bench, session.output.progress() as report:
        rounds.measure(bench, config, row.id, report)
    _give(session, "measure", _row(session, row.id))


@command(
    "reproduce",
    help="Train a proposal once more as its record says, and say whether the same bytes come out.",
)
@click.argument("id_", metavar="ID")
def reproduce(session: Session, id_: str) -> None:
    """Repeat and compare; nothing is recorded."""
    from sandbox import reproduction

    row = _row(session, id_.upper())
    config = configured(session, row.model)
    programs = {learner.technique: learner for learner in session.workspace.config.learners.values()}
    if row.technique != "submitted":
        require_learner(row.technique, programs)
    with open_bench(session) as bench, session.output.progress() as report:
        found = reproduction.reproduce(bench, config, row.id, programs.get(row.technique), report)
    data = {
        "id": row.id, "reproduced": found.reproduced, "bundle_digest": str(found.recorded),
        "made_digest": str(found.made), "files": list(found.files),
        "differs": {name: {"recorded": was, "here": here} for name, (was, here) in found.differs.items()},
    }  # fmt: skip
    mark = (
        presenters.Mark("✓", found.sentence, "good")
        if found.reproduced
        else presenters.Mark("▲", found.sentence, "caution")
    )
    session.output.result("reproduce", data, lambda console: show(console, line(mark)))
    if not found.reproduced:
        raise Finished(1)


def configured(session: Session, model: str) -> ModelConfig:
    """The configuration of a model that has a champion; raises UnknownNameError otherwise."""
    config = session.workspace.config.models.get(model)
    if config is None:
        known = ", ".join(session.workspace.config.models) or "none"
        raise UnknownNameError(f"there is no model {model:.80} in interlock.toml", hint=f"known: {known}")
    with session.view() as view:
        if view.roster is not None:
            view.model(model)
    return config


def _row(session: Session, proposal: str) -> ProposalRow:
    with session.view() as view:
        return view.proposal(proposal)


def _give(session: Session, kind: str, row: ProposalRow) -> None:
    if row.verdict is None:
        raise JobFailedError(f"{row.id} is {row.state.value}: {row.note or 'no verdict was reached'}")
    give_verdict(session, kind, row, row.verdict)


def _recipe(
    config: ModelConfig, technique: str, settings: tuple[str, ...], learners: Mapping[str, Learner]
) -> Recipe:
    """The configured recipe of a technique (the first one where none is named), with settings replaced."""
    from sandbox.config import Recipe

    known = [recipe for recipe in config.recipes if technique in ("", recipe.technique)]
    if not known and not technique:
        raise UsageError(f"models.{config.name} has no recipe", hint="name one with --technique")
    recipe = known[0] if known else Recipe(technique, {}, learners.get(technique))
    require_learner(recipe.technique, learners)
    recipe = dataclasses.replace(recipe, settings={**recipe.settings, **_assignments(settings, "--set")})
    _require_fitting(recipe, config)
    return recipe


def _require_fitting(recipe: Recipe, model: ModelConfig) -> None:
    """A setting that its technique does not take is refused before a job starts and its failure is on record for ever."""
    from sandbox.config import recipe_fault

    fault = recipe_fault(model, recipe)
    if fault is not None:
        raise UsageError(f"{recipe.technique}: {fault.name}: {fault.message}", hint=fault.hint)


def require_learner(technique: str, programs: Collection[str] = ()) -> None:
    """Raise UnknownNameError unless there is such a technique; ``programs`` are those of interlock.toml.

    Raises:
        InvalidInputError: it is another distribution's learner, which is not installed here.
    """
    from guardrails import third_party
    from sandbox.worker.learners import LEARNERS

    if third_party.is_reference(technique):
        third_party.find(third_party.LEARNERS, technique)
        return
    if technique not in LEARNERS and technique not in programs:
        known = ", ".join([*sorted(LEARNERS), *sorted(programs)])
        raise UnknownNameError(f"there is no technique {technique:.80}", hint=f"known: {known}")


def _tightened(config: ModelConfig, budgets: tuple[str, ...]) -> ModelConfig:
    """The same model with tighter limits for its jobs; a budget never widens a configured limit."""
    limits: dict[str, Any] = {}
    for key, text in _assignments(budgets, "--budget").items():
        if key not in BUDGETS:
            raise UsageError(f"--budget {key:.40}: no such limit", hint=f"known: {', '.join(BUDGETS)}")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 2**53:
            raise UsageError(f"--budget {key}={text:.40}: a number above 0 is needed")
        configured_limit = getattr(config.limits, key)
        limits[key] = min(type(configured_limit)(value) or 1, configured_limit)
    return dataclasses.replace(config, limits=dataclasses.replace(config.limits, **limits))


def _assignments(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            raise UsageError(f"{option} {text:.80}: KEY=VALUE is needed")
        pairs[key] = value
    return pairs
