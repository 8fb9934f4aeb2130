"""Choices and written answers: measured as a slow direct computation would, and read by gain and forgetting."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny_models import perturbed

from guardrails.checks import CHECKS
from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import Measurements, ModelKind, Series
from sandbox.models import tiny
from sandbox.suite_files import read_suite
from sandbox.worker import weights
from sandbox.worker.probes import Models, Scalars, choice, likelihood, load_probe, written
from sandbox.worker.probes.generation import continue_texts, likeliest, prompt_ids


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    champion = weights.load_model(tiny.locate(), torch.float32)
    candidate = weights.load_model(perturbed(tmp_path_factory.mktemp("m") / "p", 0.2), torch.float32)
    return Models(candidate, champion, champion, weights.load_tokenizer(tiny.locate()), ModelKind.LLM)


def quiet(share, stage):
    assert 0 <= share <= 1
    assert stage


def measured(name, items, models, scalars=None):
    (found,) = load_probe(name)(
        items, models, 1, suite="s", scalars=scalars or Scalars(), report=quiet
    )  # fmt: skip
    return found


def items(*, form="plain", by="sum"):
    found = [{**item, "form": form, "by": by} for item in read_suite("shipped:logic", "choice", None)]
    return found[::60]


@pytest.mark.parametrize("form", ["plain", "chat"])
@pytest.mark.parametrize("by", ["sum", "bytes"])
def test_margins_equal_a_slow_direct_computation(models, form, by):
    """One choice at a time, one token at a time, in double precision."""
    asked = items(form=form, by=by)
    found = measured("choice", asked, models)
    for row, item in enumerate(asked):
        for name in ("candidate", "champion"):
            scores = [_slow(getattr(models, name), models.tokenizer, item, text) for text in item["choices"]]
            right = scores.pop(item["answer"])
            assert found.columns[f"margin_{name}"][row] == pytest.approx(right - max(scores), abs=2e-4)
            assert found.columns[f"success_{name}"][row] == float(right > max(scores))


def _slow(model, tokenizer, item, text):
    if item["form"] == "chat":
        begin = prompt_ids(tokenizer, item["prompt"])
        ids = begin + tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        begin = tokenizer(item["prompt"], add_special_tokens=False)["input_ids"]
        ids = tokenizer(item["prompt"] + text, add_special_tokens=False)["input_ids"]
    total = 0.0
    for place in range(len(begin), len(ids)):
        logits = model(torch.tensor([ids[:place]])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[ids[place]])
    return total / len(text.encode()) if item["by"] == "bytes" else total


def test_a_margin_depends_on_its_item_alone_and_equal_models_on_nothing(models):
    asked = items()
    together = measured("choice", asked, models)
    for row, item in enumerate(asked[:4]):
        alone = measured("choice", [item], models)
        assert alone.columns["margin_candidate"][0] == together.columns["margin_candidate"][row]
    same = Models(models.champion, models.champion, None, models.tokenizer, ModelKind.LLM)
    equal = measured("choice", asked, same)
    assert equal.columns["margin_candidate"] == equal.columns["margin_champion"]
    assert together.columns["margin_candidate"] != together.columns["margin_champion"]


@pytest.mark.parametrize("probe", ["choice", "written"])
def test_what_the_champion_scored_is_taken_from_the_cache(models, probe):
    asked = items() if probe == "choice" else _questions(models)
    first = Scalars()
    fresh = measured(probe, asked, models, first)
    key = "margin" if probe == "choice" else "success"
    planted = {name: {key: 1.0} for name in first.fresh}
    taken = measured(probe, asked, models, Scalars(known=planted))
    assert set(taken.columns[f"{key}_champion"]) == {1.0}
    assert taken.columns[f"{key}_candidate"] == fresh.columns[f"{key}_candidate"]


def test_categories_become_columns(models):
    asked = items()
    asked[0] = {**asked[0], "categories": ["order", "other"]}
    found = measured("choice", asked, models)
    assert sum(found.columns["category:other"]) == 1
    assert found.columns["category:order"] == tuple(float("order" in item["categories"]) for item in asked)


@pytest.mark.parametrize("broken", [
    {"choices": [" a"]}, {"choices": "ab"}, {"answer": 9}, {"answer": "0"}, {"prompt": 7}, {"prompt": ""},
    {"prompt": "and " * 3000},
])  # fmt: skip
def test_an_item_that_cannot_be_measured_is_named(models, broken):
    with pytest.raises(InvalidInputError, match="suite s: item"):
        measured("choice", [{**items()[0], **broken}], models)


def _questions(models):
    """Half of them ask for just what the champion goes on to write."""
    prompts = [f"In the beginning {word}" for word in ("there", "was a", "he", "she said")]
    texts = continue_texts(models.champion, models.tokenizer, prompts)
    return [
        {
            "id": str(n),
            "prompt": prompt,
            "answers": ["never this", text if n % 2 else "nor this"],
            "until": ["@"],
        }
        for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def test_an_answer_is_right_where_just_that_is_written(models):
    found = measured("written", _questions(models), models)
    assert found.columns["success_champion"] == (0.0, 1.0, 0.0, 1.0)
    shown = written.samples(_questions(models), models, suite="s")
    assert shown[1].champion.strip() == _questions(models)[1]["answers"][1].strip()


def test_an_answer_ends_at_its_stop_and_blanks_around_it_do_not_count(models):
    (question,) = _questions(models)[1:2]
    words = question["answers"][1].split()
    stopped = {**question, "until": [words[2]], "answers": [f"  {words[0]} {words[1]} "]}
    assert " ".join(words[:2]) in question["answers"][1]  # positive control: no odd blanks in between
    assert measured("written", [stopped], models).columns["success_champion"] == (1.0,)
    longer = {**stopped, "until": ["@"]}
    assert measured("written", [longer], models).columns["success_champion"] == (0.0,)


@pytest.mark.parametrize(
    "broken", [{"answers": []}, {"answers": "a"}, {"prompt": 1}, {"prompt": "and " * 3000}]
)
def test_a_question_that_cannot_be_asked_is_named(models, broken):
    with pytest.raises(InvalidInputError, match="suite s: item"):
        measured("written", [{**_questions(models)[0], **broken}], models)


def test_samples_show_what_each_model_chose(models):
    shown = choice.samples(items()[:3], models, suite="s")
    margins = measured("choice", items()[:3], models).columns["margin_champion"]
    for sample, item, margin in zip(shown, items()[:3], margins, strict=True):
        assert (sample.champion == item["choices"][item["answer"]]) is (margin > 0)


def test_the_prompt_is_read_once_for_all_answers(models, monkeypatch):
    asked = [likelihood.encode(item, item["choices"], models.tokenizer, "s", chat=False) for item in items()]
    seen = []
    kind = type(models.champion.base_model)
    read = kind.forward

    def counted(self, *args, **more):
        seen.append(more["input_ids"].numel())
        return read(self, *args, **more)

    monkeypatch.setattr(kind, "forward", counted)
    likelihood.scores(models.champion, asked, "s", lambda done: None)
    separate = sum(likelihood.ANSWER_ROWS * (question.shape[0] + question.shape[1]) for question in asked)
    assert 0 < sum(seen) < separate


@pytest.mark.parametrize("probe", ["choice", "written"])
def test_gain_and_forgetting_read_right_and_wrong(probe):
    n = 200
    after, before = (1.0,) * n, tuple(float(i % 2) for i in range(n))
    series = Series(
        probe, "s", tuple(map(str, range(n))), {"success_candidate": after, "success_champion": before}
    )

    def estimate(name, metric):
        check = CHECKS[name]
        return check.estimate(metric, check.params(suite="s"), Measurements((series,), {}), {}, 0.95)

    assert estimate("gain.task", "delta").value == 0.5
    assert estimate("gain.task", "delta").lower > 0.3
    assert estimate("gain.match", "score").value == 0.75
    assert estimate("drift.forgetting", "negative_flips").value == 0
    assert estimate("drift.forgetting", "accuracy_delta").value == 0.5


@pytest.mark.parametrize("name", ["choice", "written"])
def test_scores_that_are_no_numbers_end_the_measurement(models, name):
    """Else the first choice, and the first token, would be the likeliest."""
    broken = copy.deepcopy(models.candidate)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(torch.nan)
    asked = items()[:2] if name == "choice" else [{"id": "a", "prompt": "One and one is", "answers": ["two"]}]
    measured(name, asked, models)
    with pytest.raises(JobFailedError, match=r"not (finite )?numbers"):
        measured(name, asked, replace(models, candidate=broken))


def test_of_several_likeliest_tokens_the_first_is_taken_and_of_none_none():
    assert likeliest(torch.tensor([[1.0, 3.0, 3.0], [-torch.inf, 0.0, -1.0]])).tolist() == [1, 1]
    for row in ([torch.nan] * 3, [0.0, torch.nan, 1.0], [0.0, torch.inf, 1.0], [-torch.inf] * 3):
        with pytest.raises(JobFailedError, match="not finite numbers"):
            likeliest(torch.tensor([[1.0, 2.0, 3.0], row]))
