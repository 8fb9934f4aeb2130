"""Generated documentation, explanations and hover text: complete, current, and safe to read."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_workspace import REPOSITORY, Cli
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import finding, loaded, rule, verdict
from test_policy_backtest import measured

from guardrails.authoring.case_schema import cases_schema
from guardrails.authoring.reference import checks_page, escaped, policy_page
from guardrails.authoring.remedy import remedy
from guardrails.checks import CHECKS
from guardrails.policy import load_policy, policy_schema
from guardrails.policy.schema import param_docs
from guardrails.policy.settings import DOCS, SETTINGS
from guardrails.records import Finding, Outcome, Severity

POLICIES = sorted((REPOSITORY / "policies").glob("*.yaml"))


def undescribed(schema: Any, path: str = "") -> Iterator[str]:
    """Every property anywhere in a schema that has no hover text."""
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            # ``if`` only tests a key, and is no place for an editor to look.
            if not path.endswith(".if") and isinstance(value, dict) and not value.get("description"):
                yield f"{path}.{name}"
        for key, value in schema.items():
            yield from undescribed(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for i, value in enumerate(schema):
            yield from undescribed(value, f"{path}[{i}]")


@pytest.mark.parametrize("schema", [policy_schema(), cases_schema()], ids=["policy", "cases"])
def test_every_key_has_hover_text(schema: dict[str, Any]) -> None:
    # Under ``then`` of a rule's check, ``params`` and ``require`` repeat keys that are described above.
    assert [p for p in undescribed(schema) if not p.endswith((".then.require", ".then.params"))] == []


def test_every_check_parameter_metric_and_setting_is_documented() -> None:
    page = checks_page()
    for name, check in CHECKS.items():
        section = page.split(f"## `{name}`")[1].split("\n## ")[0]
        assert check.doc in section
        assert len(check.doc) > 20
        for item in dataclasses.fields(check.params):
            assert f"| `{item.name}` |" in section
            assert len(param_docs(check.params)[item.name]) > 10
        for metric, about in check.metrics.items():
            row = next(line for line in section.splitlines() if line.startswith(f"| `{metric}` |"))
            assert escaped(about.doc) in row
            assert escaped(about.unit) in row
            assert about.unit, f"{name}.{metric} has no unit"
            assert ("needs a `bound`" in row) != about.exact
    assert {setting.path for setting in SETTINGS} == set(DOCS)
    assert all(f"| `{setting.path}` |" in page for setting in SETTINGS)


def test_the_committed_page_is_current() -> None:
    committed = (REPOSITORY / "docs" / "checks.md").read_text(encoding="utf-8")
    assert committed == checks_page(), "run: interlock policy docs --out docs"


@pytest.mark.parametrize("file", POLICIES, ids=lambda path: path.stem)
def test_a_policy_reads_as_a_page_with_its_rationale(file: Path) -> None:
    policy = load_policy(file).policy
    page = policy_page(policy)
    for one in policy.rules:
        assert f"## {escaped(one.id)}\n" in page
        assert escaped(one.rationale) in page
        assert f"{one.require.value:.10g}" in page
        assert str(one.place) in page


@given(st.text(max_size=60))
def test_no_text_of_a_policy_forges_structure(text: str) -> None:
    made = loaded(rule(rationale=f"{text}\n## forged\n<script>[x](y)"), name="p").policy
    page = policy_page(made)
    assert [line for line in page.splitlines() if line.startswith("## ") and "forged" in line] == []
    assert "<script>" not in page
    assert "[x](y)" not in page


def test_explanations_name_the_number_that_is_missing() -> None:
    result = verdict([loaded(rule())], measured(0.2).series[0])
    said = remedy(finding(result, "drift.output"))
    found = finding(result, "drift.output")
    assert found.upper is not None
    assert found.observed is not None
    assert f"upper bound {found.upper:.4g} must fall below 0.15" in said.text
    assert said.observed == pytest.approx(0.15 - (found.upper - found.observed))
    assert said.items is None  # the value itself misses the limit: more items would not help
    passing = verdict([loaded(rule())], measured(0.05).series[0])
    assert remedy(finding(passing, "drift.output")).text == ""
    absent = remedy(finding(verdict([loaded(rule())]), "drift.output"))
    assert "has to be measured first" in absent.text


def test_more_items_are_named_only_where_they_would_help() -> None:
    near = Finding(
        "r", "drift.output_kl", Outcome.FAIL, Severity.REVIEW, "upper < 0.15", "p.yaml:1", "", "kl_mean", 0.14, 0.12,
        0.16, 200,
    )  # fmt: skip
    said = remedy(near)
    # Half of it is 0.02 and 0.01 is left: four times as many, and a tenth on top.
    assert said.items == pytest.approx(880, abs=1)
    short = dataclasses.replace(near, outcome=Outcome.INCONCLUSIVE, upper=0.149, n=20)
    assert "n = 20 are too few" in remedy(short).text
    endless = dataclasses.replace(near, upper=float("inf"))
    assert "more items have to be measured" in remedy(endless).text
    exact = dataclasses.replace(
        near, limit="== 0", observed=2.0, lower=None, upper=None, n=None, metric="violations"
    )
    assert remedy(exact).text == "violations is 2 and must be exactly 0"


def test_the_authors_table_has_a_row_for_each_check_with_its_parameters_and_metrics() -> None:
    page = (REPOSITORY / "docs" / "policy-authors.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row for row in rows if row[0].strip("`") in CHECKS}
    assert sorted(table) == sorted(CHECKS)
    for name, check in CHECKS.items():
        _, params, metrics = table[name]
        assert {item.name for item in dataclasses.fields(check.params)} <= set(
            re.findall(r"`(\w+)", params)
        ), name
        assert set(check.metrics) <= set(re.findall(r"`(\w+)`", metrics)), name


# --- the command line --------------------------------------------------------------------------


def test_commands_print_and_write_documentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = Cli(tmp_path / "none", capsys)
    default = REPOSITORY / "policies" / "default.yaml"
    assert cli.ok("policy", "docs", default, "--out", tmp_path / "out")["files"] == [
        str(tmp_path / "out" / "checks.md"), str(tmp_path / "out" / "default.md"),
    ]  # fmt: skip
    assert cli("policy", "docs").out == checks_page()
    (one,) = cli.ok("policy", "explain", default, "--rule", "harm.compliance")["rules"]
    assert "below 0.05" in one["passes"]
    assert cli.json("policy", "explain", default, "--rule", "harm.complianze").status == 2
    assert len(cli.ok("policy", "explain", default)["rules"]) == len(load_policy(default).policy.rules)
    assert json.loads(cli("policy", "schema").out) == policy_schema()
    assert json.loads(cli("policy", "schema", "--cases").out) == cases_schema()


def test_the_commit_hooks_run_what_they_name() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    assert [hook["id"] for hook in hooks] == ["interlock-policy-check", "interlock-policy-test"]
    for hook in hooks:
        words = hook["entry"].split()
        assert words[0] == "interlock"
        files = [] if hook.get("pass_filenames") is False else [str(path) for path in POLICIES]
        done = subprocess.run(
            [sys.executable, "-m", "ui.cli", *words[1:], *files], cwd=REPOSITORY, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
