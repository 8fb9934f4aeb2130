"""Loss outliers: by hand, and with planted noise and a planted text that the champion knows by heart."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch

from guardrails.checks import CHECKS
from guardrails.errors import NotMeasuredError
from guardrails.records import Measurements
from sandbox import texts
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.data import Line
from sandbox.worker.probes.records_loss import look, outliers

BOOK = [record["text"] for record in texts.load("kjv")[2000:2120]]


@pytest.fixture(scope="module")
def champion():
    return weights.load_model(tiny.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer(tiny.locate())


def lines(rows):
    return [Line(f"t.jsonl:{number}", {"text": text}) for number, text in enumerate(rows, 1)]


def test_outliers_by_hand():
    """Median 3, deviations 2 1 0 1 2 7 7 → median 2, limit 3.5 · 1.4826 · 2 = 10.4."""
    assert outliers([1, 2, 3, 4, 5, -4, 10]) == ([], [])
    assert outliers([1, 2, 3, 4, 5, -7.4, 13.4]) == ([5], [6])
    assert outliers([1, 2, 3, 4, 5, -7.3, 13.3]) == ([], [])
    assert outliers([1, 1, 1, 1, 9]) is None
    assert outliers([1, 2, 3, 4, math.nan]) is None
    assert outliers([1, 2, 3, 4, math.inf]) is None


def test_planted_noise_is_found_and_the_book_is_let_be(champion, tokenizer):
    draw = random.Random(1)
    noise = ["".join(draw.choice("qxzjkvwpy#%&") for _ in range(80)) for _ in range(5)]
    found = look(lines([*BOOK, *noise]), champion, tokenizer, 1000, 1)
    assert found.facts["data.loss_looked"] == "125"
    assert {f"t.jsonl:{place}" for place in range(121, 126)} <= set(found.flagged["data.loss_high"])
    assert int(found.facts["data.loss_high"]) <= 8
    assert int(found.facts["data.loss_low"]) <= 3


def test_a_loss_is_what_one_plain_forward_pass_gives(champion, tokenizer):
    from sandbox.worker.probes import distribution, records_loss

    coded = distribution.encode_items(tokenizer, [{"id": str(n), "text": BOOK[n]} for n in range(3)], "s")
    for item, loss in zip(coded, records_loss._losses(champion, coded), strict=True):
        table = champion(input_ids=torch.tensor([item.ids])).logits[0].log_softmax(-1)
        nats = -sum(float(table[place, token]) for place, token in enumerate(item.ids[1:]))
        assert loss == pytest.approx(nats / item.bytes, rel=1e-4)


def test_a_record_of_one_token_tells_nothing_and_is_left_out(champion):
    word = "qxzjkvwpyqxzjkvwpyqxzjkvwpyqxzjkvwpyqxzjkvwpy"
    split = weights.load_tokenizer(tiny.locate())
    split.add_tokens([word])
    assert len(split(word, add_special_tokens=False)["input_ids"]) == 1
    plain = look(lines(BOOK[:40]), champion, split, 1000, 1)
    found = look(lines([*BOOK[:40], word]), champion, split, 1000, 1)
    assert found.facts == plain.facts
    assert found.facts["data.loss_looked"] == "40"
    assert look(lines([word] * 3), champion, split, 1000, 1).facts == {"data.loss_looked": "0"}


def test_losses_that_are_no_numbers_are_said_to_be_looked_at_and_nothing_else(champion, tokenizer):
    broken = copy.deepcopy(champion)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(math.nan)
    assert look(lines(BOOK[:40]), broken, tokenizer, 1000, 1).facts == {"data.loss_looked": "40"}


def test_which_are_read_is_drawn_and_too_few_tell_nothing(champion, tokenizer):
    few = look(lines(BOOK), champion, tokenizer, 20, 1)
    assert few.facts == {"data.loss_looked": "20"}
    one, again, other = (look(lines(BOOK), champion, tokenizer, 40, seed) for seed in (1, 1, 2))
    assert one == again
    assert one.facts["data.loss_looked"] == other.facts["data.loss_looked"] == "40"
    assert look(lines(["short", ""]), champion, tokenizer, 9, 1).facts == {"data.loss_looked": "0"}


def estimate(metric, facts):
    check = CHECKS["data.loss_outliers"]
    return check.estimate(metric, check.params(), Measurements((), {}), facts, 0.95)


def test_the_check_gives_a_share_with_an_interval():
    facts = {"data.records": "900", "data.loss_looked": "200", "data.loss_low": "1", "data.loss_high": "5"}
    found = estimate("share", facts)
    assert (found.value, found.n) == (0.03, 200)
    assert 0.005 < found.lower < 0.03 < found.upper < 0.08
    assert estimate("low", facts).value == 0.005
    assert estimate("high", facts).value == 0.025


@pytest.mark.parametrize("change", [
    {"data.loss_looked": "0"}, {"data.loss_looked": "5"}, {"data.loss_looked": "901"}, {"data.loss_high": "-1"},
    {"data.loss_low": ""}, {"data.records": "none"},
])  # fmt: skip
def test_counts_that_do_not_add_up_are_not_measured(change):
    facts = {"data.records": "900", "data.loss_looked": "200", "data.loss_low": "1", "data.loss_high": "5"}
    with pytest.raises(NotMeasuredError):
        estimate("share", facts | change)
    with pytest.raises(NotMeasuredError):
        estimate("share", {"data.records": "900", "data.loss_looked": "20"})
