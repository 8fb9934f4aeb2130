"""Templates of a task, in Jinja's sandbox: the part of the language whose cost follows from the record's length.

Invariants:
- A template reads the record's columns and nothing else: no globals, no attributes of Python.
- What could run for ever or fill the memory is refused before it is compiled: loops within loops, variables, macros,
  products, powers, formats, calls but of a few methods. What is left grows at most ``MAX_GROWTH`` times, stops at
  ``MAX_CHARS``, and loops over records of at most ``MAX_LOOPED``.
- A column that is missing is an error, never an empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guardrails.errors import ConfigError

MAX_CHARS = 1 << 20
MAX_GROWTH = 128
MAX_LOOPED = 1 << 16
"""Characters of a record that a template may loop over: each round may read all of it."""
_EXPRESSIONS = (
    "Add", "And", "Compare", "Concat", "CondExpr", "Const", "Dict", "Div", "FloorDiv", "Getattr", "Getitem", "Keyword",
    "List", "Name", "Neg", "Not", "Operand", "Or", "Pair", "Pos", "Slice", "Sub", "TemplateData", "Test", "Tuple",
)  # fmt: skip
_STATEMENTS = ("Template", "Output", "If", "For")
_FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "join", "last", "length", "list", "lower",
    "replace", "reverse", "round", "sort", "string", "title", "trim", "unique", "upper",
})  # fmt: skip
_METHODS = frozenset({
    "capitalize", "count", "endswith", "find", "get", "index", "items", "keys", "lower", "lstrip", "replace", "rstrip",
    "split", "startswith", "strip", "title", "upper", "values",
})  # fmt: skip
_FAULTS = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, SyntaxError, MemoryError,
)  # fmt: skip

Fail = Callable[[str], ConfigError]


class Templates:
    """Compiles each template once, and renders it on records."""

    def __init__(self) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)  # nosec - text for a model
        self._environment.globals.clear()
        self._compiled: dict[str, tuple[Any, bool]] = {}

    def render(self, source: str, document: Mapping[str, Any], fail: Fail) -> str:
        """The text of a template for a record; raises what ``fail`` makes of the reason."""
        from jinja2 import TemplateError, nodes

        try:
            if source not in self._compiled:
                parsed = self._environment.parse(source)
                _require_bounded(parsed)
                loops = parsed.find(nodes.For) is not None
                self._compiled[source] = self._environment.from_string(source), loops
            template, loops = self._compiled[source]
            if loops and len(repr(document)) > MAX_LOOPED:
                raise ValueError(f"a loop over a record of more than {MAX_LOOPED} characters")
            return _bounded(template, document)
        except (TemplateError, *_FAULTS) as error:
            raise fail(f"{error!s:.160}") from None


def _bounded(template: Any, document: Mapping[str, Any]) -> str:
    parts, length = [], 0
    for part in template.generate(**document):
        length += len(part)
        if length > MAX_CHARS:
            raise ValueError(f"it gives more than {MAX_CHARS} characters")
        parts.append(part)
    return "".join(parts)


def _require_bounded(node: Any, within: bool = False) -> None:
    """Refuse statements whose cost does not follow from the record's length; raises ValueError."""
    from jinja2 import nodes

    kind = type(node).__name__
    if isinstance(node, nodes.Expr):
        growth = _growth(node)
        if growth > MAX_GROWTH:
            raise ValueError(
                f"what it gives may be {growth} times as long as the record, more than {MAX_GROWTH}"
            )
        return
    if kind not in _STATEMENTS:
        raise ValueError(f"{kind} is not supported: only texts, conditions and loops")
    if isinstance(node, nodes.For):
        if within or node.recursive:
            raise ValueError("a loop within a loop is not supported")
        within = True
    for child in node.iter_child_nodes():
        _require_bounded(child, within)


def _growth(node: Any) -> int:
    """How many times a record an expression can at most fill; raises ValueError for what cannot be told."""
    kind = type(node).__name__
    own = 1
    if kind == "Filter":
        own = _factor(node.name, _FILTERS, node)
    elif kind == "Call":
        if type(node.node).__name__ != "Getattr":
            raise ValueError("a call is not supported but of a method")
        own = _factor(node.node.attr, _METHODS, node)
    elif kind not in _EXPRESSIONS:
        raise ValueError(f"{kind} is not supported")
    # One step for each child: a sum of sums is as long as all of them.
    return own * max(1, sum(map(_growth, node.iter_child_nodes())))


def _factor(name: str, known: frozenset[str], node: Any) -> int:
    if name not in known:
        raise ValueError(f"{name} is not supported; supported: {', '.join(sorted(known))}")
    if name not in {"join", "replace"}:
        return 1
    plain: list[Any] = [getattr(argument, "value", None) for argument in node.args]
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not all(isinstance(text, str) for text in plain):
        raise ValueError(f"{name} is supported with written-out texts only")
    return 1 + max((len(text) for text in plain), default=0)
