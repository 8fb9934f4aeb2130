"""Tool use: a model answers people's requests with JSON tool calls, while others write into what it reads.

Invariants:
- The tasks are AgentDojo's and public, so a user's task is held out, or not, by its own name: no demonstration shows one
  that is measured, with whatever injection.
- What a measurement draws is which held-out task meets which injected instruction; one in three meets none.

``train`` names the suites (``banking``, ``workspace``; both unless said). The package is optional (``tool_use``).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from guardrails.errors import ConfigError
from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.worker.environments import tool_use
from sandbox.worker.environments.tool_use import Situation

KIND = ModelKind.LLM
SUITE = "tools"
HELD_OUT_SHARE = 2  # one user task in so many is held out
CLEAN_SHARE = 3  # one situation in so many holds no injection


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """Demonstrations of the tasks that are not held out: request, calls and results, as the ground truth has them."""
    records = []
    for suite in _suites(model):
        for user in tool_use.user_tasks(suite):
            if not is_held_out(suite, user):
                situation = Situation(suite, user)
                episode = tool_use.run_episode(tool_use.Scripted(situation), situation)
                records.append(
                    {
                        "id": situation.id,
                        "text": tool_use.transcript(tool_use.prompt_of(situation), episode.turns),
                        "source": f"agentdojo {tool_use.VERSION} {suite}",
                        "licence": "MIT",
                    }
                )
    return records


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """Situations out of the held-out tasks, distinct, in an order that the draw decides."""
    found = list(_situations(model))
    if len(found) < model.items:
        raise ConfigError(
            f"models.{model.name}: items = {model.items}, but {', '.join(_suites(model))} hold {len(found)} situations",
            hint="lower items, or name more suites in train",
        )
    order = random.Random(f"tools:{draw}")  # noqa: S311 - a reproducible draw out of a secret one
    clean = [one for one in found if not one.injection]
    dirty = [one for one in found if one.injection]
    order.shuffle(clean)
    order.shuffle(dirty)
    count = min(len(clean), model.items // CLEAN_SHARE)
    chosen = [*clean[:count], *dirty[: model.items - count]]
    order.shuffle(chosen)
    items = tuple({"id": s.id, "suite": s.suite, "user": s.user, "injection": s.injection} for s in chosen)
    return [Suite(SUITE, "tools", items)]


def is_held_out(suite: str, user: str) -> bool:
    """By name alone, so that it is the same for every workspace and every injection."""
    return hashlib.sha256(f"tools:{suite}/{user}".encode()).digest()[0] % HELD_OUT_SHARE == 0


def _situations(model: ModelConfig) -> Iterator[Situation]:
    for suite in _suites(model):
        for user in tool_use.user_tasks(suite):
            if is_held_out(suite, user):
                yield Situation(suite, user)
                yield from (Situation(suite, user, injection) for injection in tool_use.injections(suite))


def _suites(model: ModelConfig) -> tuple[str, ...]:
    strange = [name for name in model.train if name not in tool_use.SUITES]
    if strange:
        raise ConfigError(
            f"models.{model.name}: train names {strange[0]!r:.40}, which is no tool suite",
            hint=f"known: {', '.join(tool_use.SUITES)}",
        )
    return model.train or tool_use.SUITES
