"""One decision told on one page: complete, true to the log, and safe against what people and models write."""

from __future__ import annotations

import json
import re

import pytest
from cli_workspace import OPERATOR, Cli, copy_of, workspace_with
from fakes import BLOCKED, PASSING, REVIEWABLE, Site, erase, texts_of
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from guardrails.view import view_of
from ui.presenters.report import report_fields
from ui.presenters.report_page import code, escape, page
from ui.presenters.texts import one_line

HOSTILE = "](http://x) | <b>x</b> `rm` # head\n\n## forged\n- [x] ok \x1b[2J \u202e ![i](data:x) \\| ~~~"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return workspace_with(tmp_path_factory, PASSING, REVIEWABLE, None)


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch) -> Cli:
    monkeypatch.setenv("INTERLOCK_AS", OPERATOR)
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def test_the_whole_story_of_a_promotion(cli: Cli):
    cli.ok("approve", "P-0001", "--reason", "measured, seen, good")
    told = cli.ok("log", "show", "P-0001", "--report")["report"]
    kinds = [record["record"] for record in told["records"]]
    assert kinds == ["proposal", "transition", "evidence", "verdict", "decision", "promotion"]
    [decision] = told["decisions"]
    assert (decision["name"], decision["surface"], decision["reason"]) == (
        OPERATOR,
        "cli",
        "measured, seen, good",
    )
    assert decision["key"].startswith("SHA256:")
    assert {finding["rule"] for finding in told["findings"]} >= {"drift", "pii", "weights", "gain"}
    assert told["checkpoint"].startswith("interlock/")
    out = cli("log", "show", "P-0001", "--report").out
    for wanted in ("measured, seen, good", OPERATOR, decision["key"], told["proposal"]["bundle_digest"], "promotion",
                   "0.15", "How to verify", told["records"][0]["leaf"]):  # fmt: skip
        assert wanted in out.replace("\\", ""), wanted
    assert json.loads(cli("log", "show", "P-0001", "--report", "--format", "json").out) == told


@pytest.mark.parametrize("proposal", ["P-0002", "P-0003"])
def test_what_is_not_there_yet_is_said(cli: Cli, proposal: str):
    out = cli("log", "show", proposal, "--report").out
    assert "Nobody has signed anything about it" in out
    assert ("Nothing has been measured" in out) == (proposal == "P-0003")


def test_reports_of_nothing(cli: Cli):
    assert cli("log", "show", "P-9999", "--report").status == 2
    assert cli("log", "show", "--report").status == 2
    assert cli("log", "show", "7", "--report").status == 2


def test_a_rollback_belongs_to_the_story(site: Site):
    first = site.promoted("first")
    second = site.promoted("second")
    site.rollback("ada", site.row(first).proposal.bundle)
    with view_of(site.log) as view:
        told = report_fields(view, second)
    assert [record["record"] for record in told["records"]][-1] == "rollback"
    assert told["decisions"][-1]["action"] == "rollback", "who asked for it, and why, belongs to it"
    assert told["decisions"][-1]["name"] == "ada"
    assert told["proposal"]["state"] == "rolled_back"
    assert "rolled back" in page(told)


def test_erased_texts_are_said_to_be_erased(site: Site):
    proposal = site.promoted()
    erase(site, texts_of(site, "decision", "approve"))
    with view_of(site.log) as view:
        made = page(report_fields(view, proposal))
    assert "ada says approve" not in made
    assert re.search(r"erased on 2026-03-02 by record \d+", made)


# --- escaping ---------------------------------------------------------------------------------------


