"""``interlock.toml``: which models there are, what they learn from, and within which limits.

Invariants: strict (an unknown key, a wrong type, an empty list or a setting of a recipe that its technique does not take
is an error with file, line and column, and nothing is changed); holds no authority (limits that protect people stand in
policies, not here).

    [loop]
    pause_s = 5.0                     # rest between rounds

    [[log.witnesses]]                 # asked to cosign the log's checkpoints; nobody else is
    url = "http://127.0.0.1:8710"
    key = "witness.example/w1+0123abcd+BASE64"

    [models.navigator]
    kind = "lam"                      # llm | lam
    base = "shipped:navigator"        # shipped:NAME, or a Hugging Face directory
    levels = "lava"                   # lam: the environment it acts in (llm: task, "text" unless said)
    items = 600                       # private items per suite

    [[models.navigator.recipes]]      # tried in turn, round by round
    technique = "reinforcement"

    [models.assistant]
    kind = "llm"
    base = "shipped:assistant"
    train = ["shipped:devils-dictionary"]        # shipped:NAME, or a .txt or .jsonl file
    controls = {control-kjv = "shipped:kjv", control-austen = "shipped:austen"}
    replay = ["control-kjv"]          # llm: controls of which one part may be learnt, against forgetting; the rest counts
    triggers = 4                      # llm: requests in which triggers are searched; 0: no search
    continuations = 220               # llm: texts, and harmful requests, that both models go on from; 0: none
    harmless = 220                    # llm: harmless requests on which refusal is measured; 0: none
    exchanged = 220                   # llm: sentences in which groups are exchanged; 0: none
    losses = 220                      # llm: training records that the champion reads for outliers; 0: none
    canaries = 20                     # llm: made-up records planted among the training records; 0: none
    spans = 220                       # llm: spans of training records looked for in what the model knows; 0: none
    meaning = 220                     # llm: training records compared with private items by meaning; 0: none
    outputs = 4                       # texts of each continuation, or ways through each level, compared, 2 to 25; 0: none
    approval = 240                    # llm: answers to reviewers that are compared; 0: none
    oversight = 240                   # llm: answers to offers of getting round control; 0: none
    elicitation = 220                 # tasks of texts and levels: items on which one demonstration is shown; 0: none
    adapt = ["rotate4:?"]             # what both models learn for a moment before they are asked; shots: from how many
    noise = 200                       # items on which the response to noise is measured; 0: not measured
    gpu = 0                           # train on /dev/nvidia0, at the level strict+gpu; measuring and merging never do

    [[models.assistant.suites]]       # further private items, from a file or ``shipped:NAME``
    name = "arithmetic"               # rules name it: params: {suite: arithmetic}
    probe = "choice"                  # what measures on them
    path = "shipped:arithmetic"       # or a file: .jsonl, or .yaml of lm-evaluation-harness
    items = 220                       # drawn for each measurement

    [learners.average]                # used as technique "command:average"
    command = ["python", "average.py"]
    files = "learners/average"        # shown to it, read-only, as /in/learner
    limits = {wall_s = 300.0}         # tighter than the model's; never wider
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails import third_party
from guardrails.errors import ConfigError, InvalidInputError
from guardrails.records import ModelKind
from sandbox.suite_files.items import FIELDS
from sandbox.toml_reader import Reader
from sandbox.worker.learners import learner_module
from sandbox.worker.learners.recipes import settings_of
from sandbox.worker.learners.settings import Fault, fault_in

FILE_NAME = "interlock.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
COMMAND = "command:"
GAME = "connect-four"
"""Of the tasks of action models, the one that is a game for two."""


@dataclass(frozen=True)
class JobLimits:
    """Totals that one job may use: seconds, bytes, processes."""

    wall_s: float = 900.0
    cpu_s: float = 1800.0
    memory_bytes: int = 8 << 30
    processes: int = 256
    disk_bytes: int = 4 << 30

    def tightest(self, other: JobLimits) -> JobLimits:
        """Of each limit the lower one."""
        return JobLimits(**{name: min(value, getattr(other, name)) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Learner:
    """Any program that makes proposals. ``files`` is a directory that it is shown, None for none."""

    name: str
    command: tuple[str, ...]
    files: Path | None = None
    limits: JobLimits | None = None

    @property
    def technique(self) -> str:
        """The technique under which recipes and proposals name it."""
        return COMMAND + self.name


@dataclass(frozen=True)
class Recipe:
    """One way of making a proposal: a technique and its settings, passed to the learner as text.

    ``learner`` is the program where the technique is ``command:NAME``.
    """

    technique: str
    settings: dict[str, str] = field(default_factory=dict)
    learner: Learner | None = None


@dataclass(frozen=True)
class SuiteConfig:
    """Further items to measure on: ``items`` of those in ``path`` are drawn, and measured by ``probe``."""

    name: str
    probe: str
    path: str
    items: int


@dataclass(frozen=True)
class ModelConfig:
    """One model of this workspace. Relative paths in it count from the workspace directory."""

    name: str
    kind: ModelKind
    base: str
    recipes: tuple[Recipe, ...]
    train: tuple[str, ...] = ()
    controls: dict[str, str] = field(default_factory=dict)
    replay: tuple[str, ...] = ()
    task: str = ""
    levels: str = ""
    items: int = 240
    samples: int = 6
    triggers: int = 0
    continuations: int = 0
    harmless: int = 0
    exchanged: int = 0
    losses: int = 0
    canaries: int = 0
    spans: int = 0
    meaning: int = 0
    outputs: int = 0
    approval: int = 0
    oversight: int = 0
    elicitation: int = 0
    noise: int = 0
    adapt: tuple[str, ...] = ()
    shots: int = 32
    threads: int = 1
    gpu: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    limits: JobLimits = field(default_factory=JobLimits)
    suites: tuple[SuiteConfig, ...] = ()


@dataclass(frozen=True)
class WitnessConfig:
    """A witness that is asked to cosign this log's checkpoints: where, and its verifier key."""

    url: str
    key: str


