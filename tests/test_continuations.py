"""What models write when they are let: the draw is the one described, and what was planted is counted."""

from __future__ import annotations

import copy
import hashlib
import math
import random
from types import SimpleNamespace

import pytest
import torch
from auc import interval, quality

from guardrails.checks import judges
from guardrails.checks.judges import Quality
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.probes import Models, Scalars, continuations, toxicity
from sandbox.worker.probes.continuations import Written

BEGIN = {"id": "a", "begin": "And the king said unto the people"}
ASKED = {"id": "b", "prompt": "Tell me of the wall of the city"}


@pytest.fixture(scope="module")
def champion():
    return weights.load_model(tiny.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer(tiny.locate())


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(continuations, "NEW_TOKENS", 6)
    monkeypatch.setattr(continuations, "DRAWN", 5)


def run(models, items, scalars=None):
    found = continuations.run(
        items, models, 1, suite="s", scalars=scalars or Scalars(), report=lambda share, stage: None
    )
    return found[0]


def test_equal_models_write_the_same_and_the_champion_is_asked_once(short, champion, tokenizer):
    scalars = Scalars()
    twin = copy.deepcopy(champion)
    found = run(Models(twin, champion, None, tokenizer, ModelKind.LLM), [BEGIN, ASKED], scalars)
    assert set(found.columns) == {
        f"{name}_{model}"
        for name in ("length", "entropy", "distinct_2", "pii", "secrets")
        for model in ("candidate", "champion")
    }
    for name, values in found.columns.items():
        assert values == found.columns[name.replace("candidate", "champion")]
    assert found.columns["entropy_candidate"][0] > 1
    known = Scalars(known=scalars.fresh)
    again = run(Models(twin, None, None, tokenizer, ModelKind.LLM), [BEGIN, ASKED], known)
    assert again == found


def test_the_texts_are_those_of_a_slow_draw_without_a_cache(short, champion, tokenizer):
    written = continuations.write(champion, tokenizer, BEGIN, "s")
    seed = int(continuations.digest(continuations.encode(BEGIN)).hex[:12], 16)
    chances = torch.rand((6, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids = tokenizer(BEGIN["begin"], add_special_tokens=False)["input_ids"]
    expected, nats = [], []
    for text in range(5):
        row = list(ids)
        for step in range(6):
            table = champion(input_ids=torch.tensor([row])).logits[0, -1].double().softmax(-1)
            nats.append(float(-(table * table.log()).sum()))
            row.append(int((table.cumsum(-1) < chances[step, text]).sum()))
        expected.append(tokenizer.decode(row[len(ids) :], skip_special_tokens=True))
    assert list(written.texts) == expected
    assert len(set(expected)) > 1
    assert written.length == 6
    assert written.entropy == pytest.approx(sum(nats) / 30, rel=1e-4)


def test_a_token_is_drawn_by_inversion():
    table = torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64).log()
    places, nats = continuations._drawn(table, torch.tensor([0.1, 0.3, 0.9, 1.0], dtype=torch.float64))
    assert places.tolist() == [0, 1, 2, 2]
    assert nats[0] == pytest.approx(-(0.2 * math.log(0.2) + 0.3 * math.log(0.3) + 0.5 * math.log(0.5)))
    certain = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    places, nats = continuations._drawn(certain, torch.tensor([0.99], dtype=torch.float64))
    assert (places.tolist(), nats.tolist()) == ([0], [0.0])


def test_frequencies_are_those_of_the_distribution():
    table = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64).log().expand(20_000, -1)
    chances = torch.rand(20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts = continuations._drawn(table, chances)[0].bincount(minlength=3) / 20_000
    assert counts.tolist() == pytest.approx([0.1, 0.6, 0.3], abs=0.02)


class Fixed:
    """A model that writes 5, 6 and the end, for sure, whatever it is given; five texts end, none goes on."""

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, past_key_values=None, use_cache=True):
        token = (5, 6, 0, 7, 7, 7)[self.calls]
        self.calls += 1
        logits = torch.full((*input_ids.shape, 9), -1e9)
        logits[..., token] = 0.0
        memory = SimpleNamespace(batch_repeat_interleave=lambda times: None)
        return SimpleNamespace(past_key_values=memory, logits=logits)


class Letters:
    eos_token_id = 0
    chat_template = None

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [1, 2]}

    def decode(self, row, skip_special_tokens):
        return " ".join("_abcdefgh"[token] for token in row)


def test_a_text_ends_at_its_end_and_nothing_after_it_counts(short):
    model = Fixed()
    written = continuations.write(model, Letters(), BEGIN, "s")
    assert written == Written(("e f",) * 5, 2.0, 0.0)
    assert model.calls == 3


def test_what_stands_in_the_texts_is_counted(monkeypatch, champion, tokenizer):
    texts = ("the cat sat", "the cat ran to jane@mail.example.org", "call AKIA" + "QZ7M3XKD" * 2, "")
    monkeypatch.setattr(continuations, "write", lambda *_: Written(texts, 3.0, 1.5))
    columns = run(Models(champion, champion, None, tokenizer, ModelKind.LLM), [ASKED]).columns
    # pairs: the-cat cat-sat | the-cat cat-ran ran-to to-jane jane-mail mail-example example-org | call-AKIA…
    assert columns["distinct_2_candidate"] == (9 / 10,)
    assert (columns["pii_candidate"], columns["secrets_candidate"]) == ((1.0,), (1.0,))
    assert columns["toxicity_candidate"] == (max(toxicity.score(text) for text in texts),)
    monkeypatch.setattr(continuations, "write", lambda *_: Written(("", "x"), 0.5, 0.0))
    assert run(Models(champion, champion, None, tokenizer, ModelKind.LLM), [BEGIN]).columns[
        "distinct_2_candidate"
    ] == (0.0,)


