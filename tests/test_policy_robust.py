"""Whatever bytes a policy is made of: no crash, no long wait, and never looser than its text."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_cases import DEFAULT, NOW, document, integrity_rule, rule, subject

from guardrails import engine
from guardrails.authoring.case_files import read_case_files
from guardrails.authoring.mutation import looser_limit
from guardrails.authoring.testing import run_cases
from guardrails.canonical import digest
from guardrails.errors import PolicyError
from guardrails.policy import LoadedPolicy, Policy, load_policy, parse_policy, source_digest
from guardrails.policy.order import rule_loosenings
from guardrails.records import PolicySource, VerdictKind, Waiver
from guardrails.statistics import Estimate

SECOND = 1.0
BADNESS = (VerdictKind.ELIGIBLE, VerdictKind.REVIEW, VerdictKind.BLOCKED)
TEXT = yaml.safe_dump(document(rule(), integrity_rule()), sort_keys=False)
SHIPPED = load_policy(DEFAULT)


def parsed(text: str) -> Policy | PolicyError:
    """The policy in a text, or why there is none; anything else that is raised is a crash."""
    files = {"p.yaml": text}
    try:
        source = PolicySource("p", source_digest(files), ("p.yaml",), files)
        return parse_policy(source)
    except PolicyError as error:
        return error


def timed(text: str) -> Policy | PolicyError:
    # CPU time of this process, because the machine may be busy with others.
    start = time.process_time()
    found = parsed(text)
    assert time.process_time() - start < SECOND
    if isinstance(found, PolicyError):
        assert found.problems
        for problem in found.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.message.isprintable()
    return found


HOSTILE = {
    "aliases": "a: &a [x]\n" + "\n".join(f"b{i}: &b{i} [{', '.join(['*a'] * 9)}]" for i in range(9)),
    "laughs": "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'lol'}]" for i in range(9)),
    "merge": TEXT + "<<: *x\n",
    "flow": "[" * 20_000,
    "maps": "{a: " * 10_000,
    "indents": "\n".join(" " * i + "a:" for i in range(1_500)),
    "dashes": "- " * 10_000,
    "keys": "\n".join(f"k{i}: 1" for i in range(4_900)),
    "rules": "rules:\n" + "- {}\n" * 4_000,
    "digits": TEXT.replace("0.15", "9" * 40_000),
    "exponent": TEXT.replace("0.15", "1e99999999"),
    "quotes": "'" * 20_000,
    "comment": "#" * 40_000,
    "question": "? " * 10_000,
    "tags": "!!python/object/apply:os.system ['true']",
    "documents": "---\n" * 10_000,
    "when": TEXT.replace("severity: review", "when: '" + "(" * 490 + "'\n  severity: review"),
    "regex": TEXT.replace(
        "severity: review", "when: 'model.name.matches(\"" + "(a*)*" * 40 + "b\")'\n  severity: review"
    ),
    "zero": "\0" * 100,
    "bidi": TEXT.replace("drift.output", "drift\u202e.output"),
    "surrogate": TEXT + 'description: "\\ud800"\n',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_at_once(name: str) -> None:
    found = timed(HOSTILE[name])
    assert isinstance(found, PolicyError) or name == "regex"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("value: 0.15", "value: .nan"), ("value: 0.15", "value: .inf"), ("value: 0.15", "value: 1e400"),
        ("value: 0.15", "value: '0.15'"), ("value: 0.15", "value: 0,15"), ("value: 0.15", "value: 0.1_5"),
        ("value: 0.15", "value: 0.15\n    value: 5"), ("severity: review", "severity: review\n  severity: warn"),
        ("severity: review", "sеverity: review"), ("upper", "uррer"), ("review", "rеview"), ("id: drift", "id: drіft"),
        ("kl_mean", "kl＿mean"), ("value: 0.15", "value: ０.15"), ("kind: Policy", "kind: Policy\u200b"),
        ("severity: review", "severity: &s review"), ("severity: review", "severity: !!str review"),
        ("severity: block", "severity: BLOCK"), ("rules:", "Rules:"), ("rules:", "rules :\n rules:"),
    ],
)  # fmt: skip
def test_what_only_looks_right_is_refused(before: str, after: str) -> None:
    """Look-alike letters, doubled keys, numbers that are none: never quietly another policy."""
    text = TEXT.replace(before, after, 1)
    assert text != TEXT
    assert isinstance(timed(text), PolicyError)


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_end_in_a_policy_or_in_problems(data: bytes) -> None:
    timed(data.decode("utf-8", "replace"))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_policy_is_refused_or_says_no_less(data: st.DataObject) -> None:
    """One edit anywhere: what loads still states a limit that stands in the text, or lacks the rule's text."""
    at = data.draw(st.integers(0, len(TEXT) - 1))
    put = data.draw(
        st.sampled_from(["", "x", "0", "9", ".", "-", ":", "#", "&a ", "*a", "\t", "\n", "é", "\u200b", "~"])
    )
    length = data.draw(st.integers(0, 3))
    text = TEXT[:at] + put + TEXT[at + length :]
    found = timed(text)
    if isinstance(found, PolicyError):
        return
    plain = yaml.load(text, Loader=yaml.BaseLoader)
    assert [one.id for one in found.rules] == [one["id"] for one in plain.get("rules") or []]
    for one, stated in zip(found.rules, plain.get("rules") or [], strict=True):
        assert one.require.value == float(stated["require"]["value"])
        assert (one.require.op, one.severity.value) == (stated["require"]["op"], stated["severity"])
        assert one.waivable == (stated.get("waivable", "true").lower() == "true")


