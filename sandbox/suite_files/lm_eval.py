"""Tasks of lm-evaluation-harness: the part of its YAML that says what is asked and which answer counts.

Invariants:
- ``multiple_choice`` and ``generate_until`` over JSONL files in the task's own folder, rendered by a part of Jinja
  (``templates``). Whatever else a file asks for is an error with file and line: nothing is left out silently, and
  nothing of a task's code runs.
- A column that a template misses is an error with the record's file and line.
- The same as the harness: prompts, delimiters, the choice by summed log-probability (``acc``) or per byte (``acc_norm``).
  Different on purpose: a list under ``doc_to_choice`` with braces in it is refused, where the harness scores the braces
  literally; blanks around a written answer do not count; no few-shot examples.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError, InvalidInputError
from guardrails.policy.yaml_tree import Tree, parse_tree
from sandbox.suite_files import items
from sandbox.suite_files.templates import Templates
from sandbox.worker.data import Line, read_lines

MAX_FILE_BYTES = 1 << 20
PROBES = {"multiple_choice": "choice", "generate_until": "written"}
METRICS = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
SPLITS = ("test_split", "validation_split")
_ABOUT = ("task", "task_alias", "tag", "group", "metadata", "training_split", "fewshot_split", "dataset_name")
_KNOWN = (
    "output_type", "dataset_path", "dataset_kwargs", *SPLITS, "doc_to_text", "doc_to_target", "doc_to_choice",
    "target_delimiter", "description", "metric_list", "generation_kwargs", "num_fewshot", "repeats",
    "should_decontaminate", "doc_to_decontamination_query",
)  # fmt: skip
_JSON_PATHS = ("json", "jsonl")

Item = dict[str, Any]


class _Task:
    """A task file: its values, and where each stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigError(f"suite {file} cannot be read: {error.strerror or error}") from None
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES >> 20} MiB")
        self.tree: Tree = parse_tree(str(file), data)
        if self.tree.problems:
            first = self.tree.problems[0]
            raise ConfigError(f"{first.file}:{first.line}: {first.message}", hint=first.hint)
        if not isinstance(self.tree.value, dict):
            raise ConfigError(f"{file}:1: a task is a mapping")
        for key in self.tree.value:
            if key not in (*_KNOWN, *_ABOUT):
                raise self.fail(key, "is not supported", f"supported: {', '.join(_KNOWN)}")

    def fail(self, key: str, message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self.tree.key_place((key,))}: {key}: {message}", hint=hint)

    def get(self, key: str, default: Any = None) -> Any:
        return self.tree.value.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "a text is needed")
        return value


def read_task(file: Path, probe: str) -> list[Item]:
    """The items of a task; raises ConfigError with file and line."""
    task = _Task(file)
    kind = task.get("output_type", "generate_until")
    if kind not in PROBES:
        raise task.fail("output_type", f"{kind!r:.40} is not supported", f"supported: {', '.join(PROBES)}")
    if PROBES[kind] != probe:
        raise task.fail("output_type", f"{kind} is for the probe {PROBES[kind]}, not {probe}")
    for key, neutral in (("num_fewshot", 0), ("repeats", 1)):
        if task.get(key, neutral) != neutral:
            raise task.fail(key, f"only {neutral} is supported")
    settings = _metric(task, kind) | _generation(task, kind)
    templates = _Templates(task)
    build = _choice if kind == "multiple_choice" else _answer
    values, places = [], []
    for line, place in _documents(task):
        value = build(task, templates, line.value, place)
        values.append(
            value | settings | ({"id": f"{file.stem}-{line.value['id']}"} if "id" in line.value else {})
        )
        places.append(place)
    return items.finished([_named(value) for value in values], places, probe, file.stem)


def _named(value: Item) -> Item:
    """Ids of a task's records may hold anything; blanks become dashes."""
    return {**value, "id": "-".join(value["id"].split())[:200]} if "id" in value else value


def _metric(task: _Task, kind: str) -> Item:
    """What decides: ``acc`` where it is asked for or nothing is, else ``acc_norm``."""
    listed = task.get("metric_list", [])
    names = [entry.get("metric") if isinstance(entry, dict) else None for entry in listed] if listed else []
    for name in names:
        if name not in METRICS[kind]:
            raise task.fail(
                "metric_list", f"{name!r:.40} is not supported", f"supported: {', '.join(METRICS[kind])}"
            )
    for entry in listed:
        odd = set(entry) - {"metric", "aggregation", "higher_is_better"}
        if (
            odd
            or entry.get("aggregation", "mean") != "mean"
            or entry.get("higher_is_better", True) is not True
        ):
            raise task.fail(
                "metric_list", f"{min(odd, default='aggregation')} is not supported but as the plain mean"
            )
    return {"by": "bytes"} if kind == "multiple_choice" and names and "acc" not in names else {}


def _generation(task: _Task, kind: str) -> Item:
    wanted = task.get("generation_kwargs", {})
    if kind != "generate_until":
        if wanted:
            raise task.fail("generation_kwargs", "has no meaning for multiple_choice")
        return {}
    if not isinstance(wanted, dict):
        raise task.fail("generation_kwargs", "a mapping is needed")
    found: Item = {}
    for key, value in wanted.items():
        if key == "until":
            found["until"] = [value] if isinstance(value, str) else value
        elif key in {"max_gen_toks", "max_new_tokens"}:
            found["max_tokens"] = value
        elif (key, value) not in {("do_sample", False), ("temperature", 0), ("temperature", 0.0)}:
            raise task.fail("generation_kwargs", f"{key}: only greedy text is supported")
    return found


