"""The probe that trains both models shortly on a few examples before it asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import ModelKind
from sandbox.models import navigator, tiny
from sandbox.worker import weights
from sandbox.worker.environments import lava, world
from sandbox.worker.probes import Models, Scalars, adaptation

WORDS = ("one", "two", "red", "sea", "sun", "dog")


def load(directory, kind):
    model = weights.load_model(directory, torch.float32)
    return Models(model, model, None, weights.load_tokenizer(directory), kind)


@pytest.fixture(scope="module")
def navigators():
    return load(navigator.locate(), ModelKind.LAM)


@pytest.fixture(scope="module")
def texts():
    return load(tiny.locate(), ModelKind.LLM)


def level_items(wiring="RLF", demonstrations=6, queries=6, **training):
    levels = lava.generate_layouts(demonstrations + queries, "adaptation")
    steps = [
        step
        for text in levels[:demonstrations]
        for step in world.walk(world.parse_level(f"{text}@{wiring}"), world.plan(world.parse_level(text)))
    ]
    support = [
        {"id": f"s{n}", "task": wiring, "role": "support", "prompt": seen, "answer": said}
        for n, (seen, said) in enumerate(steps)
    ]
    query = [
        {"id": f"q{n}", "task": wiring, "role": "query", "layout": f"{text}@{wiring}"}
        for n, text in enumerate(levels[demonstrations:])
    ]
    return [adaptation.training_item(training), *support, *query]


def text_items():
    return [
        {"id": f"{role}{n}", "task": "echo", "role": role, "prompt": f"Say {word}:", "answer": f" {word}"}
        for role in ("support", "query")
        for n, word in enumerate(WORDS)
    ]


def run(items, models):
    (series,) = adaptation.run(items, models, 7, suite="few", scalars=Scalars(), report=lambda *_: None)
    return series


def test_crossed_controls_are_learnt_from_a_few_demonstrations_and_forgotten_afterwards(navigators):
    before = [weights.detach().clone() for weights in navigators.champion.parameters()]
    items = level_items(demonstrations=16, queries=12, steps=25, batch=16, lr=2e-3)
    series = run(items, navigators)
    assert series.items == tuple(f"q{n}" for n in range(12))
    assert sum(series.columns["success_champion"]) > sum(series.columns["before_champion"])
    assert series.columns["success_candidate"] == series.columns["success_champion"]
    assert series.columns["unsafe_candidate"] == series.columns["unsafe_champion"]
    after = list(navigators.champion.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(weights.requires_grad for weights in after)


def test_a_model_that_knew_the_controls_before_is_better_after_the_same_training(navigators):
    knowing = weights.load_model(navigator.locate(), torch.float32)
    training, (task,) = adaptation.read_tasks(
        level_items(demonstrations=16, steps=25, batch=16, lr=2e-3), "few"
    )
    batches = adaptation._batches(navigators.tokenizer, task, training, 1, "few")
    with adaptation.adapted(knowing, batches, training):
        kept = [weights.detach().clone() for weights in knowing.parameters()]
    with torch.no_grad():
        for weights_, learnt in zip(knowing.parameters(), kept, strict=True):
            weights_.copy_(learnt)
    series = run(
        level_items(demonstrations=2, queries=24, steps=1, lr=1e-5), replace(navigators, candidate=knowing)
    )
    assert sum(series.columns["success_candidate"]) > sum(series.columns["success_champion"])


def test_of_texts_the_whole_answer_counts_and_training_brings_it(texts):
    series = run([*text_items(), adaptation.training_item({"steps": 20, "batch": 6, "lr": 3e-3})], texts)
    assert sum(series.columns["success_champion"]) > sum(series.columns["before_champion"])
    assert set(series.columns) == {
        f"{what}_{who}" for what in ("success", "before") for who in ("candidate", "champion")
    }


def test_the_whole_answer_is_what_greedy_writing_gives(texts):
    model, tokenizer = texts.champion, texts.tokenizer
    for text in ("The sea was", "And he said"):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        written = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0].tolist()
        start = ids.shape[1]
        wrong = [*written[:-1], (written[-1] + 1) % len(tokenizer)]
        assert adaptation._continues(model, [(written, start), (wrong, start)]) == [True, False]


def test_a_training_that_diverges_raises_and_leaves_the_weights(navigators):
    before = [weights.detach().clone() for weights in navigators.champion.parameters()]
    with (
        pytest.raises(RuntimeError, match="in between"),
        adaptation.adapted(navigators.champion, [], adaptation.Training()),
    ):
        raise RuntimeError("in between")
    training, (task,) = adaptation.read_tasks(level_items(), "few")
    batches = adaptation._batches(navigators.tokenizer, task, training, 1, "few")
    broken = weights.load_model(navigator.locate(), torch.float32)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    diverges = pytest.raises(JobFailedError, match="the short training's loss became nan")
    with diverges, adaptation.adapted(broken, batches, training):
        pass
    after = navigators.champion.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([{"id": "a", "role": "judge"}], "role is none of support, query, training"),
        ([{"id": "a", "role": "query", "prompt": "x", "answer": "y"}], "no text field 'task'"),
        (
            [{"id": "a", "task": "t", "role": "query", "prompt": "x", "answer": "y"}],
            "needs both support and query",
        ),
        ([{"id": "a", "role": "training"}], "there is no task to adapt to"),
        ([{"id": "a", "role": "training", "steps": "0"}], "training needs steps of 1 to 200"),
        ([{"id": "a", "role": "training", "lr": "nan"}], "training needs steps"),
        ([{"id": "a", "role": "training", "batch": "many"}], "training needs steps"),
    ],
)
def test_items_that_cannot_be_asked_are_refused(texts, items, why):
    with pytest.raises(InvalidInputError, match=why):
        run(items, texts)


def test_an_empty_answer_is_refused(texts):
    with pytest.raises(InvalidInputError, match="no text field 'answer'"):
        run([{**text_items()[0], "answer": ""}, *text_items()[1:]], texts)
