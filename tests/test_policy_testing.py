"""Tests of policies: cases say what a policy must say, and a looser policy is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from cli_workspace import REPOSITORY, Cli, Made

from guardrails.authoring.case_files import read_cases
from guardrails.authoring.case_schema import cases_schema
from guardrails.authoring.mutation import mutants, unnoticed
from guardrails.authoring.testing import gaps, run_cases
from guardrails.errors import PolicyError
from guardrails.policy import LoadedPolicy, load_policy
from guardrails.policy.compare import is_tightening
from guardrails.records import Outcome, VerdictKind

POLICIES = REPOSITORY / "policies"
SHIPPED = sorted(path.stem for path in POLICIES.glob("*.yaml"))

POLICY = """\
apiVersion: interlock/v1
kind: Policy
metadata: {name: mine}
rules:
  - id: drift
    check: drift.output_kl
    params: {suite: control}
    require: {metric: kl_mean, bound: upper, op: "<", value: 0.15}
    severity: review
    rationale: because
  - id: pii
    check: data.pii
    require: {metric: share, op: "==", value: 0}
    severity: block
    waivable: false
    rationale: because
"""
CASES = """\
apiVersion: interlock/v1
kind: PolicyCases
evidence:
  drift: {kl_mean: {value: 0.04, lower: 0.03, upper: 0.05, n: 300}}
  pii: {share: 0}
cases:
  - name: calm
    verdict: eligible
  - name: moved too far
    evidence: {drift: {kl_mean: {value: 0.15, lower: 0.14, upper: 0.16, n: 300}}}
    verdict: review
    findings: {drift: fail}
  - name: an address
    evidence: {pii: {share: 0.01}}
    waivers: [pii]
    verdict: blocked
    findings: {pii: fail}
