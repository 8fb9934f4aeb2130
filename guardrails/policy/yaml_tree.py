"""Strict YAML: bytes to plain values, with the line and column of every key and value.

Invariants:
- No bytes whatsoever make this raise: what is wrong comes back as located problems.
- One document, UTF-8, no anchors, aliases, tags or duplicate keys; keys are text.
- What a reader sees is what counts: no characters that reorder text, no invisible ones, and no line breaks
  that editors show as something else, so no comment can hide a key.
- YAML 1.2 scalars: only ``true`` and ``false`` are booleans, only decimal, ``0o`` and ``0x`` are
  numbers; ``on``, ``yes``, ``12:30:00`` and ``1_000`` are text. NaN and infinities are refused.
- Depth, nodes and size are capped before anything recursive runs, so no input takes long.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from guardrails.errors import Problem
from guardrails.policy import advice

MAX_DEPTH = 16
MAX_NODES = 5_000
_LARGEST = 2**53 - 1

Path = tuple[str | int, ...]

_MOST_UNSEEN = 20
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_UNSEEN = re.compile(
    r"\r(?!\n)|[\x85\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_AMBIGUOUS = re.compile(r"[-+]?0[0-9]+")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL, _HEX = re.compile(r"0o[0-7]+"), re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def problem(self, message: str, hint: str = "") -> Problem:
        """A problem at this place."""
        return Problem(self.file, self.line, self.column, message, hint)


@dataclass
class Tree:
    """A document as plain values; ``values`` and ``keys`` give the place of what a path leads to."""

    file: str
    value: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The place of a value; of the nearest thing around it where it is absent."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(self.file, 1, 1))

    def key_place(self, path: Path) -> Place:
        """The place of a key; of its value where the path ends in an index."""
        return self.keys.get(path) or self.place(path)


def parse_tree(file: str, data: bytes) -> Tree:
    """Read one document; problems are in the tree, and its value is None where it is unusable."""
    tree = Tree(file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        tree.problems.append(
            Problem(file, line, column, f"byte 0x{data[error.start]:02x} is not UTF-8", "save as UTF-8")
        )
        return tree
    tree.problems.extend(_unseen(file, text))
    loader: _StrictLoader | None = None
    try:
        loader = _StrictLoader(text, tree)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        tree.problems.append(_syntax_problem(file, text, error))
        return tree
    except Exception as error:
        place = _mark_place(file, loader.get_mark()) if loader else Place(file, 1, 1)
        tree.problems.append(place.problem(f"not YAML: {type(error).__name__}: {error!s:.80}"))
        return tree
    if node is None:
        tree.problems.append(Problem(file, 1, 1, "the file is empty", "a policy is one YAML mapping"))
    else:
        tree.value = _plain(tree, node, ())
    return tree


def _unseen(file: str, text: str) -> list[Problem]:
    """Characters by which a file would say something else than it shows."""
    found = []
    for match in _UNSEEN.finditer(text, 1 if text.startswith("\ufeff") else 0):
        lines = _LINE_BREAK.split(text[: match.start()])
        what = f"U+{ord(match.group()):04X}"
        told = f"character {what} is not allowed: it hides or reorders what a reader sees"
        hint = "remove it" if match.group() != "\r" else "end lines with LF or CR LF"
        found.append(Problem(file, len(lines), len(lines[-1]) + 1, told, hint))
        if len(found) == _MOST_UNSEEN:
            break
    return found


class _StrictLoader(yaml.SafeLoader):
    """The safe loader without anchors, aliases, tags, implicit types or deep nesting."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - every plain scalar stays text here

    def __init__(self, text: str, tree: Tree) -> None:
        self.tree = tree
        self.depth = 0
        self.nodes = 0
        super().__init__(text)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > MAX_DEPTH:
            raise _too_deep(self.get_mark())
        return bool(super().add_indent(column))

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise _too_deep(self.get_mark())
        super().fetch_flow_collection_start(token_class)

    def compose_document(self) -> Any:
        self.get_event()  # type: ignore[no-untyped-call]
        node = self.compose_node(None, None)
        self.get_event()  # type: ignore[no-untyped-call]
        return node

    def get_single_node(self) -> Any:
        self.get_event()  # type: ignore[no-untyped-call]
        node = None if self.check_event(yaml.StreamEndEvent) else self.compose_document()
        if not self.check_event(yaml.StreamEndEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            self._refuse(event.start_mark, "a second document begins here", "one policy a file")
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=event.start_mark)
        if self.depth > MAX_DEPTH:
            raise _too_deep(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self._refuse(event.start_mark, f"alias *{event.anchor:.40}", "write the value out")
            mark: Any = event.start_mark
            return yaml.ScalarNode("", "", mark, mark, style="")
        if event.anchor is not None:
            self._refuse(event.start_mark, f"anchor &{event.anchor:.40}", "write the value out where needed")
            event.anchor = None
        if event.tag is not None:
            self._refuse(event.start_mark, f"tag {event.tag!r:.60}", "leave the tag out")
            event.tag = None
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refuse(self, mark: Any, message: str, hint: str) -> None:
        place = _mark_place(self.tree.file, mark)
        self.tree.problems.append(place.problem(f"{message} is not allowed", hint))


def _too_deep(mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)


def _mark_place(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _syntax_problem(file: str, text: str, error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        character = ord(text[error.position])
        return Problem(file, line, column, f"character U+{character:04X} is not allowed in YAML", "remove it")
    mark, said, hint = advice.syntax(text, error)
    if mark is None:
        return Place(file, 1, 1).problem(f"not YAML: {_printable(said)}", _printable(hint))
    shown = advice.excerpt(text, mark)
    where = f"in {shown}" if shown != "''" else "at the end"
    return _mark_place(file, mark).problem(f"not YAML {where}: {_printable(said)}", _printable(hint))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


# --- nodes to values -----------------------------------------------------------------------


def _plain(tree: Tree, node: yaml.Node, path: Path) -> Any:
    tree.values[path] = _mark_place(tree.file, node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(tree, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(tree, item, (*path, i)) for i, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _mark_place(tree.file, key_node.start_mark)
        key = _key(tree, key_node, place)
        if key is None:
            continue
        if key in result:
            first = tree.keys[(*path, key)]
            tree.problems.append(
                place.problem(f"key {key!r:.60} stands twice", f"the first is in line {first.line}")
            )
            continue
        tree.keys[(*path, key)] = place
        result[key] = _plain(tree, value_node, (*path, key))
    return result


def _key(tree: Tree, node: yaml.Node, place: Place) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        tree.problems.append(place.problem("a key must be text", "a list or mapping cannot be a key"))
        return None
    if not _encodable(node.value):
        tree.problems.append(place.problem("a key holds a lone surrogate", "remove the escape"))
        return None
    return str(node.value)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _scalar(tree: Tree, node: yaml.ScalarNode, path: Path) -> Any:
    text: str = node.value
    place = tree.values[path]
    if not _encodable(text):
        tree.problems.append(place.problem("text holds a lone surrogate", "remove the escape"))
        return ""
    if node.style is not None:
        return text
    if _NULL.fullmatch(text):
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    return _number(tree, text, place)


def _number(tree: Tree, text: str, place: Place) -> Any:
    """A number, or the text itself where it is not one."""
    value: int | float
    if _AMBIGUOUS.fullmatch(text):
        told, hint = (
            f"{text:.40} is octal to some readers and decimal to others",
            f"write {text.lstrip('+-0') or '0':.40}",
        )
        tree.problems.append(place.problem(told, f"{hint}, or put it in quotes"))
        return 0
    if _NOT_FINITE.fullmatch(text):
        value = math.nan
    elif _FLOAT.fullmatch(text):
        # A literal too long for an exact integer is judged by its size as a float.
        short = _INTEGER.fullmatch(text) and len(text) <= 17
        value = int(text) if short else float(text)
    elif _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        value = int(text[2:], 8 if text[1] == "o" else 16) if len(text) <= 20 else math.inf
    else:
        return text
    if not math.isfinite(value) or abs(value) > _LARGEST:
        tree.problems.append(place.problem(f"{text:.40} is not a finite number of usable size"))
        return 0
    return value
