"""Records that repeat an evaluation item word by word.

Invariants: what a record repeats is told by the item's name and by which of the record's words, never by the item's text.
Other words for the same are ``records_meaning``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandbox.worker.data import Line, words
from sandbox.worker.probes import Item

RUN = 13  # words in a row that a record shares with an evaluation item to count as overlap
SHORT_RUN = 8  # the shortest item that can be recognised; shorter ones are common phrases


def overlapping(lines: Sequence[Line], items: Sequence[Item]) -> list[Line]:
    """Records that share a run of words with an evaluation item, hold a short one whole, or are its very question."""
    known = Overlap(items)
    return [line for line in lines if known.where(line)]


class Overlap:
    """What a record must not repeat: the questions of items, and their runs of words, each with the item it is of.

    Questions that have an answer are compared whole, alone and with it in words, however short they are: a question of
    one word is still the question.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._asked: dict[str, str] = {}
        self._answered: dict[tuple[str, ...], str] = {}
        self._runs: dict[int, dict[str, str]] = {}
        for item in items:
            prompt, answers, name = item.get("prompt"), item.get("answers"), str(item.get("id"))
            if isinstance(prompt, str) and isinstance(answers, list):
                self._asked.setdefault(prompt, name)
                for answer in answers:
                    self._answered.setdefault(tuple(words(f"{prompt}{answer}")), name)
            for text in (item.get("text"), prompt):
                spoken = words(text) if isinstance(text, str) else []
                length = min(RUN, len(spoken))
                if length >= SHORT_RUN:
                    known = self._runs.setdefault(length, {})
                    for run in runs(spoken, length):
                        known.setdefault(run, name)
        self._answered.pop((), None)

    def where(self, line: Line) -> str:
        """Which item a record repeats, and in which of its words; empty where it repeats none."""
        prompt, spoken = line.value.get("prompt"), words(line.text)
        if str(prompt) in self._asked:
            return f"the question of item {self._asked[str(prompt)]}"
        if tuple(spoken) in self._answered:
            return f"the question and answer of item {self._answered[tuple(spoken)]}"
        for length, known in self._runs.items():
            for start, run in enumerate(runs(spoken, length), 1):
                if run in known:
                    return f"words {start}-{start + length - 1} are those of item {known[run]}"
        return ""


def runs(spoken: Sequence[str], length: int) -> Iterator[str]:
    """All runs of so many words, in order."""
    for start in range(len(spoken) - length + 1):
        yield " ".join(spoken[start : start + length])