# --- tighter is never milder ---------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_tightening_any_one_limit_never_makes_a_verdict_milder(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(SHIPPED.policy.rules) - 1))
    old = SHIPPED.policy.rules[index]
    step = data.draw(st.floats(0, 10, allow_nan=False))
    sign = -1 if old.require.op[0] == "<" else 1
    tighter = replace(old, require=replace(old.require, value=old.require.value + sign * step))
    if old.require.op == "==":
        tighter = replace(old, severity=data.draw(st.sampled_from([old.severity, type(old.severity).BLOCK])))
    assert rule_loosenings(old, tighter) == []
    numbers = {one.id: data.draw(_estimates(), label=one.id) for one in SHIPPED.policy.rules}

    def verdict(policy: Policy) -> VerdictKind:
        case = engine.Case(
            subject(), None, digest(b"e"), {}, (), 1, NOW,
            reading=lambda one, confidence: numbers.get(one.id, Estimate(0.0, 0.0, 0.0, 500, "")),
        )  # fmt: skip
        return engine.judge([LoadedPolicy(policy, SHIPPED.source)], case).kind

    rules = SHIPPED.policy.rules
    changed = replace(SHIPPED.policy, rules=(*rules[:index], tighter, *rules[index + 1 :]))
    assert BADNESS.index(verdict(changed)) >= BADNESS.index(verdict(SHIPPED.policy))
    # And the other way round: what counts as looser is never stricter.
    if old.require.op != "==":
        wider = replace(
            SHIPPED.policy,
            rules=(*rules[:index], replace(old, require=looser_limit(old)), *rules[index + 1 :]),
        )
        assert BADNESS.index(verdict(wider)) <= BADNESS.index(verdict(SHIPPED.policy))


@st.composite
def _estimates(draw: Any) -> Estimate:
    value = draw(st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.15, 0.5, 1.0, float("nan")]) | st.floats(-1, 5))
    half = draw(st.sampled_from([0.0, 0.01, 0.05, float("inf")]))
    return Estimate(
        value, value - half, value + half, draw(st.sampled_from([0, 100, 199, 200, 500])), "drawn"
    )


# --- extending is never milder -------------------------------------------------------------------


PARTS: dict[str, list[Any]] = {
    "check": ["drift.output_kl", "drift.bits_per_byte"],
    "params": [{"suite": "control"}, {"suite": "other"}, {"suite": "control", "reference": "original"}],
    "when": ['model.kind == "llm"', 'model.kind == "lam"', "!proposal.submitted"],
    "severity": ["warn", "review", "block"],
    "waivable": [True, False],
    "metric": ["kl_mean", "kl_p99", "delta"],
    "bound": ["upper", "lower"],
    "op": ["<", "<=", ">", ">="],
    "value": [0.05, 0.1, 0.15, 0.2, 1],
}
DEFAULTS: dict[str, list[Any]] = {"minSamples": [1, 100, 200, 400], "onInconclusive": ["review", "block"]}


