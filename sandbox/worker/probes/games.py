"""Candidate against champion: games of Connect Four from private openings, each opening played from both sides.

Invariants:
- Both play as they are served, greedily: a game depends on the two models and the opening alone, nothing is drawn.
- The pair of games from one opening is one item: its two games share the opening's luck. It scores 0, 1/4 … 1.
- Items are played in their order, which the draw fixed before anything was known of the candidate. Where ``until``
  says so, play ends after the item with which the sequential test has decided; what lies beyond was never looked at.
  That is sound because whoever judges uses an interval that holds at every number of items.

Items are ``{"id", "opening"}``, the opening as moves. ``until`` holds texts: ``null`` (the mean score to be above),
``alpha`` (how often that may be concluded wrongly), ``least`` (items that are played in any case). Play also ends where
the score is shown to be below ``null`` + ``MARGIN``: what could still be shown then is not worth the games. Series
``games``: ``success_candidate`` (the item's score), ``success_champion`` (1 less it), ``plies`` (moves of both games
after the opening).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from guardrails.errors import InvalidInputError
from guardrails.records import Sample, Series
from guardrails.sequential import Match
from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.games import Game, Model, encoder_for, play
from sandbox.worker.environments.policy import Policy
from sandbox.worker.probes import Item, Models, Report, Scalars

BLOCK = 32
"""Pairs played side by side: with their two games each they fill the rows of one forward pass."""
MARGIN = 0.1
BETA = 0.05


@dataclass(frozen=True)
class Pair:
    """The two games from one opening: the candidate moves first in one, second in the other."""

    first: Game
    second: Game

    @property
    def score(self) -> float:
        """The candidate's mean score of the two."""
        return (self.first.score + 1.0 - self.second.score) / 2.0


def run(
    items: Sequence[Item],
    models: Models,
    seed: int,
    *,
    suite: str,
    scalars: Scalars,
    report: Report,
    until: Mapping[str, str] | None = None,
) -> tuple[Series, ...]:
    """Play the match; the rows stand in the order of the items, which ends where the match was decided."""
    openings = [read_opening(item, suite) for item in items]
    match, least = _test(until, suite) if until else (None, len(items))
    played: list[Pair] = []
    decided = False
    for pair in _pairs(openings, models, suite):
        played.append(pair)
        report(len(played) / len(items), suite)
        if match is not None and not decided:
            decided = match.add(pair.score).decided
        if decided and len(played) >= least:
            break
    scores = tuple(pair.score for pair in played)
    columns = {
        "success_candidate": scores,
        "success_champion": tuple(1.0 - score for score in scores),
        "plies": tuple(float(len(pair.first.moves) + len(pair.second.moves)) for pair in played),
    }
    return (Series("games", suite, tuple(str(item["id"]) for item in items[: len(played)]), columns),)


def samples(items: Sequence[Item], models: Models, *, suite: str) -> tuple[Sample, ...]:
    """Openings as people read them, with the final boards where the champion moved first, and where the candidate did."""
    openings = [read_opening(item, suite) for item in items]
    return tuple(
        Sample(
            suite,
            f"After {opening or 'no move'}, {'X' if len(opening) % 2 == 0 else 'O'} to move:\n{c4.draw_board(opening)}",
            _describe(pair.second, "champion", "candidate"),
            _describe(pair.first, "candidate", "champion"),
        )
        for opening, pair in zip(openings, _pairs(openings, models, suite), strict=True)
    )


def read_opening(item: Item, suite: str) -> str:
    """The opening of an item, checked; raises InvalidInputError where it is none or ends the game."""
    opening = item.get("opening")
    if not isinstance(opening, str):
        raise InvalidInputError(f"suite {suite}: item {item.get('id')!r:.60} has no text field 'opening'")
    if c4.parse_moves(opening).is_over:
        raise InvalidInputError(
            f"suite {suite}: item {item.get('id')!r:.60}: the game is over after {opening!r:.60}"
        )
    return opening


def _pairs(openings: Sequence[str], models: Models, suite: str) -> Iterator[Pair]:
    """Both games from each opening in turn, played a block at a time."""
    if models.tokenizer is None:
        raise InvalidInputError(f"suite {suite}: the champion has no tokenizer to read positions with")
    encoder = encoder_for(models.tokenizer)
    candidate = Model(Policy(models.candidate, encoder))
    champion = Model(Policy(models.champion, encoder))
    for start in range(0, len(openings), BLOCK):
        block = openings[start : start + BLOCK]
        yield from map(Pair, play(candidate, champion, block), play(champion, candidate, block))


def _test(until: Mapping[str, str], suite: str) -> tuple[Match, int]:
    """The sequential test that ``until`` describes, and the fewest items."""
    try:
        null, alpha, least = float(until["null"]), float(until["alpha"]), int(until["least"])
        goal = min(null + MARGIN, (null + 1.0) / 2.0)
        return Match(null, goal, alpha, BETA), least
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInputError(f"suite {suite}: until: {type(error).__name__}: {error}") from None


def _describe(game: Game, first: str, second: str) -> str:
    """The final board, who had which stones, and who won."""
    begins = len(game.opening) % 2 == 0
    stones = f"{first} {'X' if begins else 'O'}, {second} {'O' if begins else 'X'}"
    end = {1.0: f"{first} won", 0.0: f"{second} won", 0.5: "drawn"}[game.score]
    return f"{stones}: {end} after {game.text}\n{c4.draw_board(game.text)}"
