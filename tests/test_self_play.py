"""Learning by self-play: what a game teaches, what is refused, and the same run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind, Series
from sandbox.models import player
from sandbox.worker import weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.learners import Order, load_learner, recipes
from sandbox.worker.learners.games import read_openings
from sandbox.worker.learners.games.self_play import traced
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.probes import Models, Scalars, actions, games

SHORT = {"method": "self_play", "iterations": "2", "games": "4", "keep_every": "1", "epochs": "1"}


def order(
    folder: Path, recipe: dict[str, str], openings: list[Any] | None = None, name: str = "out"
) -> Order:
    torch.set_num_threads(1)
    (folder / "data").mkdir(exist_ok=True)
    own = c4.draw_openings(6, "order", part="train") if openings is None else openings
    lines = [json.dumps({"id": f"o{n}", "opening": opening}) for n, opening in enumerate(own)]
    (folder / "data" / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    champion = folder / "champion"
    if not champion.exists():
        champion.mkdir()
        for file in player.FILES:
            (champion / file).write_bytes((player.locate() / file).read_bytes())
    return Order(ModelKind.LAM, champion, folder / "data", folder / name, recipe, 3, lambda *a, **k: None)


def test_a_position_is_worth_the_negative_of_the_next_one():
    assert traced([0.0, 0.0, 0.0], 1.0, 1.0) == [1.0, -1.0, 1.0]  # the first mover moved last and won
    assert traced([0.0, 0.0], 0.0, 1.0) == [-1.0, 1.0]
    assert traced([0.3, 0.3], 0.5, 1.0) == [0.0, 0.0]
    # With no trace, only the model's own value of the next position counts, but for the last.
    assert traced([0.9, 0.2, -0.4], 1.0, 0.0) == [-0.2, 0.4, 1.0]
    assert traced([0.9, 0.2], 0.0, 0.5) == [pytest.approx(-(0.5 * 0.2 + 0.5 * 1.0)), 1.0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iterations", "0"), ("lr", "nan"), ("lr", "-1"), ("pool", "1.5"), ("trace", "2"), ("games", "3"),
        ("temperature", "0"), ("method", "policy_gradient"), ("horizon", "3"), ("batch", "many"),
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(key: str, value: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=key):
        load_learner("reinforcement", ModelKind.LAM)(order(tmp_path, {**SHORT, key: value}))
    assert not (tmp_path / "out").exists()


def test_zero_is_allowed_where_it_means_something():
    asked = {"pool": "0", "keep_every": "0", "entropy": "0"}
    assert read_recipe(asked, recipes.PLAYED_AGAINST_ITSELF)["pool"] == 0


@pytest.mark.parametrize(
    ("openings", "match"),
    [([], "no opening"), ([7], "text field"), (["48"], "train.jsonl:1"), (["1212121"], "over after")],
)
def test_data_without_a_playable_opening_is_refused(tmp_path: Path, openings: list[Any], match: str):
    with pytest.raises(InvalidInputError, match=match):
        read_openings(order(tmp_path, SHORT, openings).data)


def test_a_run_is_found_by_its_method_and_gives_the_same_bytes_again(tmp_path: Path):
    learn = load_learner("reinforcement", ModelKind.LAM)
    digests = []
    for name in ("one", "two"):
        task = order(tmp_path, SHORT, name=name)
        claims = learn(task)
        assert claims["games"] == "8"
        digests.append(digest_file(task.out / "model" / "model.safetensors"))
        for file in ("config.json", "tokenizer.json"):
            assert (task.out / "model" / file).read_bytes() == (task.champion / file).read_bytes()
        known = {json.loads(line)["opening"] for line in (task.data / "train.jsonl").open()}
        played = {json.loads(line)["opening"] for line in (task.out / "data" / "openings.jsonl").open()}
        assert played <= known
        assert len(played) == int(claims["openings"])
    assert digests[0] == digests[1] != digest_file(player.locate() / "model.safetensors")


# --- the match ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> Models:
    torch.set_num_threads(1)
    champion = weights.load_model(player.locate(), torch.float32)
    candidate = weights.load_model(player.locate(), torch.float32)
    with torch.no_grad():  # one that always prefers the first column: it can be beaten
        head = candidate.get_input_embeddings().weight
        head.zero_()
    return Models(candidate, champion, champion, weights.load_tokenizer(player.locate()), ModelKind.LAM)


def items(count: int) -> list[dict[str, str]]:
    return [{"id": c4.opening_id(o), "opening": o} for o in c4.draw_openings(count, "match", part="held_out")]


def measured(models: Models, count: int, until: dict[str, str] | None = None) -> Series:
    (found,) = games.run(
        items(count), models, 1, suite="s", scalars=Scalars(), report=lambda *_: None, until=until
    )
    return found


def test_a_match_ends_once_it_is_decided_and_its_beginning_is_that_of_the_whole(models: Models):
    whole = measured(models, 40)
    stopped = measured(models, 40, {"null": "0.5", "alpha": "0.05", "least": "6"})
    assert whole.items == tuple(item["id"] for item in items(40))
    assert 6 <= len(stopped.items) < 30, "a player of one column loses early"
    assert stopped.items == whole.items[: len(stopped.items)]
    for name, column in stopped.columns.items():
        assert column == whole.columns[name][: len(stopped.items)]
    for one, other in zip(whole.columns["success_candidate"], whole.columns["success_champion"], strict=True):
        assert one + other == 1.0
        assert one in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_a_match_is_played_to_its_least_item_though_decided(models: Models):
    assert len(measured(models, 30, {"null": "0.5", "alpha": "0.05", "least": "29"}).items) == 29


def test_equal_models_draw_every_pair(models: Models):
    equal = Models(models.champion, models.champion, None, models.tokenizer, ModelKind.LAM)
    found = measured(equal, 6, {"null": "0.5", "alpha": "0.05", "least": "2"})
    assert found.columns["success_candidate"] == (0.5,) * 6


@pytest.mark.parametrize(
    "until", [{"null": "0.5"}, {"null": "x", "alpha": "0.05", "least": "3"}, {"null": "0.5", "alpha": "2", "least": "3"}]
)  # fmt: skip
def test_an_end_that_cannot_be_read_is_refused(models: Models, until: dict[str, str]):
    with pytest.raises(InvalidInputError, match="until"):
        measured(models, 2, until)


@pytest.mark.parametrize("opening", [None, "99", "1212121"])
def test_an_item_without_a_playable_opening_is_refused(models: Models, opening: Any):
    broken = [{"id": "x", "opening": opening}]
    with pytest.raises(InvalidInputError):
        games.run(broken, models, 1, suite="s", scalars=Scalars(), report=lambda *_: None)


def test_samples_show_both_games_as_people_read_them(models: Models):
    (sample,) = games.samples(items(1), models, suite="s")
    assert "to move" in sample.prompt
    for text, first in ((sample.champion, "champion"), (sample.candidate, "candidate")):
        assert text.startswith(first)
        assert text.endswith("1 2 3 4 5 6 7")
        assert "won after" in text


def test_positions_are_compared_over_the_seven_columns(models: Models):
    states = [
        {"id": f"s{n}", "state": c4.observe(c4.parse_moves(o)), "actions": " ".join(c4.ACTIONS)}
        for n, o in enumerate(c4.draw_openings(5, "states"))
    ]
    given = {"suite": "s", "scalars": Scalars(), "report": lambda *_: None}
    distribution, _ = actions.run(states, models, 1, **given)
    assert min(distribution.columns["kl_mean"]) > 0
    assert distribution.columns["kl_original_mean"] == distribution.columns["kl_mean"]
    with pytest.raises(InvalidInputError, match="different actions"):
        actions.run([states[0], {"id": "l", "state": "x"}], models, 1, **given)
