"""One decision told on one page: complete, true to the log, and safe against what people and models write."""

from __future__ import annotations

import json
import re

import pytest
from cli_workspace import OPERATOR, Cli, Made, copy_of
from fakes import BLOCKED, REVIEWABLE, Site
from hypothesis import given
from hypothesis import strategies as st

from guardrails.view import view_of
from ui.presenters.report import report_fields
from ui.presenters.report_page import code, escape, page

HOSTILE = "](http://x) | <b>x</b> `rm` # head\n\n## forged\n- [x] ok \x1b[2J \u202e ![i](data:x) \\| ~~~"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "workspace"
    made = Made(path)
    made.proposed()
    made.proposed(REVIEWABLE)
    made.proposed(None)
    made.close()
    return path


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
    assert told["proposal"]["state"] == "rolled_back"
    assert "rolled back" in page(told)


def test_erased_texts_are_said_to_be_erased(site: Site):
    from test_erasure import erase, texts_of

    proposal = site.promoted()
    erase(site, texts_of(site, "decision", "approve"))
    with view_of(site.log) as view:
        made = page(report_fields(view, proposal))
    assert "ada says approve" not in made
    assert re.search(r"erased on 2026\\-03\\-02 by record \d+", made)


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
        assert "<" not in bare
        assert "](" not in bare
        assert "\x1b" not in line
        assert "\u202e" not in line
    # A table row has as many cells as its head, whatever stands in them.
    heads = 0
    for line in made.splitlines():
        if line.startswith("|---"):
            heads = line.count("---")
        elif line.startswith("| ") and heads and not line.startswith(("| What |", "| Rule |", "| Record |")):
            assert len(re.findall(r"(?<!\\)\|", line)) == heads + 1, line


@given(st.text())
def test_escaped_text_is_one_line_and_has_no_bare_markup(text: str):
    made = escape(text)
    assert "\n" not in made
    assert not re.search(r"[`*_\[\]#<>|~&!()]", re.sub(r"\\.", "", made))
    assert "\n" not in code(text)
    assert code(text).count("`") in (0, 2)
