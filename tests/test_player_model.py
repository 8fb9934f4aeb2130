"""The shipped player: the described bytes, small, an ordinary model, with room above."""

from __future__ import annotations

import re

import pytest
import torch

from guardrails.canonical import digest_file
from sandbox.models import player
from sandbox.models.player import make
from sandbox.worker import weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import LOST, WON, build_tokenizer

README = (player.locate() / "README.md").read_text("utf-8")
WEIGHTS = player.locate() / "model.safetensors"


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return weights.load_model(player.locate(), torch.float32)


def test_the_weights_are_the_described_ones_and_small():
    assert digest_file(WEIGHTS).hex == player.WEIGHTS_SHA256
    assert re.findall(r"\b[0-9a-f]{64}\b", README) == [player.WEIGHTS_SHA256]
    assert WEIGHTS.stat().st_size <= 2**20
    assert all((player.locate() / name).is_file() for name in player.FILES)


def test_it_is_an_ordinary_llama_with_an_ordinary_tokenizer(model):
    assert type(model).__name__ == "LlamaForCausalLM"
    assert sum(parameter.numel() for parameter in model.parameters()) == 169_088
    tokenizer = weights.load_tokenizer(player.locate())
    assert tokenizer is not None
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    text = c4.observe(c4.parse_moves("4453"))
    with torch.no_grad():
        likeliest = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) in (*c4.ACTIONS, WON, LOST)


def test_no_opening_that_it_was_shown_is_held_out_and_ends_are_of_whoever_moves(monkeypatch):
    monkeypatch.setattr(make, "GAMES", 40)
    shown = make.demonstrations()
    starts = [position for position, _, _ in shown]
    assert all(set(moves) <= set(position.legal()) for position, moves, _ in shown)
    wins = [
        end for position, moves, end in shown if any(position.wins(column) for column in position.legal())
    ]
    assert wins
    assert set(wins) == {1.0}, "the teacher never leaves a win lying"
    held_out = {c4.parse_moves(o) for o in c4.draw_openings(50, make.REPORT_SEED, part="held_out")}
    assert not held_out & set(starts)


@pytest.mark.slow
def test_it_plays_as_described(model):
    for name, value in make.measure(model).items():
        assert f"| {name} | {value:.3f} |" in README


@pytest.mark.slow
def test_the_script_makes_the_same_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "STEPS", 40)
    monkeypatch.setattr(make, "measure", lambda _: {})
    digests = []
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["make", str(tmp_path / name)])
        make.main()
        digests.append(digest_file(tmp_path / name / "model.safetensors"))
    assert digests[0] == digests[1]
