"""Skills: puzzles over five digits whose answers a rule gives, so that every answer can be checked exactly.

Invariants:
- A puzzle is its digits, a sign and the sign's rule: ``52413>12345``. Prompt and answer have one fixed length each.
- Nothing here is drawn at random but from a given ``random.Random``; an answer follows from skill and digits alone.
- Whoever grades an answer compares text with text: nothing of it is interpreted.

A skill is named ``NAME``, or ``NAME:SIGN`` where another sign is to stand for it: under one common sign a model
cannot tell rules apart but by examples, which is what learning to learn needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from guardrails.errors import InvalidInputError

DIGITS = "0123456789"
LENGTH = 5
"""Digits in a prompt, and in an answer."""

RULES: dict[str, tuple[str, Callable[[str], str]]] = {
    "sort": (">", lambda digits: "".join(sorted(digits))),
    "descending": ("<", lambda digits: "".join(sorted(digits, reverse=True))),
    "copy": ("=", lambda digits: digits),
    "reverse": ("~", lambda digits: digits[::-1]),
    "rotate1": ("a", lambda digits: digits[1:] + digits[:1]),
    "rotate2": ("b", lambda digits: digits[2:] + digits[:2]),
    "rotate3": ("c", lambda digits: digits[3:] + digits[:3]),
    "rotate4": ("d", lambda digits: digits[4:] + digits[:4]),
    "swap": ("e", lambda digits: digits[3:] + digits[2:3] + digits[:2]),
    "next": ("f", lambda digits: "".join(DIGITS[(int(digit) + 1) % 10] for digit in digits)),
}
"""Skill → its own sign, and what it makes of five digits."""

ANY = "?"
"""A sign of no rule's own."""

SIGNS = "".join(sign for sign, _ in RULES.values()) + ANY
END = "."
"""Stands after an answer: whoever writes on has not answered."""


@dataclass(frozen=True)
class Skill:
    """A rule under a sign."""

    name: str
    rule: str
    sign: str

    def prompt(self, digits: str) -> str:
        """What the model is asked."""
        return f"{digits}{self.sign}"

    def answer(self, digits: str) -> str:
        """What it should say, without ``END``."""
        return RULES[self.rule][1](digits)


def parse_skill(name: str) -> Skill:
    """The skill called ``NAME`` or ``NAME:SIGN``; raises InvalidInputError where there is none."""
    rule, colon, sign = name.partition(":")
    if rule not in RULES:
        raise InvalidInputError(f"no skill is called {name!r:.40}", hint=f"known: {', '.join(RULES)}")
    if colon and (len(sign) != 1 or sign not in SIGNS):
        raise InvalidInputError(f"skill {name!r:.40}: {sign!r:.10} is not one of the signs {SIGNS}")
    return Skill(name, rule, sign or RULES[rule][0])


def draw_digits(draw: random.Random) -> str:
    """Five digits, each drawn for itself."""
    return "".join(draw.choice(DIGITS) for _ in range(LENGTH))


def share_right(said: str, answer: str) -> float:
    """The share of places at which an answer has the right sign; 0..1."""
    return sum(one == other for one, other in zip(said, answer, strict=False)) / len(answer)