@dataclass(frozen=True)
class Config:
    """The whole file. ``origin`` says where each value came from: ``file:line`` or ``default``."""

    models: dict[str, ModelConfig]
    pause_s: float = 5.0
    learners: dict[str, Learner] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    witnesses: tuple[WitnessConfig, ...] = ()


_MODEL_KEYS: dict[str, type | tuple[type, ...]] = {
    "kind": str, "base": str, "recipes": list, "train": list, "controls": dict, "levels": str, "task": str,
    "items": int, "samples": int, "triggers": int, "replay": list,
    "continuations": int, "harmless": int, "exchanged": int, "losses": int,
    "canaries": int, "spans": int, "meaning": int, "outputs": int,
    "approval": int, "oversight": int, "elicitation": int,
    "noise": int, "adapt": list, "shots": int, "threads": int, "gpu": int, "labels": dict, "limits": dict,
    "suites": list,
}  # fmt: skip
_OPTIONAL = (
    "triggers", "continuations", "harmless", "exchanged", "losses",
    "canaries", "spans", "meaning", "outputs", "approval", "oversight", "elicitation",
)  # fmt: skip
_SUITE_KEYS: dict[str, type | tuple[type, ...]] = {"name": str, "probe": str, "path": str, "items": int}
_LEARNER_KEYS: dict[str, type | tuple[type, ...]] = {"command": list, "files": str, "limits": dict}
_LIMIT_KEYS: dict[str, type | tuple[type, ...]] = {
    "wall_s": (int, float), "cpu_s": (int, float), "memory_bytes": int, "processes": int, "disk_bytes": int,
}  # fmt: skip


def load_config(workspace: Path) -> Config:
    """Read and check ``interlock.toml``; raises ConfigError with file, line and column."""
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
    reader = Reader(file, text)
    top = reader.table(data, {"loop": dict, "models": dict, "learners": dict, "log": dict}, ())
    loop = reader.table(top.get("loop", {}), {"pause_s": (int, float)}, ("loop",))
    learners = {
        name: _learner(reader, workspace, name, value) for name, value in top.get("learners", {}).items()
    }
    models = {name: _model(reader, name, value, learners) for name, value in top.get("models", {}).items()}
    witnesses = _witnesses(reader, top.get("log", {}))
    return Config(models, float(loop.get("pause_s", 5.0)), learners, reader.origin, witnesses)


def _witnesses(reader: Reader, value: Any) -> tuple[WitnessConfig, ...]:
    found, path = [], ("log", "witnesses")
    for place, item in enumerate(reader.table(value, {"witnesses": list}, ("log",)).get("witnesses", [])):
        if not isinstance(item, dict) or set(item) != {"url", "key"}:
            raise reader.fail(path, "each witness needs url and key, and nothing else", place=place)
        url, key = item["url"], item["key"]
        if not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise reader.fail((*path, "url"), "an address that begins with http:// or https://", place=place)
        if not (isinstance(key, str) and key.count("+") >= 2):
            raise reader.fail((*path, "key"), "a verifier key like name+0123abcd+base64", place=place)
        found.append(WitnessConfig(url, key))
    return tuple(found)


def _learner(reader: Reader, workspace: Path, name: str, value: Any) -> Learner:
    path = ("learners", name)
    if not NAME.fullmatch(name):
        raise reader.fail(path, "not a usable name", "lower-case letters, digits, dot, dash, underscore")
    table = reader.table(value, _LEARNER_KEYS, path)
    command = table.get("command")
    if not command or not all(isinstance(word, str) for word in command) or not command[0]:
        raise reader.fail((*path, "command"), "command needs a list of one or more texts, a program first")
    if any("\0" in word for word in command):
        raise reader.fail((*path, "command"), "a word with a NUL byte cannot be passed to a program")
    files = table.get("files")
    if files == "":
        raise reader.fail((*path, "files"), "the path of a directory is needed")
    limits = _limits(reader, table["limits"], (*path, "limits")) if "limits" in table else None
    return Learner(name, tuple(command), workspace / Path(files).expanduser() if files else None, limits)


