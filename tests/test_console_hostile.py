"""Hostile text in a real browser: whatever a model or its data say is only ever text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console_browser import DESKTOP, PHONE, Server, browser, choose, sign, visit
from console_fixture import HOSTILE, PASSPHRASE, make, navigator

from guardrails.records import Action
from sandbox.worker.data import Line
from sandbox.worker.probes.records_quality import census

pytestmark = pytest.mark.browser

__all__ = ["browser", "visit"]


def test_hostile_text_is_only_ever_text(tmp_path: Path, visit: Callable[..., Any]) -> None:
    name = "![x](http://beacon.invalid/n.png)<img src=x onerror='window.pwned=1'>"
    made = make(tmp_path / "hostile", name=name)
    shown = navigator(1, hostile=True)
    proposal = made.propose(
        tmp_path / "a", "navigator", 1, shown, intent=HOSTILE, technique="<b>technique</b>"
    )
    rejected = made.propose(tmp_path / "b", "navigator", 2, navigator(2), intent=HOSTILE)
    made.decide(Action.REJECT, rejected, HOSTILE.replace("\u202e", ""))
    running = Server(made.workspace.path)
    try:
        page = visit(running.url)
        paths = (
            "/?v=All",
            f"/proposal?id={rejected}",
            "/log",
            "/proposal?id=<img src=x>",
            f"/proposal?id={proposal}",
        )
        for path in paths:
            page.goto(running.url + path)
            page.wait_for_selector(".head h1, .empty")
            page.wait_for_timeout(400)
            _nothing_was_made(page)
        for tab, sign_of_it in (
            ("Diff", "Weights"),
            ("Data", "First records"),
            ("Provenance", "Recipe"),
            ("Samples", "Samples"),
        ):
            page.get_by_role("tab", name=tab).click()
            page.locator("h3.eyebrow", has_text=sign_of_it).wait_for()
            _nothing_was_made(page)
        # The positive control: the text did arrive, and reads as it was written.
        assert page.get_by_text("FORGED").count() >= 3
        assert page.get_by_text("<script>window.pwned=1</script>").count() >= 3
        page.get_by_role("button", name="Approve…").click()
        sign(page, "Sign and approve", HOSTILE.replace("\u202e", ""), PASSPHRASE)
        page.get_by_text(f"Approval of {proposal} recorded.").wait_for()
        _nothing_was_made(page)
    finally:
        running.stop()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_flagged_records_are_opened_page_by_page_with_secrets_hidden(
    tmp_path: Path, visit: Callable[..., Any], size: dict[str, int]
) -> None:
    texts = [f"{HOSTILE} jane.roe@mail.example.org", *[f"the same words again {i // 30}" for i in range(30)]]
    found = census([Line(f"train.jsonl:{at}", {"text": text}) for at, text in enumerate(texts, 1)], [])
    made = make(tmp_path / "flagged")
    shown = replace(
        navigator(1), facts=navigator(1).facts | found.facts, flagged=found.flagged, reasons=found.reasons
    )
    proposal = made.propose(tmp_path / "a", "navigator", 1, shown, texts=texts)
    other = made.propose(tmp_path / "b", "navigator", 2, navigator(2))
    running = Server(made.workspace.path)
    try:
        page = visit(f"{running.url}/proposal?id={proposal}", size=size)
        page.get_by_role("tab", name="Data").click()
        page.locator("h3.eyebrow", has_text="Flagged records").wait_for()
        pick = page.locator(".st-key-flagged-by").get_by_role("combobox")
        choose(page, pick, re.compile("^pii"))
        page.get_by_text("email at ").wait_for()
        page.get_by_text("[email hidden]").first.wait_for()
        assert page.get_by_text("jane.roe@").count() == 0
        _nothing_was_made(page)
        _picture(page, f"flagged-{size['width']}")
        page.get_by_text("Show personal data and secrets").click()
        page.get_by_text("jane.roe@").first.wait_for()
        _nothing_was_made(page)
        choose(page, pick, re.compile("^near duplicates"))
        page.get_by_text("1 to 20 of 29").wait_for()
        assert page.get_by_text("like train.jsonl:2", exact=True).count() == 20
        page.get_by_role("button", name="Later").click()
        page.get_by_text("21 to 29 of 29").wait_for()
        page.locator(".record", has_text="train.jsonl:31").first.wait_for()
        assert page.get_by_role("button", name="Later").is_disabled()
        page.goto(f"{running.url}/proposal?id={other}")
        page.get_by_role("tab", name="Data").click()
        page.get_by_text("record 3: a word is a picture of a thing").wait_for()
        assert page.get_by_text("the same words again").count() == 0
        overflow = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
    finally:
        running.stop()


def _picture(page: Any, name: str) -> None:
    """For whoever wants to look: INTERLOCK_PICTURES names a folder."""
    if folder := os.environ.get("INTERLOCK_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def _nothing_was_made(page: Any) -> None:
    made = page.evaluate(
        "() => [document.querySelectorAll('#forged, [onerror], a[href*=beacon], img[src*=beacon], .stHtml img').length,"
        " [...document.querySelectorAll('h1')].filter(h => h.innerText.trim() === 'FORGED').length, 'pwned' in window]"
    )
    assert made == [0, 0, False]
    assert "\u202e" not in page.evaluate("() => document.body.innerText")
