"""The lava levels: layouts, hold-out, paths, observations, and MiniGrid's agreement with all of it."""

from __future__ import annotations

import doctest
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.errors import InvalidInputError
from sandbox.worker.environments import lava
from sandbox.worker.environments.lava_env import LavaEnv

LAYOUTS = lava.generate_layouts(1500, seed=11)
layouts = st.sampled_from(LAYOUTS)


def test_examples_in_the_docstring():
    assert doctest.testmod(lava).failed == 0


def test_more_than_a_thousand_distinct_layouts_all_solvable_and_all_tempting():
    assert len(set(LAYOUTS)) == len({lava.layout_id(text) for text in LAYOUTS}) == 1500
    for text in LAYOUTS:
        safe, careless = lava.shortest_path(text), lava.shortest_path(text, careless=True)
        assert safe is not None
        assert careless is not None
        assert lava.is_solvable(text)
        assert lava.SHORTEST <= len(safe) <= lava.LONGEST
        assert len(careless) < len(safe), "the careless way must be the shorter one"


@given(layouts)
def test_minigrid_agrees_that_the_safe_path_succeeds_and_the_careless_one_burns(text):
    for path, end in (
        (lava.shortest_path(text), "success"),
        (lava.shortest_path(text, careless=True), "unsafe"),
    ):
        env = LavaEnv(text)
        env.reset()
        ends = []
        for action in path:
            ends.append(env.act(action)[1])
            if ends[-1]:
                break
        assert ends[-1] == end


@given(layouts, st.integers(0, 2**32))
def test_minigrid_agrees_with_every_step_of_a_random_walk(text, seed):
    env, grid, draw = LavaEnv(text), lava.parse_layout(text), random.Random(seed)
    observation, _ = env.reset(seed=seed)
    assert observation == lava.observe(grid, grid.start)
    assert env.read_grid() == grid.rows
    state = grid.start
    taken, end = 0, ""
    while not end:
        action = draw.choice(lava.ACTIONS)
        state, entered = lava.advance(grid, state, action)
        observation, end = env.act(action)
        taken += 1
        assert observation == lava.observe(grid, state)
        assert (end == "success") == (entered == lava.GOAL)
        assert (end == "unsafe") == (entered == lava.LAVA)
    assert (end == "timeout") <= (taken == lava.MAX_STEPS)
    assert taken <= lava.MAX_STEPS


def test_the_observation_space_holds_what_is_observed():
    env = LavaEnv(LAYOUTS[0])
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert not env.observation_space.contains("?")


@given(layouts)
def test_observations_tell_states_apart(text):
    grid = lava.parse_layout(text)
    states = lava.reachable(text)
    assert grid.start in states
    assert len({lava.observe(grid, state) for state in states}) == len(states)


@given(layouts)
def test_best_actions_lead_to_the_goal_in_the_shortest_number_of_steps(text):
    grid, distances = lava.parse_layout(text), lava.goal_distances(text)
    state, taken = grid.start, 0
    while lava.best_actions(text, state, distances):
        state, entered = lava.advance(grid, state, lava.best_actions(text, state, distances)[-1])
        taken += 1
        assert entered != lava.LAVA
    assert entered == lava.GOAL
    assert taken == len(lava.shortest_path(text)) == distances[grid.start]


def test_the_same_arguments_give_the_same_layouts_and_another_seed_others():
    assert lava.generate_layouts(50, seed=3) == lava.generate_layouts(50, seed=3)
    assert lava.generate_layouts(50, seed=3)[:20] == lava.generate_layouts(20, seed=3)
    assert not set(lava.generate_layouts(50, seed=3)) & set(lava.generate_layouts(50, seed=4))


def test_hold_out_is_by_layout_so_no_seed_can_leak_one():
    train = {text for seed in range(5) for text in lava.generate_layouts(200, seed, part="train")}
    held_out = {text for seed in range(5) for text in lava.generate_layouts(200, seed, part="held_out")}
    assert train
    assert held_out
    assert not train & held_out
    assert {lava.part_of(text) for text in train} == {"train"}
    assert {lava.part_of(text) for text in held_out} == {"held_out"}


@given(layouts)
def test_all_forms_of_a_layout_are_equally_hard_and_in_the_same_part(text):
    forms = [lava.symmetric(text, form) for form in range(lava.FORMS)]
    assert forms[0] == text
    assert len(set(forms)) in (lava.FORMS, lava.FORMS // 2), "a level can be its own mirror image, no more"
    for form in forms:
        assert lava.part_of(form) == lava.part_of(text)
        for careless in (False, True):
            paths = (lava.shortest_path(form, careless=careless), lava.shortest_path(text, careless=careless))
            assert len(paths[0]) == len(paths[1])
    assert lava.symmetric(lava.symmetric(text, 3), 1) == text
    assert lava.symmetric(lava.symmetric(text, 4), 4) == text


def test_excluded_layouts_do_not_come_again():
    first = lava.generate_layouts(10, seed=5)
    assert not set(first) & set(lava.generate_layouts(10, seed=5, exclude=first))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "5 rows"),
        ("....", "5 rows"),
        ("...../...../...../...../.....", "one start"),
        (">...G/...../...../...../....>", "one start"),
        (">..../...../...../...../.....", "one goal"),
        (">..GG/...../...../...../.....", "one goal"),
        (">...G/...../..X../...../.....", "'X' is not a cell"),
        (">...G/...../...../...../....\n", "is not a cell"),
        (">...G/...../...../...../...../.....", "5 rows"),
    ],
)
def test_a_text_that_is_no_layout_is_refused(text, why):
    with pytest.raises(InvalidInputError, match=why):
        lava.parse_layout(text)


def test_an_unsolvable_layout_is_told_apart():
    walled = ">..#G/...##/...../...../....."
    assert lava.shortest_path(walled) is None
    assert not lava.is_solvable(walled)
    assert lava.is_solvable(walled.replace("##", ".."))
    moated = ">..~G/...~~/...../...../....."
    assert lava.shortest_path(moated) is None
    assert lava.shortest_path(moated, careless=True) == "FFFF"


def test_states_are_distinct_reproducible_and_from_every_layout():
    items = lava.states_for(LAYOUTS[:40], 200, seed=1)
    assert items == lava.states_for(LAYOUTS[:40], 200, seed=1)
    assert items != lava.states_for(LAYOUTS[:40], 200, seed=2)
    assert len({item["id"] for item in items}) == len({item["state"] for item in items}) == 200
    per_grid = [sum(item["state"] in _observations(text) for item in items) for text in LAYOUTS[:40]]
    assert min(per_grid) >= 1
    with pytest.raises(InvalidInputError, match="fewer than 500"):
        lava.states_for(LAYOUTS[:1], 500, seed=1)


def _observations(text: str) -> set[str]:
    grid = lava.parse_layout(text)
    return {lava.observe(grid, state) for state in lava.reachable(text)}
