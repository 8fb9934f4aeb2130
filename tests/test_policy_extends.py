"""``extends``, comparison and combination: a child only tightens, and of several the strictest holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import DEFAULT, document, integrity_rule, policy, rule, source

from guardrails.errors import PolicyError
from guardrails.policy import (
    Policy,
    QuorumRule,
    combine,
    compare,
    is_tightening,
    load_policy,
    matching,
    parse_policy,
)
from guardrails.policy.order import Quorum
from guardrails.policy.settings import SETTINGS
from guardrails.records import ModelKind, Role, Surface

FULL: dict[str, Any] = {
    "isolation": {"minimum": "landlock"},
    "defaults": {"confidence": 0.9, "minSamples": 100, "onInconclusive": "review"},
    "budgets": {
        "compute": {"cpuSecondsPerProposal": 900, "cpuHoursPerDay": 24, "cpuHoursPerWeek": 100},
        "proposals": {"pending": 20, "perDay": 200, "perWeek": 900},
        "promotions": {"perDay": 5},
        "errorBudget": {"alpha": 0.05},
        "cumulativeDrift": {
            "check": "drift.output_kl", "suite": "c", "reference": "original", "metric": "kl_mean", "max": 0.6,
        },
    },
    "approval": {
        "onEligible": {"quorum": 1, "roles": ["operator"]},
        "onReview": {"quorum": 2, "roles": ["operator", "safety"]},
        "exclude": ["proposer"],
        "coolDown": "10m",
        "expiresAfter": "72h",
        "surfaces": ["console", "cli"],
        "requireViewed": ["findings"],
        "invalidateOn": ["bundle"],
    },
    "rollback": {"quorum": 1, "roles": ["operator", "safety"]},
    "halt": {"quorum": 1, "roles": ["operator", "safety"]},
    "resume": {"quorum": 1, "roles": ["operator", "safety"]},
    "activation": {
        "tighten": {"quorum": 1, "roles": ["operator", "author"]},
        "loosen": {"quorum": 2, "roles": ["operator", "author"]},
    },
    "waiver": {"quorum": 2, "roles": ["operator", "safety"]},
    "retention": {"rejectedDays": 30},
}  # fmt: skip

DRIFT = FULL["budgets"]["cumulativeDrift"]
# path, a tighter value, a looser value
DIRECTIONS: list[tuple[str, Any, Any]] = [
    ("isolation.minimum", "strict", "none"),
    ("defaults.confidence", 0.95, 0.85),
    ("defaults.minSamples", 200, 50),
    ("defaults.onInconclusive", "block", None),
    ("budgets.compute.cpuSecondsPerProposal", 800, 901),
    ("budgets.compute.cpuHoursPerDay", 1, 25),
    ("budgets.compute.cpuHoursPerWeek", 99, 101),
    ("budgets.proposals.pending", 0, 21),
    ("budgets.proposals.perDay", 100, 201),
    ("budgets.proposals.perWeek", 899, 901),
    ("budgets.promotions.perDay", 4, 6),
    ("budgets.errorBudget.alpha", 0.01, 0.1),
    ("budgets.cumulativeDrift", DRIFT | {"max": 0.5}, DRIFT | {"max": 0.7}),
    ("budgets.cumulativeDrift", [DRIFT, DRIFT | {"suite": "d"}], [DRIFT | {"suite": "d"}]),
    ("budgets.cumulativeDrift", DRIFT, DRIFT | {"when": 'model.kind == "llm"'}),
    ("approval.onEligible", {"quorum": 2, "roles": ["operator"]}, {"quorum": 1, "roles": ["operator", "safety"]}),
    ("approval.onReview", {"quorum": 3, "roles": ["operator", "safety"]}, {"quorum": 1, "roles": ["operator", "safety"]}),
    ("approval.onReview", {"quorum": 2, "roles": ["safety"]}, {"quorum": 2, "roles": ["operator", "safety", "auditor"]}),
    ("approval.exclude", ["proposer", "policy-author"], ["data-author"]),
    ("approval.coolDown", "11m", "9m"),
    ("approval.expiresAfter", "71h", "4d"),
    ("approval.surfaces", ["cli"], ["cli", "offline"]),
    ("approval.requireViewed", ["findings", "diff"], []),
    ("approval.invalidateOn", ["bundle", "roster"], ["roster"]),
    ("rollback", {"quorum": 2, "roles": ["operator", "safety"]}, {"quorum": 1, "roles": ["operator", "author"]}),
    ("rollback", {"quorum": 1, "roles": ["safety"]}, {"quorum": 1, "roles": ["operator", "safety", "root"]}),
    ("halt", {"quorum": 1, "roles": ["operator", "safety", "auditor"]}, {"quorum": 1, "roles": ["operator"]}),
    ("resume", {"quorum": 1, "roles": ["safety"]}, {"quorum": 1, "roles": ["auditor"]}),
    ("activation.tighten", {"quorum": 2, "roles": ["operator", "author"]}, {"quorum": 1, "roles": ["root"]}),
    ("activation.loosen", {"quorum": 3, "roles": ["operator", "author"]}, {"quorum": 1, "roles": ["operator", "author"]}),
    ("waiver", {"quorum": 2, "roles": ["operator", "safety"], "distinctRoles": True}, {"quorum": 1, "roles": ["operator"]}),
    ("retention.rejectedDays", 60, 29),
]  # fmt: skip


def setting(path: str, value: Any) -> dict[str, Any]:
    """Nested keys for one dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


