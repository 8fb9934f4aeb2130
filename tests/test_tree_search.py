"""Looking ahead with a model for a guide: what is found, what is asked of the guide, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.tree_search import Node, blend, grow

WON = "112233"
"""Whoever is to move has three stones in the bottom row, and room on their right."""
THREATENED = "17273"
"""The other has."""


class Guide:
    """Holds every legal move for as likely as any other, and every position for even; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[c4.Position] = []
        self.rounds = 0

    def __call__(self, positions: Sequence[c4.Position]) -> list[tuple[list[float], float]]:
        self.asked += positions
        self.rounds += 1
        return [([float(c in p.legal()) / len(p.legal()) for c in range(c4.COLUMNS)], 0.0) for p in positions]


def searched(moves: str, simulations: int, guide: Guide | None = None) -> Node:
    root = Node(c4.parse_moves(moves))
    grow([root], guide or Guide(), simulations, 1.5)
    return root


def favourite(root: Node) -> int:
    shares = root.shares()
    return shares.index(max(shares))


def test_a_win_that_is_on_the_board_is_found_and_known_to_be_one():
    root = searched(WON, 60)
    assert favourite(root) == 3
    assert root.after(3).value == -1.0
    assert root.worth > 0.5


def test_the_others_win_is_prevented_though_the_guide_sees_nothing():
    root = searched(THREATENED, 150)
    assert favourite(root) == 3
    careless = searched(THREATENED, 0)
    careless.after(0)
    grow([careless.after(0)], Guide(), 60, 1.5)
    assert careless.after(0).worth > 0.5, "who plays elsewhere has lost"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_each_simulation_is_counted_once_and_only_open_positions_are_asked_about(seed: int, count: int):
    (opening,) = c4.draw_openings(1, seed)
    guide = Guide()
    root = searched(opening, count, guide)
    assert sum(root.visits) == count
    assert not any(position.is_over for position in guide.asked)
    assert len(guide.asked) <= count + 1
    assert -1.0 <= root.worth <= 1.0
    assert sum(root.shares()) == pytest.approx(1.0)
    assert all(column in root.position.legal() for column, share in enumerate(root.shares()) if share)


def test_a_search_goes_on_from_what_was_found_below_the_move_that_was_made():
    root = searched("44", 50)
    below = root.after(favourite(root))
    known = sum(below.visits)
    assert known > 0
    grow([below], Guide(), 10, 1.5)
    assert sum(below.visits) == known + 10


def test_many_trees_ask_together_and_find_what_each_finds_alone():
    openings, guide = c4.draw_openings(5, "side by side"), Guide()
    roots = [Node(c4.parse_moves(opening)) for opening in openings]
    grow(roots, guide, 12, 1.5)
    assert guide.rounds <= 13
    assert [root.visits for root in roots] == [searched(opening, 12).visits for opening in openings]


def test_a_finished_game_is_left_alone():
    guide = Guide()
    root = searched(WON + "4", 5, guide)
    assert (root.value, root.moves, guide.asked) == (-1.0, (), [])


def test_noise_changes_what_is_looked_at_and_rules_nothing_out():
    plain, noisy = searched("44", 0), searched("44", 0)
    blend(noisy, [1.0, 0, 0, 0, 0, 0, 0], 0.5)
    assert sum(noisy.priors) == pytest.approx(1.0)
    assert min(noisy.priors) == pytest.approx(1 / 14)
    for root in (plain, noisy):
        grow([root], Guide(), 20, 1.5)
    assert noisy.shares()[0] > plain.shares()[0]