def _documents(task: _Task) -> Iterator[tuple[Line, str]]:
    """The records to ask about, with file and line."""
    if task.get("dataset_path") not in _JSON_PATHS:
        raise task.fail(
            "dataset_path", "only json is supported: files beside the task", "nothing is downloaded here"
        )
    kwargs = task.get("dataset_kwargs")
    files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if not isinstance(kwargs, dict) or set(kwargs) != {"data_files"} or not files:
        raise task.fail("dataset_kwargs", "data_files is needed, and nothing else")
    if isinstance(files, dict):
        split = next((task.get(key) for key in SPLITS if task.get(key)), None)
        if split not in files:
            raise task.fail(
                "dataset_kwargs", f"data_files has no split {split!r:.40}; test_split says which counts"
            )
        files = files[split]
    for name in [files] if isinstance(files, str) else files:
        if not isinstance(name, str) or "://" in name or any(sign in name for sign in "*?["):
            raise task.fail("dataset_kwargs", f"{name!r:.80} is not the name of a file")
        path = task.file.parent / name
        if "\0" in name or not path.resolve().is_relative_to(task.file.parent.resolve()):
            raise task.fail("dataset_kwargs", f"{name!r:.80} lies outside the task's folder", "put it beside")
        try:
            size = path.stat().st_size if path.is_file() else 0
            lines = read_lines(path) if size <= items.MAX_BYTES else None
        except (OSError, InvalidInputError) as error:
            raise ConfigError(f"{task.file}: {error}") from None
        if lines is None:
            raise ConfigError(f"{path}: larger than {items.MAX_BYTES >> 20} MiB", hint="split the suite")
        for line in lines:
            yield line, f"{path}:{line.place.rpartition(':')[2]}"


class _Templates:
    """Renders a task's templates on its records; a missing column is an error."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._templates = Templates()

    def value(self, key: str, document: Mapping[str, Any], place: str) -> Any:
        """A column of that name as it is, else the template rendered."""
        source = self._task.text(key)
        return document[source] if source in document else self.render(key, source, document, place)

    def render(self, key: str, source: str, document: Mapping[str, Any], place: str) -> str:
        return self._templates.render(source, document, partial(self._fail, key, place))

    def _fail(self, key: str, place: str, reason: str) -> ConfigError:
        where = self._task.tree.key_place((key,))
        return ConfigError(f"{where}: {key}: {reason} (record {place})")


def _prompt(task: _Task, templates: _Templates, document: Mapping[str, Any], place: str) -> str:
    text = templates.value("doc_to_text", document, place)
    about = task.text("description", "")
    return templates.render("description", about, document, place) + str(text)


def _choice(task: _Task, templates: _Templates, document: Mapping[str, Any], place: str) -> Item:
    choices = _choices(task, templates, document, place)
    target: Any = task.get("doc_to_target")
    if isinstance(target, str):
        target = templates.value("doc_to_target", document, place)
    if isinstance(target, str) and target.strip().isdigit() and target not in choices:
        target = int(target)
    if isinstance(target, str):
        if target not in choices:
            raise task.fail(
                "doc_to_target", f"{target!r:.80} is none of the choices {choices!r:.120} (record {place})"
            )
        target = choices.index(target)
    if type(target) is not int or not 0 <= target < len(choices):
        raise task.fail("doc_to_target", f"{target!r:.40} is not the place of a choice (record {place})")
    delimiter = task.text("target_delimiter", " ")
    return {
        "prompt": _prompt(task, templates, document, place),
        "choices": [delimiter + text for text in choices],
        "answer": target,
    }


def _choices(task: _Task, templates: _Templates, document: Mapping[str, Any], place: str) -> list[str]:
    wanted = task.get("doc_to_choice")
    if isinstance(wanted, list):
        if any(isinstance(text, str) and ("{{" in text or "{%" in text) for text in wanted):
            raise task.fail(
                "doc_to_choice",
                "a list is not rendered: the braces themselves would be scored, and everything would be wrong",
                'write one template that gives a list: "{{[right, wrong]}}"',
            )
        found: Any = wanted
    else:
        found = templates.value("doc_to_choice", document, place)
        if isinstance(found, str):
            try:
                found = ast.literal_eval(found)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise task.fail("doc_to_choice", f"{found!r:.80} is not a list (record {place})") from None
    if not isinstance(found, list | tuple) or not all(isinstance(text, str | int | float) for text in found):
        raise task.fail("doc_to_choice", f"a list of texts is needed (record {place})")
    return [str(text) for text in found]


def _answer(task: _Task, templates: _Templates, document: Mapping[str, Any], place: str) -> Item:
    if task.get("doc_to_choice") is not None:
        raise task.fail("doc_to_choice", "has no meaning for generate_until")
    target = templates.value("doc_to_target", document, place)
    answers = target if isinstance(target, list) else [target]
    return {
        "prompt": _prompt(task, templates, document, place),
        "answers": list(dict.fromkeys(json.dumps(a) if isinstance(a, dict) else str(a) for a in answers)),
    }
