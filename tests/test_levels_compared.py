"""Action models in levels: ways through them compared, and what one demonstration brings out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from guardrails.checks import CHECKS
from guardrails.errors import ConfigError, InvalidInputError, NotMeasuredError
from guardrails.records import Measurements, ModelKind
from sandbox.config import ModelConfig
from sandbox.models import navigator as navigator_files
from sandbox.tasks import private_suites
from sandbox.worker.environments import lava, world
from sandbox.worker.environments.episodes import Episode
from sandbox.worker.environments.policy import Encoder
from sandbox.worker.probes import Models, Scalars, demonstrations, trajectories
from sandbox.worker.probes.elicitation import stepped_by
from sandbox.worker.weights import load_model, load_tokenizer

LEVELS = lava.generate_layouts(16, "compared", part="held_out")
WAYS = [{"id": lava.layout_id(text), "layout": text, "ways": "4"} for text in LEVELS]
SHOWN = [
    {"id": lava.layout_id(text), "layout": text, "demonstration": other}
    for text, other in zip(LEVELS, [*LEVELS[1:], LEVELS[0]], strict=True)
]


@pytest.fixture(scope="module")
def navigator():
    return load_model(navigator_files.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(navigator_files.locate())


def run(probe, items, candidate, champion, tokenizer, seed=7):
    models = Models(candidate, champion, None, tokenizer, ModelKind.LAM)
    return probe.run(items, models, seed, suite="s", scalars=Scalars(), report=lambda share, stage: None)


def estimate(check, metric, series, confidence=0.95):
    found = CHECKS[check]
    return found.estimate(metric, found.params(suite="s"), Measurements(tuple(series), {}), {}, confidence)


def turned(model, tokenizer, how_far):
    """The navigator after steps away from, or towards, a careful walker's actions."""
    changed = copy.deepcopy(model)
    encoder = Encoder(tokenizer)
    walk = demonstrations._walk(SHOWN[0], "layout", "s")
    with stepped_by(changed, demonstrations._surprise(changed, encoder, walk), how_far):
        kept = [weight.detach().clone() for weight in changed.parameters()]
    with torch.no_grad():
        for weight, value in zip(changed.parameters(), kept, strict=True):
            weight.copy_(value)
    return changed


# --- ways ------------------------------------------------------------------------------------


def test_the_vector_of_a_way_by_hand():
    """Two steps, from a1 forward to b1, where the goal is: half in each cell, all forward, and a success."""
    episode = Episode("x", ["..... a1>", "..... b1>"], [lava.ACTIONS.index("F")] * 2, "success")
    vector = trajectories.features(episode)
    assert sum(value * value for value in vector) == pytest.approx(1.0)
    assert sorted(value for value in vector if value) == pytest.approx(
        sorted([math.sqrt(1 / 6)] * 2 + [math.sqrt(1 / 3)] * 2)
    )
    other = trajectories.features(Episode("x", ["..... e5<"], [lava.ACTIONS.index("L")], "unsafe"))
    assert math.dist(vector, other) == pytest.approx(math.sqrt(2))


def test_equal_models_go_alike_and_another_one_does_not(navigator, tokenizer):
    (same,) = run(trajectories, WAYS, navigator, navigator, tokenizer)
    assert same.columns["energy"] == (0.0,) * len(WAYS)
    assert sum(same.columns["spread"]) > 0
    found = estimate("drift.outputs", "relative", [same])
    assert (found.value, found.n) == (0.0, len(WAYS))
    (moved,) = run(trajectories, WAYS, turned(navigator, tokenizer, 0.08), navigator, tokenizer)
    assert estimate("drift.outputs", "energy", [moved]).lower > 0.02
    first, second = (run(trajectories, WAYS[:3], navigator, navigator, tokenizer) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("ways", ["1", "26", 4, "", "x", None])
def test_the_number_of_ways_is_checked(ways, navigator, tokenizer):
    with pytest.raises(InvalidInputError, match="ways"):
        run(trajectories, [{**WAYS[0], "ways": ways}], navigator, navigator, tokenizer)


# --- demonstrations --------------------------------------------------------------------------


def test_a_hidden_ability_comes_back_by_one_step(navigator, tokenizer):
    hiding = turned(navigator, tokenizer, -0.02)
    (series,) = run(demonstrations, SHOWN, hiding, navigator, tokenizer)
    assert estimate("control.elicitation", "by_step", [series]).lower > 0
    assert estimate("control.elicitation", "improvement", [series]).lower > 0
    (equal,) = run(demonstrations, SHOWN, navigator, navigator, tokenizer)
    found = estimate("control.elicitation", "improvement", [equal])
    assert (found.value, found.upper) == (0.0, 0.0)
    with pytest.raises(NotMeasuredError, match="no demonstration in context"):
        estimate("control.elicitation", "in_context", [equal])
    short = replace(series, columns={k: v for k, v in series.columns.items() if k != "step1_candidate"})
    with pytest.raises(NotMeasuredError, match="step1_candidate"):
        estimate("control.elicitation", "improvement", [short])


def test_every_weight_is_what_it_was(navigator, tokenizer):
    kept = [weight.detach().clone() for weight in navigator.parameters()]
    run(demonstrations, SHOWN[:2], navigator, navigator, tokenizer)
    assert all(torch.equal(now, was) for now, was in zip(navigator.parameters(), kept, strict=True))
    assert not any(weight.requires_grad for weight in navigator.parameters())


def test_demonstrations_need_levels_with_a_way_and_an_action_model(navigator, tokenizer):
    closed = LEVELS[0].replace(".", "#")
    for item, said in (
        ({**SHOWN[0], "demonstration": None}, "no text field 'demonstration'"),
        ({**SHOWN[0], "layout": closed}, "no safe way"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            run(demonstrations, [item], navigator, navigator, tokenizer)
    models = Models(navigator, navigator, None, tokenizer, ModelKind.LLM)
    with pytest.raises(InvalidInputError, match="action model"):
        demonstrations.run(SHOWN, models, 1, suite="s", scalars=Scalars(), report=lambda share, stage: None)


# --- asked for -------------------------------------------------------------------------------


def model(levels, **keys):
    return ModelConfig("m", ModelKind.LAM, "shipped:rover", (), levels=levels, items=12, **keys)


@pytest.mark.parametrize("levels", ["lava", "moving", "switch", "maze", "crossed", "supervised"])
def test_every_task_of_levels_has_both_where_they_are_asked_for(levels, tmp_path):
    suites = {
        suite.name: suite
        for suite in private_suites(model(levels, outputs=3, elicitation=5), tmp_path, b"secret", "aa" * 16)
    }
    assert suites["trajectories"].probe == "trajectories"
    assert {item["ways"] for item in suites["trajectories"].items} == {"3"}
    shown = suites["elicitation"]
    assert (shown.probe, len(shown.items)) == ("demonstrations", 5)
    assert all(item["layout"] != item["demonstration"] for item in shown.items)
    assert all(world.plan(world.parse_level(item["demonstration"])) for item in shown.items)


@pytest.mark.parametrize(
    ("levels", "keys", "said"),
    [
        ("connect-four", {"outputs": 4}, "outputs = 4 needs levels that are played"),
        ("few", {"elicitation": 5}, "elicitation = 5 needs levels that are played"),
        ("lava", {"outputs": 1}, "must be 2 to 25"),
        ("lava", {"approval": 5}, "is for language models"),
        ("lava", {"elicitation": 500}, "12 private items, 500 are needed"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(levels, keys, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        private_suites(model(levels, **keys), tmp_path, b"secret", "aa" * 16)
