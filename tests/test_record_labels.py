"""Wrong labels: those that were planted are found, by records that were not used to judge them."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from guardrails.checks import CHECKS
from guardrails.errors import NotMeasuredError
from guardrails.records import Measurements
from sandbox import texts
from sandbox.worker.data import Line
from sandbox.worker.probes import record_labels
from sandbox.worker.probes.record_labels import confident, label_errors, labelled
from sandbox.worker.probes.records_quality import census

BOOKS = ("austen", "devils_dictionary", "kjv")


def planted(share, each=300):
    """Records labelled by their book, a share of them wrongly: the lines and the places of the wrong ones."""
    draw = random.Random(1)
    rows = [(record["text"], book) for book in BOOKS for record in draw.sample(texts.load(book), each)]
    wrong = set(draw.sample(range(len(rows)), int(share * len(rows))))
    lines = []
    for place, (text, book) in enumerate(rows):
        label = draw.choice([other for other in BOOKS if other != book]) if place in wrong else book
        lines.append(Line(f"t.jsonl:{place}", {"text": text, "label": label}))
    return lines, {f"t.jsonl:{place}" for place in wrong}


@pytest.mark.parametrize(("share", "recall"), [(0.1, 0.74), (0.35, 0.84)])
def test_turned_labels_are_found_and_few_others(share, recall):
    lines, wrong = planted(share)
    found = {line.place for line in label_errors(lines)}
    assert len(found & wrong) / len(wrong) == pytest.approx(recall, abs=0.01)
    assert len(found & wrong) / len(found) > 0.9


def test_right_labels_are_left_alone():
    assert len(label_errors(planted(0)[0])) <= 3


def test_confidence_by_hand():
    """Thresholds: of a (0.9 + 0.8 + 0.1) / 3 = 0.6, of b (0.9 + 0.5) / 2 = 0.7."""
    chances = [{"a": a, "b": 1 - a} for a in (0.9, 0.8, 0.1, 0.1, 0.5)]
    given = ["a", "a", "a", "b", "b"]
    # The third is as sure of b as b's own are; the fifth reaches no threshold and keeps its own.
    assert confident(chances, given) == ["a", "a", "b", "b", "b"]


def test_the_classifier_by_hand():
    seen = {"x": Counter(one=3), "y": Counter(two=1)}
    found = record_labels._chances(["one", "one"], seen, {"x": 5, "y": 3}, Counter(x=2, y=1))
    x = math.log(3) + 2 * math.log(4 / 5) / math.sqrt(2)
    y = math.log(2) + 2 * math.log(1 / 3) / math.sqrt(2)
    assert found["x"] == pytest.approx(math.exp(x) / (math.exp(x) + math.exp(y)))
    assert sum(found.values()) == pytest.approx(1)


def test_no_record_is_judged_by_its_own_copy():
    """Forty copies of one text, all labelled wrongly: they are found, for they share a fold."""
    lines, _ = planted(0)
    copies = [Line(f"c:{n}", {"text": lines[0].text, "label": "kjv"}) for n in range(40)]
    found = {line.place for line in label_errors([*lines, *copies])}
    assert sum(place.startswith("c:") for place in found) == 40


def test_what_cannot_be_told_has_no_result():
    lines, _ = planted(0, each=20)
    assert label_errors(lines) is not None
    assert label_errors(lines[:20]) is None  # one label
    assert label_errors([]) is None
    assert label_errors([*lines[:20], *lines[20:29]]) is None  # nine records of the other
    odd = [
        Line("t:1", {"text": "a", "label": 3}),
        Line("t:2", {"text": "a", "label": " "}),
        Line("t:3", {"text": "a"}),
    ]
    assert labelled(odd) == []


def estimate(metric, facts):
    check = CHECKS["data.label_errors"]
    return check.estimate(metric, check.params(), Measurements((), {}), facts, 0.95).value


def test_the_census_lists_them_and_the_check_reads_its_counts():
    lines, wrong = planted(0.1, each=60)
    found = census([*lines, Line("t.jsonl:900", {"text": "without a label"})], [])
    assert found.facts["data.labelled"] == "180"
    listed = set(found.flagged["data.label_errors"])
    assert int(found.facts["data.label_errors"]) == len(listed)
    assert len(listed & wrong) > len(wrong) / 3
    assert estimate("labelled", found.facts) == 180 / 181
    assert estimate("share", found.facts) == len(listed) / 180
    assert estimate("count", found.facts) == len(listed)


@pytest.mark.parametrize("facts", [
    {}, {"data.records": "9", "data.labelled": "0"}, {"data.records": "9", "data.labelled": "9"},
    {"data.records": "9", "data.labelled": "10", "data.label_errors": "1"},
    {"data.records": "9", "data.labelled": "5", "data.label_errors": "6"},
])  # fmt: skip
def test_counts_that_do_not_add_up_are_not_measured(facts):
    with pytest.raises(NotMeasuredError):
        estimate("share", facts)
