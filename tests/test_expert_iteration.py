"""Expert iteration of action models, in levels and in games, with tiny recipes: what is imitated, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError, JobFailedError
from guardrails.records import ModelKind
from sandbox import tasks
from sandbox.config import ModelConfig
from sandbox.models import navigator, player, rover
from sandbox.tasks import levels as shared
from sandbox.worker import data, weights
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments import lava
from sandbox.worker.environments.episodes import Episode
from sandbox.worker.environments.games import legal_mask
from sandbox.worker.environments.tree_search import Node
from sandbox.worker.learners import Order, load_learner, recipes
from sandbox.worker.learners.games import Reader
from sandbox.worker.learners.games import expert_iteration as in_games
from sandbox.worker.learners.levels import expert_iteration as in_levels
from sandbox.worker.learners.settings import positive

torch.set_num_threads(1)
METHOD = {"method": "expert_iteration"}
PLAYED = METHOD | {"iterations": "2", "layouts": "6", "episodes": "3"}
SEARCHED = METHOD | {"iterations": "2", "games": "3", "simulations": "4"}
LEVELS = lava.generate_layouts(8, "expert", part="train")
OPENINGS = c4.draw_openings(6, "expert", part="train")
learn = load_learner("reinforcement", ModelKind.LAM)


def order(
    folder: Path, champion: Path, records: list[dict[str, Any]], recipe: dict[str, str], seed: int = 3
) -> Order:
    data.write_records(folder / "data" / "train.jsonl", records)
    return Order(ModelKind.LAM, champion, folder / "data", folder / "out", recipe, seed, lambda *a, **k: None)


def in_lava(folder: Path, recipe: dict[str, str] = PLAYED, seed: int = 3, levels: Any = LEVELS) -> Order:
    lines = [{"id": f"l{n}", "layout": level} for n, level in enumerate(levels)]
    return order(folder, navigator.locate(), lines, recipe, seed)


def in_a_game(
    folder: Path, recipe: dict[str, str] = SEARCHED, seed: int = 3, openings: Any = OPENINGS
) -> Order:
    lines = [{"id": f"o{n}", "opening": opening} for n, opening in enumerate(openings)]
    return order(folder, player.locate(), lines, recipe, seed)


@pytest.mark.parametrize("make", [in_lava, in_a_game])
def test_it_is_found_by_its_method_and_gives_the_same_bytes_again(tmp_path: Path, make: Any):
    orders = [make(tmp_path / name, seed=seed) for name, seed in (("one", 3), ("again", 3), ("other", 4))]
    claims = [learn(one) for one in orders]
    made = [digest_file(one.out / "model" / "model.safetensors") for one in orders]
    assert made[0] == made[1] != made[2]
    assert claims[0] == claims[1]
    assert made[0] != digest_file(orders[0].champion / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        assert (orders[0].out / "model" / name).read_bytes() == (orders[0].champion / name).read_bytes()
    known = [line.value for line in data.read_directory(orders[0].data)]
    used = [line.value for line in data.read_directory(orders[0].out / "data")]
    assert used
    assert all(record in known for record in used), "records stand as they were given"


# --- levels ---------------------------------------------------------------------------------


def episode(layout: str, steps: int, end: str, *, evaded: bool = False) -> Episode:
    return Episode(layout, [f"{layout}{n}" for n in range(steps)], [0] * steps, end, evaded)


def test_only_what_reached_the_goal_is_imitated_and_not_what_evaded_the_supervisor():
    a, short, late = (episode("a", steps, "success") for steps in (5, 3, 3))
    b = episode("b", 4, "success")
    bad = [episode("a", 1, "unsafe"), episode("b", 1, "success", evaded=True), episode("c", 1, "timeout")]
    played = [*bad, a, short, late, b, episode("b", 2, "stopped")]
    assert in_levels.kept(played, "all") == [a, short, late, b]
    best = in_levels.kept(played, "best")
    assert [id(one) for one in best] == [id(short), id(b)]
    assert in_levels.kept(bad, "all") == []


def test_a_run_in_which_nothing_ended_well_fails_and_leaves_no_model(tmp_path: Path):
    barred = "..#../.##../>#.../.#.../.#..G"
    assert not lava.is_solvable(barred)
    with pytest.raises(JobFailedError, match="none of 12 episodes"):
        learn(in_lava(tmp_path, PLAYED | {"episodes": "6"}, levels=[barred]))
    assert not (tmp_path / "out").exists()


def test_what_is_imitated_becomes_more_frequent(tmp_path: Path):
    shares: list[float] = []
    task = in_lava(tmp_path, METHOD | {"iterations": "6", "episodes": "6", "forms": "1", "epochs": "3"})
    task = dataclasses.replace(task, report=lambda *_, success=None, **__: shares.append(success))
    learn(task)
    assert shares[-1] > shares[1]


@pytest.mark.parametrize("name", ["crossed", "moving", "supervised", "switch"])
def test_levels_of_every_family_can_be_learnt_from(tmp_path: Path, name: str, monkeypatch: Any):
    monkeypatch.setattr(shared, "TRAINING_LEVELS", 6)
    base = navigator if name == "crossed" else rover
    model = ModelConfig("m", ModelKind.LAM, "shipped:any", (), levels=name)
    records = tasks.training_records(model, tmp_path, b"s" * 32)
    learn(order(tmp_path, base.locate(), [dict(record) for record in records], PLAYED | {"episodes": "5"}))
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


# --- games ----------------------------------------------------------------------------------


def test_a_move_of_the_search_is_noted_with_what_it_was_worth_to_whoever_made_it():
    game = in_games.Searched(Node(c4.parse_moves("112233")))
    reader = Reader(
        weights.load_model(player.locate(), torch.float32), weights.load_tokenizer(player.locate())
    )
    in_games.grow([game.root], reader, 4, 1.5)
    game.play(3)
    assert game.score == 1.0
    assert game.targets(1.0) == [1.0]
    assert game.targets(0.0) == game.worths
    assert sum(game.shares[0]) == pytest.approx(1.0)
    later = in_games.Searched(game.root, worths=[0.5, -0.5], positions=[game.root.position] * 2, score=-1.0)
    assert later.targets(1.0) == [-1.0, 1.0]
    assert later.targets(0.5) == [-0.25, 0.25]


def test_what_the_search_found_is_learnt(tmp_path: Path):
    claims = learn(in_a_game(tmp_path, SEARCHED | {"iterations": "5", "games": "6", "epochs": "3"}))
    assert float(claims["last_loss"]) < float(claims["first_loss"])


def test_a_model_reads_positions_as_chances_of_legal_moves_and_a_value():
    reader = Reader(
        weights.load_model(player.locate(), torch.float32), weights.load_tokenizer(player.locate())
    )
    position = c4.parse_moves("111111")
    ((chances, value),) = reader([position])
    assert chances[0] == 0.0
    assert sum(chances) == pytest.approx(1.0)
    assert -1.0 <= value <= 1.0
    assert not legal_mask([position])[0, 0]


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "recipe", "why"),
    [
        (in_lava, PLAYED | {"keep": "worst"}, "keep"),
        (in_lava, PLAYED | {"lr": "nan"}, "lr"),
        (in_lava, PLAYED | {"forms": "9"}, "forms"),
        (in_lava, PLAYED | {"simulations": "4"}, "simulations: unknown key"),
        (in_a_game, SEARCHED | {"simulations": "0"}, "simulations"),
        (in_a_game, SEARCHED | {"noise": "1.5"}, "noise"),
        (in_a_game, SEARCHED | {"lr": "inf"}, "lr"),
        (in_a_game, SEARCHED | {"clip": "0.2"}, "clip: unknown key"),
        (in_lava, PLAYED | {"method": "magic"}, "one of expert_iteration, self_play"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, make: Any, recipe: Any, why: str):
    with pytest.raises(InvalidInputError, match=why):
        learn(make(tmp_path, recipe))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [in_lava, in_a_game])
def test_a_run_that_diverges_fails_and_leaves_no_model(tmp_path: Path, make: Any, monkeypatch: Any):
    for settings in (recipes.IMITATED_IN_LEVELS, recipes.SEARCHED):
        monkeypatch.setitem(settings, "lr", positive(1e-3, 1e38))
    recipe = (PLAYED if make is in_lava else SEARCHED) | {"lr": "1e30"}
    with pytest.raises(JobFailedError, match=r"finite|loss became"):
        learn(make(tmp_path, recipe))
    assert not (tmp_path / "out" / "model").exists()


def test_records_without_a_level_or_a_playable_opening_are_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="no level"):
        learn(in_lava(tmp_path / "none", levels=[]))
    with pytest.raises(InvalidInputError, match="not 5 rows"):
        learn(in_lava(tmp_path / "broken", levels=["....."]))
    with pytest.raises(InvalidInputError, match="over after"):
        learn(in_a_game(tmp_path / "over", openings=["1212121"]))
