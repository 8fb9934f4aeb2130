"""``questions.jsonl``: what a learner would like to know from people, read from where an untrusted program wrote it.

Invariants:
- Sizes and counts are bounded before anything is interpreted, keys are distinct, unknown keys are refused.
- What a question says is text, never markup or a command; where it is shown, it is shown as text.
- Either every question is taken, or none.
"""

from __future__ import annotations

from pathlib import Path

from guardrails.errors import BundleError
from sandbox.isolation import formats
from sandbox.worker.questions import MAX_QUESTIONS, QUESTIONS, Question, fault


def read_questions(folder: Path) -> tuple[Question, ...]:
    """The questions of a collected result; none where it has no such file.

    Raises:
        BundleError: naming file, line and what is wrong.
    """
    file = folder / QUESTIONS
    if not file.exists():
        return ()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{QUESTIONS}: cannot be read: {error.strerror}") from None
    return parse_questions(content)


def parse_questions(content: bytes, name: str = QUESTIONS) -> tuple[Question, ...]:
    """The questions in these bytes; raises BundleError unless there are some and all of them are well formed."""
    lines = content.splitlines()
    if not lines:
        raise BundleError(f"{name}: holds no question", hint="leave the file out where nothing is asked")
    if len(lines) > MAX_QUESTIONS:
        raise BundleError(f"{name}: {len(lines)} lines, at most {MAX_QUESTIONS} questions are taken at once")
    seen: set[str] = set()
    questions = []
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        if len(line) > formats.MAX_LINE_BYTES:
            raise BundleError(f"{where}: the line is longer than {formats.MAX_LINE_BYTES} bytes")
        value = formats.parse_json(line, where)
        if not isinstance(value, dict):
            raise BundleError(f"{where}: a question is one JSON object a line")
        reason = fault(value) or ("its id stands twice" if value["id"] in seen else "")
        if reason:
            raise BundleError(f"{where}: {reason}", hint="see docs/learner-authors.md, Asking people")
        seen.add(value["id"])
        sure = value.get("uncertainty")
        questions.append(
            Question(
                value["id"], value["kind"], value["prompt"], tuple(value.get("options", ())),
                value.get("layout", ""), value.get("why", ""), None if sure is None else float(sure),
            )
        )  # fmt: skip
    return tuple(questions)
