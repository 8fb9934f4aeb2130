"""ui.console in a real browser: set-up and decisions, what it looks like, and that it asks nobody else for anything."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console_browser import PHONE, Server, act_as, browser, look_at_everything, press, sign, visit
from console_fixture import OPERATOR, PASSPHRASE, SECOND, Made, gallery

from guardrails.decision_log.envelope import format_time
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.gate import utc_now
from guardrails.policy import load_policy
from guardrails.records import Action, Role, State, Surface
from guardrails.view import view_of
from ui.pins import pinned
from ui.setup import DEFAULT_POLICY, RECOVERY, make_setup_token
from ui.wiring import create_workspace

pytestmark = pytest.mark.browser

__all__ = ["browser", "visit"]


TINY = """
[models.tiny]
kind = "llm"
base = "shipped:tiny"
train = ["shipped:devils-dictionary"]

[[models.tiny.recipes]]
technique = "self_supervised"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A workspace with something on every page, shared by the tests below in their order."""
    return gallery(tmp_path_factory.mktemp("gallery") / "workspace")


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[str]:
    """The console of that workspace."""
    running = Server(made.workspace.path)
    yield running.url
    running.stop()


def state(made: Made, proposal: str) -> State:
    with view_of(made.workspace.log) as view:
        return view.proposal(proposal).state


def log_size(made: Made) -> int:
    with made.workspace.log.read() as snapshot:
        return snapshot.size


# --- set-up ----------------------------------------------------------------------------------


def test_set_up_with_the_token_of_the_terminal(tmp_path: Path, visit: Callable[..., Any]) -> None:
    workspace = create_workspace(tmp_path / "new")
    (workspace.path / "interlock.toml").write_text(TINY, encoding="utf-8")
    token = make_setup_token(workspace)
    running = Server(workspace.path)
    try:
        page = visit(running.url)

        spare = tmp_path / "stick" / "recovery.key"

        def attempt(given: str, again: str = PASSPHRASE, recovery: Path | str = "") -> None:
            page.get_by_label("Set-up token").fill(given)
            page.get_by_label("Your name").fill(OPERATOR)
            page.get_by_label("Passphrase", exact=True).fill(PASSPHRASE)
            page.get_by_label("Passphrase, once more").fill(again)
            page.get_by_role("textbox", name="Recovery key, written to this file").fill(str(recovery))
            page.get_by_role("button", name="Create key and set up").click()

        attempt("not-the-token")
        page.get_by_text("not the token that the terminal printed").wait_for()
        attempt(token, again="something else")
        page.get_by_text("two passphrases are not the same").wait_for()
        with workspace.log.read() as snapshot:
            assert snapshot.size == 0
        for place, refusal in (
            ("recovery.key", "needs a whole path"), (spare, "is no folder that can be written to"),
            (workspace.path / "keys" / "recovery.key", "belongs outside this workspace"),
            (workspace.path / "interlock.toml", "exists already"),
        ):  # fmt: skip
            attempt(token, recovery=place)
            page.get_by_text(refusal).wait_for()
        with workspace.log.read() as snapshot:
            assert snapshot.size == 0
        assert not list(workspace.people_keys.iterdir()), "no key was made in vain"
        spare.parent.mkdir()
        page.screenshot(path=tmp_path / "setup-form.png", full_page=True)
        attempt(token, recovery=spare)
        page.get_by_text(f"The recovery key lies in {spare}.").wait_for()
        page.screenshot(path=tmp_path / "setup-done.png", full_page=True)
        page.get_by_role("button", name="Open the queue").click()
        page.get_by_text("Nothing has been proposed yet.").wait_for()
    finally:
        running.stop()
    with view_of(workspace.log) as view:
        assert [name for _, name in view.people()] == [OPERATOR, RECOVERY]
        (_, own), (recovery, _) = view.people()
        assert own == OPERATOR
        assert recovery.roles == (Role.ROOT,)
        assert PersonKey.load(spare, PASSPHRASE).public == recovery.keys[0].public
    assert spare.stat().st_mode & 0o777 == 0o600
    assert len(pinned(workspace.path)) == 2
    with view_of(workspace.log) as view:
        assert [model.name for model in view.models()] == ["tiny"]
        assert [policy.name for policy in view.policies()] == ["default"]
    assert not (workspace.path / "keys" / "setup.token").exists()


# --- decisions -------------------------------------------------------------------------------


def test_a_wrong_passphrase_is_said_in_place_and_changes_nothing(
    made: Made, server: str, visit: Callable[..., Any]
) -> None:
    page = visit(f"{server}/proposal?id=P-0004")
    act_as(page)
    look_at_everything(page)
    page.get_by_role("button", name="Approve…").click()
    before = log_size(made)
    sign(page, "Sign and approve", "read all three samples", "not the passphrase")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("The passphrase was not accepted. Nothing was signed.").wait_for()
    assert dialog.get_by_label("Reason, for the decision log").input_value() == "read all three samples"
    assert dialog.get_by_label("Passphrase of your key").input_value() == ""
    assert log_size(made) == before


def test_from_the_queue_to_a_promotion(made: Made, server: str, visit: Callable[..., Any]) -> None:
    page = visit(server)
    act_as(page)
    # While the page is drawn anew a row may still stand in its former group as well.
    mine = page.locator("[class*=st-key-list-waiting-for-you]")
    gain = mine.locator("[class*=st-key-row-P-0008]").get_by_text("share", exact=True)
    gain.wait_for()
    mine.get_by_role("link", name="Open P-0008").click()
    page.locator("h1", has_text="P-0008").wait_for()
    approve = page.get_by_role("button", name="Approve…")
    assert approve.is_disabled(), "the policy asks to look at samples and provenance first"
    look_at_everything(page)
    press(page, "a", approve)
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Approval 1 of 1: promotes at once.").wait_for()
    with view_of(made.workspace.log) as view:
        bundle = view.proposal("P-0008").proposal.bundle  # type: ignore[union-attr]
    dialog.get_by_text(str(bundle)).wait_for()
    sign(page, "Sign and approve", "the gain holds on layouts nobody trained on", PASSPHRASE)
    page.get_by_text("Approval of P-0008 recorded.").wait_for()
    with view_of(made.workspace.log) as view:
        row, champion = view.proposal("P-0008"), view.model("navigator").champion
        vote = row.votes[0]
        page.get_by_text(f"record {vote.seq}").first.wait_for()
        assert view.text(vote.reason) == "the gain holds on layouts nobody trained on"
    assert (row.state, champion) == (State.PROMOTED, bundle)
    assert vote.surface is Surface.CONSOLE
    assert set(vote.viewed) == {"findings", "samples", "provenance"}


def test_a_decision_elsewhere_is_noticed_before_anything_is_signed(
    made: Made, server: str, visit: Callable[..., Any]
) -> None:
    page = visit(f"{server}/proposal?id=P-0004")
    act_as(page)
    look_at_everything(page)
    page.get_by_role("button", name="Approve…").click()
    page.get_by_role("dialog").get_by_label("Reason, for the decision log").fill("typed before it changed")
    made.decide(Action.REJECT, "P-0004", "rejected on another screen")
    page.get_by_text("1 new record").wait_for()
    assert (
        page.get_by_role("dialog").get_by_label("Reason, for the decision log").input_value()
        == "typed before it changed"
    )
    before = log_size(made)
    sign(page, "Sign and approve", None, PASSPHRASE)
    page.get_by_role("dialog").get_by_text("Nothing was signed").or_(
        page.get_by_text("there is nothing to approve")
    ).first.wait_for()
    assert log_size(made) == before
    assert state(made, "P-0004") is State.REJECTED


def test_ask_for_a_change_comment_and_withdraw(
    made: Made, server: str, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(f"{server}/proposal?id=P-0005")
    act_as(page)
    page.get_by_role("button", name="Request changes…").click()
    page.get_by_role("dialog").get_by_text("Nothing is promoted, whoever else approves").wait_for()
    sign(page, "Sign and ask", "train without the letters", PASSPHRASE)
    page.get_by_text("asks for a change, operator").wait_for()
    page.get_by_role("button", name="Comment…").click()
    page.get_by_role("dialog").get_by_text("decides nothing").wait_for()
    sign(page, "Sign and keep", "item 7 looks copied", PASSPHRASE)
    page.get_by_text("“item 7 looks copied”").wait_for()
    page.screenshot(path=tmp_path / "remarks-light.png")
    dark = visit(f"{server}/proposal?id=P-0005", dark=True)
    dark.get_by_text("“item 7 looks copied”").wait_for()
    dark.screenshot(path=tmp_path / "remarks-dark.png")
    with view_of(made.workspace.log) as view:
        row = view.proposal("P-0005")
    assert [vote.action for vote in row.remarks] == [Action.REQUEST_CHANGES, Action.COMMENT]
    assert len(row.changes) == 1
    page.get_by_role("button", name="Withdraw…").click()
    sign(page, "Sign and withdraw", "it was made", PASSPHRASE)
    page.get_by_text("asked for a change, operator").wait_for()
    assert state(made, "P-0005") is State.AWAITING_APPROVAL


def test_reject_with_a_key(made: Made, server: str, visit: Callable[..., Any]) -> None:
    page = visit(f"{server}/proposal?id=P-0005")
    act_as(page)
    press(page, "x", page.get_by_role("button", name="Reject…"))
    sign(page, "Sign and reject", "drifts on both controls", PASSPHRASE)
    page.get_by_text("Rejection of P-0005 recorded.").wait_for()
    assert state(made, "P-0005") is State.REJECTED


def test_roll_back_names_digest_and_what_is_lost(made: Made, server: str, visit: Callable[..., Any]) -> None:
    with view_of(made.workspace.log) as view:
        model = view.model("navigator")
    assert len(model.history) == 3
    page = visit(f"{server}/champions")
    act_as(page)
    page.get_by_role("button", name="Roll back…").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(str(model.champion)).wait_for()
    dialog.get_by_text(str(model.history[1].digest)).wait_for()
    dialog.get_by_text(re.compile(r"^P-0008, 20\d\d-")).wait_for()  # the champion now, by where it came from
    dialog.get_by_text("P-0008", exact=True).wait_for()  # and what is quarantined
    sign(page, "Sign and roll back", "worse in use than in the suite", PASSPHRASE)
    page.get_by_text("Rollback of navigator recorded.").wait_for()
    with view_of(made.workspace.log) as view:
        assert view.model("navigator").champion == model.history[1].digest
    assert state(made, "P-0008") is State.ROLLED_BACK


def somebody_asks(made: Made, reason: str) -> str:
    """The safety reviewer asks for the policy to be taken out of force; more have to sign that."""
    safety = next(path for path in made.workspace.people_keys.iterdir() if path.name != made.person)
    key = PersonKey.load(safety, PASSPHRASE)
    looser = load_policy(DEFAULT_POLICY).source
    wish = Intention(Action.DEACTIVATE, looser.name, safety.name, Role.SAFETY, reason, Surface.CLI)
    gate = made.workspace.gate
    return gate.commit(gate.draft(wish), key).request


def test_a_request_of_somebody_else_is_rejected_and_ones_own_withdrawn(
    made: Made, server: str, visit: Callable[..., Any], tmp_path: Path
) -> None:
    request = somebody_asks(made, "to see who says no")
    page = visit(server)
    act_as(page)
    page.get_by_text(f"{request} · deactivate default").wait_for()
    page.get_by_text("to see who says no").first.wait_for()
    page.screenshot(path=tmp_path / "request.png")
    page.get_by_role("button", name="Reject…").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(f"Reject {request}").wait_for()
    dialog.get_by_text("whoever wants it asks for it anew").wait_for()
    dialog.get_by_text("deactivate default").wait_for()
    page.screenshot(path=tmp_path / "request-reject.png")
    before = log_size(made)
    sign(page, "Sign and reject", "not this one", "not the passphrase")
    dialog.get_by_text("The passphrase was not accepted. Nothing was signed.").wait_for()
    assert log_size(made) == before
    sign(page, "Sign and reject", None, PASSPHRASE)
    page.get_by_text(f"Rejection of {request} recorded.").wait_for()
    assert request_state(made, request) == "rejected"
    mine = somebody_asks(made, "once more")
    made.decide(Action.HALT, "workspace", "a control: halts do not wait")
    made.decide(Action.RESUME, "workspace", "over")
    act_as(page, SECOND)
    page.get_by_text(f"{mine} · deactivate default").wait_for()
    page.get_by_role("button", name="Withdraw…").first.click()
    dialog.get_by_text(f"Withdraw your signature under {mine}").wait_for()
    dialog.get_by_text("if it was the only one, the request ends").wait_for()
    page.screenshot(path=tmp_path / "request-withdraw.png")
    sign(page, "Sign and withdraw", "a mistake", PASSPHRASE)
    page.get_by_text(f"Withdrawal of {mine} recorded.").wait_for()
    page.get_by_text(f"{mine} · deactivate default").wait_for(state="detached")
    assert request_state(made, mine) == "withdrawn"


def request_state(made: Made, request: str) -> str:
    with view_of(made.workspace.log) as view:
        return view.request_state(view.request(request), format_time(utc_now())).value


def test_halt_and_resume(made: Made, server: str, visit: Callable[..., Any]) -> None:
    page = visit(f"{server}/champions")
    act_as(page)
    page.get_by_role("button", name="Halt…").click()
    sign(page, "Sign and halt", "something smells of smoke", PASSPHRASE)
    page.get_by_text(f"Halted by {OPERATOR}").wait_for()
    page.get_by_text("something smells of smoke").first.wait_for()
    assert made.workspace.gate.halted_by()
    page.get_by_role("button", name="Resume…").click()
    sign(page, "Sign and resume", "it was toast", PASSPHRASE)
    page.get_by_role("button", name="Halt…").wait_for()
    assert not made.workspace.gate.halted_by()


# --- what it looks like ----------------------------------------------------------------------


def test_on_a_phone_the_menu_opens_and_closes(server: str, visit: Callable[..., Any]) -> None:
    phone = visit(server, size=PHONE)
    phone.get_by_test_id("stExpandSidebarButton").click()
    phone.get_by_role("combobox", name="Acting as").wait_for()
    phone.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click(timeout=5_000)
    phone.get_by_test_id("stExpandSidebarButton").wait_for()


def test_the_queue_has_its_name_as_an_address_too(server: str, visit: Callable[..., Any]) -> None:
    page = visit(f"{server}/queue?v=Decided")
    page.get_by_text("rejected by Ada Byron: “no gain that anybody would notice”").wait_for()
    assert page.url.startswith(f"{server}/?v=Decided")
    assert page.get_by_text("Page not found").count() == 0


def test_every_page_in_light_dark_and_on_a_phone(
    server: str, visit: Callable[..., Any], tmp_path: Path
) -> None:
    pages = {"queue": "/?v=All", "proposal": "/proposal?id=P-0003", "champions": "/champions", "log": "/log"}
    grounds = set()
    for dark in (False, True):
        page = visit(server + pages["queue"], dark=dark)
        for name, path in list(pages.items())[: 2 if dark else None]:
            page.goto(server + path)
            page.wait_for_selector(".head h1")
            page.get_by_text("Log verified").wait_for()
            page.screenshot(path=tmp_path / f"{name}-{'dark' if dark else 'light'}.png")
        ink, ground = page.evaluate(
            "() => [getComputedStyle(document.querySelector('.head h1')).color,"
            " getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor]"
        )
        grounds.add(ground)
        assert abs(luminance(ink) - luminance(ground)) > 0.6
        fonts = page.evaluate(
            "() => [...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)"
        )
        assert {"Inter", "JetBrains Mono"} <= {font.strip('"') for font in fonts}
    assert len(grounds) == 2
    phone = visit(server + pages["queue"], size=PHONE)
    for name, path in list(pages.items())[:2]:
        phone.goto(server + path)
        phone.wait_for_selector(".head h1")
        phone.wait_for_timeout(700)
        phone.screenshot(path=tmp_path / f"{name}-phone.png")
        assert phone.evaluate("() => document.scrollingElement.scrollWidth") <= PHONE["width"], name


def luminance(colour: str) -> float:
    red, green, blue = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_log_page_shows_a_record_with_its_proof(
    made: Made, server: str, visit: Callable[..., Any]
) -> None:
    page = visit(f"{server}/log")
    page.get_by_text("The log holds.").wait_for()
    page.get_by_placeholder("Filter").fill("P-0001")
    page.get_by_text(re.compile(r"^\d+ of \d+ records$")).wait_for()
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    page.mouse.click(box["x"] + 16, box["y"] + 52)
    page.get_by_text(re.compile(r"holds: \d+ hash")).wait_for()


# --- the server itself -----------------------------------------------------------------------


def test_the_running_server_refuses_what_the_middleware_refuses(server: str) -> None:
    def status(path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(server + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers["content-security-policy"]
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-security-policy"]

    assert status("/")[0] == 200
    assert "frame-ancestors 'none'" in status("/")[1]
    assert status("/_stcore/health")[0] == 200
    assert status("/_stcore/metrics")[0] == 404
    assert status("/", Host="evil.example")[0] == 421
    assert status("/", Origin="http://evil.example")[0] == 403
