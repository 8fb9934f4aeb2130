"""The console's Label page in a real browser: answered from the keyboard, signed once, hostile questions as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from console_browser import PHONE, Server, browser, press, visit
from console_fixture import HOSTILE, PASSPHRASE, Made, make

from guardrails.canonical import digest
from sandbox.worker.questions import Question, question_id

pytestmark = pytest.mark.browser

__all__ = ["browser", "visit"]

FORM = "Passphrase of your key"


def texts(*prompts: str) -> list[Question]:
    why = f"not sure {HOSTILE}"[:200]
    return [
        Question(question_id(prompt), "answer", prompt, why=why, uncertainty=0.9 - place / 10)
        for place, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Questions of two askers about two models."""
    made = make(tmp_path_factory.mktemp("label") / "workspace")
    made.workspace.desk("assistant").ask("active", digest(b"c"), texts("52413>", "90817>", f"odd {HOSTILE}"))
    options = ("left", HOSTILE)
    asked = Question(question_id("where", options), "choice", f"where {HOSTILE}", options)
    made.workspace.desk("navigator").ask("reinforcement/preference", digest(b"c"), [asked])
    return made


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[str]:
    """The console of that workspace."""
    running = Server(made.workspace.path)
    yield running.url
    running.stop()


def test_questions_are_answered_from_the_keyboard_and_handed_in(
    made: Made, server: str, visit: Callable[..., Any]
) -> None:
    page = visit(f"{server}/label")
    asked = page.locator("pre.asked")
    page.get_by_placeholder("Type the answer").click()
    for prompt, answer in (("52413>", "12345"), ("90817>", "wrong")):
        asked.filter(has_text=prompt).wait_for()
        page.keyboard.type(answer)
        page.keyboard.press("Enter")
    asked.filter(has_text="odd").wait_for()
    assert page.get_by_text("<script>window.pwned=1</script>").count() >= 2, "shown as it was written"
    assert (
        page.evaluate("() => 'pwned' in window || !!document.querySelector('#forged, .stHtml img')") is False
    )
    press(page, "Alt+u", page.get_by_role("button", name="Undo"))
    asked.filter(has_text="90817>").wait_for()
    page.keyboard.type("01789")
    page.keyboard.press("Enter")
    asked.filter(has_text="odd").wait_for()
    press(page, "Alt+s", page.get_by_role("button", name="Nobody can say"))
    page.get_by_text("You have answered every question.").wait_for()
    page.get_by_label(FORM).fill("not it")
    page.get_by_role("button", name="Sign and hand in 3 answers").click()
    page.get_by_text("The passphrase was not accepted").wait_for()
    page.get_by_label(FORM).fill(PASSPHRASE)
    page.get_by_role("button", name="Sign and hand in 3 answers").click()
    page.get_by_text("3 answers handed in, on record as").wait_for()
    book = made.workspace.desk("assistant").book()
    assert [(one["answer"], one["skipped"]) for one in book.records_for("active")] == [
        ("12345", False), ("01789", False), ("", True),
    ]  # fmt: skip


def test_a_choice_is_shown_blind_and_taken_by_a_key(
    made: Made, server: str, visit: Callable[..., Any]
) -> None:
    (asked,) = made.workspace.desk("navigator").book().open()
    page = visit(f"{server}/label", dark=True, size=PHONE)
    page.get_by_text("navigator", exact=True).first.click()
    page.locator(".options.choice").wait_for()
    assert page.locator(".options b").all_inner_texts() == ["A", "B"]
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["width"], "nothing sticks out of a narrow screen"
    press(page, "b", page.get_by_role("button", name="Choose B"))
    page.get_by_role("button", name="Sign and hand in 1 answer").wait_for()
    (draft,) = made.workspace.desk("navigator").book().drafts_of(made.person)
    assert draft.answer == asked.shown["B"]
