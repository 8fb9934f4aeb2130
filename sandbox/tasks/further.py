"""Suites that a model is measured on where its configuration asks for them, whatever its task.

Invariants:
- Drawn like all private items: by the secret and the nonce. More asked for than there are is an error.
- What a task measures anyway is used again where it can be: demonstrations are of the suite ``task``, and texts compared
  by meaning are those that the suites of continuations write in any case; levels are those that are played in any case.
"""

from __future__ import annotations

from dataclasses import replace

from guardrails.errors import ConfigError
from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.control_items import load_offered, load_reviewed
from sandbox.tasks import Suite, drawn

_KEYS = ("approval", "oversight", "elicitation", "outputs", "canaries", "spans", "meaning")
_DRAWN_TEXTS = 25  # that continuations write for each prompt, and ways that are drawn through a level at most
_FOR_LEVELS = ("elicitation", "outputs")


def with_further(suites: list[Suite], model: ModelConfig, draw: str) -> list[Suite]:
    """The suites of a task and those asked for besides; raises ConfigError where something cannot be had."""
    if model.kind is not ModelKind.LLM:
        return _with_levels(suites, model, draw)
    found = [_embedded(suite, model) for suite in suites]
    if model.outputs and not any(suite.probe == "continuations" for suite in suites):
        raise _refused(model, "outputs", "needs texts to compare", "set `continuations` as well")
    for name, count, items in (
        ("approval-seeking", model.approval, load_reviewed()),
        ("oversight-evasion", model.oversight, load_offered()),
    ):
        if count:
            found.append(Suite(name, "preference", drawn(items, count, draw, name)))
    if model.elicitation:
        found.append(_elicitation(suites, model, draw))
    return found


def _with_levels(suites: list[Suite], model: ModelConfig, draw: str) -> list[Suite]:
    """For an action model: ways through the levels that it is played in, and demonstrations of them."""
    asked = [key for key in _KEYS if getattr(model, key)]
    refused = [key for key in asked if key not in _FOR_LEVELS]
    if refused:
        raise _refused(model, refused[0], "is for language models")
    played = next((suite for suite in suites if suite.probe == "episodes"), None)
    if asked and played is None:
        raise _refused(model, asked[0], "needs levels that are played, which this task has none of")
    found = list(suites)
    if model.outputs and played:
        _require_some(model)
        ways = tuple({**item, "ways": str(model.outputs)} for item in played.items)
        found.append(Suite("trajectories", "trajectories", ways))
    if model.elicitation and played:
        found.append(_demonstrated(played, "layout", "demonstrations", model, draw))
    return found


def _require_some(model: ModelConfig) -> None:
    if not 2 <= model.outputs <= _DRAWN_TEXTS:
        raise _refused(model, "outputs", f"must be 2 to {_DRAWN_TEXTS}")


def _embedded(suite: Suite, model: ModelConfig) -> Suite:
    """Continuations whose items say how many texts are compared by meaning."""
    if not model.outputs or suite.probe != "continuations":
        return suite
    _require_some(model)
    return replace(suite, items=tuple({**item, "embedded": str(model.outputs)} for item in suite.items))


def _elicitation(suites: list[Suite], model: ModelConfig, draw: str) -> Suite:
    """Texts of the task, each with another one as its demonstration."""
    task = next((suite for suite in suites if suite.name == "task" and suite.probe == "distribution"), None)
    if task is None:
        raise _refused(model, "elicitation", "needs a task of texts")
    return _demonstrated(task, "text", "elicitation", model, draw)


def _demonstrated(suite: Suite, field: str, probe: str, model: ModelConfig, draw: str) -> Suite:
    """Items of a suite, each with the next in the order of the draw as its demonstration."""
    items = drawn(suite.items, model.elicitation, draw, "elicitation")
    shown = [*items[1:], *items[:1]]
    found = (
        {"id": item["id"], field: item[field], "demonstration": other[field]}
        for item, other in zip(items, shown, strict=True)
    )
    return Suite("elicitation", probe, tuple(found))


def _refused(model: ModelConfig, key: str, why: str, hint: str = "") -> ConfigError:
    what = f"models.{model.name}: {key} = {getattr(model, key)} {why}"
    return ConfigError(what, hint=hint or f"leave `{key}` out")
