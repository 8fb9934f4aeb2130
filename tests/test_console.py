"""ui.console: markup that cannot be broken out of, what was seen, and signing only what was shown."""

from __future__ import annotations

import json
import os
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest
from console_fixture import HOSTILE, PASSPHRASE, Made, make, navigator
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest
from guardrails.decision_log.store import Log
from guardrails.decisions import Intention
from guardrails.errors import DeniedError, StaleError
from guardrails.ledger import standing
from guardrails.records import Action, Finding, Outcome, Role, Severity, State, Surface
from guardrails.view import view_of
from ui.console import markup, serve, session
from ui.console.views import evidence

VIEWED = ("findings", "samples", "provenance")


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert {name for name, _ in attrs} <= {"class", "title", "data-label", "scope"}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def elements(source: str) -> _Elements:
    parser = _Elements()
    parser.feed(source)
    parser.close()
    return parser


@given(st.text())
def test_no_text_becomes_markup(value: str) -> None:
    table = markup.table(("Name", "Value"), [(value, markup.el("b", value, title=value))])
    assert set(elements(table).tags) == {"div", "table", "thead", "tbody", "tr", "th", "td", "b"}


def test_hostile_text_stays_readable_text() -> None:
    parsed = elements(markup.el("p", HOSTILE, title=HOSTILE))
    assert parsed.tags == ["p"]
    shown = "".join(parsed.texts)
    assert "<script>window.pwned=1</script>" in shown
    assert "\u202e" not in shown


@given(st.text(max_size=200), st.text(max_size=200))
def test_marked_differences_lose_and_add_nothing(before: str, after: str) -> None:
    left, right = evidence.marked(before, after)
    for source, whole in ((left, before), (right, after)):
        parsed = elements(f"<pre>{source}</pre>")
        assert set(parsed.tags) <= {"pre", "del", "ins"}
        assert "".join(parsed.texts) == evidence.cut(whole)


@pytest.mark.parametrize(
    ("tag", "attributes"), [("script", {}), ("img", {}), ("b", {"onclick": "x"}), ("b", {"a b": "x"})]
)
def test_only_known_elements_and_attributes(tag: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"element|attribute"):
        markup.el(tag, "x", **attributes)


def test_nothing_but_markup_puts_html_on_a_page() -> None:
    folder = Path(markup.__file__).parent
    pattern = re.compile(
        r"st\.(markdown|write|caption|error|warning|info|success|toast|title|header|subheader|table|metric|html)\("
    )
    uses = {
        path.name: set(pattern.findall(path.read_text(encoding="utf-8"))) for path in folder.rglob("*.py")
    }
    assert {name: found for name, found in uses.items() if found} == {
        "markup.py": {"html"},
        "app.py": {"html"},
    }


# --- the plot --------------------------------------------------------------------------------


@given(
    st.floats(1e-6, 1e6), st.floats(-1e6, 1e6), st.booleans(),
)  # fmt: skip
def test_a_value_stands_left_of_the_limit_exactly_when_it_is_on_the_safe_side(
    limit: float, value: float, above: bool
) -> None:
    at = markup.place(value, limit, above=above, spread=abs(limit))
    assert 0.0 <= at <= 1.0
    if abs(value - limit) > 1e-9 * max(limit, abs(value)):
        assert (at < markup.LIMIT_AT) == ((value > limit) if above else (value < limit))


def test_what_was_not_measured_is_not_drawn() -> None:
    finding = Finding("r", "c", Outcome.ERROR, Severity.BLOCK, "upper < 1", "f:1", "gone", observed=0.1)
    assert "dot" not in markup.plot(finding)


# --- what was seen ---------------------------------------------------------------------------


def test_seen_is_kept_by_person_proposal_and_verdict() -> None:
    seen = session.Seen()
    one, two = digest(b"1"), digest(b"2")
    for part in ("samples", "findings", "samples"):
        seen.note("p-1", "P-0001", one, part)
    assert seen.of("p-1", "P-0001", one) == ("samples", "findings")
    assert (
        seen.of("p-2", "P-0001", one) == seen.of("p-1", "P-0002", one) == seen.of("p-1", "P-0001", two) == ()
    )
    seen.note("", "P-0001", one, "findings")
    seen.note("p-1", "P-0001", None, "findings")
    assert seen.of("", "P-0001", one) == seen.of("p-1", "P-0001", None) == ()


# --- the idle lock ---------------------------------------------------------------------------


def test_an_idle_session_forgets_who_was_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, object] = {}
    clock = [1000.0]
    monkeypatch.setattr(session.st, "session_state", state)
    monkeypatch.setattr(session.time, "monotonic", lambda: clock[0])
    session.choose("p-1")
    clock[0] += session.IDLE_S - 1
    assert not session.lock_if_idle()
    assert session.person_id() == "p-1"
    session.touch()
    clock[0] += session.IDLE_S + 1
    assert session.lock_if_idle()
    assert session.is_locked()
    assert session.person_id() == ""
    session.choose("p-1")
    assert not session.is_locked()


