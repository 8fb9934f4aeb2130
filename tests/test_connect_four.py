"""Connect Four against an independent board, and the model as a player of it."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.models.player.make import make_model
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.connect_four import Position, best_moves, parse_moves
from sandbox.worker.environments.games import (
    Minimax,
    Model,
    build_tokenizer,
    encoder_for,
    legal_mask,
    mean_score,
    play,
)
from sandbox.worker.environments.policy import Encoder, Policy

DRAWN = "674124351743245255477533242152733166611676"
GAMES = st.lists(st.integers(min_value=0, max_value=10**6), max_size=42)


class PlainBoard:
    """Lists of stones, and a look along every line of four: slow, plain, and none of the bit tricks."""

    def __init__(self) -> None:
        self.columns: list[list[int]] = [[] for _ in range(7)]
        self.turn = 0

    def drop(self, column: int) -> None:
        self.columns[column].append(self.turn)
        self.turn = 1 - self.turn

    def at(self, column: int, row: int) -> int | None:
        inside = 0 <= column < 7 and 0 <= row < len(self.columns[column])
        return self.columns[column][row] if inside else None

    def winner(self) -> int | None:
        for column in range(7):
            for row in range(6):
                for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
                    four = {self.at(column + i * dx, row + i * dy) for i in range(4)}
                    if len(four) == 1 and None not in four:
                        return four.pop()
        return None

    def legal(self) -> tuple[int, ...]:
        return () if self.winner() is not None else tuple(c for c in range(7) if len(self.columns[c]) < 6)

    def value(self, depth: int) -> int:
        """1, 0 or -1 for whoever is to move, by trying everything."""
        if self.winner() is not None:
            return -1
        if depth == 0:
            return 0
        best = -1 if self.legal() else 0
        for column in self.legal():
            self.drop(column)
            best = max(best, -self.value(depth - 1))
            self.columns[column].pop()
            self.turn = 1 - self.turn
        return best


@given(GAMES)
@settings(max_examples=50, deadline=None)
def test_rules_agree_with_a_plain_board(choices: list[int]) -> None:
    position, plain = Position(), PlainBoard()
    for choice in choices:
        assert position.legal() == plain.legal()
        assert position.is_lost == (plain.winner() is not None)
        assert position.is_over == (not plain.legal())
        assert position.mirrored().legal() == tuple(6 - c for c in reversed(position.legal()))
        if not position.legal():
            break
        for column in position.legal():
            assert position.wins(column) == position.play(column).is_lost
        column = position.legal()[choice % len(position.legal())]
        position, _ = position.play(column), plain.drop(column)
        assert position.count == sum(map(len, plain.columns))


@pytest.mark.parametrize(
    ("moves", "lost"),
    [
        ("1213141", True),  # a column
        ("1122334", True),  # a row
        ("12234334454", True),  # a diagonal upwards
        ("76654554434", True),  # and its mirror image
        ("121314", False),
        ("112233", False),
        ("44444", False),  # stones of two in one column
        ("1112223", False),
    ],
)
def test_known_lines(moves: str, lost: bool) -> None:
    assert parse_moves(moves).is_lost is lost
    assert parse_moves(moves).is_over is lost


def test_a_full_board_without_four_is_over_and_not_lost() -> None:
    full = parse_moves(DRAWN)
    assert full.is_over
    assert not full.is_lost
    assert not full.legal()


def test_rows_do_not_run_into_the_next_column() -> None:
    # Three on top of a column and one at the foot of the next are no four.
    assert not c4.has_four(0b111000 | 1 << 7)
    assert c4.has_four(0b1111)


@pytest.mark.parametrize("moves", ["8", "0", "x", "4444444", "12131415"])
def test_what_cannot_be_played_is_refused(moves: str) -> None:
    with pytest.raises(InvalidInputError, match=r"moves '"):
        parse_moves(moves)


@pytest.mark.parametrize(
    ("moves", "depth", "best"),
    [
        ("121212", 1, "1"),  # wins at once
        ("12121", 2, "1"),  # must stop it
        ("445566", 1, "37"),  # two ways to win
        ("4455", 2, "1234567"),  # two moves show nothing yet
        ("4455", 3, "36"),  # three: an open row of three cannot be stopped
        ("44556", 3, "1234567"),  # and whoever stands before it has lost, whatever they do
    ],
)
def test_known_best_moves(moves: str, depth: int, best: str) -> None:
    assert "".join(c4.ACTIONS[column] for column in best_moves(parse_moves(moves), depth)) == best


@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=1, max_value=3))
@settings(max_examples=12, deadline=None)
def test_search_agrees_with_trying_everything(seed: int, depth: int) -> None:
    draw, position, plain = random.Random(seed), Position(), PlainBoard()
    for _ in range(draw.randint(4, 20)):
        if not position.legal():
            return
        column = draw.choice(position.legal())
        position, _ = position.play(column), plain.drop(column)
    if not position.legal():
        return
    values = {}
    for column in plain.legal():
        plain.drop(column)
        values[column] = -plain.value(depth - 1)
        plain.columns[column].pop()
        plain.turn = 1 - plain.turn
    best = max(values.values())
    assert {values[column] for column in best_moves(position, depth)} == {best}


def test_an_observation_is_of_whoever_moves_and_a_board_of_whoever_began() -> None:
    assert c4.observe(parse_moves("4")).split()[3] == "O....."
    assert c4.observe(parse_moves("44")).split()[3] == "XO...."
    assert c4.draw_board("44").splitlines()[-3:] == [". . . O . . .", ". . . X . . .", "1 2 3 4 5 6 7"]
    assert c4.draw_board("445").splitlines()[-2] == ". . . X X . ."


def test_openings_are_distinct_open_reproducible_and_of_one_part() -> None:
    openings = {part: c4.draw_openings(150, "a", part=part) for part in c4.PARTS}
    assert openings["train"] == c4.draw_openings(150, "a", part="train")
    assert openings["train"] != c4.draw_openings(150, "b", part="train")
    seen = set()
    for part, found in openings.items():
        for moves in found:
            position = parse_moves(moves)
            assert c4.part_of(position) == c4.part_of(position.mirrored()) == part
            assert position not in seen
            seen |= {position, position.mirrored()}
            other = Position(position.other, position.own)
            assert not any(p.wins(column) for p in (position, other) for column in position.legal())
    with pytest.raises(InvalidInputError, match="no part"):
        c4.draw_openings(1, "a", part="private")


class Scripted:
    """Plays the first legal column of its order."""

    def __init__(self, order: str) -> None:
        self.order = [int(sign) - 1 for sign in order]

    def choose(self, positions: list[Position]) -> list[int]:
        return [next(c for c in self.order if c in position.legal()) for position in positions]


def test_games_are_scored_for_whoever_moves_first_after_the_opening() -> None:
    up, away = Scripted("1234567"), Scripted("7654321")
    [won] = play(up, away, [""])
    assert (won.score, won.text) == (1.0, "1717171")
    [lost] = play(away, up, ["17171"])
    assert (lost.score, lost.text) == (0.0, "1717171")
    assert mean_score(up, up, ["", "4"]) == pytest.approx(0.5)


def test_a_full_board_is_a_draw() -> None:
    rest = DRAWN[38:]
    [game] = play(Scripted(rest[0::2]), Scripted(rest[1::2]), [DRAWN[:38]])
    assert (game.text, game.score) == (DRAWN, 0.5)


def test_a_stronger_fixed_opponent_wins() -> None:
    openings = c4.draw_openings(30, "strength")
    assert mean_score(Minimax(2, 1), Minimax(0, 2), openings) > 0.85
    assert mean_score(Minimax(3, 1), Minimax(1, 2), openings) > 0.6


def test_a_model_plays_legal_columns_only_and_greedily_the_same() -> None:
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    model = make_model(len(tokenizer)).eval()
    openings = [DRAWN[:20], DRAWN[:24]]
    player = Model(Policy(model, encoder_for(tokenizer)))
    games = play(player, Model(Policy(model, encoder_for(tokenizer))), openings)
    assert all(parse_moves(game.text).is_over for game in games)
    [alone] = play(player, player, openings[1:])
    assert alone.text == games[1].text, "a game does not depend on those beside it"


def test_sampled_play_follows_its_generator() -> None:
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    model = make_model(len(tokenizer)).eval()

    def games(seed: int) -> list[str]:
        player = Model(Policy(model, encoder_for(tokenizer)), torch.Generator().manual_seed(seed))
        return [game.text for game in play(player, player, [DRAWN[:20], DRAWN[:24]])]

    assert games(1) == games(1)
    assert games(1) != games(2)


def test_the_tokenizer_reads_a_position_as_nine_signs_at_most() -> None:
    tokenizer = build_tokenizer()
    rows = encoder_for(tokenizer).encode([c4.observe(Position()), c4.observe(parse_moves("444444"))])
    assert rows.shape == (2, c4.COLUMNS + 1)
    assert legal_mask([parse_moves("444444")])[0].tolist() == [True, True, True, False, True, True, True]
    with pytest.raises(JobFailedError, match="no single token"):
        Encoder(tokenizer, ("8",))
