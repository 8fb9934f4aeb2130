"""``interlock.toml``: which models there are, what they learn from, and within which limits.

Invariants: strict (an unknown key, a wrong type or an empty list is an error with file and line, and
nothing is changed); holds no authority (limits that protect people stand in policies, not here).

    [loop]
    pause_s = 5.0                     # rest between rounds

    [models.navigator]
    kind = "lam"                      # llm | lam
    base = "shipped:navigator"        # shipped:NAME, or a Hugging Face directory
    levels = "lava"                   # lam: the environment it acts in
    items = 600                       # private items per suite

    [[models.navigator.recipes]]      # tried in turn, round by round
    technique = "reinforcement"

    [models.assistant]
    kind = "llm"
    base = "shipped:assistant"
    train = ["shipped:devils-dictionary"]        # shipped:NAME, or a .txt or .jsonl file
    controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError
from guardrails.records import ModelKind

FILE_NAME = "interlock.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class JobLimits:
    """Totals that one job may use: seconds, bytes, processes."""

    wall_s: float = 900.0
    cpu_s: float = 1800.0
    memory_bytes: int = 8 << 30
    processes: int = 256
    disk_bytes: int = 4 << 30


@dataclass(frozen=True)
class Recipe:
    """One way of making a proposal: a technique and its settings, passed to the learner as text."""

    technique: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """One model of this workspace. Relative paths in it count from the workspace directory."""

    name: str
    kind: ModelKind
    base: str
    recipes: tuple[Recipe, ...]
    train: tuple[str, ...] = ()
    controls: dict[str, str] = field(default_factory=dict)
    levels: str = ""
    items: int = 240
    samples: int = 6
    threads: int = 1
    labels: dict[str, str] = field(default_factory=dict)
    limits: JobLimits = field(default_factory=JobLimits)


@dataclass(frozen=True)
class Config:
    """The whole file. ``origin`` says where each value came from: ``file:line`` or ``default``."""

    models: dict[str, ModelConfig]
    pause_s: float = 5.0
    learners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)


_MODEL_KEYS: dict[str, type | tuple[type, ...]] = {
    "kind": str, "base": str, "recipes": list, "train": list, "controls": dict, "levels": str,
    "items": int, "samples": int, "threads": int, "labels": dict, "limits": dict,
}  # fmt: skip
_LIMIT_KEYS: dict[str, type | tuple[type, ...]] = {
    "wall_s": (int, float), "cpu_s": (int, float), "memory_bytes": int, "processes": int, "disk_bytes": int,
}  # fmt: skip


class _Reader:
    """Checks values against the expected keys and types, and says where a wrong one stands."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.origin: dict[str, str] = {}

    def line(self, path: tuple[str, ...]) -> int:
        """The line of a key: the first that assigns it after its table's header; 1 if not found."""
        header = re.compile(
            r"^\s*\[+\s*" + r"\s*\.\s*".join(f'"?{re.escape(p)}"?' for p in path[:-1]) + r"\s*\]+"
        )
        key = re.compile(rf'^\s*"?{re.escape(path[-1])}"?\s*[=.]')
        start = 0
        if len(path) > 1:
            start = next((i for i, line in enumerate(self.lines) if header.match(line)), -1) + 1
        own = re.compile(r"^\s*\[+\s*" + r"\s*\.\s*".join(f'"?{re.escape(p)}"?' for p in path) + r"\s*[\].]")
        for index, line in enumerate(self.lines[start:], start + 1):
            if key.match(line):
                return index
        return next((i for i, line in enumerate(self.lines, 1) if own.match(line)), max(start, 1))

    def fail(self, path: tuple[str, ...], message: str, hint: str = "") -> ConfigError:
        """An error located at a key."""
        return ConfigError(f"{self.file}:{self.line(path)}: {'.'.join(path)}: {message}", hint=hint)

    def table(
        self, value: Any, keys: Mapping[str, type | tuple[type, ...]], path: tuple[str, ...]
    ) -> dict[str, Any]:
        """A table with known keys of the right types only."""
        if not isinstance(value, dict):
            raise self.fail(path, "a table is needed")
        for key, item in value.items():
            if key not in keys:
                near = difflib.get_close_matches(key, list(keys), 1)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(keys))}"
                raise self.fail((*path, key), "unknown key", hint)
            if not isinstance(item, keys[key]) or (isinstance(item, bool) and keys[key] is not bool):
                raise self.fail((*path, key), f"wrong type: {type(item).__name__}")
            self.origin[".".join((*path, key))] = f"{self.file.name}:{self.line((*path, key))}"
        return value

    def texts(self, value: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, str]:
        """A table of short texts (numbers and booleans are written out)."""
        result = {}
        for key, item in value.items():
            if isinstance(item, list | dict) or len(str(item)) > 400:
                raise self.fail((*path, key), "a text or a number is needed")
            result[key] = str(item).lower() if isinstance(item, bool) else str(item)
        return result


