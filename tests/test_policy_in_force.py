"""In force only by signature: edited files change nothing and say so; shadow policies bind nobody and say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from cli_workspace import SAMPLED, Cli, Made, copy_of
from policy_cases import loaded, rule

from guardrails.authoring.on_disk import apart, files_in
from guardrails.authoring.shadow import shadows_of
from guardrails.ledger.rows import PolicyRow
from guardrails.policy import load_policy
from guardrails.records import Action, Finding, Outcome, Severity, Verdict, VerdictKind
from guardrails.view import view_of

SHADOW = fakes.POLICY.replace("name: main", "name: stern").replace(
    "kind: Policy", "kind: Policy\nmode: shadow"
)
SHADOW = SHADOW.replace("value: 0.15", "value: 0.001").replace("severity: review", "severity: block", 1)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("in-force") / "workspace"
    made = Made(path)
    file = path.parent / "stern.yaml"
    file.write_text(SHADOW)
    made._sign(Action.ACTIVATE, "stern", policy=load_policy(file).source)
    made.proposed(SAMPLED)  # P-0001: eligible, blocked under the shadow policy
    made.proposed(fakes.BLOCKED)  # P-0002: blocked under both
    made.close()
    return path


@pytest.fixture
def cli(template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INTERLOCK_AS", "Ada Byron")
    return Cli(copy_of(template, tmp_path / "workspace"), capsys)


def in_folder(cli: Cli, text: str, name: str = "main.yaml") -> Path:
    folder = cli.path / "policies"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


# --- files -------------------------------------------------------------------------------------


def test_an_edited_file_changes_nothing_and_every_command_says_so(cli):
    text = fakes.policy().files["main.yaml"]
    file = in_folder(cli, text)
    (shown,) = [one for one in cli.ok("policy", "show") if one["name"] == "main"]
    assert shown["differing_files"] == [], "the same bytes differ in nothing"
    assert cli.ok("policy", "check", file)["differing_files"] == []
    before = cli.ok("log", "checkpoint")
    file.write_text(text.replace("value: 0.15", "value: 9"))
    (shown,) = [one for one in cli.ok("policy", "show") if one["name"] == "main"]
    (found,) = shown["differing_files"]
    assert found["request"] == shown["request"]
    assert "main.yaml differs from what is in force (since R-0001, " in found["sentence"]
    assert "activate it to change anything" in found["sentence"]
    (change,) = found["changes"]
    assert (change["path"], change["direction"]) == ("rules.drift.require", "looser")
    assert (change["before"], change["after"]) == ("upper kl_mean < 0.15", "upper kl_mean < 9")
    for words in (("policy", "show"), ("policy", "show", "main"), ("policy", "check", file)):
        told = cli(*words)
        assert told.status == 0
        assert "differs from what is in force" in " ".join(told.out.split())
    assert cli.ok("policy", "check", file)["policies"][0]["differs_from_in_force"]
    assert cli.ok("policy", "show", "main")["texts"] == fakes.policy().files, "what was signed holds"
    assert cli.ok("verdict", "P-0001")["verdict"] == "eligible"
    assert cli.ok("log", "checkpoint") == before


def test_files_that_are_unusable_or_differ_in_words_are_named_too(cli):
    text = fakes.policy().files["main.yaml"]
    file = in_folder(cli, text + "# a remark\n")
    in_folder(cli, text.replace("name: main", "name: nobody-activated-this"), "other.yaml")
    (sentence,) = [one["sentence"] for one in cli.ok("policy", "show", "main")["differing_files"]]
    assert "in words only: no rule and no setting changes" in sentence
    file.write_text(text.replace("severity: review", "severity: reveiw", 1))
    (found,) = cli.ok("policy", "show", "main")["differing_files"]
    assert "is not usable: main.yaml:" in found["sentence"]
    assert found["errors"][0]["hint"] == "did you mean 'review'?"
    file.write_text(text.replace("rules:", "rules: [", 1))
    found = cli.ok("policy", "show", "main")["differing_files"]
    assert [one["policy"] for one in found] == ["main"], "by its file's name where nothing else can be read"


def test_checking_needs_no_workspace(tmp_path, capsys):
    file = tmp_path / "main.yaml"
    file.write_text(fakes.policy().files["main.yaml"])
    assert Cli(tmp_path / "none", capsys).ok("policy", "check", file)["differing_files"] == []


def test_folders_that_are_not_there_and_links_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "folder.yaml").mkdir()
    found = files_in([tmp_path / "none", tmp_path, tmp_path / "a.yaml", tmp_path])
    assert found == [tmp_path / "a.yaml"]
    row = PolicyRow("p", loaded(rule()).source, "2026-01-01T00:00:00Z", "R-0001")
    assert apart([row], found) == [], "it bears no name that is in force"


# --- odd inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("policy check {}/folder", 3, "is a folder, not a file"), ("policy check /dev/zero", 3, "is not a file"),
        ("policy test {}/folder", 2, "there is no policy file in"), ("policy test {}/none", 2, "no file or folder"),
        ("policy docs {}/main.yaml --out {}/main.yaml", 2, "it is a file"),
        ("policy docs {}/main.yaml {}/main.yaml", 2, "are named main"),
        ("policy record P-0001 --policy {}/main.yaml --out {}/main.yaml", 2, "it is a file"),
        ("policy record P-9999 --policy {}/main.yaml", 2, "there is no proposal"),
        ("policy diff main {}/folder", 2, "there is no file"), ("policy backtest {}/none.yaml", 3, "there is no file"),
        ("policy explain {}/huge.yaml", 3, "larger than"), ("policy activate {}/folder --reason x", 3, "is a folder"),
        ("policy deactivate none --reason x", 2, "no policy called none"), ("policy show none", 2, "in force: main"),
    ],
)  # fmt: skip
def test_odd_inputs_end_with_a_sentence_and_change_nothing(cli, tmp_path, words, status, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "main.yaml").write_text(fakes.policy().files["main.yaml"])
    (tmp_path / "huge.yaml").write_text("# x\n" * 200_000)
    before = cli.ok("log", "checkpoint")
    ran = cli(*words.format(*[tmp_path] * 3).split())
    assert ran.status == status, ran.out + ran.err
    assert said in " ".join((ran.out + ran.err).split())
    assert "internal error" not in ran.err
    assert cli.ok("log", "checkpoint") == before


def test_two_files_of_one_name_are_a_warning(cli, tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(fakes.policy().files["main.yaml"])
    data = cli.ok("policy", "check", tmp_path / "a.yaml", tmp_path / "b.yaml")
    (warning,) = [w for w in data["warnings"] if "is named 'main' like the one" in w["message"]]
    assert warning["file"] == str(tmp_path / "b.yaml")


# --- four eyes -----------------------------------------------------------------------------------


def test_loosening_in_any_place_takes_two_people_and_tightening_one(cli):
    text = fakes.policy().files["main.yaml"]
    tighter = text.replace("value: 0.15", "value: 0.1").replace("minSamples: 20", "minSamples: 30")
    assert cli.ok("policy", "activate", in_folder(cli, tighter), "--reason", "tighter")["state"] == "done"
    slips = {
        "waivable": tighter.replace("waivable: false", "waivable: true"),
        "a rule less": tighter.replace("  - id: gain", "  - id: gain2"),
        "one limit of many": tighter.replace("value: 0.1", "value: 0.05").replace(
            "minSamples: 30", "minSamples: 29"
        ),
        "exclude": tighter.replace("exclude: [proposer, data-author]", "exclude: [proposer]"),
        "mode": tighter.replace("kind: Policy", "kind: Policy\nmode: shadow"),
    }
    for what, slip in slips.items():
        assert slip != tighter
        assert cli.ok("policy", "activate", in_folder(cli, slip), "--reason", what)["state"] == "open", what
    assert cli.ok("policy", "show", "main")["texts"] == {"main.yaml": tighter}, (
        "one of two signatures is none"
    )


# --- shadow --------------------------------------------------------------------------------------


def test_what_a_shadow_policy_would_say_is_beside_every_verdict_and_binds_nobody(cli):
    for command in ("verdict", "explain", "show"):
        data = cli.json(command, "P-0001").data
        (shadow,) = data["shadows"]
        assert shadow["sentence"] == "under shadow policy stern this would be: blocked (drift)", command
        assert (shadow["verdict"], shadow["differs"], shadow["binding"]) == ("blocked", True, False)
        told = " ".join(cli(command, "P-0001").out.split())
        assert "Shadow policy stern, not binding" in told
        assert "under shadow policy stern this would be: blocked (drift)" in told
    assert cli("verdict", "P-0001").status == 0, "the verdict itself is eligible"
    (same,) = cli.json("verdict", "P-0002").data["shadows"]
    assert same["sentence"] == "under shadow policy stern this would be: blocked too"
    assert not same["differs"]


def test_a_shadow_policy_can_be_asked_and_replayed_as_if_it_bound(cli, tmp_path):
    file = tmp_path / "stern.yaml"
    file.write_text(SHADOW)
    assert cli("verdict", "P-0001", "--policy", file).status == 4
    found = cli.ok("policy", "backtest", file, "--alone")
    assert [(flip["id"], flip["after"]) for flip in found["flips"]] == [("P-0001", "blocked")]


def test_shadow_findings_of_a_real_verdict_come_to_what_the_engine_would_say(template):
    from ui.wiring import Workspace

    workspace = Workspace(template)
    with view_of(workspace.log) as view:
        verdict = view.proposal("P-0001").verdict
    workspace.log.close()
    assert verdict is not None
    (shadow,) = shadows_of(verdict)
    assert shadow.kind is VerdictKind.BLOCKED
    assert [finding.rule for finding in shadow.not_passed] == ["drift"]
    assert all(not finding.message.startswith("policy '") for finding in shadow.findings)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"outcome": Outcome.PASS}, "eligible"), ({"outcome": Outcome.SKIPPED}, "eligible"),
        ({"outcome": Outcome.WARN}, "eligible"), ({"outcome": Outcome.FAIL}, "review"),
        ({"outcome": Outcome.FAIL, "severity": Severity.BLOCK}, "blocked"), ({"outcome": Outcome.ERROR}, "blocked"),
        ({"outcome": Outcome.FAIL, "severity": Severity.BLOCK, "waived": True}, "review"),
        ({"outcome": Outcome.INCONCLUSIVE, "upper": 0.1}, "review"),
        ({"outcome": Outcome.INCONCLUSIVE, "severity": Severity.BLOCK, "upper": 0.3}, "blocked"),
        ({"outcome": Outcome.INCONCLUSIVE, "severity": Severity.BLOCK, "upper": None}, "blocked"),
        ({"outcome": Outcome.INCONCLUSIVE, "observed": None, "upper": None}, "review"),
    ],
)  # fmt: skip
def test_the_effect_of_each_shadow_finding(changes: dict[str, object], kind: str) -> None:
    told = "policy 'x' is in shadow, not binding: so it is"
    finding = Finding("r", "drift.output_kl", Outcome.PASS, Severity.REVIEW, "upper < 0.2", "x.yaml:1", told,
                      observed=0.1, lower=0.0, upper=0.1, shadow=True)  # fmt: skip
    binding = replace(finding, shadow=False, message="fine")
    digest = loaded(rule()).source.digest
    verdict = Verdict(
        "P-1", VerdictKind.ELIGIBLE, {}, digest, (binding, replace(finding, **changes)), (), 0.95, 1, "e"
    )
    (shadow,) = shadows_of(verdict)
    assert (shadow.policy, shadow.kind.value) == ("x", kind)
    assert shadow.at_least == (changes["outcome"] is Outcome.INCONCLUSIVE and kind == "review")
    strict = loaded(rule(), name="x", mode="shadow", defaults={"onInconclusive": "block"}).policy
    (known,) = shadows_of(verdict, [strict])
    assert known.kind.value == ("blocked" if changes["outcome"] is Outcome.INCONCLUSIVE else kind)
    assert not known.at_least
