"""``when``: a CEL expression over the known facts that says whether a rule applies.

Invariants:
- Every name is checked before anything runs: CEL itself finds a misspelt name only if it happens to
  evaluate it, and ``misspelt || true`` would hide it for ever.
- No growth and no deep loops: length, nesting and the functions are bounded, so evaluation takes
  microseconds. The engine below would crash the process on very long input; it never sees any.
- The outcome is True, False, or an error that the caller must treat as one: never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from guardrails.errors import NotMeasuredError
from guardrails.policy.advice import plainly
from guardrails.policy.facts import FACTS

MAX_LENGTH = 500
MAX_LOOPS = 2

_FUNCTIONS = frozenset({"size", "contains", "startsWith", "endsWith", "matches", "has", "string", "int"})
_LOOPS = frozenset({"all", "exists", "exists_one"})
_INSTEAD = {
    "=": "compare with ==", "&": "write &&", "|": "write ||", "and": "write &&", "or": "write ||", "not": "write !",
    "\u201c": "ordinary quotes", "\u201d": "ordinary quotes", "\u2018": "ordinary quotes", "\u2019": "ordinary quotes",
}  # fmt: skip
_WORDS = frozenset({"true", "false", "null", "in"})
_ROOTS = frozenset(name.split(".")[0] for name in FACTS)
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
      | (?P<number>(?:[0-9]+\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?u?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Flaw:
    """What is wrong with an expression; ``offset`` counts characters from 0."""

    offset: int
    message: str
    hint: str = ""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    offset: int


def flaws(expression: str) -> list[Flaw]:
    """Everything that can be known to be wrong before the expression runs; empty if usable."""
    if len(expression) > MAX_LENGTH:
        return [Flaw(0, f"longer than {MAX_LENGTH} characters", "split the rule")]
    tokens = _tokens(expression)
    found = [
        Flaw(t.offset, f"{t.text!r} has no meaning here", _INSTEAD.get(t.text, ""))
        for t in tokens
        if t.kind == "other"
    ]
    found.extend(_name_flaws(tokens))
    if not found:
        try:
            _program(expression)
        except NotMeasuredError as error:
            found.append(Flaw(0, error.message))
    return found


def _tokens(expression: str) -> list[_Token]:
    return [
        _Token(str(match.lastgroup), match.group(), match.start())
        for match in _TOKEN.finditer(expression)
        if match.lastgroup != "space"
    ]


def holds(expression: str, facts: Mapping[str, Any]) -> bool:
    """Whether the expression is true of the facts; raises NotMeasuredError if that has no answer."""
    problem, names = _reads(expression)
    if problem:
        raise NotMeasuredError(f"'when' is not usable: {problem}")
    values = []
    for name in names:
        root, member = name.split(".")
        if member in facts.get(root, {}):
            value = facts[root][member]
            values.append((root, member, tuple(sorted(value.items())) if isinstance(value, dict) else value))
    return _outcome(expression, tuple(values))


def facts_read(expression: str) -> tuple[str, ...]:
    """The facts that a usable expression reads; what is not among them cannot change its outcome."""
    return _reads(expression)[1]


@lru_cache(maxsize=512)
def _reads(expression: str) -> tuple[str, tuple[str, ...]]:
    """What is wrong with an expression ("" if nothing), and the facts that it reads."""
    problems = flaws(expression)
    if problems:
        return problems[0].message, ()
    tokens = _tokens(expression)
    names = set()
    for i, token in enumerate(tokens):
        if token.kind == "name" and token.text in _ROOTS and (i == 0 or tokens[i - 1].text != "."):
            names.add(f"{token.text}.{_member(tokens[i + 1 : i + 4])[0]}")
    return "", tuple(sorted(names & set(FACTS)))


@lru_cache(maxsize=4096)
def _outcome(expression: str, values: tuple[tuple[str, str, Any], ...]) -> bool:
    """Pure: the same expression of the same facts, evaluated once."""
    facts: dict[str, dict[str, Any]] = {}
    for root, member, value in values:
        facts.setdefault(root, {})[member] = dict(value) if isinstance(value, tuple) else value
    result = _guarded(lambda: _program(expression).execute(facts), "cannot be evaluated")
    if not isinstance(result, bool):
        raise NotMeasuredError(f"'when' gives {type(result).__name__} {result!r:.40}, not true or false")
    return result


@lru_cache(maxsize=512)
def _program(expression: str) -> Any:
    import cel  # late: it brings a command line with it that most commands never need

    return _guarded(lambda: cel.compile(expression), "is not CEL")


def _guarded(run: Any, what: str) -> Any:
    try:
        return run()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the engine is not an Exception
        said = " ".join(str(error).split())
        raise NotMeasuredError(f"'when' {what}: {type(error).__name__}: {said:.160}") from None


# --- names ---------------------------------------------------------------------------------


def _name_flaws(tokens: list[_Token]) -> Iterator[Flaw]:
    bound: list[tuple[str, int]] = []  # loop variables, with the parenthesis depth that ends them
    depth = 0
    for i, token in enumerate(tokens):
        before = tokens[i - 1].text if i else ""
        after = tokens[i + 1].text if i + 1 < len(tokens) else ""
        if token.text == "." and (i == 0 or not _can_have_members(tokens[i - 1])):
            yield Flaw(token.offset, "'.' follows nothing", "write a fact as model.kind, a number as 0.5")
        elif token.text == "(" and token.kind == "sign":
            depth += 1
        elif token.text == ")" and token.kind == "sign":
            bound = [entry for entry in bound if entry[1] < depth]
            depth -= 1
        elif token.kind == "name" and after == "(":
            yield from _function_flaws(token, before == ".")
            if token.text in _LOOPS and i + 2 < len(tokens):
                bound.append((tokens[i + 2].text, depth + 1))
                if len(bound) > MAX_LOOPS:
                    yield Flaw(token.offset, f"more than {MAX_LOOPS} loops inside each other")
        elif token.kind == "name" and before != "." and token.text not in _WORDS | {n for n, _ in bound}:
            yield from _fact_flaws(tokens, i)


def _can_have_members(token: _Token) -> bool:
    return token.kind in {"name", "text"} or token.text in {")", "]", "}"}


def _function_flaws(token: _Token, is_method: bool) -> Iterator[Flaw]:
    known = _FUNCTIONS | _LOOPS
    if token.text not in known or (token.text in _LOOPS and not is_method):
        yield Flaw(token.offset, f"unknown function '{token.text}'", nearest(token.text, sorted(known)))


def _fact_flaws(tokens: list[_Token], i: int) -> Iterator[Flaw]:
    root = tokens[i]
    if root.text not in _ROOTS:
        known = f"known: {', '.join(FACTS)}"
        # A bare word beside a comparison is most likely a text without its quotes.
        otherwise = f'if it is a text: "{root.text}"; {known}' if _is_compared(tokens, i) else known
        hint = _INSTEAD.get(root.text) or nearest(root.text, sorted(_ROOTS), otherwise)
        yield Flaw(root.offset, f"unknown name '{root.text}'", hint)
        return
    member, used = _member(tokens[i + 1 : i + 4])
    if not member:
        yield Flaw(root.offset, f"'{root.text}' alone is not a fact", f"name one: {_members(root.text)}")
        return
    name = f"{root.text}.{member}"
    if name not in FACTS:
        yield Flaw(root.offset, f"unknown fact '{name}'", nearest(name, sorted(FACTS)))
        return
    further, length = _member(tokens[i + 1 + used : i + 4 + used])
    called = "".join(t.text for t in tokens[i + 1 + used + length : i + 2 + used + length]) == "("
    if further and name != "model.labels" and not called:
        yield Flaw(root.offset, f"unknown fact '{name}.{further}'", f"{name} is {FACTS[name]}")


def _is_compared(tokens: list[_Token], i: int) -> bool:
    beside = [tokens[at].text for at in (i - 1, i + 1) if 0 <= at < len(tokens)]
    return any(text in ("==", "!=", "in") for text in beside)


def _member(tokens: list[_Token]) -> tuple[str, int]:
    """The member named by ``.name`` or ``["name"]``, and how many tokens that took."""
    if len(tokens) >= 2 and tokens[0].text == "." and tokens[1].kind == "name":
        return tokens[1].text, 2
    if len(tokens) >= 3 and tokens[0].text == "[" and tokens[1].kind == "text" and tokens[2].text == "]":
        return tokens[1].text.lstrip("rR").strip("\"'"), 3
    return "", 0


def _members(root: str) -> str:
    return ", ".join(name for name in FACTS if name.startswith(f"{root}."))


def nearest(name: str, known: list[str], otherwise: str = "") -> str:
    """A hint: the known name most like this one, or all of them."""
    close = nearest_name(name, known)
    return f"did you mean '{close}'?" if close else otherwise or f"known: {', '.join(known)}"


def nearest_name(name: str, known: list[str]) -> str:
    """The known name most like this one; "" where none is."""
    for word in (name[:80], plainly(name)):
        if word in known and word != name:
            return word
        close = get_close_matches(word, known, n=1, cutoff=0.6)
        folded = [one for one in known if word and one.lower().startswith(word.lower())]
        if close or folded:
            return (close or folded)[0]
    return ""