def test_nothing_that_was_written_makes_markdown(site: Site):
    proposal = site.judged(BLOCKED)
    with view_of(site.log) as view:
        told = report_fields(view, proposal)
    plain = page(told)
    hostile = json.loads(json.dumps(told))
    hostile["proposal"] |= {
        "intent": HOSTILE,
        "proposer": HOSTILE,
        "note": HOSTILE,
        "recipe": {HOSTILE: HOSTILE},
    }
    hostile["findings"][0] |= {"rule": HOSTILE, "message": HOSTILE, "source": HOSTILE, "condition": HOSTILE}
    hostile["records"][0] |= {"summary": HOSTILE, "by": HOSTILE}
    hostile["decisions"] = [{
        "seq": 1, "time": told["proposal"]["created_at"], "action": "approve", "name": HOSTILE, "person": HOSTILE,
        "role": "operator", "surface": "cli", "viewed": [HOSTILE], "key": HOSTILE, "reason": HOSTILE,
    }]  # fmt: skip
    made = page(hostile)

    def shape(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    assert shape(made) == shape(plain)
    for line in made.splitlines():
        bare = re.sub(r"\\.", "", line)
        assert not re.search(r"<[A-Za-z/!?]", bare)
        assert "](" not in bare
        assert "\x1b" not in line
        assert "\u202e" not in line
    kinds = {child.type for token in MARKDOWN.parse(made) for child in [token, *(token.children or [])]}
    known = {child.type for token in MARKDOWN.parse(plain) for child in [token, *(token.children or [])]}
    assert kinds <= known | {"text_special"}, kinds - known
    # A table row has as many cells as its head, whatever stands in them.
    heads = 0
    for line in made.splitlines():
        if line.startswith("|---"):
            heads = line.count("---")
        elif line.startswith("| ") and heads and not line.startswith(("| What |", "| Rule |", "| Record |")):
            assert len(re.findall(r"(?<!\\)\|", line)) == heads + 1, line


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ORDINARY = (
    "Ada Byron-King", "max_kl_mean", "drift.output_kl", "gain + 0.15 (95 %)", "it's 3 < 4 & 4 > 3", "P-0001", "#1 of 7",
    "C:\\models\\tiny", "2026-03-02T09:00:00Z", "10 * 3 = 30", "a/b@c", "[x] done!", "{braces}",
)  # fmt: skip
NASTY = st.one_of(
    st.text(alphabet=st.sampled_from(list("\\`*_{}[]()#+-.!|<>~&$^:=@/\"' abwx1;\n\t")), max_size=40),
    st.text(max_size=40), st.sampled_from((HOSTILE, "http://x.y", "www.x.y", "&amp;", "&#60;", "<!-- x", "</td>")),
)  # fmt: skip


def rendered(inline: Token) -> str:
    """The text of an inline token; fails where it is anything else than text."""
    children = inline.children or []
    assert {child.type for child in children} <= {"text", "text_special"}, [child.type for child in children]
    return "".join(child.content for child in children)


def places(text: str) -> list[str]:
    """What a reader sees where this text stands in a cell, in a sentence, in bold type and at the end of a heading."""
    made = escape(text)
    cell = [t for t in MARKDOWN.parse(f"| a | b |\n|---|---|\n| [1] {made} | c |\n") if t.type == "inline"]
    assert len(cell) == 4, "a row has two cells"
    inline = [t for t in MARKDOWN.parse(f"Now: {made}.\n\n# Proposal {made}\n") if t.type == "inline"]
    assert len(inline) == 2
    return [
        rendered(cell[2]).removeprefix("[1] ").removeprefix("[1]"),
        rendered(inline[0]).removeprefix("Now: ").removesuffix("."),
        rendered(inline[1]).removeprefix("Proposal ").removeprefix("Proposal"),
    ]


@given(NASTY)
def test_whatever_is_written_is_read_as_it_was_written(text: str):
    wanted = one_line(text)
    assert {place.strip() for place in places(text)} == {wanted.strip()}
    assert "\n" not in escape(text)
    assert "\n" not in code(text)
    assert code(text).count("`") in (0, 2)


@given(NASTY, NASTY)
def test_two_texts_beside_each_other_make_nothing_together(left: str, right: str):
    made = f"Now: {escape(left)}: {escape(right)} (`x`), {escape(left)}"
    (inline,) = (token for token in MARKDOWN.parse(made) if token.type == "inline")
    kinds = [child.type for child in inline.children or []]
    assert kinds.count("code_inline") == 1
    assert set(kinds) <= {"text", "text_special", "code_inline"}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_words_stay_readable(text: str):
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("*x*", r"\*x\*"), ("_x_", r"\_x\_"), ("a|b", r"a\|b"), ("[a](b)", r"[a\](b)"), ("<b>", r"\<b>"),
        ("&lt;", r"\&lt;"), ("`rm`", r"\`rm\`"), ("http://x", r"http\://x"), ("www.x", r"www\.x"), ("$x$", r"\$x\$"),
        ("C#", r"C\#"), ("\\*", r"\\\*"),
    ],
)  # fmt: skip
def test_what_markdown_would_interpret_is_escaped(text: str, made: str):
    assert escape(text) == made