# --- signing ---------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Made:
    workspace = make(tmp_path / "workspace")
    session.configure(workspace.workspace)
    return workspace


def approval(made: Made, proposal: str) -> Intention:
    return Intention(
        Action.APPROVE,
        proposal,
        made.person,
        Role.OPERATOR,
        "looked at all of it",
        Surface.CONSOLE,
        viewed=VIEWED,
    )


def shown(log: Log, proposal: str) -> object:
    with view_of(log) as view:
        return standing.binding_of(view.snapshot.tables, view.proposal(proposal))


def size(made: Made) -> int:
    with made.workspace.log.read() as snapshot:
        return snapshot.size


def test_sign_promotes_what_was_shown(made: Made, tmp_path: Path) -> None:
    proposal = made.propose(tmp_path / "a", "navigator", 1, navigator(1))
    receipt = session.sign(approval(made, proposal), PASSPHRASE, shown=shown(made.workspace.log, proposal))  # type: ignore[arg-type]
    assert receipt.state == State.PROMOTED
    with view_of(made.workspace.log) as view:
        vote = view.proposal(proposal).votes[0]
    assert (vote.surface, vote.viewed) == (Surface.CONSOLE, VIEWED)


def test_a_wrong_passphrase_changes_nothing(made: Made, tmp_path: Path) -> None:
    proposal = made.propose(tmp_path / "a", "navigator", 1, navigator(1))
    before = size(made)
    for wrong in ("", "wrong", PASSPHRASE + " "):
        with pytest.raises(session.PassphraseError, match="Nothing was signed"):
            session.sign(approval(made, proposal), wrong, shown=shown(made.workspace.log, proposal))  # type: ignore[arg-type]
    assert size(made) == before


def test_what_changed_since_it_was_shown_is_not_signed(made: Made, tmp_path: Path) -> None:
    proposal = made.propose(tmp_path / "a", "navigator", 1, navigator(1))
    seen = shown(made.workspace.log, proposal)
    # New evidence and a new verdict: the proposal can still be approved, but it is not what was looked at.
    order = made.workspace.gate.begin_measurement(proposal)
    made.measure(order, navigator(2))
    before = size(made)
    with pytest.raises(StaleError):
        session.sign(approval(made, proposal), PASSPHRASE, shown=seen)  # type: ignore[arg-type]
    assert size(made) == before
    session.sign(approval(made, proposal), PASSPHRASE, shown=shown(made.workspace.log, proposal))  # type: ignore[arg-type]


def test_a_rollback_names_the_champion_that_was_shown(made: Made, tmp_path: Path) -> None:
    with view_of(made.workspace.log) as view:
        original = view.model("navigator").champion
    made.approve(made.propose(tmp_path / "a", "navigator", 1, navigator(1)))
    wish = Intention(
        Action.ROLLBACK,
        "navigator",
        made.person,
        Role.OPERATOR,
        "worse in use",
        Surface.CONSOLE,
        digest=original,
    )
    with pytest.raises(StaleError, match="another champion"):
        session.sign(wish, PASSPHRASE, shown=None, champion=original)
    with view_of(made.workspace.log) as view:
        champion = view.model("navigator").champion
    assert session.sign(wish, PASSPHRASE, shown=None, champion=champion).state == "rolled_back"


def test_the_gate_still_decides(made: Made, tmp_path: Path) -> None:
    proposal = made.propose(tmp_path / "a", "navigator", 1, navigator(1))
    blind = Intention(Action.APPROVE, proposal, made.person, Role.OPERATOR, "did not look", Surface.CONSOLE)
    with pytest.raises(DeniedError, match="not viewed"):
        session.sign(blind, PASSPHRASE, shown=shown(made.workspace.log, proposal))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"state": 3, "share": "x"}', "{" * 3000, '{"state":"running","share":1e999}']
)
def test_an_odd_loop_file_is_no_error(made: Made, content: str) -> None:
    (made.workspace.path / "loop.json").write_text(content)
    state = session.loop_state()
    assert 0.0 <= state.share <= 1.0


@pytest.mark.parametrize(
    ("pid", "expected"),
    [(os.getpid(), "running"), (2**31 - 2, "silent"), ("1", "silent"), (True, "silent")],
    ids=["living", "nobody's", "text", "boolean"],  # names, for a number of a process differs in each run
)
def test_a_loop_that_died_is_not_shown_as_running(made: Made, pid: object, expected: str) -> None:
    path = made.workspace.path / "loop.json"
    path.write_text(
        json.dumps({"state": "running", "model": "navigator", "stage": "measure", "share": 0.5, "pid": pid})
    )
    assert session.loop_state().state == "running"
    os.utime(path, (0, 0))
    assert session.loop_state().state == expected


# --- starting --------------------------------------------------------------------------------


def test_a_directory_that_is_no_workspace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["--workspace", str(tmp_path), "--port", "0"]) == 2
    assert "not an Interlock workspace" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error_not_another_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--workspace", str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err
    assert serve.main(["--workspace", str(tmp_path), "--port", "99999"]) == 2
