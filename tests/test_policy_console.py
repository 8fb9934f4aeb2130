"""The what-if of the console in a real browser: a limit is moved, and the flips are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from console_fixture import assistant, make
from test_console_browser import WAIT_MS, Server, browser  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("what-if")
    made = make(folder / "workspace")
    made.propose(folder / "a", "assistant", 4, assistant(4), technique="self_supervised")
    made.propose(folder / "b", "assistant", 5, assistant(5, drift=0.18), technique="self_supervised")
    running = Server(made.workspace.path)
    yield running.url
    running.stop()


def test_a_limit_that_is_moved_shows_what_would_flip(browser: Any, url: str) -> None:  # noqa: F811
    page = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce").new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}/proposal?id=P-0002")
    page.get_by_text("What if a limit were different?").click()
    page.get_by_text("none of 2 verdicts changes").wait_for()
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(150):
        page.keyboard.press("ArrowLeft")
    page.get_by_text("1 of 2 verdicts change: 0 loosened, 1 tightened").wait_for()
    row = page.get_by_role("row").filter(has_text="tightened")
    assert "P-0001" in row.inner_text()
    assert "Review" in row.inner_text()
    page.context.close()
