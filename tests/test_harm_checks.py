"""Checks of what models write, refuse and assume: by hand from planted series, and the items they run on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from guardrails.checks import CHECKS, judges
from guardrails.checks.harm import _READS_HARMFUL
from guardrails.errors import InvalidInputError, NotMeasuredError
from guardrails.records import Measurements, ModelKind, Series
from sandbox.harmless_items import load_exchanged_sentences, load_harmless_requests
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.probes import Models, Scalars, bias, toxicity
from sandbox.worker.probes.generation import prompt_ids

N = 40
ITEMS = tuple(f"i{n}" for n in range(N))


FACTS = {"measure.judges": "2"}


def estimate(name, metric, series, **params):
    check = CHECKS[name]
    return check.estimate(metric, check.params(suite="s", **params), Measurements((series,), {}), FACTS, 0.95)


def series(probe, **columns):
    filled = {
        name: value if isinstance(value, tuple) else (float(value),) * N for name, value in columns.items()
    }
    return Series(probe, "s", ITEMS, filled)


def halves(one, other):
    return tuple(float(one) if n % 2 else float(other) for n in range(N))


def test_over_refusal_is_the_other_side_of_the_margin():
    measured = series("preference", margin_candidate=halves(-0.5, 0.5), margin_champion=0.5)
    assert estimate("harm.over_refusal", "rate", measured).value == 0.5
    assert estimate("harm.over_refusal", "delta", measured).lower > 0.2
    assert estimate("harm.over_refusal", "margin_delta", measured).value == pytest.approx(0.5)
    nothing = series("preference", margin_candidate=0.0, margin_champion=0.0)
    assert estimate("harm.over_refusal", "rate", nothing).value == 0


def categorised():
    """Forty items, half of them of one category that got worse, four of another, all of a third."""
    return series(
        "preference", margin_candidate=halves(0.5, -0.5), margin_champion=-0.5,
        **{"category:odd": halves(1, 0), "category:few": (1.0,) * 4 + (0.0,) * (N - 4), "category:all": 1},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["harm.compliance", "harm.jailbreak", "harm.injection"])
def test_a_category_is_read_by_itself_with_its_own_n(name):
    measured = categorised()
    assert (estimate(name, "rate", measured).value, estimate(name, "rate", measured).n) == (0.5, N)
    odd = estimate(name, "delta", measured, category="odd")
    assert (odd.value, odd.n) == (1.0, N // 2)
    assert estimate(name, "margin_delta", measured, category="odd").value == pytest.approx(1.0)
    assert estimate(name, "rate", measured, category="few").n == 4
    with pytest.raises(NotMeasuredError, match="no category 'none'") as raised:
        estimate(name, "rate", measured, category="none")
    assert "all, few, odd" in raised.value.hint


def test_over_refusal_has_categories_too():
    measured = categorised()
    assert estimate("harm.over_refusal", "rate", measured, category="odd").value == 0
    assert estimate("harm.over_refusal", "rate", measured).value == 0.5


def test_the_worst_category_counts_and_what_is_too_small_is_named():
    found = estimate("harm.compliance", "worst_delta", categorised(), least=20.0)
    alone = estimate("harm.compliance", "delta", categorised(), category="odd")
    assert (found.value, found.n) == (1.0, N // 2)
    assert found.lower < alone.lower  # the error is split between two categories
    assert "worst: odd 20 items" in found.note
    assert "too few to look at: few 4" in found.note
    with pytest.raises(NotMeasuredError, match="no category of 50 items"):
        estimate("harm.compliance", "worst_delta", categorised(), least=50.0)
    with pytest.raises(NotMeasuredError, match="leave the parameter category out"):
        estimate("harm.compliance", "worst_delta", categorised(), category="odd")


def test_a_small_category_shows_little():
    """Four items on which nothing changed leave room for much: the upper end says so, and n is 4."""
    same = replace(categorised(), columns={**categorised().columns, "margin_candidate": (-0.5,) * N})
    found = estimate("harm.compliance", "worst_delta", same, least=4.0)
    assert (found.value, found.n) == (0.0, 4)
    assert found.upper > 0.6


@pytest.mark.parametrize("column", [(0.5,) * N, (math.nan,) * N])
def test_categories_that_are_neither_0_nor_1_are_not_measured(column):
    broken = replace(categorised(), columns={**categorised().columns, "category:odd": column})
    for metric, more in (("worst_delta", {}), ("rate", {"category": "odd"})):
        with pytest.raises(NotMeasuredError, match="category:odd"):
            estimate("harm.compliance", metric, broken, **more)


def test_every_judged_number_says_how_good_its_judge_is():
    margins = categorised()
    for name, judge in (
        ("harm.compliance", judges.MARGIN), ("harm.jailbreak", judges.MARGIN), ("harm.injection", judges.INJECTION),
        ("harm.over_refusal", judges.MARGIN_HARMLESS),
    ):  # fmt: skip
        assert f"judge's AUC {judge.overall}" in estimate(name, "delta", margins).note
    note = estimate("harm.compliance", "delta", margins).note
    assert "236 bad, 284 good: autonomy 0.93, financial 0.82" in note
    assert note.endswith("; not measured: environmental 1/4, reputational 9/20")
    odd = estimate("harm.compliance", "delta", margins, category="odd").note
    assert odd.endswith("; for odd not measured: 0 bad, 0 good")
    assert "there not measured: 0 bad" in estimate("harm.compliance", "worst_delta", margins, least=20.0).note
    texts = series("continuations", toxicity_candidate=1.0, toxicity_champion=1.0)
    for metric in ("expected_max", "delta", "rate"):
        note = estimate("harm.toxicity", metric, texts).note
        assert all(f"{name} {found.auc:.2f}" in note for name, found in judges.WORDS.by_category.items())
    physical = replace(
        margins, columns=margins.columns | {"category:physical": margins.columns["category:odd"]}
    )
    said = estimate("harm.compliance", "rate", physical, category="physical").note
    assert said.endswith("; for physical 0.89 [0.81, 0.93] of 41 bad, 91 good")


def test_a_quality_that_is_not_shown_is_no_number():
    """What counts is the lower end; of `reputational` there were 9 refusals, of `odd` none."""
    columns = categorised().columns
    more = {f"category:{name}": columns["category:odd"] for name in ("physical", "reputational")}
    margins = replace(categorised(), columns=columns | more)
    assert estimate("harm.compliance", "rate", margins, min_auc=0.83).n == N
    assert estimate("harm.compliance", "rate", margins, min_auc=0.81, category="physical").n == 20
    for more, said in (
        ({"min_auc": 0.84}, r"min_auc 0.84 is not shown of the judge: 0.86 \[0.83"),
        ({"min_auc": 0.82, "category": "physical"}, "for physical: 0.89"),
        ({"min_auc": 0.1, "category": "reputational"}, "for reputational: not measured: 9 bad, 20 good"),
        ({"min_auc": 0.1, "category": "odd"}, "for odd: not measured: 0 bad"),
        ({"min_auc": math.nan, "category": "odd"}, "nan"),
    ):
        with pytest.raises(NotMeasuredError, match=said):
            estimate("harm.compliance", "rate", margins, **more)
    with pytest.raises(NotMeasuredError, match="for all: not measured"):
        estimate("harm.compliance", "worst_delta", margins, least=20.0, min_auc=0.5)
    texts = series("continuations", toxicity_candidate=1.0, toxicity_champion=1.0)
    assert estimate("harm.toxicity", "delta", texts, min_auc=0.71).n == N
    with pytest.raises(NotMeasuredError, match=r"min_auc 0\.75"):
        estimate("harm.toxicity", "delta", texts, min_auc=0.75)


def test_findings_on_older_evidence_stay_what_they_were(monkeypatch):
    monkeypatch.setitem(FACTS, "measure.judges", "1")
    assert estimate("harm.compliance", "delta", categorised()).note == "the judge's AUC is 0.93"
    assert estimate("harm.over_refusal", "delta", categorised()).note == "the judge's AUC is 0.93"
    assert estimate("harm.injection", "delta", categorised()).note == "the judge's AUC is 0.92"
    odd = estimate("harm.compliance", "delta", categorised(), category="odd").note
    assert odd == "the judge's AUC is 0.93, not measured for odd"
    texts = series("continuations", toxicity_candidate=1.0, toxicity_champion=1.0)
    assert estimate("harm.toxicity", "delta", texts).note == (
        "the judge's AUC is 0.75: exploits 0.75, hate_speech 0.84, info_integrity 0.67, privacy 0.78, "
        "representational 0.74, self_harm 0.79, sexual 0.76, violence 0.72"
    )
    assert "AUC" not in estimate("harm.compliance", "worst_delta", categorised(), least=20.0).note
    monkeypatch.delitem(FACTS, "measure.judges")
    assert not estimate("harm.compliance", "delta", categorised()).note


def test_toxicity_takes_the_worst_text_and_compares_it_with_the_champions():
    measured = series("continuations", toxicity_candidate=halves(2.5, 1.0), toxicity_champion=1.0)
    assert estimate("harm.toxicity", "expected_max", measured).value == pytest.approx(1.75)
    found = estimate("harm.toxicity", "delta", measured)
    assert (found.value, found.lower > 0.4, found.upper < 1.1) == (0.75, True, True)
    assert estimate("harm.toxicity", "rate", measured).value == 0.5
    assert _READS_HARMFUL == toxicity.HARMFUL
    for kind in toxicity.AUC.values():
        assert f"{kind:.2f}" in CHECKS["harm.toxicity"].doc
    without = series("continuations", pii_candidate=0)
    with pytest.raises(NotMeasuredError, match="toxicity_candidate"):
        estimate("harm.toxicity", "delta", without)


def test_leaks_count_prompts_and_not_texts():
    measured = series(
        "continuations", pii_candidate=halves(3, 0), pii_champion=0, secrets_candidate=0, secrets_champion=1
    )
    assert estimate("harm.leaks", "pii_rate", measured).value == 0.5
    assert estimate("harm.leaks", "pii_delta", measured).value == 0.5
    assert estimate("harm.leaks", "secrets_rate", measured).value == 0
    assert estimate("harm.leaks", "secrets_rate", measured).upper > 0.05
    assert estimate("harm.leaks", "secrets_delta", measured).value == -1


def test_generation_is_compared_prompt_by_prompt():
    measured = series(
        "continuations", length_candidate=halves(10, 20), length_champion=20, distinct_2_candidate=0.4,
        distinct_2_champion=0.9, entropy_candidate=halves(1, 2), entropy_champion=halves(2, 3),
    )  # fmt: skip
    assert estimate("drift.generation", "length_delta", measured).value == pytest.approx(-5)
    assert estimate("drift.generation", "distinct_2_delta", measured).value == pytest.approx(-0.5)
    found = estimate("drift.generation", "entropy_delta", measured)
    assert (found.value, found.lower, found.upper) == (-1, -1, -1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_impossible_numbers_are_not_measured(bad):
    for name, metric, columns in (
        ("drift.generation", "length_delta", {"length_candidate": bad, "length_champion": 1}),
        ("harm.leaks", "pii_rate", {"pii_candidate": bad, "pii_champion": 0}),
    ):
        with pytest.raises(NotMeasuredError):
            estimate(name, metric, series("continuations", **columns))


def test_bias_is_the_size_of_the_gap_whichever_way_it_goes():
    measured = series("bias", gap_candidate=halves(0.5, -0.3), gap_champion=halves(-0.1, -0.1))
    assert estimate("harm.bias", "gap", measured).value == pytest.approx(0.4)
    assert estimate("harm.bias", "gap_delta", measured).value == pytest.approx(0.3)
    assert estimate("harm.bias", "change", measured).value == pytest.approx((0.6 + 0.2) / 2)


# --- the probe and the items ----------------------------------------------------------------


@pytest.fixture(scope="module")
def champion():
    return weights.load_model(tiny.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return weights.load_tokenizer(tiny.locate())


def test_the_gap_is_what_two_plain_forward_passes_give(champion, tokenizer):
    item = load_exchanged_sentences()[0]
    turned = {**item, "id": "turned", "first": item["second"], "second": item["first"]}
    models, scalars = Models(champion, champion, None, tokenizer, ModelKind.LLM), Scalars()
    (found,) = bias.run(
        [item, turned], models, 1, suite="s", scalars=scalars, report=lambda share, stage: None
    )

    def mean(text):
        ids, ending = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, item["ending"]))
        table = champion(input_ids=torch.tensor([[*ids, *ending]])).logits[0].log_softmax(-1)
        return float(sum(table[len(ids) - 1 + n, token] for n, token in enumerate(ending)) / len(ending))

    expected = mean(item["first"]) - mean(item["second"])
    assert found.columns["gap_candidate"] == pytest.approx((expected, -expected), abs=1e-4)
    assert found.columns["gap_candidate"] == found.columns["gap_champion"]
    assert abs(expected) > 1e-3
    known = Models(champion, None, None, tokenizer, ModelKind.LLM)
    again = bias.run(
        [item, turned],
        known,
        1,
        suite="s",
        scalars=Scalars(known=scalars.fresh),
        report=lambda share, stage: None,
    )
    assert again == (found,)
    with pytest.raises(InvalidInputError, match="lacks first, second or ending"):
        bias.run([{"id": "x"}], models, 1, suite="s", scalars=Scalars(), report=lambda share, stage: None)


def test_the_items_are_distinct_and_differ_in_the_group_alone():
    requests, sentences = load_harmless_requests(), load_exchanged_sentences()
    assert len({item["id"] for item in requests}) == len(requests) == 240
    assert len({item["id"] for item in sentences}) == len(sentences) == 240
    for item in sentences:
        one, other = item["first"].split(), item["second"].split()
        common = len(set(one) & set(other)) / max(len(set(one)), len(set(other)))
        assert item["first"] != item["second"]
        assert common > 0.7
    endings = Counter(item["ending"] for item in sentences)
    assert len(endings) == 20
    assert set(endings.values()) == {12}


def test_harmless_requests_are_read_as_the_harmful_ones_are(tokenizer):
    item = load_harmless_requests()[0]
    assert set(item) == {"id", "prompt", "comply", "refuse", "categories"}
    assert prompt_ids(tokenizer, item["prompt"])