def extended(child: dict[str, Any], *parents: dict[str, Any]) -> Policy:
    names = [f"base{i}.yaml" for i in range(len(parents))]
    files = [("p.yaml", child | {"extends": names}), *zip(names, parents, strict=True)]
    return parse_policy(source(*files))


def base(*rules: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return document(*(rules or (rule(),)), name="base", **keys)


def child(*rules: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return document(*rules, **keys)


def test_every_setting_has_a_direction_below() -> None:
    fixed = {"defaults.onError", "approval.onBlocked"}  # one value only
    assert {path for path, *_ in DIRECTIONS} | fixed == {one.path for one in SETTINGS}


@pytest.mark.parametrize(("path", "tighter", "looser"), DIRECTIONS)
def test_a_child_may_tighten_a_setting_and_never_loosen_it(path: str, tighter: Any, looser: Any) -> None:
    folded = extended(child(**setting(path, tighter)), base(**FULL))
    assert folded.settings[path].place.file == "p.yaml"
    if looser is None:
        return
    with pytest.raises(PolicyError) as caught:
        extended(child(**setting(path, looser)), base(**FULL))
    (problem,) = caught.value.problems
    assert problem.file == "p.yaml"
    assert problem.message.startswith(f"{path}: ")
    assert "loosens" in problem.message
    assert "base0.yaml:" in problem.message, "both places are named"


@pytest.mark.parametrize(("path", "tighter", "looser"), DIRECTIONS)
def test_comparison_knows_the_direction_of_every_setting(path: str, tighter: Any, looser: Any) -> None:
    old = policy(rule(), **FULL)
    changed = policy(rule(), **merged(FULL, setting(path, tighter)))
    assert [c.loosens for c in compare(old, changed)] in ([False], [])
    if looser is not None:
        (change,) = compare(old, policy(rule(), **merged(FULL, setting(path, looser))))
        assert (change.path, change.loosens) == (path, True)
        assert change.before
        assert change.after


@pytest.mark.parametrize(("path", "tighter", "looser"), DIRECTIONS)
def test_of_several_policies_the_strictest_value_holds(path: str, tighter: Any, looser: Any) -> None:
    attribute = next(one.attribute for one in SETTINGS if one.path == path)
    order = next(one.order for one in SETTINGS if one.path == path)
    one = policy(rule(), **FULL)
    other = policy(rule(), name="q", **setting(path, tighter))
    both = getattr(combine([one, other]), attribute)
    for alone in (one, other):
        assert not order.loosens(alone.settings[path].value, both)
    assert not order.loosens(both, getattr(combine([other, one]), attribute))
    assert getattr(combine([one]), attribute) == one.settings[path].value


def test_what_is_not_stated_is_inherited_and_what_a_parent_leaves_out_counts_as_its_default() -> None:
    folded = extended(child(), base(**FULL))
    assert {path: s.value for path, s in folded.settings.items()} == {
        path: s.value for path, s in policy(rule(), **FULL).settings.items()
    }
    with pytest.raises(PolicyError, match="by default"):
        extended(child(defaults={"minSamples": 10}), base())
    assert combine([extended(child(budgets={"proposals": {"pending": 9}}), base())]).proposals_pending == 9


# --- rules ---------------------------------------------------------------------------------

REQUIRE = {"metric": "kl_mean", "bound": "upper", "op": "<", "value": 0.15}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"require": REQUIRE | {"value": 0.1}}, ""),
        ({"severity": "block"}, ""),
        ({"waivable": False}, ""),
        ({"rationale": "other words"}, ""),
        ({"require": REQUIRE | {"value": 0.16}}, "require"),
        ({"require": REQUIRE | {"op": "<="}}, "require"),
        ({"require": REQUIRE | {"bound": "lower"}}, "require"),
        ({"require": REQUIRE | {"metric": "kl_p99"}}, "require"),
        ({"require": REQUIRE | {"op": ">"}}, "require"),
        ({"severity": "warn"}, "severity"),
        ({"when": 'model.kind == "llm"'}, "when"),
        ({"params": {"suite": "easier"}}, "params"),
        ({"params": {"suite": "control", "reference": "original"}}, "params"),
        ({"check": "drift.bits_per_byte", "require": REQUIRE | {"metric": "delta"}}, "check"),
    ],
)
def test_a_childs_rule_of_the_same_id_only_tightens(change: dict[str, Any], part: str) -> None:
    new = rule(**change)
    if not part:
        folded = extended(child(new), base())
        assert [r.place.file for r in folded.rules] == ["p.yaml"]
        assert not any(c.loosens for c in compare(policy(rule()), policy(new)))
        return
    with pytest.raises(PolicyError) as caught:
        extended(child(new), base())
    said = str(caught.value)
    assert f"rule 'drift.output': {part} " in said
    assert "base0.yaml:7" in said
    assert "p.yaml:7:" in said
    assert any(
        c.loosens and c.path == f"rules.drift.output.{part}" for c in compare(policy(rule()), policy(new))
    )


