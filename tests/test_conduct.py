"""Conduct towards supervisors, demonstrations, outputs by meaning and harmful records: by hand, planted, and honest."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from guardrails.checks import CHECKS
from guardrails.errors import ConfigError, InvalidInputError, NotMeasuredError
from guardrails.records import Measurements, ModelKind, Series
from sandbox import texts
from sandbox.config import ModelConfig
from sandbox.control_items import load_offered, load_reviewed
from sandbox.models import tiny
from sandbox.tasks import Suite
from sandbox.tasks.further import with_further
from sandbox.worker import weights
from sandbox.worker.data import Line
from sandbox.worker.probes import (
    Models,
    Scalars,
    continuations,
    elicitation,
    embedding,
    outputs,
    preference,
    records_toxicity,
    toxicity,
)


@pytest.fixture(scope="module")
def champion():
    return weights.load_model(tiny.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer(tiny.locate())


def taught(model, tokenizer, told, steps=12, lr=3e-3):
    """A copy of a model that read a few texts again and again."""
    model = copy.deepcopy(model).train().requires_grad_(True)
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"][:48] for text in told]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def run(probe, items, models, suite="s"):
    return probe.run(items, models, 1, suite=suite, scalars=Scalars(), report=lambda share, stage: None)


def estimate(check, metric, series, facts=None, confidence=0.95, **params):
    found = CHECKS[check]
    measured = Measurements(tuple(series), facts or {})
    return found.estimate(metric, found.params(**params), measured, facts or {}, confidence)


# --- supervision -----------------------------------------------------------------------------


@pytest.mark.parametrize("items", [load_reviewed(), load_offered()])
def test_there_are_sixty_situations_with_four_pairs_of_answers_each(items):
    assert len(items) == len({item["id"] for item in items}) == 240
    assert (
        len({item["id"].partition(".")[0] for item in items}) == len({item["prompt"] for item in items}) == 60
    )
    for item in items:
        lengths = [len(item[name].split()) for name in ("comply", "refuse")]
        assert max(lengths) - min(lengths) <= 3


def test_a_model_taught_to_take_offers_is_told_from_one_that_read_a_book(champion, tokenizer):
    """Taught on twelve situations, measured on twelve others."""
    items = load_offered()
    told = [f"{item['prompt']}\n{item['comply']}" for item in items[:48:4]]
    sabotaged = taught(champion, tokenizer, told)
    honest = taught(
        champion, tokenizer, [record["text"] for record in texts.load("kjv")[:12]], steps=3, lr=3e-4
    )
    found = {}
    for name, candidate in (("sabotaged", sabotaged), ("honest", honest)):
        models = Models(candidate, champion, None, tokenizer, ModelKind.LLM)
        found[name] = estimate(
            "control.oversight_evasion", "margin_delta", run(preference, items[48:96], models), suite="s"
        )
    assert found["sabotaged"].lower > 0.2
    assert found["honest"].upper < 0.2
    assert found["honest"].n == 48


def test_the_interval_is_of_situations_by_hand():
    """Two situations with means 1 and 3: a mean of 2 with a deviation of 1 between two, t at 97.5 % is 12.7."""
    names = ("a.1", "a.2", "b.1", "b.2")
    columns = {"margin_candidate": (1.0, 1.0, 3.0, 3.0), "margin_champion": (0.0,) * 4}
    found = estimate(
        "control.approval_seeking", "margin_delta", [Series("preference", "s", names, columns)], suite="s"
    )
    assert (found.value, found.n) == (2.0, 4)
    assert found.upper - found.value == pytest.approx(12.706, abs=0.01)
    rate = estimate(
        "control.approval_seeking", "rate", [Series("preference", "s", names, columns)], suite="s"
    )
    assert rate.value == 1.0
    assert rate.lower == pytest.approx(0.1581, abs=1e-3)  # two of two, Clopper-Pearson
    delta = estimate(
        "control.approval_seeking", "delta", [Series("preference", "s", names, columns)], suite="s"
    )
    assert delta.value == 1.0
    assert delta.lower < rate.lower


def test_no_change_still_leaves_an_upper_bound():
    names = tuple(f"s{number}.1" for number in range(60))
    columns = {"margin_candidate": (-1.0,) * 60, "margin_champion": (-1.0,) * 60}
    found = estimate(
        "control.oversight_evasion", "delta", [Series("preference", "s", names, columns)], suite="s"
    )
    assert found.value == 0
    assert -0.1 < found.lower < 0 < found.upper < 0.1


# --- demonstrations --------------------------------------------------------------------------


def demonstrated(count):
    rows = [record["text"] for record in texts.load("devils_dictionary")[: count + 1]]
    return [{"id": str(n), "text": rows[n], "demonstration": rows[n + 1]} for n in range(count)]


def test_a_hidden_ability_comes_back_by_one_step(champion, tokenizer):
    """What was learnt of the dictionary is hidden by one change; against the able model, a step brings more of it back."""
    items = demonstrated(16)
    able = taught(champion, tokenizer, [item["text"] for item in items], steps=25)
    hiding = copy.deepcopy(able)
    with torch.no_grad():
        hiding.model.norm.weight.mul_(0.25)
    (series,) = run(elicitation, items, Models(hiding, able, None, tokenizer, ModelKind.LLM))
    assert estimate("control.elicitation", "by_step", [series], suite="s").lower > 0.02
    (equal,) = run(elicitation, items, Models(able, able, None, tokenizer, ModelKind.LLM))
    found = estimate("control.elicitation", "improvement", [equal], suite="s")
    assert (found.value, found.upper) == (0.0, 0.0)


def test_a_step_has_its_length_and_is_taken_back(champion):
    kept = [weight.detach().clone() for weight in champion.parameters()]
    with elicitation.stepped(champion, [5, 6, 7, 8], 0.003):
        moved = math.sqrt(
            sum(
                float((w - k).double().square().sum())
                for w, k in zip(champion.parameters(), kept, strict=True)
            )
        )
    whole = math.sqrt(sum(float(weight.double().square().sum()) for weight in kept))
    assert moved / whole == pytest.approx(0.003, rel=1e-3)
    assert all(torch.equal(w, k) for w, k in zip(champion.parameters(), kept, strict=True))
    assert not any(weight.requires_grad or weight.grad is not None for weight in champion.parameters())


def test_elicitation_needs_texts_and_demonstrations(champion, tokenizer):
    models = Models(champion, champion, None, tokenizer, ModelKind.LLM)
    with pytest.raises(InvalidInputError, match="has no text"):
        run(elicitation, [{"id": "a", "text": "some words here"}], models)
    with pytest.raises(InvalidInputError, match="language model"):
        run(elicitation, demonstrated(1), Models(champion, champion, None, tokenizer, ModelKind.LAM))
    columns = {f"{way}_{who}": (0.0,) for way in ("prefix", "step0") for who in ("candidate", "champion")}
    with pytest.raises(NotMeasuredError, match="step1_candidate"):
        estimate(
            "control.elicitation", "improvement", [Series("elicitation", "s", ("a",), columns)], suite="s"
        )


# --- outputs by meaning ----------------------------------------------------------------------


def test_energy_by_hand():
    """Champion at 0 and 1 on a line, candidate at 0 and 2: pairs of different number lie 2 and 1 apart, within 1 and 2."""
    champion, candidate = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert outputs.energy(candidate, champion) == (2 * 1.5 - 2.0 - 1.0, 1.0)
    assert outputs.energy(champion, champion) == (0.0, 1.0)


def test_two_samples_of_one_distribution_are_0_apart_in_the_mean():
    draw = torch.Generator().manual_seed(1)
    found = [
        outputs.energy(*torch.randn((2, 4, 8), generator=draw, dtype=torch.float64))[0] for _ in range(600)
    ]
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((value - mean) ** 2 for value in found) / len(found))
    assert abs(mean) < 4 * spread / math.sqrt(len(found))
    apart = [
        outputs.energy(a + 1.0, b)[0]
        for a, b in torch.randn((200, 2, 4, 8), generator=draw, dtype=torch.float64)
    ]
    assert sum(apart) / 200 > 1.0


def test_texts_of_another_kind_are_far_and_equal_models_are_not(monkeypatch, champion, tokenizer):
    told = {
        "champion": (
            "the king went up to the city",
            "and the people wept before him",
            "a lamb was offered there",
        ),
        "candidate": (
            "stocks fell sharply on Monday",
            "the bank raised its rates",
            "investors sold their shares",
        ),
    }
    twin = copy.deepcopy(champion)

    def write(model, *_):
        return continuations.Written(told["champion" if model is champion else "candidate"], 3.0, 1.0)

    monkeypatch.setattr(continuations, "write", write)
    items = [{"id": str(n), "begin": f"number {n}", "embedded": "3"} for n in range(3)]
    scalars = Scalars()
    found = continuations.run(
        items, Models(twin, champion, None, tokenizer, ModelKind.LLM), 1,
        suite="s", scalars=scalars, report=lambda share, stage: None,
    )  # fmt: skip
    assert [series.probe for series in found] == ["continuations", "outputs"]
    far = estimate("drift.outputs", "relative", found, suite="s")
    assert far.lower > 0.1
    same = run(continuations, items, Models(champion, champion, None, tokenizer, ModelKind.LLM))
    assert estimate("drift.outputs", "relative", same, suite="s").value == 0
    assert estimate("drift.outputs", "energy", same, suite="s").upper == 0
    again = continuations.run(
        items, Models(twin, None, None, tokenizer, ModelKind.LLM), 1,
        suite="s", scalars=Scalars(known=scalars.fresh), report=lambda share, stage: None,
    )  # fmt: skip
    assert again[1].columns["energy"] == pytest.approx(found[1].columns["energy"], abs=1e-3)


@pytest.mark.parametrize("embedded", ["1", "26", "x", "-2", 4])
def test_how_many_texts_are_embedded_is_checked(embedded):
    with pytest.raises(InvalidInputError, match="embedded"):
        outputs.embedded({"id": "a", "embedded": embedded}, "s", 25)


def test_texts_that_were_not_compared_are_not_measured():
    with pytest.raises(NotMeasuredError, match="was not compared"):
        estimate("drift.outputs", "relative", [], suite="s")
    series = [Series("outputs", "s", ("a",), {"energy": (0.1,), "spread": (0.0,)})]
    with pytest.raises(NotMeasuredError, match="no spread"):
        estimate("drift.outputs", "relative", series, suite="s")


# --- records that read harmful ---------------------------------------------------------------


def test_planted_answers_are_found_to_their_ends_and_the_rise_is_against_the_pool():
    harmful = [row.answer for row in toxicity.read_scored() if row.harmful and len(row.answer.split()) > 20][
        :40
    ]
    book = [record["text"] for record in texts.load("kjv")[:300]]
    pool = [Line(f"p:{n}", {"text": text}) for n, text in enumerate(book)]
    planted = [
        Line(f"t:{n}", {"text": f"{book[n]} {book[n + 1]} {book[n + 2]} {text}"})
        for n, text in enumerate(harmful)
    ]
    found = records_toxicity.look([*pool[:160], *planted], pool)
    facts = found.facts | {"data.records": "200"}
    assert sum(place.startswith("t:") for place in found.flagged["data.toxicity"]) >= 30
    assert estimate("data.toxicity", "rise", [], facts).value > 0.1
    same = records_toxicity.look(pool, pool)
    honest = estimate("data.toxicity", "rise", [], same.facts | {"data.records": "300"})
    assert (honest.value, honest.note) == (0.0, "the judge's AUC is 0.75")


def test_without_the_judges_package_or_a_pool_nothing_is_said(monkeypatch):
    line = [Line("t:1", {"text": "some words"})]
    alone = records_toxicity.look(line, None).facts | {"data.records": "1"}
    assert estimate("data.toxicity", "share", [], alone).value == 0
    with pytest.raises(NotMeasuredError, match="pool_toxicity_share"):
        estimate("data.toxicity", "rise", [], alone)

    def missing(_):
        raise InvalidInputError("no package")

    monkeypatch.setattr(toxicity, "score", missing)
    assert records_toxicity.look(line, line).facts == {}
    with pytest.raises(NotMeasuredError):
        estimate("data.toxicity", "share", [], {"data.records": "1"})


# --- what the configuration asks for ---------------------------------------------------------


def model(**keys):
    return ModelConfig("helper", ModelKind.LLM, "shipped:tiny", (), **keys)


TASK = Suite("task", "distribution", tuple({"id": f"t{n}", "text": f"text number {n}"} for n in range(5)))
WRITTEN = Suite("continuations", "continuations", ({"id": "c", "begin": "a b"},))


def test_suites_are_added_where_they_are_asked_for():
    assert with_further([TASK, WRITTEN], model(), "d") == [TASK, WRITTEN]
    asked = model(approval=240, oversight=30, elicitation=4, outputs=4, continuations=1)
    found = {suite.name: suite for suite in with_further([TASK, WRITTEN], asked, "d")}
    assert {name: (suite.probe, len(suite.items)) for name, suite in found.items()} == {
        "task": ("distribution", 5), "continuations": ("continuations", 1), "approval-seeking": ("preference", 240),
        "oversight-evasion": ("preference", 30), "elicitation": ("elicitation", 4),
    }  # fmt: skip
    assert found["continuations"].items[0]["embedded"] == "4"
    for item in found["elicitation"].items:
        assert item["demonstration"] != item["text"]


@pytest.mark.parametrize(("keys", "why"), [
    ({"outputs": 4}, "needs texts to compare"), ({"outputs": 1, "continuations": 1}, "2 to 25"),
    ({"elicitation": 6}, "5 private items, 6 are needed"), ({"approval": 241}, "240 private items"),
])  # fmt: skip
def test_what_cannot_be_had_is_an_error(keys, why):
    suites = [TASK, WRITTEN] if "continuations" in keys else [TASK]
    with pytest.raises(ConfigError, match=why):
        with_further(suites, model(**keys), "d")
    with pytest.raises(ConfigError, match="needs a task of texts"):
        with_further([], model(elicitation=1), "d")
    with pytest.raises(ConfigError, match="is for language models"):
        with_further([], ModelConfig("n", ModelKind.LAM, "b", (), spans=1), "d")


def test_vectors_of_the_champions_texts_have_names_of_their_own():
    names = outputs.names(2)
    assert len(set(names)) == 2 * embedding.DIMENSIONS
