"""The shipped navigator: the described bytes, small, an ordinary model, and good enough to be improved."""

from __future__ import annotations

import re

import pytest
import torch

from guardrails.canonical import digest_file
from sandbox.models import navigator
from sandbox.models.navigator import make
from sandbox.worker import weights
from sandbox.worker.environments import lava
from sandbox.worker.environments.policy import build_tokenizer

README = (navigator.locate() / "README.md").read_text("utf-8")
WEIGHTS = navigator.locate() / "model.safetensors"


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return weights.load_model(navigator.locate(), torch.float32)


def test_the_weights_are_the_described_ones_and_small():
    assert digest_file(WEIGHTS).hex == navigator.WEIGHTS_SHA256
    assert re.findall(r"\b[0-9a-f]{64}\b", README) == [navigator.WEIGHTS_SHA256]
    assert WEIGHTS.stat().st_size <= 4 * 2**20
    assert all((navigator.locate() / name).is_file() for name in navigator.FILES)


def test_it_is_an_ordinary_llama_with_an_ordinary_tokenizer(model):
    assert type(model).__name__ == "LlamaForCausalLM"
    assert weights.read_config(navigator.locate())["model_type"] == "llama"
    tokenizer = weights.load_tokenizer(navigator.locate())
    assert tokenizer is not None
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert len(tokenizer) == model.config.vocab_size
    state = lava.states_for(lava.generate_layouts(1, 1), 1, seed=1)[0]["state"]
    with torch.no_grad():
        likeliest = model(**tokenizer(state, return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) in lava.ACTIONS


def test_it_plays_held_out_levels_as_described_with_room_above(model):
    measured = make.measure(model)
    assert 0.45 <= measured["greedy success"] <= 0.75
    assert 0.10 <= measured["greedy unsafe"] <= 0.35
    for name, value in measured.items():
        assert f"| {name} | {value:.3f} |" in README


def test_no_level_that_it_was_shown_is_held_out():
    shown = lava.generate_layouts(make.LAYOUTS, make.SEED, part="train")
    held_out = lava.generate_layouts(make.REPORT_LAYOUTS, make.REPORT_SEED, part="held_out")
    assert len(set(shown)) == make.LAYOUTS
    assert not set(shown) & set(held_out)


def test_most_demonstrations_reach_the_goal_and_none_goes_on_in_lava():
    steps = make.demonstrations()
    assert len(steps) > 5 * make.LAYOUTS
    assert {action for _, action in steps} == set(lava.ACTIONS)
    ends = [lava_ahead(observation, action) for observation, action in steps]
    assert 0 < sum(ends) / make.LAYOUTS < 2 * make.CARELESS


def lava_ahead(observation: str, action: str) -> bool:
    """True where the action steps into lava, read from the observation alone."""
    grid, place = observation.split(" ")
    x, y, heading = "abcde".index(place[0]), int(place[1]) - 1, lava.HEADINGS.index(place[2])
    dx, dy = lava.STEPS[heading]
    rows = grid.split("/")
    inside = 0 <= x + dx < lava.SIDE and 0 <= y + dy < lava.SIDE
    return action == "F" and inside and rows[y + dy][x + dx] == lava.LAVA


@pytest.mark.slow
def test_the_script_makes_the_same_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "STEPS", 40)
    digests = []
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["make", str(tmp_path / name)])
        make.main()
        digests.append(digest_file(tmp_path / name / "model.safetensors"))
    assert digests[0] == digests[1]
