"""Settings of a recipe: the default of each, and what it may be.

Invariants:
- One table decides where interlock.toml is read, on the command line and in the learner's job: a value that a learner
  cannot be given is refused before a job starts.
- A number that is not finite is never allowed, for every number has a least and a most.
- Nothing that computes is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guardrails.errors import InvalidInputError

MANY = 1_000_000
"""The most of anything that is counted: whatever is more is a slip of the pen."""


@dataclass(frozen=True)
class Setting:
    """One setting: its default, whose type is its type, and its range or its words.

    ``above`` and ``below``: ``least`` or ``most`` itself is not allowed. A text without ``words``
    may be any but an empty one.
    """

    default: int | float | str
    least: float = 0.0
    most: float = 0.0
    above: bool = False
    below: bool = False
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if self.words:
            return f"one of {', '.join(self.words)}"
        if isinstance(self.default, str):
            return "a text"
        if isinstance(self.default, int):
            return f"a whole number from {self.least:g} to {self.most:.0f}"
        if self.above:
            return f"a number above {self.least:g} and at most {self.most:g}"
        return f"a number from {self.least:g} {'and below' if self.below else 'to'} {self.most:g}"

    def read(self, text: str) -> int | float | str:
        """The value that a text says; raises ValueError where it is not allowed."""
        value = type(self.default)(text)
        if isinstance(value, str):
            fits = value in self.words if self.words else bool(value.strip())
        else:
            low = self.least < value if self.above else self.least <= value
            fits = low and (value < self.most if self.below else value <= self.most)
        if not fits:
            raise ValueError(text)
        return value


Settings = Mapping[str, Setting]


def count(default: int, least: int = 1, most: int = MANY) -> Setting:
    """So many of something."""
    return Setting(default, least, most)


def number(default: float, most: float, least: float = 0.0) -> Setting:
    """A number of which the least is allowed."""
    return Setting(default, least, most)


def positive(default: float, most: float) -> Setting:
    """A number above zero."""
    return Setting(default, 0.0, most, above=True)


def share(default: float) -> Setting:
    """A number from 0 to 1."""
    return Setting(default, 0.0, 1.0)


def word(default: str, *others: str) -> Setting:
    """One of some words."""
    return Setting(default, words=(default, *others))


@dataclass(frozen=True)
class Fault:
    """What is wrong with one setting of a recipe, and what to do."""

    name: str
    message: str
    hint: str


def fault_in(recipe: Mapping[str, str], settings: Settings) -> Fault | None:
    """The first thing that is wrong with a recipe; None where nothing is."""
    for name, setting in settings.items():
        try:
            if name in recipe:
                setting.read(recipe[name])
        except ValueError:
            said = f"must be {setting.allowed}, not {recipe[name]!r:.60}"
            return Fault(name, said, f"unless {name} is said, it is {setting.default}")
    for name in recipe:
        if name not in settings:
            near = difflib.get_close_matches(name, list(settings), 1)
            known = f"known: {', '.join(sorted(settings))}"
            return Fault(name, "unknown key", f"did you mean {near[0]}? {known}" if near else known)
    return None


def read_recipe(recipe: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """The recipe with every default filled in, each value of its setting's type.

    Raises:
        InvalidInputError: a key is none of the settings, or a value is not allowed.
    """
    fault = fault_in(recipe, settings)
    if fault is not None:
        raise InvalidInputError(f"recipe: {fault.name}: {fault.message}", hint=fault.hint)
    defaults = {name: setting.default for name, setting in settings.items()}
    return defaults | {name: settings[name].read(text) for name, text in recipe.items()}
