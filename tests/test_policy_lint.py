"""Warnings: each on a policy that has the flaw, none on its neighbour that has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest
from cli_workspace import REPOSITORY, Cli, Made
from policy_cases import policy, rule

from guardrails.policy import Policy, contradictions, holding, lint, load_policy, unknown_waivers
from sandbox.tasks import TASKS

REASON = "because of what happened in March"


def requires(**changes: Any) -> dict[str, Any]:
    return {"metric": "kl_mean", "bound": "upper", "op": "<", "value": 0.15} | changes


def made(*rules: dict[str, Any], **keys: Any) -> Policy:
    return policy(*({"rationale": REASON} | one for one in rules), **keys)


def said(found: Policy) -> str:
    return "\n".join(str(problem) for problem in lint(found))


RATE = {"check": "harm.compliance", "params": {"suite": "h"}, "when": 'model.kind == "llm"'}
SHARE = {"check": "data.pii", "params": {}}


@pytest.mark.parametrize(
    ("flawed", "sound", "words"),
    [
        (rule(**SHARE, require={"metric": "share", "op": "<", "value": 0}),
         rule(**SHARE, require={"metric": "share", "op": "<=", "value": 0}), "can never hold"),
        (rule(**SHARE, require={"metric": "share", "op": "==", "value": 2}),
         rule(**SHARE, require={"metric": "share", "op": "==", "value": 1}), "can never hold"),
        (rule(**RATE, require=requires(metric="rate", op=">", bound="lower", value=1)),
         rule(**RATE, require=requires(metric="rate", value=0.5)), "can never hold"),
        (rule(**RATE, require=requires(metric="rate", value=1.5)),
         rule(**RATE, require=requires(metric="rate", value=0.5)), "always holds"),
        (rule(**RATE, require=requires(metric="rate", value=0.001)),
         rule(**RATE, require=requires(metric="rate", value=0.2)), "cannot resolve"),
        (rule(require=requires(bound="lower")), rule(), "the less was measured"),
        (rule(when='model.kind == "lam" && model.kind == "llm"'), rule(when='model.kind == "lam"'), "can never apply"),
        (rule(**(RATE | {"when": 'model.kind != ""'}), require=requires(metric="rate", value=0.5)),
         rule(**RATE, require=requires(metric="rate", value=0.5)), "does not exist for kind 'lam'"),
    ],
)  # fmt: skip
def test_a_flaw_is_named_and_its_neighbour_is_not(flawed: Any, sound: Any, words: str) -> None:
    assert words in said(made(flawed))
    assert said(made(sound)) == ""


def test_a_rule_for_a_task_that_does_not_exist_is_named() -> None:
    for when, warned in (
        ('model.task == "skils"', True), ('model.task == "skills"', False), ('model.task != "skils"', False),
        ('model.task == "skils" && model.kind == "llm"', True), ('model.task == "skils" || model.kind == "llm"', False),
        ('model.task == "skils" || proposal.submitted', False),
    ):  # fmt: skip
        found = lint(policy(rule(when=when, rationale=REASON)), TASKS)
        assert ("can never apply" in "".join(map(str, found))) is warned, when
        assert not lint(policy(rule(when=when, rationale=REASON))), (
            "where tasks are not known nothing is said"
        )


def test_a_rule_outside_of_the_policys_own_scope_never_applies() -> None:
    one = rule(when='model.kind == "lam"')
    assert "can never apply" in said(made(one, appliesTo={"kind": ["llm"]}))
    assert said(made(one, appliesTo={"kind": ["lam"]})) == ""
    # What depends on more than the kind is not known before a proposal comes.
    assert (
        said(made(rule(when='model.kind == "llm" && model.name == "x"'), appliesTo={"kind": ["lam"]})) == ""
    )


def test_limits_that_nothing_can_meet_are_named_within_one_policy_and_across_two() -> None:
    below = rule(id="below")
    above = rule(id="above", require=requires(bound="lower", op=">", value=0.2))
    assert "cannot both hold" in said(made(below, above))
    one, two = made(below, name="one"), made(above, name="two")
    (problem,) = contradictions([one, two])
    assert "'below'" in problem.message
    assert "two.yaml" in problem.message
    # Room between the limits, other parameters, other models or conditions: no contradiction.
    assert (
        contradictions(
            [one, made(rule(id="a", require=requires(bound="lower", op=">", value=0.1)), name="two")]
        )
        == []
    )
    assert contradictions([one, made(above | {"params": {"suite": "x"}}, name="two")]) == []
    assert (
        contradictions([made(below, appliesTo={"kind": ["llm"]}), made(above, appliesTo={"kind": ["lam"]})])
        == []
    )
    conditions = made(below | {"when": 'model.kind == "llm"'}, above | {"when": 'model.kind == "lam"'})
    assert contradictions([conditions]) == []
    labelled = made(above, name="two", appliesTo={"labels": {"tier": "a"}})
    assert contradictions([made(below, appliesTo={"labels": {"tier": "b"}}), labelled]) == []
    # A shadow policy binds nobody.
    assert contradictions([one, made(above, name="two", mode="shadow")]) == []


def test_touching_limits_leave_one_value() -> None:
    at = [
        rule(id="a", require=requires(op="<=")),
        rule(id="b", require=requires(bound="lower", op=">=", value=0.15)),
    ]
    assert contradictions([made(*at)]) == []
    at[0] = rule(id="a")
    assert len(contradictions([made(*at)])) == 1


def test_settings_that_leave_no_way_to_approve() -> None:
    one = made(rule(), name="one", approval={"surfaces": ["cli"], "coolDown": "2h"})
    two = made(rule(), name="two", approval={"surfaces": ["console"], "expiresAfter": "1h"})
    found = "\n".join(str(problem) for problem in contradictions([one, two]))
    assert "leave no surface" in found
    assert "before its cool-down ends" in found
    assert contradictions([one]) == contradictions([two]) == []


def test_waivers_of_rules_that_are_not_there() -> None:
    assert unknown_waivers([made(rule())], [("R-0001", "drift.output"), ("R-0002", "drift.outptu")]) == [
        "waiver R-0002 is for rule 'drift.outptu', which no policy in force has"
    ]


@pytest.mark.parametrize("name", ["default", "strict", "action-model", "research", "record-keeping"])
def test_shipped_policies_have_no_warning(name: str) -> None:
    assert lint(load_policy(REPOSITORY / "policies" / f"{name}.yaml").policy, TASKS) == []


def test_policies_that_ship_to_be_in_force_together_do_not_contradict() -> None:
    together = [
        load_policy(REPOSITORY / "policies" / f"{name}.yaml").policy
        for name in ("default", "action-model", "record-keeping")
    ]
    assert contradictions(together) == []


def test_every_value_that_holds_names_its_line() -> None:
    one = made(rule(), name="one", defaults={"minSamples": 300}, approval={"exclude": ["proposer"]})
    two = made(rule(), name="two", defaults={"minSamples": 200}, approval={"exclude": ["data-author"]})
    held = {item.path: item for item in holding([one, two])}
    assert held["defaults.minSamples"].value == 300
    assert [name for name, _ in held["defaults.minSamples"].sources] == ["one"]
    assert held["approval.exclude"].value == ("data-author", "proposer")
    assert [name for name, _ in held["approval.exclude"].sources] == ["one", "two"]
    assert held["retention.rejectedDays"].sources == ()
    place = one.settings["defaults.minSamples"].place
    assert held["defaults.minSamples"].sources == (("one", str(place)),)


def test_the_commands_show_values_with_lines_and_warn_before_a_signature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Made(tmp_path / "w")
    cli = Cli(tmp_path / "w", capsys)
    data = cli.ok("policy", "show", "--effective")
    settings = {item["path"]: item for item in data["settings"]}
    line = 1 + fakes.POLICY.splitlines().index(
        next(x for x in fakes.POLICY.splitlines() if "minSamples" in x)
    )
    assert settings["defaults.minSamples"]["value"] == "20"
    assert settings["defaults.minSamples"]["sources"] == [f"main.yaml:{line}"]
    assert {item["rule"] for item in data["rules"]} == {"drift", "pii", "weights", "gain"}
    assert cli.ok("policy", "show", "--effective", "--model", "toy")["policies"] == ["main"]
    default = REPOSITORY / "policies" / "default.yaml"
    assert cli.ok("policy", "show", default, "--effective")["policies"] == ["default"]
    file = tmp_path / "against.yaml"
    file.write_text(
        "apiVersion: interlock/v1\nkind: Policy\nmetadata: {name: against}\nrules:\n"
        "  - {id: up, check: drift.output_kl, params: {suite: control}, severity: review,\n"
        '     require: {metric: kl_mean, bound: lower, op: ">", value: 0.5}, rationale: x}\n'
        "  - {id: typo, check: drift.output_kl, params: {suite: control}, severity: review, rationale: x,\n"
        '     when: \'model.task == "txet"\', require: {metric: kl_mean, bound: upper, op: "<", value: 0.5}}\n'
    )
    assert "is false for every task" in str(cli.ok("policy", "check", file)["warnings"])
    ran = cli.signed(
        "--as",
        "Ada Byron",
        "policy",
        "activate",
        file,
        "--reason",
        "a contradiction, to see that it is named",
    )
    assert "cannot both hold" in ran.err
    assert "is false for every task" in ran.err
    workspace.close()


def test_a_suite_that_is_nearly_one_that_is_known_may_be_a_slip():
    slip = made(rule(require=requires(), params={"suite": "control-kvj"}))
    own = made(rule(require=requires(), params={"suite": "letters-of-complaint"}))
    known = ("control-kjv", "control-austen", "task")
    (warning,) = lint(slip, suites=known)
    assert "has a suite 'control-kvj' (did you mean 'control-kjv'?)" in str(warning)
    assert lint(own, suites=known) == [], "a suite of somebody's own is none"
    assert lint(slip) == [], "where nothing is known, nothing is said"
