"""The loop: what to propose next, for as long as the rules allow. It has no authority over the result.

Invariants:
- It only ever proposes and measures; nothing it does can approve, promote or roll back.
- Each model's recipes are tried in turn, each time with the next seed: what it does next follows from the
  log, so a restarted loop goes on where the last one stopped.
- A halt stops it before the next job and ends the job that runs; it goes on only after a resume.
- A failed round is a record in the log, then the next round; it never ends the loop.
- A recipe whose questions people have not answered yet waits, and the next one is tried instead; it is told once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from guardrails.errors import DeniedError, HaltedError, JobFailedError
from guardrails.records import State
from guardrails.view import view_of
from sandbox import rounds
from sandbox.answers.asking import Asked, QuestionsOpenError
from sandbox.answers.desk import asker_of
from sandbox.config import Config, ModelConfig, Recipe
from sandbox.rounds import Bench
from sandbox.witnessing import ask_all

STATE_FILE = "loop.json"
WAIT_S = 1.0


@dataclass(frozen=True)
class Event:
    """Something worth telling: ``kind`` is ``stage`` (share done), ``result`` or ``problem``."""

    kind: str
    model: str
    text: str
    share: float = 0.0


Tell = Callable[[Event], None]


def run(
    bench: Bench, config: Config, models: list[str], count: int | None, tell: Tell, stop: Callable[[], bool]
) -> None:
    """Do ``count`` rounds over the given models (None: until stopped).

    One round makes one proposal of each model and judges it. ``stop`` is asked between steps.
    """
    done = 0
    waits = _Waits(tell)
    rounds.sweep(bench.workspace)
    try:
        while not stop() and (count is None or done < count):
            for name in models:
                if stop() or not _wait_while_halted(bench, tell, stop, unattended=count is not None):
                    return
                _round(bench, config.models[name], tell, waits)
            done += 1
            for told in ask_all(bench.gate.log, config.witnesses):
                tell(Event("problem" if told.error else "result", "", told.sentence))
            if count is None:
                _rest(bench, config.pause_s, tell, stop)
    finally:
        _write_state(bench.workspace, "stopped", "", "", 0.0)


def next_recipe(bench: Bench, model: ModelConfig) -> tuple[Recipe, int]:
    """The recipe and the seed of a model's next proposal: they follow from how many there were.

    Raises:
        DeniedError: the model has no recipe.
        QuestionsOpenError: each of them waits for people's answers.
    """
    made = _made(bench, model)
    if not model.recipes:
        raise DeniedError(f"models.{model.name} has no recipe", hint="add [[models.NAME.recipes]]")
    book = rounds.desk_of(bench, model.name).book()
    turns = [model.recipes[(made + turn) % len(model.recipes)] for turn in range(len(model.recipes))]
    for recipe in turns:
        if not book.open(asker_of(recipe)):
            return recipe, made + 1
    raise QuestionsOpenError(model.name, asker_of(turns[0]), len(book.open()))


def next_seed(bench: Bench, model: ModelConfig) -> int:
    """The seed of a model's next proposal."""
    return _made(bench, model) + 1


def _made(bench: Bench, model: ModelConfig) -> int:
    with view_of(bench.gate.log) as view:
        return sum(1 for row in view.proposals(model.name) if row.technique != "submitted")


def one_round(bench: Bench, model: ModelConfig, recipe: Recipe, seed: int, tell: Tell) -> str:
    """Propose once and judge it; returns the proposal's id, empty where the learner asked people instead."""
    report = _reporter(bench, model.name, tell)
    report(f"{recipe.technique}, seed {seed}", 0.0)
    proposal = rounds.propose(bench, model, recipe, seed, report)
    if isinstance(proposal, Asked):
        tell(Event("result", model.name, proposal.sentence, 1.0))
        return ""
    state = rounds.measure(bench, model, proposal, report)
    tell(Event("result", model.name, f"{proposal}: {state}", 1.0))
    return proposal


class _Waits:
    """Says of each model which of its questions wait: when that changes, not round by round."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: dict[str, str] = {}

    def look(self, bench: Bench, model: ModelConfig) -> None:
        book = rounds.desk_of(bench, model.name).book()
        waiting = {asker: len(book.open(asker)) for asker in dict.fromkeys(map(asker_of, model.recipes))}
        text = ", ".join(f"{left} of {asker}" for asker, left in waiting.items() if left)
        if text and text != self._told.get(model.name):
            self._tell(
                Event(
                    "result", model.name, f"questions wait for people ({text}): interlock label {model.name}"
                )
            )
        self._told[model.name] = text


def _round(bench: Bench, model: ModelConfig, tell: Tell, waits: _Waits) -> None:
    try:
        for effect in bench.gate.tick():
            tell(Event("result", model.name, effect))
        _finish_left_behind(bench, model, tell)
        waits.look(bench, model)
        recipe, seed = next_recipe(bench, model)
        one_round(bench, model, recipe, seed, tell)
    except QuestionsOpenError:
        # Told already; nothing is run until somebody has answered.
        pass
    except JobFailedError as error:
        tell(Event("problem", model.name, str(error)))
    except DeniedError as error:
        # Over a budget, halted in the middle, or overtaken by a promotion: the log says so; go on.
        tell(Event("problem", model.name, str(error)))
    finally:
        _write_state(bench.workspace, "idle", model.name, "", 0.0)


def _finish_left_behind(bench: Bench, model: ModelConfig, tell: Tell) -> None:
    """Measure what a killed or halted process proposed and did not finish."""
    with view_of(bench.gate.log) as view:
        rows = [r for r in view.proposals(model.name) if r.state in (State.PROPOSED, State.MEASURING)]
    for row in rows[::-1]:
        if not rounds.is_being_measured(bench, row.id):
            state = rounds.measure(bench, model, row.id, _reporter(bench, model.name, tell))
            tell(Event("result", model.name, f"{row.id}: {state}", 1.0))


def _reporter(bench: Bench, model: str, tell: Tell) -> rounds.Report:
    def report(stage: str, share: float) -> None:
        _write_state(bench.workspace, "running", model, stage, share)
        tell(Event("stage", model, stage, share))

    return report


def _wait_while_halted(bench: Bench, tell: Tell, stop: Callable[[], bool], *, unattended: bool) -> bool:
    """Wait for a resume; False where nobody is there to give one, or the loop is to stop."""
    told = False
    while bench.gate.halted_by():
        if not told:
            _write_state(bench.workspace, "halted", "", "", 0.0)
            tell(Event("problem", "", "halted; `interlock resume` lets the loop go on"))
            told = True
        if unattended or stop():
            return False
        time.sleep(WAIT_S)
    return True


def _rest(bench: Bench, seconds: float, tell: Tell, stop: Callable[[], bool]) -> None:
    """Pause between rounds, and longer while enough proposals wait for people to decide."""
    end = time.monotonic() + seconds
    while not stop() and time.monotonic() < end:
        time.sleep(min(WAIT_S, max(0.0, end - time.monotonic())))
    try:
        for effect in bench.gate.tick():
            tell(Event("result", "", effect))
    except HaltedError:
        return


def _write_state(workspace: Path, state: str, model: str, stage: str, share: float) -> None:
    """Say what the loop is doing, for the console. Losing this file loses nothing."""
    incoming = workspace / f".{STATE_FILE}.{os.getpid()}"
    value = {
        "state": state, "model": model, "stage": stage, "share": round(share, 3), "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    try:
        incoming.write_text(json.dumps(value), encoding="utf-8")
        incoming.replace(workspace / STATE_FILE)
    except OSError:
        incoming.unlink(missing_ok=True)