def load_config(workspace: Path) -> Config:
    """Read and check ``interlock.toml``; raises ConfigError with file and line."""
    file = workspace / FILE_NAME
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist", hint="run `interlock init` first") from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    reader = _Reader(file, text)
    top = reader.table(data, {"loop": dict, "models": dict, "learners": dict}, ())
    loop = reader.table(top.get("loop", {}), {"pause_s": (int, float)}, ("loop",))
    models = {name: _model(reader, name, value) for name, value in top.get("models", {}).items()}
    learners = {}
    for name, value in top.get("learners", {}).items():
        command = reader.table(value, {"command": list}, ("learners", name)).get("command")
        if not command or not all(isinstance(part, str) for part in command):
            raise reader.fail(("learners", name), "command needs a list of one or more texts")
        learners[name] = tuple(command)
    return Config(models, float(loop.get("pause_s", 5.0)), learners, reader.origin)


def _model(reader: _Reader, name: str, value: Any) -> ModelConfig:
    path = ("models", name)
    if not NAME.fullmatch(name):
        raise reader.fail(path, "not a usable name", "lower-case letters, digits, dot, dash, underscore")
    table = reader.table(value, _MODEL_KEYS, path)
    for key in ("kind", "base"):
        if not table.get(key):
            raise reader.fail(path, f"{key} is missing")
    try:
        kind = ModelKind(table["kind"])
    except ValueError:
        raise reader.fail((*path, "kind"), f"{table['kind']!r} is not a kind", "llm or lam") from None
    for key in ("items", "threads"):
        if table.get(key, 1) < 1:
            raise reader.fail((*path, key), "at least 1")
    train = table.get("train", [])
    if not all(isinstance(source, str) for source in train):
        raise reader.fail((*path, "train"), "a list of texts is needed")
    limits = reader.table(table.get("limits", {}), _LIMIT_KEYS, (*path, "limits"))
    return ModelConfig(
        name=name, kind=kind, base=table["base"],
        recipes=tuple(_recipe(reader, item, (*path, "recipes")) for item in table.get("recipes", [])),
        train=tuple(train), controls=reader.texts(table.get("controls", {}), (*path, "controls")),
        levels=table.get("levels", ""), items=table.get("items", 240), samples=table.get("samples", 6),
        threads=table.get("threads", 1), labels=reader.texts(table.get("labels", {}), (*path, "labels")),
        limits=JobLimits(**limits),
    )  # fmt: skip


def _recipe(reader: _Reader, value: Any, path: tuple[str, ...]) -> Recipe:
    if not isinstance(value, dict) or not isinstance(value.get("technique"), str):
        raise reader.fail(path, "each recipe needs a technique")
    settings = {key: item for key, item in value.items() if key != "technique"}
    return Recipe(value["technique"], reader.texts(settings, path))