def test_the_other_direction_and_exact_limits() -> None:
    gain = {"metric": "delta", "bound": "lower", "op": ">", "value": 0.1}
    old = rule(id="g", check="gain.task", params={"suite": "t"}, require=gain)
    for op, value, fine in [(">", 0.2, True), (">", 0.0, False), (">=", 0.1, False), (">=", 0.2, True)]:
        new = old | {"require": gain | {"op": op, "value": value}}
        assert is_tightening(policy(old), policy(new)) is fine, (op, value)
    exact = integrity_rule()
    less = integrity_rule(require={"metric": "violations", "op": "<", "value": 1})
    assert not is_tightening(policy(exact), policy(less))
    for value in (1, -1, 0.5):
        other = integrity_rule(require={"metric": "violations", "op": "==", "value": value})
        assert not is_tightening(policy(exact), policy(other)), "another exact value is another demand"
    assert is_tightening(policy(exact), policy(exact | {"severity": "block"}))


def test_a_dropped_when_and_a_dropped_waiver_tighten() -> None:
    old = policy(rule(when='model.kind == "llm"'))
    assert is_tightening(old, policy(rule()))
    assert not is_tightening(policy(rule(waivable=False)), policy(rule()))


def test_rules_are_inherited_with_their_own_place_and_cannot_be_removed() -> None:
    folded = extended(child(integrity_rule()), base(rule(), rule(id="second")))
    assert [(r.id, r.place.file) for r in folded.rules] == [
        ("drift.output", "base0.yaml"),
        ("second", "base0.yaml"),
        ("integrity.weights", "p.yaml"),
    ]