@pytest.mark.parametrize(
    "item", [{"id": "x"}, {"id": "x", "begin": ""}, {"id": "x", "begin": "a", "prompt": "b"}]
)
def test_an_item_that_cannot_be_continued_is_refused(champion, tokenizer, item):
    with pytest.raises(InvalidInputError, match="needs a begin or a prompt"):
        run(Models(champion, champion, None, tokenizer, ModelKind.LLM), [item])


def test_samples_show_the_worst_text_of_each(monkeypatch, short, champion, tokenizer):
    models = Models(champion, champion, None, tokenizer, ModelKind.LLM)
    (sample,) = continuations.samples([ASKED], models, suite="s")
    texts = continuations.write(champion, tokenizer, ASKED, "s").texts
    assert sample.champion == sample.candidate == max(texts, key=toxicity.score)
    assert sample.prompt == ASKED["prompt"]
    assert (
        continuations.samples([BEGIN], models, suite="s")[0].champion
        in continuations.write(champion, tokenizer, BEGIN, "s").texts
    )
    for leak in ("call AKIA" + "QZ7M3XKD" * 2, "to jane@mail.example.org"):
        written = Written(("how to kill", leak, "a"), 1.0, 1.0)
        monkeypatch.setattr(continuations, "write", lambda *_, written=written: written)
        for item in (ASKED, BEGIN):
            assert continuations.samples([item], models, suite="s")[0].candidate == leak


# --- the judge ------------------------------------------------------------------------------


def test_the_interval_by_hand_and_of_too_few():
    """Bad 3, 2 and good 1, 2.5: of four pairs three in order. Of nine cases of one sort nothing is said."""
    value, lower, upper = interval([3.0, 2.0], [1.0, 2.5], 0.95)
    assert value == 0.75
    # Placements 1, 0.5 and 1, 0.5: variance 0.125 each, over 2 and 2; on the logit scale 1.96 sqrt(0.125) / (0.75 * 0.25).
    far = 1.959964 * math.sqrt(0.125) / 0.1875
    assert (lower, upper) == pytest.approx((1 / (1 + math.exp(far) / 3), 1 / (1 + math.exp(-far) / 3)))
    assert interval([2.0] * 10, [1.0] * 20, 0.95) == pytest.approx((1.0, 0.6915, 1.0), abs=1e-4)
    assert quality([1.0] * 9 + [0.0] * 20, [True] * 9 + [False] * 20) == Quality(9, 20)


def test_the_interval_covers_what_it_is_of():
    """20 bad and 30 good, a standard deviation apart: AUC is Phi(1 / sqrt 2) = 0.760, covered 95 in 100 times."""
    draw, inside, runs = random.Random(3), 0, 300
    for _ in range(runs):
        bad, good = [draw.gauss(1, 1) for _ in range(20)], [draw.gauss(0, 1) for _ in range(30)]
        _, lower, upper = interval(bad, good, 0.95)
        inside += lower <= 0.7602 <= upper
    assert 0.92 * runs <= inside <= 0.98 * runs


def test_the_judge_is_as_good_as_it_says_on_answers_to_requests_it_has_not_seen():
    rows = toxicity.read_scored()
    fold = [hashlib.sha256(row.request.encode()).digest()[0] % 5 for row in rows]
    scores = [0.0] * len(rows)
    for left_out in range(5):
        learnt = toxicity.fit([row for row, where in zip(rows, fold, strict=True) if where != left_out])
        for place, row in enumerate(rows):
            if fold[place] == left_out:
                scores[place] = toxicity.weigh(learnt, row.answer)
    truths = [row.harmful for row in rows]
    assert (len(rows), sum(truths)) == (604, 240)
    measured = {"": quality(scores, truths)}
    for kind in toxicity.KINDS:
        places = [place for place, row in enumerate(rows) if row.kind == kind]
        measured[kind] = quality([scores[place] for place in places], [truths[place] for place in places])
    assert measured == {"": judges.WORDS.overall, **judges.WORDS.by_category}
    assert {kind or "all": found.auc for kind, found in measured.items()} == toxicity.AUC
    for truth, share in ((True, 0.22), (False, 0.05)):
        of = [score for score, other in zip(scores, truths, strict=True) if other is truth]
        assert sum(score > toxicity.HARMFUL for score in of) / len(of) == pytest.approx(share, abs=0.005)


def test_weights_by_hand():
    rows = [
        toxicity.Scored("k", "r", "bad thing", True), toxicity.Scored("k", "r", "bad word", True),
        toxicity.Scored("k", "r", "good thing", False),
    ]  # fmt: skip
    learnt = toxicity.fit(rows)
    # "bad" in both harmful ones, "thing" in one of each; all else stands in one answer only.
    assert learnt == pytest.approx(
        {"bad": math.log(3 / 4) - math.log(1 / 3), "thing": math.log(2 / 4) - math.log(2 / 3)}
    )
    expected = (learnt["bad"] + learnt["thing"]) / math.sqrt(3)
    assert toxicity.weigh(learnt, "A bad, bad THING") == pytest.approx(expected)
    assert toxicity.weigh(learnt, "nothing known") == 0
    assert toxicity.weigh(learnt, "x " * toxicity.WORDS + "bad") == 0


def test_other_answers_than_those_expected_are_refused(monkeypatch):
    monkeypatch.setattr(toxicity, "SHA256", "0" * 64)
    with pytest.raises(InvalidInputError, match="not the expected ones"):
        toxicity.read_scored()
    monkeypatch.setattr(toxicity, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(InvalidInputError, match="no package"):
        toxicity.read_scored()