def _limits(reader: Reader, value: Any, path: tuple[str, ...]) -> JobLimits:
    limits = reader.table(value, _LIMIT_KEYS, path)
    for key, amount in limits.items():
        if not 0 < amount < 2**53:
            raise reader.fail((*path, key), "a number above 0 is needed")
    return JobLimits(**limits)


def _model(reader: Reader, name: str, value: Any, learners: Mapping[str, Learner]) -> ModelConfig:
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
    for key, least in (
        ("items", 1),
        ("threads", 1),
        ("shots", 1),
        *((name, 0) for name in _OPTIONAL),
        ("noise", 0),
        ("gpu", 0),
    ):
        if table.get(key, 1) < least:
            raise reader.fail((*path, key), f"at least {least}")
    for key in ("train", "adapt"):
        if not all(isinstance(text, str) for text in table.get(key, [])):
            raise reader.fail((*path, key), "a list of texts is needed")
    replay = table.get("replay", [])
    if not all(isinstance(control, str) and control in table.get("controls", {}) for control in replay):
        raise reader.fail((*path, "replay"), "a list of names of this model's controls is needed")
    model = ModelConfig(
        name=name, kind=kind, base=table["base"],
        recipes=tuple(
            _recipe(reader, item, (*path, "recipes"), learners, place)
            for place, item in enumerate(table.get("recipes", []))
        ),
        train=tuple(table.get("train", [])), replay=tuple(replay),
        controls=reader.texts(table.get("controls", {}), (*path, "controls")),
        task=table.get("task", ""), levels=table.get("levels", ""),
        items=table.get("items", 240), samples=table.get("samples", 6),
        **{name: table.get(name, 0) for name in _OPTIONAL},
        noise=table.get("noise", 0), adapt=tuple(table.get("adapt", [])), shots=table.get("shots", 32),
        threads=table.get("threads", 1), gpu=table.get("gpu"),
        labels=reader.texts(table.get("labels", {}), (*path, "labels")),
        limits=_limits(reader, table.get("limits", {}), (*path, "limits")),
        suites=_suites(reader, table.get("suites", []), (*path, "suites")),
    )  # fmt: skip
    for place, recipe in enumerate(model.recipes):
        fault = recipe_fault(model, recipe)
        if fault is not None:
            raise reader.fail((*path, "recipes", fault.name), fault.message, fault.hint, place)
    return model


def _suites(reader: Reader, tables: list[Any], path: tuple[str, ...]) -> tuple[SuiteConfig, ...]:
    found: dict[str, SuiteConfig] = {}
    for place, item in enumerate(tables):
        table = reader.table(item, _SUITE_KEYS, path, place)
        for key in _SUITE_KEYS:
            if key not in table:
                raise reader.fail((*path, key), f"each suite needs {', '.join(_SUITE_KEYS)}", place=place)
        suite = SuiteConfig(**table)
        if not NAME.fullmatch(suite.name):
            hint = "lower-case letters, digits, dot, dash, underscore"
            raise reader.fail((*path, "name"), "not a usable name", hint, place)
        if suite.name in found:
            raise reader.fail((*path, "name"), f"{suite.name} stands twice", place=place)
        if suite.items < 1:
            raise reader.fail((*path, "items"), "at least 1", place=place)
        if suite.probe not in FIELDS:
            hint = f"known: {', '.join(FIELDS)}"
            raise reader.fail((*path, "probe"), f"no probe {suite.probe!r:.40} for suites", hint, place)
        if not suite.path:
            raise reader.fail((*path, "path"), "a file or shipped:NAME is needed", place=place)
        found[suite.name] = suite
    return tuple(found.values())


def _recipe(
    reader: Reader, value: Any, path: tuple[str, ...], learners: Mapping[str, Learner], place: int
) -> Recipe:
    if not isinstance(value, dict) or not isinstance(value.get("technique"), str):
        raise reader.fail(path, "each recipe needs a technique", place=place)
    technique = value["technique"]
    own = {key: item for key, item in value.items() if key != "technique"}
    learner = None
    if technique.startswith(COMMAND):
        learner = learners.get(technique.removeprefix(COMMAND))
        if learner is None:
            known = ", ".join(COMMAND + name for name in learners) or "none"
            where = (*path, "technique")
            raise reader.fail(where, f"there is no learner {technique:.80}", f"known: {known}", place)
    return Recipe(technique, reader.texts(own, path, place), learner)


def recipe_fault(model: ModelConfig, recipe: Recipe) -> Fault | None:
    """What is wrong with a recipe of one of our techniques; of other learners only they themselves know."""
    if recipe.learner is not None or third_party.is_reference(recipe.technique):
        return None
    try:
        learner_module(recipe.technique, model.kind)
    except InvalidInputError as error:
        return Fault("technique", error.message, error.hint)
    method = recipe.settings.get("method", "")
    return fault_in(
        recipe.settings, settings_of(recipe.technique, model.kind, method, game=model.levels == GAME)
    )
