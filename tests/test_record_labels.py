"""Wrong labels: those that were planted are found, by records that were not used to judge them."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from guardrails.canonical import digest
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
    table = np.array([[a, 1 - a] for a in (0.9, 0.8, 0.1, 0.1, 0.5)])
    # The third is as sure of b as b's own are; the fifth reaches no threshold and keeps its own.
    assert confident(table, [0, 0, 0, 1, 1]) == [0, 0, 1, 1, 1]


def test_of_labels_equally_likely_a_record_keeps_its_own():
    assert confident(np.full((4, 2), 0.5), [0, 1, 0, 1]) == [0, 1, 0, 1]


def plainly(spoken, own):
    """The same by the definitions, one record at a time."""
    folds = [int(digest(" ".join(row).encode()).hex[:8], 16) % record_labels.FOLDS for row in spoken]
    vocabulary = len({word for row in spoken for word in row})
    for row, fold in zip(spoken, folds, strict=True):
        others = [place for place, other in enumerate(folds) if other != fold]
        logs = []
        for label in range(max(own) + 1):
            mine = [place for place in others if own[place] == label]
            seen = Counter(word for place in mine for word in spoken[place])
            total = seen.total() + vocabulary
            likelihood = sum(math.log((seen[word] + 1) / total) for word in row)
            logs.append(math.log(len(mine) + 1) + likelihood / math.sqrt(max(1, len(row))))
        parts = [math.exp(value - max(logs)) for value in logs]
        yield [part / sum(parts) for part in parts]


@pytest.mark.parametrize("silent", [(), (0, 7, 39), range(40)])
def test_the_classifier_is_the_one_defined(silent):
    draw = random.Random(5)
    words = [f"w{n}" for n in range(12)]
    spoken = [draw.choices(words, k=draw.randint(1, 9)) for _ in range(40)]
    for place in silent:
        spoken[place] = []
    own = [draw.randrange(3) for _ in spoken]
    table = record_labels.chances(spoken, own)
    for row, expected in zip(table.tolist(), plainly(spoken, own), strict=True):
        assert row == pytest.approx(expected, rel=1e-12)


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
