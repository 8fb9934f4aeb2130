"""Skills: a language model answers puzzles over digits; whether an answer is right can be checked exactly.

Invariants:
- Five digits are held out, or not, for every skill alike, by a keyed hash (the workspace's secret is the key): no
  learner meets digits, under any sign, that count in a measurement.
- ``train`` names the skills that are learnt and measured, ``controls`` those that must not suffer: ``NAME`` or
  ``NAME:SIGN`` (``sandbox/worker/environments/skills.py``). No record of a control is among the training records
  unless ``train`` or ``replay`` names it, and then it says so.

``adapt`` names skills that both models learn from ``shots`` puzzles before they are asked (suite ``adapt``): what an
update brings whoever teaches the model next. None of them may be in ``train``.

A control is measured twice: as text (suite ``control-…``: drift) and by its answers (suite ``…-answers``: forgetting).
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Iterator
from pathlib import Path

from guardrails.errors import ConfigError, InvalidInputError
from guardrails.records import ModelKind
from sandbox.config import ModelConfig
from sandbox.tasks import Item, Suite
from sandbox.worker.environments.skills import END, LENGTH, Skill, draw_digits, parse_skill

KIND = ModelKind.LLM
RECORDS = 3000
REPLAYED = 6  # of a control that is replayed, one record to so many of what is learnt
HELD_OUT_PER_MILLE = 300
SUITE = "skills"
ADAPT = "adapt"
ANSWERS = "-answers"
"""What the name of a control's suite of answers ends with."""


def training_records(model: ModelConfig, workspace: Path, secret: bytes) -> list[Item]:
    """``RECORDS`` puzzles with their answers, in equal shares of the skills that are learnt."""
    skills = _skills(model)
    share = -(-RECORDS // len(skills))
    found = [
        record for skill in skills for record in records(skill, share, secret, "training", held_out=False)
    ]
    for name in model.replay:
        again = records(
            _skill(model, model.controls[name]), RECORDS // REPLAYED, secret, "replay", held_out=False
        )
        found += [record | {"replay": name} for record in again]
    return found


def private_suites(model: ModelConfig, workspace: Path, secret: bytes, draw: str) -> list[Suite]:
    """Held-out puzzles of the skills that are learnt, and of every control as text and by its answers."""
    skills = _skills(model)
    share = -(-model.items // len(skills))
    drawn = [_puzzle(item) for skill in skills for item in records(skill, share, secret, draw, held_out=True)]
    suites = [Suite(SUITE, "written", tuple(drawn[: model.items]))]
    for name, control in sorted(model.controls.items()):
        found = records(_skill(model, control), model.items, secret, f"{draw}:{name}", held_out=True)
        items = list(found)
        texts = tuple({"id": item["id"], "text": item["text"]} for item in items)
        suites.append(Suite(name, "distribution", texts))
        suites.append(Suite(name + ANSWERS, "written", tuple(_puzzle(item) for item in items)))
    if model.adapt:
        suites.append(Suite(ADAPT, "adaptation", tuple(_few(model, secret, draw))))
    return suites


def _few(model: ModelConfig, secret: bytes, draw: str) -> Iterator[Item]:
    """For every skill of ``adapt``: a few puzzles to learn from, and held-out ones that are then asked."""
    share = -(-model.items // len(model.adapt))
    for name in model.adapt:
        if name in model.train:
            raise ConfigError(
                f"models.{model.name}: {name} stands in adapt and in train",
                hint="what a model is to be quick to learn must be new to it",
            )
        skill = _skill(model, name)
        for role, count, held_out in (("support", model.shots, False), ("query", share, True)):
            for item in records(skill, count, secret, f"{draw}:{role}", held_out=held_out):
                yield {
                    "id": f"{role}-{item['id']}", "task": name, "role": role,
                    "prompt": item["prompt"], "answer": item["answer"],
                }  # fmt: skip


def records(skill: Skill, count: int, secret: bytes, draw: str, *, held_out: bool) -> Iterator[Item]:
    """``count`` distinct puzzles of one part, the same for the same skill, secret and draw."""
    source = random.Random(hmac.new(secret, f"{draw}:{skill.name}".encode(), hashlib.sha256).digest())  # noqa: S311 - the key is the secret; the generator only spreads it
    seen: set[str] = set()
    while len(seen) < count:
        digits = draw_digits(source)
        if digits in seen or is_held_out(secret, digits) is not held_out:
            continue
        seen.add(digits)
        prompt, answer = skill.prompt(digits), skill.answer(digits)
        yield {
            "id": f"{skill.name}-{digits}", "skill": skill.name, "prompt": prompt, "answer": answer,
            "text": f"{prompt}{answer}{END}", "source": f"skill {skill.name}", "licence": "generated here",
        }  # fmt: skip


def is_held_out(secret: bytes, digits: str) -> bool:
    """Keyed by the digits alone, so that no skill can leak another's private puzzles."""
    mac = hmac.new(secret, b"skills:" + digits.encode(), hashlib.sha256).digest()
    return int.from_bytes(mac[:4], "big") % 1000 < HELD_OUT_PER_MILLE


def _puzzle(item: Item) -> Item:
    return {"id": item["id"], "prompt": item["prompt"], "answers": [item["answer"]], "max_tokens": LENGTH + 1}


def _skills(model: ModelConfig) -> list[Skill]:
    if not model.train:
        raise ConfigError(
            f"models.{model.name}: train is empty", hint='name at least one skill: train = ["sort"]'
        )
    return [_skill(model, name) for name in model.train]


def _skill(model: ModelConfig, name: str) -> Skill:
    try:
        return parse_skill(name)
    except InvalidInputError as error:
        raise ConfigError(f"models.{model.name}: {error}") from None