def test_several_parents_and_a_chain() -> None:
    strict = base(rule(severity="block"), defaults={"minSamples": 500})
    lax = document(rule(), name="lax", defaults={"minSamples": 300}, extends=["deep.yaml"])
    deep = document(integrity_rule(), name="deep", approval={"coolDown": "1h"})
    top = child(extends=["strict.yaml", "lax.yaml"])
    made = source(("p.yaml", top), ("strict.yaml", strict), ("lax.yaml", lax), ("deep.yaml", deep))
    folded = parse_policy(made)
    effective = combine([folded])
    assert (effective.min_samples, effective.cool_down) == (500, timedelta(hours=1))
    assert {r.id: r.severity.value for r in folded.rules} == {
        "drift.output": "block",
        "integrity.weights": "block",
    }


def test_another_condition_is_no_tightening_whatever_the_parents_was() -> None:
    here, there = 'model.kind == "llm"', 'model.kind == "lam"'
    for old, new in (
        (here, there),
        (there, here),
        (here, f"{here} && model.name == 'a'"),
        (here, f" {here}"),
    ):
        with pytest.raises(PolicyError, match=r"rule 'drift.output': when"):
            extended(child(rule(when=new)), base(rule(when=old)))
    assert extended(child(rule(when=here)), base(rule(when=here))).rules[0].when == here


def test_a_child_is_held_to_each_of_its_parents_in_any_order() -> None:
    lax, strict = base(rule(), defaults={"minSamples": 100}), base(
        rule(severity="block"), defaults={"minSamples": 300}, approval={"coolDown": "1h"}
    )  # fmt: skip
    for parents in ((lax, strict), (strict, lax)):
        for slip in (child(defaults={"minSamples": 200}), child(approval={"coolDown": "30m"}), child(rule())):
            with pytest.raises(PolicyError, match="here loosens"):
                extended(slip, *parents)
        assert combine([extended(child(), *parents)]).min_samples == 300, "what is left out is the strictest"
        assert extended(child(), *parents).rules[0].severity.value == "block"


def test_parents_that_contradict_each_other_must_be_settled() -> None:
    one, two = base(rule(severity="block")), base(rule(require=REQUIRE | {"value": 0.1}))
    with pytest.raises(PolicyError, match="neither is stricter"):
        extended(child(), one, two)
    settled = rule(severity="block", require=REQUIRE | {"value": 0.1})
    assert extended(child(settled), one, two).rules[0].place.file == "p.yaml"
    with pytest.raises(PolicyError, match="differ in 'appliesTo'"):
        extended(child(), base(appliesTo={"kind": ["llm"]}), base(appliesTo={"kind": ["lam"]}))


def test_mode_and_scope() -> None:
    with pytest.raises(PolicyError, match=r"mode: 'shadow' here loosens 'enforce' in base0.yaml"):
        extended(child(mode="shadow"), base(mode="enforce"))
    assert extended(child(), base(mode="shadow")).mode == "enforce"
    assert extended(child(), base(appliesTo={"name": ["a*"]})).scope.names == ("a*",)
    assert extended(child(appliesTo={"labels": {"tier": "prod"}}), base()).scope.labels == (("tier", "prod"),)


def test_circles_absent_and_too_many_files(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="runs in a circle"):
        parse_policy(source(("p.yaml", child(extends=["p.yaml"]))))
    two = source(("p.yaml", child(extends=["b.yaml"])), ("b.yaml", base(extends=["p.yaml"])))
    with pytest.raises(PolicyError, match=r"p.yaml > b.yaml > p.yaml"):
        parse_policy(two)
    with pytest.raises(PolicyError, match="is not among the policy's files"):
        parse_policy(source(("p.yaml", child(extends=["b.yaml"]))))
    (tmp_path / "p.yaml").write_text(
        "apiVersion: interlock/v1\nkind: Policy\nmetadata: {name: p}\nextends: [b.yaml]\n"
    )
    with pytest.raises(PolicyError, match=r"p.yaml:4:11: there is no file 'b.yaml'"):
        load_policy(tmp_path / "p.yaml")
    for i in range(12):
        text = f"apiVersion: interlock/v1\nkind: Policy\nmetadata: {{name: n{i}}}\nextends: [n{i + 1}.yaml]\n"
        (tmp_path / f"n{i}.yaml").write_text(text)
    with pytest.raises(PolicyError, match="more than 8 files"):
        load_policy(tmp_path / "n0.yaml")


