"""The console in a real browser: its process, pages that may ask nobody else, and what people do on them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console_fixture import OPERATOR

CHROMIUM = (
    os.environ.get("INTERLOCK_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
WAIT_MS = 60_000  # for what must come: on a machine that is busy a page alone has taken 20 s
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests here."""
    sync_api = (
        pytest.importorskip("playwright.sync_api")
        if not os.environ.get("INTERLOCK_REQUIRE_BROWSER")
        else None
    )
    if sync_api is None:
        from playwright import sync_api  # type: ignore[no-redef]
    if CHROMIUM is None and not os.environ.get("INTERLOCK_REQUIRE_BROWSER"):
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Server:
    """The console as its own process, on a port of its own choice."""

    def __init__(self, workspace: Path) -> None:
        command = [sys.executable, "-m", "ui.console.serve", "--workspace", str(workspace), "--port", "0"]
        root = Path(__file__).parent.parent
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", self.process.stdout.readline())
        assert found, "the server printed no address"
        self.url = found[0]

    def stop(self) -> None:
        """End the server's process."""
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages, and at the end fails if any of them asked another server for anything."""
    contexts, foreign, seen = [], [], []

    def opened(url: str, *, dark: bool = False, size: dict[str, int] = DESKTOP) -> Any:
        context = browser.new_context(
            viewport=size, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        host = url.split("/")[2]

        def note(request: Any) -> None:
            seen.append(request.url)
            if not re.match(rf"(https?|wss?)://{re.escape(host)}/|data:|blob:", request.url):
                foreign.append(request.url)

        page.on("request", note)
        page.on(
            "websocket", lambda socket: foreign.append(socket.url) if f"//{host}/" not in socket.url else None
        )
        page.goto(url)
        page.wait_for_selector(".head h1, .empty")
        return page

    yield opened
    for context in contexts:
        for page in context.pages:  # shown where a test failed: what stood there instead
            print(page.url, page.evaluate("() => document.body.innerText")[:2000], sep="\n")
        context.close()
    assert len(seen) > 10, "no requests were seen at all: the check itself does not work"
    assert foreign == []


def choose(page: Any, box: Any, option: str | re.Pattern[str]) -> None:
    """Take an option of a list.

    An open list shuts when the page scrolls, and Chromium tells of a scroll a frame late: a press that
    has just scrolled its target into view would open the list and have it shut by its own scroll.
    """
    box.scroll_into_view_if_needed()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box.click()
    page.get_by_role("option", name=option).click()


def press(page: Any, key: str, button: Any) -> None:
    """Press the key of a button that stands and can be clicked: a key before that is nobody's.

    The page draws from top to bottom, so what stands above a button is no sign that its key is heard; and
    the button hears its key an effect after it is drawn, and again after each run of the page.
    """
    button.click(trial=True)  # waits until it is there, enabled and still
    page.wait_for_function("() => document.querySelector('[data-test-script-state=notRunning]')")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.keyboard.press(key)


def act_as(page: Any, name: str = OPERATOR) -> None:
    choose(page, page.get_by_role("combobox", name="Acting as"), name)
    page.wait_for_selector("text=each signature needs your passphrase")


def look_at_everything(page: Any) -> None:
    for tab, part in (("Provenance", "the provenance"), ("Samples", "the samples"), ("Rules", "the rules")):
        page.get_by_role("tab", name=tab).click()
        page.locator(".rail li:has(.gl.yes)", has_text=f"Look at {part}").wait_for()


def sign(page: Any, button: str, reason: str | None, passphrase: str) -> None:
    dialog = page.get_by_role("dialog")
    if reason is not None:
        dialog.get_by_label("Reason, for the decision log").fill(reason)
    dialog.get_by_label("Passphrase of your key").fill(passphrase)
    dialog.get_by_role("button", name=button).click()
