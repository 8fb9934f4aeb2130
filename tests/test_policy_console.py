"""Policies in a real browser: a limit is moved, a file is not what is in force, a shadow policy would decide otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from console_browser import WAIT_MS, Server, browser  # noqa: F401 - a fixture
from console_fixture import assistant, make
from policy_cases import DEFAULT

from guardrails.policy import load_policy
from guardrails.records import Action

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("what-if")
    made = make(folder / "workspace")
    text = DEFAULT.read_text(encoding="utf-8")
    stern = folder / "stern.yaml"
    stern.write_text(text.replace("name: default", "name: stern").replace("mode: enforce", "mode: shadow").replace(
        "value: 0.15", "value: 0.005"
    ))  # fmt: skip
    made.decide(Action.ACTIVATE, "stern", "beside the other", policy=load_policy(stern).source)
    made.propose(folder / "a", "assistant", 4, assistant(4), technique="self_supervised")
    made.propose(folder / "b", "assistant", 5, assistant(5, drift=0.18), technique="self_supervised")
    (folder / "policies").mkdir()
    (folder / "policies" / "default.yaml").write_text(text.replace("value: 0.15", "value: 0.5", 1))
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


def test_files_that_differ_and_shadow_policies_are_told_where_people_decide(browser: Any, url: str) -> None:  # noqa: F811
    page = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce").new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}/policies")
    page.get_by_text("default.yaml on disk differs from what is in force").wait_for()
    row = page.get_by_role("row").filter(has_text="upper kl_mean < 0.5").inner_text()
    assert "looser" in row
    assert "upper kl_mean < 0.15" in row
    page.get_by_text("shadow: judged beside, not binding").wait_for()
    page.get_by_text("1 of 2 verdicts would differ; not binding").wait_for()
    page.goto(f"{url}/proposal?id=P-0001")
    page.get_by_text(
        "Not binding: under shadow policy stern this would be: review (drift.output.kjv"
    ).wait_for()
    page.get_by_role("row").filter(has_text="stern.yaml").filter(
        has_text="Not binding: fail"
    ).first.wait_for()
    page.context.close()