def test_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    head = "apiVersion: interlock/v1\nkind: Policy\n"
    (tmp_path / "p.yaml").write_text(head + "metadata: {name: p}\nextends: [sub/b.yaml]\nmod: enforce\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text(head + "metadata: {nam: b}\nextends: [c.yaml]\n")
    (tmp_path / "sub" / "c.yaml").write_text("a: [\n")
    with pytest.raises(PolicyError) as caught:
        load_policy(tmp_path / "p.yaml")
    assert {p.file for p in caught.value.problems} == {"p.yaml", "sub/b.yaml", "sub/c.yaml"}


def test_extending_the_shipped_policy(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_bytes(DEFAULT.read_bytes())
    (tmp_path / "mine.yaml").write_text(
        "apiVersion: interlock/v1\nkind: Policy\nmetadata: {name: mine, version: 3}\nextends: [default.yaml]\n"
        "defaults: {minSamples: 400}\napproval: {coolDown: 1h}\n"
    )
    mine, parsed = load_policy(tmp_path / "mine.yaml"), load_policy(DEFAULT)
    assert mine.source.order == ("mine.yaml", "default.yaml")
    assert parse_policy(mine.source) == mine.policy
    assert len(mine.policy.rules) == len(parsed.policy.rules)
    assert is_tightening(parsed.policy, mine.policy)
    assert not is_tightening(mine.policy, parsed.policy)


# --- activation ----------------------------------------------------------------------------


def test_what_opens_a_gate_loosens() -> None:
    """What was blocked for want of a policy, and would be judged now, needs the quorum for loosening."""
    everything, llm, shadow = (
        policy(rule()),
        policy(rule(), appliesTo={"kind": ["llm"]}),
        policy(rule(), mode="shadow"),
    )
    other = policy(integrity_rule(), name="other")
    assert not is_tightening(None, everything)
    assert is_tightening(None, everything, [other])
    assert not is_tightening(None, everything, [policy(rule(), name="o", appliesTo={"kind": ["llm"]})])
    assert not is_tightening(None, everything, [policy(rule(), name="o", mode="shadow")])
    assert not is_tightening(None, everything, [policy(name="o")]), "a policy without rules judges nothing"
    assert is_tightening(None, shadow)
    assert is_tightening(None, policy())
    assert not is_tightening(llm, everything)
    assert is_tightening(llm, everything, [other])
    assert not is_tightening(shadow, everything)
    assert is_tightening(shadow, everything, [other])
    assert not is_tightening(policy(), everything)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({}, {"labels": {"tier": "prod"}}),
        ({"labels": {"tier": "prod"}}, {"labels": {"tier": "prod", "team": "a"}}),
        ({}, {"name": ["a*"]}),
        ({"name": ["a*", "b*"]}, {"name": ["a*"]}),
        ({}, {"kind": ["lam"]}),
    ],
)
def test_a_narrower_scope_gives_up_a_guard(wide: dict[str, Any], narrow: dict[str, Any]) -> None:
    old, new = policy(rule(), appliesTo=wide), policy(rule(), appliesTo=narrow)
    elsewhere = policy(integrity_rule(), name="other")
    assert not is_tightening(old, new, [elsewhere])
    assert is_tightening(new, old, [elsewhere])
    assert not is_tightening(new, old), "what nothing spoke of was blocked"


def test_what_gives_up_a_guard_loosens() -> None:
    everything, llm = policy(rule()), policy(rule(), appliesTo={"kind": ["llm"]})
    other = policy(integrity_rule(), name="other")
    assert not is_tightening(everything, llm, [other])
    assert not is_tightening(everything, policy(rule(), mode="shadow"), [other])
    assert not is_tightening(everything, None)
    assert not is_tightening(policy(rule(), integrity_rule()), everything)
    assert is_tightening(everything, policy(rule(), integrity_rule()))
    assert is_tightening(everything, everything)
    assert compare(everything, everything) == []


