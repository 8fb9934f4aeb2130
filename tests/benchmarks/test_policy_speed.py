"""How fast policies are read, judged and replayed. Prints; asserts nothing about time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from policy_cases import DEFAULT, NOW, SOUND, document, source, subject
from policy_history import PastWorkspace
from test_default_policy import CENSUS, LAM, assistant, navigator, text_series

from guardrails import engine
from guardrails.authoring.backtest import backtest, flips_at
from guardrails.authoring.history import read_history
from guardrails.canonical import digest
from guardrails.checks import CHECKS, Check
from guardrails.policy import LoadedPolicy, load_policy
from guardrails.policy.validate import _validator
from guardrails.records import Measurements, VerdictKind
from guardrails.statistics import Estimate

pytestmark = pytest.mark.benchmark
PAST = 10_000


def best(run: Callable[[], Any], times: int = 5) -> float:
    """The shortest of several runs, in seconds of this process's CPU time: others may use the machine."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def hundred_rules() -> list[dict[str, Any]]:
    """A hundred rules over every check and metric that there is, on several suites."""
    rules: list[dict[str, Any]] = []
    metrics = [
        (n, metric) for n, check in CHECKS.items() if _takes_a_suite(check) for metric in check.metrics
    ]
    while len(rules) < 100:
        name, metric = metrics[len(rules) % len(metrics)]
        check = CHECKS[name]
        rule: dict[str, Any] = {
            "id": f"rule{len(rules)}.{name}", "check": name, "severity": "review", "when": 'model.kind == "llm"',
            "require": {"metric": metric, "bound": "upper", "op": "<", "value": 0.5},
            "rationale": "A sentence that says why this number and no other, at some length.",
        }  # fmt: skip
        if check.metrics[metric].exact:
            del rule["require"]["bound"]
        if fields(check.params):
            rule["params"] = {"suite": f"suite-{len(rules) % 4}"}
        rules.append(rule)
    return rules


def _takes_a_suite(check: Check) -> bool:
    """Whether a suite is all that a rule of this check has to state."""
    needed = {item.name for item in fields(check.params) if item.default is MISSING}
    return needed == {"suite"} or not fields(check.params)


def test_reading_a_policy_of_a_hundred_rules(tmp_path: Path, capsys: Any) -> None:
    """Over two files, because one file holds eighty rules at most."""
    rules = hundred_rules()
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(document(*rules[:50], name="base"), sort_keys=False))
    child = tmp_path / "p.yaml"
    child.write_text(yaml.safe_dump(document(*rules[50:], extends=["base.yaml"]), sort_keys=False))
    _validator()
    assert len(load_policy(child).policy.rules) == 100
    with capsys.disabled():
        print(f"\ncheck, schema and second pass, 100 rules: {1000 * best(lambda: load_policy(child)):.0f} ms")


def test_judging_by_a_hundred_rules(capsys: Any) -> None:
    rules = hundred_rules()
    files = source(
        ("p.yaml", document(*rules[:50], extends=["b.yaml"])), ("b.yaml", document(*rules[50:], name="b"))
    )
    from guardrails.policy import parse_policy

    loaded = LoadedPolicy(parse_policy(files), files)
    estimate = Estimate(0.1, 0.05, 0.2, 240, "given")
    case = engine.Case(
        subject(), None, digest(b"e"), {}, (), 1, NOW, reading=lambda rule, confidence: estimate
    )
    assert len(engine.judge([loaded], case).findings) >= 100
    given = best(lambda: engine.judge([loaded], case), 20)
    shipped = load_policy(DEFAULT)
    measured = Measurements(tuple(assistant()), SOUND | CENSUS)
    whole = engine.Case(subject(), measured, digest(b"e"), {"compute.cpu_seconds": "1"}, (), 1, NOW)
    full = best(lambda: engine.judge([shipped], whole), 5)
    with capsys.disabled():
        print(f"\nengine, 100 rules, numbers given: {1000 * given:.2f} ms")
        print(f"engine and checks, default.yaml, 200 items and 24,000 tokens: {1000 * full:.1f} ms")


def test_ten_thousand_past_proposals(capsys: Any) -> None:
    shipped = load_policy(DEFAULT)
    workspace = PastWorkspace(shipped)
    kinds = []
    for i in range(20):
        text = Measurements(
            tuple(assistant(kjv=text_series("control-kjv", kl=0.02 + 0.008 * i))), SOUND | CENSUS
        )
        acts = Measurements(tuple(navigator(kl=0.2 + 0.03 * i)), SOUND | CENSUS)
        kinds.append((text, workspace.verdict(text), {}))
        about = {"model": "navigator", "kind": LAM.kind, "technique": "reinforcement"}
        kinds.append((acts, workspace.verdict(acts, **about), about))
    small = Measurements((), {})
    for i in range(PAST):
        _, verdict, about = kinds[i % len(kinds)]
        workspace.add(small, verdict=verdict, **about)
    tighter = _tighter(shipped)
    wall, start = time.perf_counter(), time.process_time()
    history = read_history(workspace.tables)
    read = time.process_time() - start
    result = backtest(tighter, history, None)
    total, wall = time.process_time() - start, time.perf_counter() - wall
    assert result.replayed == PAST
    assert result.flips
    assert not any(flip.loosened for flip in result.flips)
    start = time.process_time()
    moved, tried = flips_at(shipped, "drift.output.kjv", 0.1, history, None)
    drag = time.process_time() - start
    assert tried == PAST // 2
    assert moved
    assert all(flip.after is VerdictKind.REVIEW for flip in moved)
    with capsys.disabled():
        print(
            f"\nbacktest of {PAST:,}: {total:.1f} s CPU ({read:.1f} s reading), {wall:.1f} s by the clock, "
            f"{len(result.flips):,} flips"
        )
        print(f"one limit moved: {1000 * drag:.0f} ms, {len(moved):,} flips")


def _tighter(shipped: LoadedPolicy) -> LoadedPolicy:
    rules = tuple(
        replace(rule, require=replace(rule.require, value=0.1)) if rule.id == "drift.output.kjv" else rule
        for rule in shipped.policy.rules
    )
    return LoadedPolicy(replace(shipped.policy, rules=rules), shipped.source)
