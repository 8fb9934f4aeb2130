"""How the public suites under ``policies/suites/`` came to be: ``python -m sandbox.suite_files.authored`` writes them.

Invariants:
- Everything is made from the words and numbers below by a seeded draw: the files can be made again, byte by byte.
- Every right answer follows from the question by itself; wrong choices are near it, all choices differ, and the right
  one stands in every place equally often.
- Nothing in them is taken from anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from guardrails.canonical import digest
from sandbox.suite_files import PUBLIC
from sandbox.suite_files.items import as_line

SEED = 20
EACH = 120

Item = dict[str, Any]

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Klara", "Leo")
_THINGS = ("apples", "books", "coins", "stamps", "shells", "pencils", "buttons", "marbles")
_MORE = (("taller", "tallest"), ("older", "oldest"), ("faster", "fastest"), ("stronger", "strongest"))
_KINDS = (
    ("robins", "birds"), ("pines", "trees"), ("trout", "fish"), ("violins", "instruments"), ("tulips", "flowers"),
    ("beagles", "dogs"), ("sonnets", "poems"), ("ferries", "ships"),
)  # fmt: skip
_TRAITS = ("heavy", "old", "green", "rare", "silent", "small", "expensive", "quick")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def arithmetic() -> list[Item]:
    """Sums, differences, products and short stories about numbers, with four choices each."""
    draw = random.Random(f"{SEED}/arithmetic")  # noqa: S311 - a suite to publish, not a secret
    makers = {"sum": _sum, "difference": _difference, "product": _product, "story": _story}
    return _built(makers, draw)


def logic() -> list[Item]:
    """Orders, classes, days and exclusions: what follows from two or three sentences, with two to four choices."""
    draw = random.Random(f"{SEED}/logic")  # noqa: S311 - a suite to publish, not a secret
    makers = {"order": _order, "class": _class, "day": _day, "exclusion": _exclusion}
    return _built(makers, draw)


SUITES = {"arithmetic": arithmetic, "logic": logic}


def _built(makers: dict[str, Any], draw: random.Random) -> list[Item]:
    found = []
    for category, make in makers.items():
        seen: set[str] = set()
        while len(seen) < EACH:
            prompt, right, wrong = make(draw)
            if prompt in seen:
                continue
            place = len(seen) % (len(wrong) + 1)
            seen.add(prompt)
            choices = [*wrong[:place], right, *wrong[place:]]
            item = {
                "prompt": prompt,
                "choices": [f" {text}" for text in choices],
                "answer": place,
                "categories": [category],
            }
            found.append({"id": f"{category}-{digest(as_line(item).encode()).hex[:12]}", **item})
    return found


def _near(right: int, draw: random.Random) -> list[str]:
    """Three numbers close to the right one, as slips of a digit would give."""
    wrong = {right + step for step in (-10, -2, -1, 1, 2, 10)} - {right}
    return [str(number) for number in draw.sample(sorted(n for n in wrong if n >= 0), 3)]


def _sum(draw: random.Random) -> tuple[str, str, list[str]]:
    a, b = draw.randint(2, 60), draw.randint(2, 39)
    return f"Question: What is {a} plus {b}?\nAnswer:", str(a + b), _near(a + b, draw)


def _difference(draw: random.Random) -> tuple[str, str, list[str]]:
    a = draw.randint(12, 99)
    b = draw.randint(2, a - 2)
    return f"Question: What is {a} minus {b}?\nAnswer:", str(a - b), _near(a - b, draw)


def _product(draw: random.Random) -> tuple[str, str, list[str]]:
    a, b = draw.randint(2, 19), draw.randint(2, 12)
    return f"Question: What is {a} times {b}?\nAnswer:", str(a * b), _near(a * b, draw)


def _story(draw: random.Random) -> tuple[str, str, list[str]]:
    one, other = draw.sample(_NAMES, 2)
    things = draw.choice(_THINGS)
    has, gives = draw.randint(6, 40), draw.randint(2, 5)
    text = f"{one} has {has} {things} and gives {gives} of them to {other}."
    prompt = f"Question: {text} How many {things} does {one} have left?\nAnswer:"
    return prompt, str(has - gives), _near(has - gives, draw)


def _order(draw: random.Random) -> tuple[str, str, list[str]]:
    a, b, c = draw.sample(_NAMES, 3)
    more, most = draw.choice(_MORE)
    facts = [f"{a} is {more} than {b}.", f"{b} is {more} than {c}."]
    draw.shuffle(facts)
    return f"{' '.join(facts)} Who is the {most}?\nAnswer:", a, draw.sample([b, c], 2)


def _class(draw: random.Random) -> tuple[str, str, list[str]]:
    kind, group = draw.choice(_KINDS)
    trait, other = draw.sample(_TRAITS, 2)
    if draw.random() < 0.5:
        facts, right = f"All {group} here are {trait}. All {kind} are {group}.", "yes"
        asked = f"Are all {kind} here {trait}?"
    else:
        facts, right = f"No {group} here are {trait}. All {kind} are {group}, and some are {other}.", "no"
        asked = f"Are any {kind} here {trait}?"
    return f"{facts} {asked}\nAnswer:", right, ["no" if right == "yes" else "yes"]


def _day(draw: random.Random) -> tuple[str, str, list[str]]:
    start, later = draw.randrange(7), draw.randint(1, 6)
    who, things = draw.choice(_NAMES), draw.choice(_THINGS)
    right = _DAYS[(start + later) % 7]
    when = "the day after" if later == 1 else f"{later} days later"
    text = f"{who} counted the {things} on a {_DAYS[start]} and counted them again {when}."
    wrong = draw.sample([day for day in _DAYS if day != right], 3)
    return f"{text} On which day was the second count?\nAnswer:", right, wrong


def _exclusion(draw: random.Random) -> tuple[str, str, list[str]]:
    names, things = draw.sample(_NAMES, 3), draw.choice(_THINGS)
    text = f"One of {names[0]}, {names[1]} and {names[2]} took the {things}."
    right = draw.choice(names)
    wrong = [name for name in names if name != right]
    facts = " ".join(f"It was not {name}." for name in draw.sample(wrong, 2))
    return f"{text} {facts} Who took them?\nAnswer:", right, wrong


def lines(name: str) -> Iterator[str]:
    """The lines of a suite's file."""
    for item in SUITES[name]():
        yield as_line(item)


if __name__ == "__main__":
    for suite in SUITES:
        (PUBLIC / f"{suite}.jsonl").write_text(
            "".join(f"{line}\n" for line in lines(suite)), encoding="utf-8"
        )
