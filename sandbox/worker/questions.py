"""What a learner asks people, and what they answered.

Invariants:
- A question that is written can be read back: what the collector would refuse is refused here, with the reason.
- An answer says nothing of who gave it: a learner has no need to know, and what it is given it could pass on.
- An id means one question for ever: it is derived from the question's content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrails.canonical import encode
from guardrails.errors import InvalidInputError
from sandbox.worker import data

QUESTIONS = "questions.jsonl"
ANSWERS = "answers.jsonl"
PERSON = "person"
"""The ``origin`` of a record that an answer was made into."""

KINDS = ("answer", "choice", "action")
MAX_QUESTIONS = 200
MAX_BYTES = 4 << 20
MAX_PROMPT = 8000
MAX_OPTION = 4000
MAX_OPTIONS = 16
MAX_WHY = 200
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_FIELDS = {"id", "kind", "prompt", "options", "layout", "why", "uncertainty"}


@dataclass(frozen=True)
class Question:
    """One question to people.

    ``kind``: ``answer`` (a text, or one of ``options``), ``choice`` (which of two texts is better), ``action``
    (what to do in the state that ``prompt`` shows: one of ``options``). ``layout`` is that state as the learner's
    records write it. ``why`` and ``uncertainty`` (0: sure, 1: it could as well have guessed) are the learner's claim
    of why it asks; they are shown, and no part of the question.
    """

    id: str
    kind: str
    prompt: str
    options: tuple[str, ...] = ()
    layout: str = ""
    why: str = ""
    uncertainty: float | None = None

    def fields(self) -> dict[str, Any]:
        """The line that says it, without what was left out."""
        line: dict[str, Any] = {"id": self.id, "kind": self.kind, "prompt": self.prompt}
        if self.options:
            line["options"] = list(self.options)
        if self.layout:
            line["layout"] = self.layout
        if self.why:
            line["why"] = self.why
        if self.uncertainty is not None:
            line["uncertainty"] = self.uncertainty
        return line


@dataclass(frozen=True)
class Answer:
    """What people said to one question.

    ``chosen`` is the place of the answer among ``options``, where there are any. ``skipped``: nobody could say;
    not to be asked again, and not to be trained on. ``fresh``: no proposal was trained on it yet.
    """

    id: str
    kind: str
    prompt: str
    options: tuple[str, ...]
    answer: str
    chosen: int | None
    skipped: bool
    fresh: bool
    layout: str = ""


def question_id(prompt: str, options: Iterable[str] = ()) -> str:
    """An id that follows from what is asked."""
    return "q-" + hashlib.sha256(encode([prompt, *options])).hexdigest()[:24]


def write_questions(out: Path, questions: Iterable[Question]) -> int:
    """Write ``questions.jsonl`` below a job's output; returns how many there are.

    Raises:
        InvalidInputError: there is none, there are too many, or one of them says what no question can.
    """
    asked = list(questions)
    if not asked:
        raise InvalidInputError("there is nothing to ask")
    lines = [json.dumps(question.fields(), ensure_ascii=False, sort_keys=True) for question in asked]
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    if len(asked) > MAX_QUESTIONS or len(content) > MAX_BYTES:
        raise InvalidInputError(
            f"{len(asked)} questions of {len(content)} bytes are too many",
            hint=f"at most {MAX_QUESTIONS} in a round, {MAX_BYTES} bytes together",
        )
    seen: set[str] = set()
    for number, question in enumerate(asked, 1):
        reason = fault(question.fields()) or ("its id stands twice" if question.id in seen else "")
        if reason:
            raise InvalidInputError(f"question {number}: {reason}")
        seen.add(question.id)
    (out / QUESTIONS).write_bytes(content)
    return len(asked)


def read_answers(directory: Path) -> list[Answer]:
    """What was answered so far to the questions of this technique; empty where nothing was.

    Raises:
        InvalidInputError: the file is not what the supervisor writes.
    """
    file = directory / ANSWERS
    if not file.exists():
        return []
    return [_answer(line) for line in data.read_lines(file)]


def fault(value: Mapping[str, Any]) -> str:
    """Why a JSON object is no question, in words; empty where it is one."""
    if unknown := sorted(set(value) - _FIELDS):
        return f"unknown key {unknown[0]!a:.60}"
    name, kind, prompt = value.get("id"), value.get("kind"), value.get("prompt")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        return "id: 1 to 64 of A-Z a-z 0-9 . _ : - are needed"
    if kind not in KINDS:
        return f"kind: one of {', '.join(KINDS)} is needed"
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT:
        return f"prompt: a text of 1 to {MAX_PROMPT} characters is needed"
    layout, why = value.get("layout", ""), value.get("why", "")
    if not isinstance(layout, str) or len(layout) > MAX_PROMPT:
        return f"layout: a text of at most {MAX_PROMPT} characters is needed"
    if not isinstance(why, str) or len(why) > MAX_WHY:
        return f"why: a text of at most {MAX_WHY} characters is needed"
    sure = value.get("uncertainty", 0)
    if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
        return "uncertainty: a number from 0 to 1 is needed"
    return _fault_of_options(kind, value.get("options", []))


def _fault_of_options(kind: str, options: Any) -> str:
    if not isinstance(options, list):
        return "options: a list of texts is needed"
    for text in options:
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_OPTION:
            return f"options: each is a text of 1 to {MAX_OPTION} characters"
    if len({" ".join(text.split()) for text in options}) != len(options):
        return "options: two of them are the same text"
    if kind == "choice" and len(options) != 2:
        return "options: a choice is between two texts"
    if (kind == "action" or options) and not 2 <= len(options) <= MAX_OPTIONS:
        return f"options: 2 to {MAX_OPTIONS} are needed"
    return ""


def _answer(line: data.Line) -> Answer:
    value = line.value
    try:
        chosen = value["chosen"]
        answer = Answer(
            value["id"], value["kind"], value["prompt"], tuple(value["options"]), value["answer"],
            None if chosen < 0 else chosen, value["skipped"], value["fresh"],
            value.get("layout", ""),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise InvalidInputError(f"{line.place}: not an answer: {error}") from None
    if answer.chosen is not None and not answer.chosen < len(answer.options):
        raise InvalidInputError(f"{line.place}: chosen names none of the options")
    return answer