"""


def made(tmp_path: Path, cases: str = CASES, text: str = POLICY) -> tuple[LoadedPolicy, Path]:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    folder = tmp_path / "cases" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all.yaml").write_text(cases)
    return load_policy(file), folder


def problems(tmp_path: Path, cases: str) -> list[str]:
    loaded, folder = made(tmp_path, cases)
    with pytest.raises(PolicyError) as caught:
        read_cases(loaded, folder)
    return [str(problem).replace(f"{folder.as_posix()}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies_are_tried_in_full(name: str) -> None:
    loaded = load_policy(POLICIES / f"{name}.yaml")
    results = run_cases(loaded, read_cases(loaded, POLICIES / "cases" / loaded.policy.name))
    failed = [(r.case.name, str(r.case.place), r.mismatches) for r in results if not r.ok]
    assert (failed, gaps(loaded, results)) == ([], [])
    assert [(m.rule, m.change) for m in unnoticed(loaded, results)] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_every_mutant_of_a_shipped_policy_is_looser(name: str) -> None:
    """A change that does not loosen would be noticed for the wrong reason."""
    policy = load_policy(POLICIES / f"{name}.yaml").policy
    looser = list(mutants(policy))
    assert len(looser) > 2 * len(policy.rules), (
        "each rule is dropped, and its limit moved; of others more besides"
    )
    assert [m.rule for m in looser if is_tightening(policy, m.policy)] == []


def test_cases_run_as_written(tmp_path: Path) -> None:
    loaded, folder = made(tmp_path)
    results = run_cases(loaded, read_cases(loaded, folder))
    assert [r.ok for r in results] == [True, True, True]
    assert (gaps(loaded, results), unnoticed(loaded, results)) == ([], [])


def test_a_looser_or_shorter_policy_is_noticed(tmp_path: Path) -> None:
    """The positive control: each of these edits makes a case fail."""
    for change in (
        ("0.15", "0.165"),
        ("severity: review", "severity: warn"),
        ("waivable: false", "waivable: true"),
    ):
        loaded, folder = made(tmp_path, text=POLICY.replace(*change))
        assert not all(r.ok for r in run_cases(loaded, read_cases(loaded, folder))), change


def test_a_case_far_from_the_limit_leaves_a_loosening_unnoticed(tmp_path: Path) -> None:
    far = CASES.replace("value: 0.15, lower: 0.14, upper: 0.16", "value: 0.5, lower: 0.4, upper: 0.6")
    loaded, folder = made(tmp_path, far)
    results = run_cases(loaded, read_cases(loaded, folder))
    assert all(r.ok for r in results)
    assert [(m.rule, m.change) for m in unnoticed(loaded, results)] == [
        ("drift", "its limit at 'upper kl_mean < 0.165'")
    ]


def test_a_rule_without_a_case_is_a_gap(tmp_path: Path) -> None:
    short = CASES[: CASES.index("  - name: an address")]
    loaded, folder = made(tmp_path, short)
    results = run_cases(loaded, read_cases(loaded, folder))
    assert [(gap.rule, gap.lacks) for gap in gaps(loaded, results)] == [("pii", "failing")]


def test_a_case_that_fails_covers_nothing(tmp_path: Path) -> None:
    loaded, folder = made(tmp_path, CASES.replace("findings: {drift: fail}", "findings: {drift: warn}"))
    results = run_cases(loaded, read_cases(loaded, folder))
    assert [r.ok for r in results] == [True, False, True]
    assert ("drift", "failing") in [(gap.rule, gap.lacks) for gap in gaps(loaded, results)]


def test_a_rule_that_is_not_named_must_pass(tmp_path: Path) -> None:
    cases = CASES.replace("    verdict: review\n    findings: {drift: fail}\n", "    verdict: review\n")
    loaded, folder = made(tmp_path, cases)
    (found,) = [r for r in run_cases(loaded, read_cases(loaded, folder)) if not r.ok]
    assert [(m.rule, m.expected, m.got) for m in found.mismatches] == [("drift", "pass or skipped", "fail")]


def test_unknown_names_are_errors_with_the_nearest_one(tmp_path: Path) -> None:
    cases = (
        CASES.replace("findings: {drift: fail}", "findings: {drfit: fail}")
        .replace("waivers: [pii]", "waivers: [pij]")
        .replace("pii: {share: 0}", "pii: {shar: 0}")
    )
    assert problems(tmp_path, cases) == [
        "all.yaml:5:9: rule 'pii' has no metric 'shar' (did you mean 'share'?)",
        "all.yaml:12:16: policy 'mine' has no rule 'drfit' (did you mean 'drift'?)",
        "all.yaml:15:15: policy 'mine' has no rule 'pij' (did you mean 'pii'?)",
    ]


def test_numbers_that_no_measurement_gives_are_errors(tmp_path: Path) -> None:
    cases = CASES.replace("{value: 0.04, lower: 0.03, upper: 0.05, n: 300}", "0.04").replace(
        "pii: {share: 0}", "pii: {share: {value: 0.5, lower: 0.6, upper: 0.7, n: 3}}"
    )
    found = "\n".join(problems(tmp_path, cases))
    assert "'kl_mean' is sampled" in found
    assert "the value lies outside its own interval" in found
    assert "'share' is exact" in found


def test_misspelt_keys_duplicate_names_and_absent_recordings_are_located(tmp_path: Path) -> None:
    (misspelt,) = problems(tmp_path, CASES.replace("verdict: review", "verdikt: review"))
    assert "all.yaml:11:5: unknown key 'verdikt'" in misspelt
    assert "did you mean 'verdict'?" in misspelt
    (absent,) = problems(tmp_path, CASES.replace("    verdict: review\n", "", 1))
    assert "key 'verdict' is missing" in absent
    assert "two cases are named 'calm'" in problems(tmp_path, CASES.replace("moved too far", "calm"))[0]
    cases = CASES.replace("    waivers: [pii]\n", "    recorded: P-0001.json\n")
    assert "'P-0001.json' cannot be used" in problems(tmp_path, cases)[0]


def test_numbers_per_item_are_read_by_the_checks_themselves(tmp_path: Path) -> None:
    values = ", ".join("0.2" if i % 2 else "0.1" for i in range(240))
    cases = f"""\
apiVersion: interlock/v1
kind: PolicyCases
cases:
  - name: read from a series
    measurements:
      facts: {{data.records: 100, data.pii: 0}}
      series: [{{probe: distribution, suite: control, columns: {{kl_mean: [{values}]}}}}]
    verdict: review
    findings: {{drift: fail}}
