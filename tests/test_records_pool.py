"""Variety of the records and their distance from the pool: by hand where small, by brute force where not."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.checks import CHECKS
from guardrails.errors import NotMeasuredError
from guardrails.records import Measurements
from sandbox import texts
from sandbox.worker.data import Line
from sandbox.worker.probes.records_pool import distinct_among, entropy, facts, jensen_shannon

BOOK = [record["text"] for record in texts.load("austen")]
OTHER = [record["text"] for record in texts.load("devils_dictionary")]


def lines(rows):
    return [Line(f"t.jsonl:{number}", {"text": text}) for number, text in enumerate(rows, 1)]


def estimate(name, metric, found):
    check = CHECKS[name]
    return check.estimate(metric, check.params(), Measurements((), {}), found, 0.95).value


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_the_expected_number_of_kinds_is_the_mean_over_all_draws(counts, data):
    things = [kind for kind, count in enumerate(counts) for _ in range(count)]
    drawn = data.draw(st.integers(1, len(things)))
    draws = [len(set(draw)) for draw in itertools.combinations(things, drawn)]
    assert distinct_among(counts, drawn) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.parametrize("count", [31, 32, 33, 40, 500])
def test_frequent_kinds_are_counted_by_the_same_formula(count):
    total = count + 700
    exact = 1 - math.comb(total - count, 50) / math.comb(total, 50)
    singles = 1 - math.comb(total - 1, 50) / math.comb(total, 50)
    assert distinct_among([count, *[1] * 700], 50) == pytest.approx(exact + 700 * singles, rel=1e-9)


def test_entropy_by_hand():
    assert entropy([2, 2]) == pytest.approx(1 + 1 / (2 * 4 * math.log(2)))
    assert entropy([5]) == 0


def test_divergence_by_hand():
    assert jensen_shannon(Counter(a=3), Counter(a=7)) == 0
    assert jensen_shannon(Counter(a=3), Counter(b=7)) == 1
    # (1, 0) against (1/2, 1/2): half of log2(4/3), and half of the mean of log2(2/3) and log2(2)
    expected = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    assert jensen_shannon(Counter(a=1), Counter(a=5, b=5)) == pytest.approx(expected)


def test_records_that_are_the_pool_do_not_differ_from_it():
    found = facts(lines(BOOK[:200]), lines(BOOK[:200]))
    assert (found["data.shift_js"], found["data.shift_new_words"]) == ("0.0", "0.0")
    assert estimate("data.diversity", "distinct_2_ratio", found) == 1
    assert estimate("data.diversity", "entropy_delta", found) == 0


def test_size_alone_changes_little_and_another_book_much():
    half = facts(lines(BOOK[:200]), lines(BOOK))
    assert abs(estimate("data.diversity", "distinct_2_ratio", half) - 1) < 0.03
    apart = facts(lines(OTHER[:200]), lines(BOOK))
    assert estimate("data.shift", "js", half) < 0.05
    assert estimate("data.shift", "js", apart) > 2 * estimate("data.shift", "js", half)
    assert estimate("data.shift", "new_words", half) == 0
    assert estimate("data.shift", "new_words", apart) > 0.1


def test_text_that_repeats_itself_is_less_varied():
    """Each word is one of the two that follow the last most often: what sampling at low temperature does."""
    draw = random.Random(2)
    after: dict[str, Counter[str]] = {}
    for row in BOOK:
        for one, two in itertools.pairwise(row.lower().split()):
            after.setdefault(one, Counter())[two] += 1
    rows = []
    for _ in range(200):
        row = ["she"]
        while len(row) < 40:
            row.append(draw.choice([word for word, _ in after.get(row[-1], after["she"]).most_common(2)]))
        rows.append(" ".join(row))
    found = facts(lines(rows), lines(BOOK))
    assert estimate("data.diversity", "distinct_2_ratio", found) < 0.9
    assert estimate("data.diversity", "entropy_delta", found) < -1


def test_without_a_pool_only_what_needs_none_is_measured():
    found = facts(lines(BOOK[:100]), None)
    assert set(found) == {"data.distinct_2", "data.entropy"}
    assert 0.8 < estimate("data.diversity", "distinct_2", found) < 1
    for name, metric in (
        ("data.diversity", "distinct_2_ratio"), ("data.diversity", "entropy_delta"), ("data.shift", "js"),
    ):  # fmt: skip
        with pytest.raises(NotMeasuredError, match="was not established"):
            estimate(name, metric, found)


def test_too_little_is_not_measured():
    assert facts(lines(["a few words only"]), lines(["a few words only"])) == {}
    with pytest.raises(NotMeasuredError):
        estimate("data.diversity", "distinct_2", {})


@pytest.mark.parametrize("bad", ["NaN", "-1", "", "inf"])
def test_numbers_that_are_none_are_not_measured(bad):
    for name, metric, fact in (
        ("data.diversity", "entropy", "data.entropy"), ("data.shift", "js", "data.shift_js"),
    ):  # fmt: skip
        with pytest.raises(NotMeasuredError):
            estimate(name, metric, {fact: bad})
    with pytest.raises(NotMeasuredError):
        estimate("data.shift", "js", {"data.shift_js": "1.5"})
    with pytest.raises(NotMeasuredError, match="no distinct pairs"):
        estimate(
            "data.diversity", "distinct_2_ratio", {"data.distinct_2": "0.5", "data.pool_distinct_2": "0"}
        )


def test_concentration_and_provenance_read_their_counts():
    found = {
        "data.records": "40", "data.largest_family": "10", "data.largest_source": "30",
        "data.unsourced": "4", "data.unlicensed": "40",
    }  # fmt: skip
    assert estimate("data.concentration", "family_share", found) == 0.25
    assert estimate("data.concentration", "family_count", found) == 10
    assert estimate("data.concentration", "source_share", found) == 0.75
    assert estimate("data.provenance", "unsourced", found) == 0.1
    assert estimate("data.provenance", "unlicensed", found) == 1
    for wrong in ({"data.records": "0"}, {"data.largest_family": "41"}, {"data.largest_family": "0"}):
        with pytest.raises(NotMeasuredError):
            estimate("data.concentration", "family_share", found | wrong)