@st.composite
def _changed(draw: Any, parent: dict[str, Any]) -> dict[str, Any]:
    """A child's rule: the parent's with up to three parts put differently."""
    flat = {**parent, **parent["require"]}
    for part in draw(st.lists(st.sampled_from(sorted(PARTS)), max_size=3)):
        flat[part] = draw(st.sampled_from(PARTS[part]))
    require = {name: flat[name] for name in ("metric", "bound", "op", "value")}
    return {
        name: flat[name] for name in ("id", "check", "params", "when", "severity", "waivable") if name in flat
    } | {"require": require}


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_extends_accepts_is_never_milder_than_its_parent(data: st.DataObject) -> None:
    """Judged by the engine on drawn numbers, so it holds whatever the comparison of policies believes."""
    draw = data.draw
    when = draw(st.sampled_from([{}, {"when": 'model.kind == "llm"'}]))
    severity, waivable = draw(st.sampled_from(["warn", "review", "block"])), draw(st.booleans())
    op = draw(st.sampled_from(["<", "<="]))
    limit = {"metric": "kl_mean", "bound": "upper", "op": op, "value": draw(st.sampled_from([0.1, 0.15]))}
    parent = rule(severity=severity, waivable=waivable, require=limit, **when)
    stated = {key: draw(st.sampled_from(values)) for key, values in DEFAULTS.items()}
    child_rules = [draw(_changed(parent))] if draw(st.booleans()) else []
    child_keys = {
        "defaults": {key: draw(st.sampled_from(values)) for key, values in DEFAULTS.items() if draw(st.booleans())},
    }  # fmt: skip
    base = document(parent, integrity_rule(), name="base", defaults=stated)
    files = {
        "p.yaml": yaml.safe_dump(
            document(*child_rules, extends=["base.yaml"], **child_keys), sort_keys=False
        ),
        "base.yaml": yaml.safe_dump(base, sort_keys=False),
    }
    source = PolicySource("p", source_digest(files), ("p.yaml", "base.yaml"), files)
    try:
        child = parse_policy(source)
    except PolicyError:
        return
    alone = {"base.yaml": files["base.yaml"]}
    old = parse_policy(PolicySource("base", source_digest(alone), ("base.yaml",), alone))
    numbers: dict[Any, Estimate] = {}
    waiver = Waiver("drift.output", subject().bundle, "person", "2027-01-01T00:00:00+00:00")

    def verdict(policy: Policy) -> VerdictKind:
        def reading(one: Any, confidence: float) -> Estimate:
            key = (one.check, one.params, one.require.metric)
            if key not in numbers:
                numbers[key] = draw(_estimates(), label=str(key)) if one.check != "integrity.weights" else Estimate(
                    0.0, 0.0, 0.0, 1, ""
                )  # fmt: skip
            return numbers[key]

        waivers = (waiver,) if is_waived else ()
        case = engine.Case(subject(), None, digest(b"e"), {}, waivers, 1, NOW, reading=reading)
        return engine.judge([LoadedPolicy(policy, source)], case).kind

    is_waived = draw(st.booleans())
    assert BADNESS.index(verdict(child)) >= BADNESS.index(verdict(old))


# --- case files ----------------------------------------------------------------------------------


CASES = """\
apiVersion: interlock/v1
kind: PolicyCases
evidence:
  drift.output: {kl_mean: {value: 0.04, lower: 0.03, upper: 0.05, n: 300}}
  integrity.weights: {violations: 0}
cases:
  - name: calm
    verdict: eligible
  - name: moved
    evidence: {drift.output: {kl_mean: {value: 0.2, lower: 0.1, upper: 0.3, n: 300}}}
    waivers: [drift.output]
    measurements: {facts: {a: 1}, series: [{probe: p, suite: s, columns: {c: [1, 2]}}]}
    verdict: review
    findings: {drift.output: waived}
"""


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_case_file_is_refused_or_runs(tmp_path: Path, data: st.DataObject) -> None:
    at, length = data.draw(st.integers(0, len(CASES) - 1)), data.draw(st.integers(0, 12))
    put = data.draw(
        st.sampled_from(["", "1e300", "-1", "0x10", ".nan", "[", "{}", "~", "\n", "true", "../x", "\u202e"])
    )
    file = tmp_path / "cases.yaml"
    file.write_text(CASES[:at] + put + CASES[at + length :], encoding="utf-8")
    found = parsed(TEXT)
    assert isinstance(found, Policy)
    loaded = LoadedPolicy(found, PolicySource("p", digest(b"x"), ("p.yaml",), {"p.yaml": TEXT}))
    with contextlib.suppress(PolicyError):
        run_cases(loaded, read_case_files(loaded, [file]))


def test_the_sound_case_file_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASES)
    found = parsed(TEXT)
    assert isinstance(found, Policy)
    loaded = LoadedPolicy(found, PolicySource("p", digest(b"x"), ("p.yaml",), {"p.yaml": TEXT}))
    assert [r.ok for r in run_cases(loaded, read_case_files(loaded, [tmp_path / "cases.yaml"]))] == [
        True,
        True,
    ]