"""
    loaded, folder = made(tmp_path, cases)
    (result,) = run_cases(loaded, read_cases(loaded, folder))
    drift = next(f for f in result.verdict.findings if f.rule == "drift")
    assert (result.ok, drift.observed, drift.n) == (True, pytest.approx(0.15), 240)


def test_what_a_case_does_not_state_is_an_error_and_never_a_pass(tmp_path: Path) -> None:
    loaded, folder = made(tmp_path, CASES.replace("  pii: {share: 0}\n", ""))
    result = run_cases(loaded, read_cases(loaded, folder))[0]
    assert result.verdict.kind is VerdictKind.BLOCKED
    assert {f.rule: f.outcome for f in result.verdict.findings}["pii"] is Outcome.ERROR


def test_a_shadow_policy_is_tested_as_if_it_were_binding(tmp_path: Path) -> None:
    loaded, folder = made(tmp_path, text=POLICY.replace("rules:", "mode: shadow\nrules:"))
    assert all(r.ok for r in run_cases(loaded, read_cases(loaded, folder)))


def test_the_schema_of_cases_is_written_out_and_explains_every_key() -> None:
    written = json.loads((POLICIES / "policy-cases.v1.schema.json").read_text())
    assert written == cases_schema(), (
        "run: interlock policy schema --cases > policies/policy-cases.v1.schema.json"
    )


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    (tmp_path / "work").mkdir()
    return Cli(tmp_path / "work" / "none", capsys)


def test_the_command_says_what_failed_and_where(tmp_path: Path, cli: Cli) -> None:
    made(tmp_path)
    ran = cli.json("policy", "test", tmp_path / "mine.yaml", "--coverage")
    assert (ran.status, ran.data["ok"], ran.data["policies"][0]["passed"]) == (0, True, 3)
    made(tmp_path, text=POLICY.replace("0.15", "0.2"))
    ran = cli.json("policy", "test", tmp_path, "--coverage")
    assert ran.status == 4
    (failure,) = ran.data["policies"][0]["failures"]
    assert (failure["case"], failure["mismatches"][0]["expected"]) == ("moved too far", "review")
    assert failure["place"].endswith("cases/mine/all.yaml:9")
    ran = cli("policy", "test", tmp_path / "mine.yaml")
    assert "drift: expected fail, got pass" in ran.out
    assert "2 of 3 cases as expected" in ran.out
    made(tmp_path, CASES.replace("findings: {drift", "findings: {drfit"))
    ran = cli.json("policy", "test", tmp_path / "mine.yaml")
    assert (ran.status, ran.data["errors"][0]["hint"]) == (3, "did you mean 'drift'?")


def test_without_cases_coverage_is_not_given(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine.yaml").write_text(POLICY)
    assert cli.json("policy", "test", tmp_path / "mine.yaml").status == 0
    assert cli.json("policy", "test", tmp_path / "mine.yaml", "--coverage").status == 4
    assert cli.json("policy", "test", tmp_path / "nothing").status == 2


def test_a_real_proposal_becomes_a_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Made(tmp_path / "w")
    proposal = workspace.proposed()
    row_policy = tmp_path / "main.yaml"
    row_policy.write_text(fakes.POLICY)
    cli = Cli(tmp_path / "w", capsys)
    written = cli.ok("policy", "record", proposal, "--policy", row_policy)["files"]
    assert [Path(name).name for name in written] == ["P-0001.json", "P-0001.yaml"]
    ran = cli.json("policy", "test", row_policy)
    assert (ran.status, ran.data["policies"][0]["passed"]) == (0, 1)
    assert cli.json("policy", "record", proposal, "--policy", row_policy).status == 2
    # A looser reading of the same evidence is not possible: damage to the recording is refused.
    file = Path(written[0])
    file.write_bytes(file.read_bytes().replace(b'"attempt":1', b'"attempt":"1"'))
    assert cli.json("policy", "test", row_policy).status == 3
    workspace.close()


def test_a_recording_holds_no_text_and_no_person(tmp_path: Path) -> None:
    from policy_cases import BUNDLE, EVIDENCE, NOW, SOUND, drift, subject

    from guardrails import engine
    from guardrails.authoring.recording import parse_recording, record_case
    from guardrails.records import Measurements, Sample

    measured = Measurements(
        (drift([0.1, 0.2]),), SOUND, (Sample("s", "p", "secret text", "b"),), {"data.pii": ("i0",)}
    )
    about = replace(subject(), proposer="person-17")
    case = engine.Case(about, measured, EVIDENCE, {"compute.cpu_seconds": "1.0"}, (), 3, NOW)
    data = record_case(case)
    assert b"secret text" not in data
    assert b"person-17" not in data
    back = parse_recording(data)
    assert (back.attempt, back.now, back.subject.bundle) == (3, NOW, BUNDLE)
    assert back.measurements.series == measured.series


def test_the_cases_in_the_authors_page_run_on_its_policy(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "policy-authors.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    cases = page.split("```yaml case\n")[1].split("```")[0]
    loaded, folder = made(tmp_path, cases, text)
    results = run_cases(loaded, read_cases(loaded, folder))
    assert [(r.case.name, r.mismatches) for r in results if not r.ok] == []
    assert (len(results), gaps(loaded, results), unnoticed(loaded, results)) == (3, [], [])


def test_the_explanation_in_the_authors_page_is_what_the_command_says() -> None:
    from guardrails.authoring.remedy import remedy
    from guardrails.records import Finding, Severity

    page = " ".join((REPOSITORY / "docs" / "policy-authors.md").read_text(encoding="utf-8").split())
    finding = Finding(
        "drift", "drift.output_kl", Outcome.FAIL, Severity.REVIEW, "upper < 0.15", "p.yaml:1", "", "kl_mean", 0.196,
        0.181, 0.211, 200,
    )  # fmt: skip
    assert f"`{remedy(finding).text}`" in page
