"""Sentences and fields: what people read, and what programs get."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest
from guardrails.checks.integrity import PROPERTIES
from guardrails.ledger.rows import ModelRow, ProposalRow, Reign
from guardrails.records import Finding, Outcome, Severity, State, Verdict, VerdictKind
from ui import presenters

NOW = "2026-05-04T12:00:00.000000Z"


def finding(outcome=Outcome.FAIL, **changes):
    values = {
        "rule": "drift.output", "check": "drift.output_kl", "outcome": outcome, "severity": Severity.REVIEW,
        "limit": "upper < 0.15", "source": "default.yaml:31", "message": "does not hold", "metric": "kl_mean",
        "observed": 0.184, "lower": 0.171, "upper": 0.198, "n": 220,
    }  # fmt: skip
    return Finding(**{**values, **changes})


def verdict(*findings, kind=VerdictKind.REVIEW):
    return Verdict(
        "P-0001", kind, {"default": str(digest(b"p"))}, digest(b"e"), findings, ("drift",), 0.95, 1, "x/1"
    )


# --- sentences ---------------------------------------------------------------------------------


def test_bytes_and_seconds_have_their_unit_and_other_numbers_none():
    memory = finding(
        Outcome.PASS, rule="compute.memory", check="compute.usage", metric="memory_bytes", observed=532_082_688.0,
        limit="< 8589934592", lower=None, upper=None, n=None,
    )  # fmt: skip
    assert (presenters.amount(memory, memory.observed), presenters.limit_of(memory)) == (
        "507.4 MiB",
        "< 8.0 GiB",
    )
    assert "507.4 MiB is below 8.0 GiB" in presenters.finding_sentence(memory)
    seconds = finding(check="compute.usage", metric="cpu_seconds", observed=51.87, limit="<= 900")
    assert (presenters.amount(seconds, 51.87), presenters.limit_of(seconds)) == ("51.9 s", "<= 900 s")
    assert presenters.limit_of(finding()) == "upper < 0.15"
    assert presenters.limit_of(finding(limit=">= strict")) == ">= strict"


def test_unsound_files_come_first_and_say_what_is_wrong_with_them():
    lost = finding(Outcome.ERROR, rule="harm.compliance", severity=Severity.BLOCK, observed=None)
    bad = finding(
        rule="integrity.weights", check="integrity.weights", metric="violations", severity=Severity.BLOCK, observed=1.0,
        limit="== 0", lower=None, upper=None, n=None,
    )  # fmt: skip
    assert presenters.worst_first([lost, bad]) == [bad, lost]
    facts = dict.fromkeys(PROPERTIES, "true") | {"integrity.same_tokenizer": "false"}
    told = presenters.unsound([lost, bad], facts)
    assert told == "It does not hold that the tokenizer is the champion's; so nothing else was measured."
    assert presenters.unsound([lost], facts) == ""
    assert presenters.brief(verdict(lost, bad, kind=VerdictKind.BLOCKED)) == (
        "integrity.weights 1 is not 0 (block), and 1 more"
    )


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "delta is -0 [-0, -0], n = 20: lower bound >= -0 holds",
            "delta is 0 [0, 0], n = 20: lower bound >= 0 holds",
        ),
        ("x is -0.0: > 0", "x is 0: > 0"),
        (
            "P-0001 of 2026-05-04, -0.5, -0.05, 1e-05 and x-0",
            "P-0001 of 2026-05-04, -0.5, -0.05, 1e-05 and x-0",
        ),
    ],
)
def test_a_zero_has_no_sign(message, shown):
    told = finding(Outcome.ERROR, message=message, observed=None)
    assert presenters.message_of(told) == shown
    assert presenters.finding_sentence(told).startswith(f"drift.output: {shown}")
    assert (presenters.number(-0.0), presenters.signed(-0.0), presenters.signed(0.5)) == ("0", "0", "+0.5")


@pytest.mark.parametrize(
    ("counts", "unit"),
    [
        ({"distribution/task": 220, "choice/own": 220}, "bits/byte"),
        ({"written/task": 220, "distribution/control": 220}, "share"),
        ({"games/task": 220}, "share"),
        ({"written/elsewhere": 220}, "bits/byte or share"),
        ({}, "bits/byte or share"),
    ],
)
def test_a_gain_has_its_unit(counts, unit):
    gain = finding(Outcome.PASS, rule="gain", check="gain.task", metric="delta")
    evidence = SimpleNamespace(counts=counts)
    row = SimpleNamespace(verdict=verdict(finding(), gain), evidence=evidence)
    other, rule = (SimpleNamespace(id=name, params=SimpleNamespace(suite=suite)) for name, suite in
                   (("drift", "elsewhere"), ("gain", "task")))  # fmt: skip
    assert presenters.gain_finding(row.verdict) is gain
    assert presenters.gain_unit(row, [SimpleNamespace(rules=(other, rule))]) == unit


def test_the_sentence_of_a_failed_rule():
    told = presenters.finding_sentence(finding(), 0.95)
    assert (
        told == "drift.output 0.184 [0.171, 0.198] exceeds 0.15 (review) · 95 % · n = 220 · default.yaml:31"
    )


@pytest.mark.parametrize(
    ("limit", "observed", "outcome", "words"),
    [
        ("upper < 0.15", 0.1, Outcome.PASS, "is below 0.15"),
        ("upper <= 0.15", 0.1, Outcome.PASS, "is within 0.15"),
        ("lower > 0", 0.1, Outcome.PASS, "is above 0"),
        ("lower >= 0", 0.1, Outcome.PASS, "reaches 0"),
        ("== 0", 0, Outcome.PASS, "is 0"),
        ("upper < 0.15", 0.14, Outcome.FAIL, "is not clearly below 0.15"),
        ("upper <= 0.15", 0.14, Outcome.FAIL, "is not clearly within 0.15"),
        ("lower > 0", 0.01, Outcome.FAIL, "is not clearly above 0"),
        ("lower > 0", -0.2, Outcome.FAIL, "is not above 0"),
        ("== 0", 0.3, Outcome.FAIL, "is not 0"),
        ("<= 900", 1200.0, Outcome.FAIL, "exceeds 900"),
    ],
)
def test_plain_words_for_every_operator(limit, observed, outcome, words):
    told = presenters.finding_sentence(finding(outcome, limit=limit, observed=observed))
    assert words in told
    assert ("(review)" in told) == (outcome is Outcome.FAIL)


def test_a_waiver_is_said():
    assert "(waived, would fail)" in presenters.finding_sentence(finding(waived=True))
    assert presenters.finding_mark(finding(waived=True)).word == "Waived, would fail"


def test_what_was_not_measured_says_so_without_numbers():
    told = presenters.finding_sentence(
        finding(Outcome.ERROR, observed=None, lower=None, upper=None, n=None, message="not measured")
    )
    assert told == "drift.output: not measured · default.yaml:31"
    odd = finding(Outcome.ERROR, observed=math.nan, message="the measured value is nan, not a number")
    assert "not a number" in presenters.finding_sentence(odd, 0.95)


def test_too_few_samples_are_inconclusive():
    told = presenters.finding_sentence(
        finding(Outcome.INCONCLUSIVE, n=12, message="only 12 of at least 200 samples")
    )
    assert "inconclusive, only 12 of at least 200 samples" in told


def test_the_worst_finding_is_the_headline():
    passed = finding(Outcome.PASS)
    blocked = finding(severity=Severity.BLOCK, rule="harm")
    shadow = finding(Outcome.ERROR, rule="shadowy", shadow=True)
    assert presenters.worst_first([passed, shadow, finding(), blocked])[0].rule == "harm"
    assert presenters.worst_first([shadow, passed])[-1].rule == "shadowy"
    told = presenters.headline(verdict(passed, shadow, finding(), blocked, kind=VerdictKind.BLOCKED))
    assert told.startswith("harm 0.184")
    assert told.endswith("and 1 further finding")


def test_an_eligible_verdict_counts_its_rules():
    told = presenters.headline(
        verdict(finding(Outcome.PASS), finding(Outcome.SKIPPED), kind=VerdictKind.ELIGIBLE)
    )
    assert told == "1 rule passed."
    warned = verdict(
        finding(Outcome.PASS), finding(Outcome.WARN, severity=Severity.WARN), kind=VerdictKind.ELIGIBLE
    )
    assert presenters.headline(warned) == "1 rule passed, 1 warning."
    assert presenters.headline(None) == "Not judged yet."
    assert presenters.headline(verdict(kind=VerdictKind.BLOCKED)) == "No rule was applied."


def test_every_state_and_verdict_has_a_mark():
    assert set(presenters.STATE_MARKS) == set(State)
    assert set(presenters.VERDICT_MARKS) == set(VerdictKind)
    assert [str(presenters.verdict_mark(kind)) for kind in VerdictKind] == [
        "✓ Eligible",
        "▲ Review",
        "✕ Blocked",
    ]
    assert presenters.verdict_mark(None).tone == "muted"
    for outcome in Outcome:
        for severity in Severity:
            assert presenters.finding_mark(finding(outcome, severity=severity)).word
    # Glyph and word say it without the colour.
    looks = {(mark.glyph, mark.word) for mark in presenters.STATE_MARKS.values()}
    assert len(looks) == len(State)


# --- texts and numbers ---------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_plain_text_has_nothing_but_printable_characters_and_new_lines(text):
    shown = presenters.plain(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert presenters.plain(shown) == shown


def test_plain_keeps_what_is_harmless_and_says_what_it_cut():
    assert presenters.plain("a\r\nb ü 猫") == "a\nb ü 猫"
    assert presenters.plain("\x1b[31mred\u202e") == "·[31mred·"
    assert presenters.plain("x" * 50, 10) == "x" * 10 + "… (10 of 50 characters)"
    assert presenters.one_line("a\n  b\tc") == "a b c"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (0.0, "0"), (0.184, "0.184"), (0.15000001, "0.15"), (1234567.0, "1,234,567"), (1234.5, "1,234"),
        (0.00001234, "1.2e-05"), (-0.5, "-0.5"), (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "-∞"), (12.345, "12.3"),
    ],
)  # fmt: skip
def test_numbers(value, shown):
    assert presenters.number(value) == shown


@given(st.floats())
def test_no_number_stumbles(value):
    assert presenters.number(value)


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ("2026-05-04T12:00:05.000000Z", "just now"),
        ("2026-05-04T11:59:58.000000Z", "just now"),
        ("2026-05-04T11:59:15.000000Z", "45 s"),
        ("2026-05-04T11:45:00.000000Z", "15 min"),
        ("2026-05-04T07:00:00.000000Z", "5 h"),
        ("2026-05-01T12:00:00.000000Z", "3 d"),
        ("", "–"),
    ],
)
def test_ages(since, shown):
    assert presenters.age(since, NOW) == shown


def test_sizes_and_times():
    assert [presenters.size(n) for n in (12, 2048, 5 << 20, 3 << 30, 2 << 40)] == [
        "12 B",
        "2.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
    assert presenters.moment(NOW) == "2026-05-04 12:00:00 UTC"
    assert presenters.counted(1, "person", "people") == "1 person"
    assert presenters.counted(1200, "record") == "1,200 records"


def test_limits_are_numbers_or_nothing():
    assert presenters.limit_value("upper < 0.15") == 0.15
    assert presenters.limit_value("== 0") == 0
    assert presenters.limit_value("lower >= -1e-05") == -1e-05
    for text in ("", ">= strict", "upper < .", "nonsense", "< inf"):
        assert presenters.limit_value(text) is None
    assert presenters.condition("< 8.58993e+09") == "< 8,589,930,000"
    assert presenters.condition(">= strict") == ">= strict"


def test_an_interval_without_an_end_says_that_the_attempts_are_why():
    """Otherwise an unchanged update would seem to be at fault: nobody can see why nothing passes any more."""
    open_ended = finding(Outcome.FAIL, observed=0.0, lower=0.0, upper=math.inf, n=220)
    assert "n = 220, too few for a bound at this level, which rises with each attempt until a promotion" in (
        presenters.finding_sentence(open_ended, 0.9994)
    )
    for bounded in (finding(Outcome.FAIL, observed=0.3, lower=0.0, upper=0.5, n=220), finding(Outcome.FAIL)):
        assert "too few" not in presenters.finding_sentence(bounded, 0.9994)


# --- fields --------------------------------------------------------------------------------------


def test_fields_of_a_verdict_are_json_even_when_numbers_are_not():
    odd = finding(Outcome.ERROR, observed=math.nan, lower=-math.inf, upper=math.inf)
    fields = presenters.verdict_fields("P-0001", verdict(odd), "blocked")
    again = json.loads(json.dumps(fields, allow_nan=False))
    assert again["findings"][0]["observed"] is None
    assert (again["findings"][0]["limit"], again["findings"][0]["condition"]) == (0.15, "upper < 0.15")
    assert (again["policy"], again["policy_digest"]) == ("default", str(digest(b"p")))


def test_fields_without_a_verdict():
    fields = presenters.verdict_fields("P-0001", None, "proposed")
    assert (fields["verdict"], fields["findings"], fields["policy"]) == (None, [], None)


def test_fields_of_a_failed_proposal_have_no_digests():
    row = ProposalRow("P-0001", "m", "self_supervised", State.FAILED, NOW, NOW, note="propose: out of memory")
    fields = presenters.proposal_fields(row)
    assert (fields["bundle_digest"], fields["champion_digest"], fields["verdict"]) == (None, None, None)
    assert presenters.detail_fields(row, str, str)["summary"] == "Not judged yet."


def test_fields_of_a_model():
    base, next_one = digest(b"a"), digest(b"b")
    row = ModelRow("m", "llm", next_one, base, (Reign(base, NOW, ""), Reign(next_one, NOW, "P-0001")))
    fields = presenters.model_fields(row)
    assert (fields["name"], fields["kind"], fields["champion_digest"]) == ("m", "llm", str(next_one))
    assert [(reign["digest"], reign["proposal"]) for reign in fields["history"]] == [
        (str(base), None),
        (str(next_one), "P-0001"),
    ]


def test_changed_settings_only():
    changed = presenters.changed_settings({"a": 1, "b": 2}, {"b": 3, "c": 4})
    assert changed == [
        {"key": "a", "before": 1, "after": None},
        {"key": "b", "before": 2, "after": 3},
        {"key": "c", "before": None, "after": 4},
    ]


# --- comparing models ------------------------------------------------------------------------------


def test_comparison_of_two_models(tmp_path):
    import random

    from console_fixture import write_safetensors

    from guardrails.registry import ArtifactStore
    from ui.comparison import compare_models

    store = ArtifactStore(tmp_path / "store")
    trees = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        (folder / "model").mkdir(parents=True)
        write_safetensors(folder / "model" / "model.safetensors", random.Random(seed))
        (folder / "model" / "config.json").write_text(json.dumps({"a": {"deep": seed}, "same": 1}))
        (folder / "model" / "same.json").write_text("{}")
        (folder / "model" / f"only-{seed}.txt").write_text("x")
        trees.append(store.put_tree(folder))
    found = compare_models(store, *trees)
    assert {(change.path, change.change) for change in found.files} == {
        ("model/config.json", "changed"), ("model/model.safetensors", "changed"), ("model/only-1.txt", "removed"),
        ("model/only-2.txt", "added"),
    }  # fmt: skip
    assert found.unchanged == 1
    assert found.settings == ({"key": "a.deep", "before": 1, "after": 2, "file": "config.json"},)
    assert (found.tensors, len(found.moved)) == (4, 3)
    assert "model.embed_tokens.weight" not in {moved.name for moved in found.moved}
    assert found.relative is not None
    assert 0 < found.relative < 0.1
    same = compare_models(store, trees[0], trees[0])
    assert (same.files, same.moved, same.relative) == ((), (), None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 7,
        b"\xff" * 64,
        (10).to_bytes(8, "little") + b"{not json}",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_comparison_survives_files_that_are_no_weights(tmp_path, data):
    from guardrails.registry import ArtifactStore
    from ui.comparison import compare_models

    store = ArtifactStore(tmp_path / "store")
    trees = []
    for name, content in (("a", data), ("b", data + b"y")):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "model.safetensors").write_bytes(content)
        trees.append(store.put_tree(tmp_path / name))
    found = compare_models(store, *trees)
    assert [change.change for change in found.files] == ["changed"]
    assert len(found.notes) == 1