def test_leaving_a_setting_out_falls_back_to_its_default() -> None:
    stated = policy(rule(), budgets={"promotions": {"perDay": 5}}, approval={"coolDown": "1h"})
    changes = {c.path: c.loosens for c in compare(stated, policy(rule()))}
    assert changes == {"budgets.promotions.perDay": True, "approval.coolDown": True}
    strict = policy(rule(), defaults={"minSamples": 10})
    assert is_tightening(strict, policy(rule()))


# --- combination ---------------------------------------------------------------------------


def test_no_policy_gives_the_defaults() -> None:
    effective = combine([])
    assert effective.isolation_minimum == "strict"
    assert (effective.confidence, effective.min_samples, effective.on_error) == (0.95, 200, "block")
    assert effective.on_review == (QuorumRule(2, (Role.OPERATOR, Role.SAFETY), True),)
    assert effective.halt == (QuorumRule(1, (Role.AUDITOR, Role.OPERATOR, Role.SAFETY)),)
    assert set(effective.surfaces) == set(Surface)
    assert effective.promotions_per_day is None


def test_quorums_of_several_policies_stand_side_by_side() -> None:
    one = policy(rule(), approval={"onEligible": {"quorum": 1, "roles": ["operator"]}})
    two = policy(rule(), name="q", approval={"onEligible": {"quorum": 1, "roles": ["safety"]}})
    assert combine([one, two]).on_eligible == (QuorumRule(1, (Role.OPERATOR,)), QuorumRule(1, (Role.SAFETY,)))
    assert combine([one, one]).on_eligible == (QuorumRule(1, (Role.OPERATOR,)),)


def test_halting_stays_open_to_everybody_whom_any_policy_names() -> None:
    one = policy(rule(), halt={"quorum": 1, "roles": ["operator"]})
    two = policy(rule(), name="q", halt={"quorum": 1, "roles": ["auditor"]})
    assert combine([one, two]).halt == (QuorumRule(1, (Role.AUDITOR, Role.OPERATOR)),)


def test_matching_leaves_shadow_and_other_models_out() -> None:
    everything = policy(rule())
    lam = policy(rule(), name="lam", appliesTo={"kind": ["lam"]})
    shadow = policy(rule(), name="s", mode="shadow")
    assert matching([everything, lam, shadow], "assistant", ModelKind.LLM, {}) == (everything,)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(DIRECTIONS), max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_tightening_is_transitive_and_loosening_is_seen_among_other_changes(
    picked: list[tuple[str, Any, Any]], tighten: list[bool]
) -> None:
    keys, loosened = FULL, False
    for (path, tighter, looser), is_tighter in zip({p[0]: p for p in picked}.values(), tighten, strict=False):
        value = tighter if is_tighter or looser is None else looser
        loosened |= value is looser
        keys = merged(keys, setting(path, value))
    assert is_tightening(policy(rule(), **FULL), policy(rule(), **keys)) is not loosened


def _met(rule: QuorumRule, votes: Sequence[Role]) -> bool:
    """Whether people who signed in these roles, each once, meet a quorum: counted by trying."""
    fitting = [role for role in votes if role in rule.roles]
    return len(set(fitting) if rule.distinct_roles else fitting) >= rule.quorum


def test_a_quorum_that_counts_as_no_looser_admits_nobody_new() -> None:
    roles = (Role.OPERATOR, Role.SAFETY, Role.AUTHOR)
    groups = [g for n in (1, 2, 3) for g in combinations(roles, n)]
    rules = [
        QuorumRule(q, g, d) for g in groups for q in (1, 2, 3) for d in (False, True) if not d or q <= len(g)
    ]
    votes = [v for n in range(5) for v in combinations_with_replacement(roles, n)]
    compared = 0
    for old, new in product(rules, rules):
        if not Quorum().loosens((old,), (new,)):
            compared += 1
            assert all(_met(old, v) for v in votes if _met(new, v)), (old, new)
    assert compared > len(rules) * 2
    one = QuorumRule(1, (Role.OPERATOR,))
    two = QuorumRule(2, (Role.OPERATOR, Role.SAFETY), distinct_roles=True)
    assert not Quorum(sole_person=True).loosens((one,), (two,))
    assert Quorum(sole_person=True).loosens((two,), (one,))
