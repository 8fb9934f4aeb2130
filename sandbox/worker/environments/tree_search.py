"""Looking ahead in Connect Four with a model for a guide: Monte Carlo tree search by PUCT, many positions side by side.

Invariants:
- What a search finds is a function of the positions, the judge, the number of simulations and the noise that it was
  given: nothing is drawn here, and ties go to the left column.
- The judge is never asked about a position in which the game is over; the rules say what that is worth.
- A tree is asked for ``simulations`` more each time; what was found below the move that was played is kept.

Each simulation goes down from the root to a position that was not judged yet, taking the move with the highest
Q + c · P · √N / (1 + n): its mean value, the judge's probability, the visits of the position and of the move (Rosin 2011;
Silver and others 2017). A move that was never taken counts as worth what its position was judged to be. All roots take
one step each before the judge is asked about all new positions at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from sandbox.worker.environments import connect_four as c4
from sandbox.worker.environments.connect_four import Position


class Judge(Protocol):
    """Whoever guides the search."""

    def __call__(self, positions: Sequence[Position]) -> Sequence[tuple[Sequence[float], float]]:
        """For each position the probabilities of the seven columns (0 where illegal), and its value.

        A value is in -1..1 for whoever is to move.
        """


class Node:
    """A position in a tree. ``visits`` and ``totals`` count what lies below each move, by its place in ``moves``.

    ``value`` is for whoever is to move; None until it is judged. Totals are for whoever is to move here.
    """

    __slots__ = ("children", "moves", "position", "priors", "totals", "value", "visits")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.moves: tuple[int, ...] = ()
        self.children: list[Node | None] = []
        self.priors: list[float] = []
        self.visits: list[int] = []
        self.totals: list[float] = []
        self.value: float | None = None
        if position.is_over:
            self.value = -1.0 if position.is_lost else 0.0

    def judged(self, priors: Sequence[float], value: float) -> None:
        """Open the position: its legal moves with their probabilities."""
        self.moves = self.position.legal()
        self.priors = [priors[column] for column in self.moves]
        self.children = [None] * len(self.moves)
        self.visits, self.totals = [0] * len(self.moves), [0.0] * len(self.moves)
        self.value = value

    def child(self, place: int) -> Node:
        """The position after a move."""
        found = self.children[place]
        if found is None:
            found = self.children[place] = Node(self.position.play(self.moves[place]))
        return found

    def after(self, column: int) -> Node:
        """The tree below a column: the root of the next search."""
        return self.child(self.moves.index(column))

    @property
    def worth(self) -> float:
        """What the search makes of the position for whoever is to move: the mean of its visits."""
        seen = sum(self.visits)
        return sum(self.totals) / seen if seen else float(self.value or 0.0)

    def shares(self) -> list[float]:
        """How often each of the seven columns was taken from here, as shares; the judge's own where none was."""
        found, seen = [0.0] * c4.COLUMNS, sum(self.visits)
        for column, count, prior in zip(self.moves, self.visits, self.priors, strict=True):
            found[column] = count / seen if seen else prior
        return found


def grow(roots: Sequence[Node], judge: Judge, simulations: int, curiosity: float) -> None:
    """Look further from each root. ``curiosity`` (c) weighs what is likely or little tried against what went well.

    A root whose game is over is left as it is.
    """
    live = [root for root in roots if not root.position.is_over]
    _open([Way(root) for root in live if root.value is None], judge)
    for _ in range(simulations):
        ways = [_way_down(root, curiosity) for root in live]
        _open([way for way in ways if way.end.value is None], judge)
        for way in ways:
            way.count()


def blend(root: Node, noise: Sequence[float], share: float) -> None:
    """Mix noise, one number for each legal move, into a judged root's probabilities: nothing is ruled out for ever."""
    root.priors = [(1 - share) * p + share * n for p, n in zip(root.priors, noise, strict=True)]


class Way:
    """A way down a tree: the positions with the place of the move taken in each, and where it ends."""

    def __init__(self, end: Node) -> None:
        self.end = end
        self._steps: list[tuple[Node, int]] = []

    def take(self, place: int) -> None:
        """Go one move further down."""
        self._steps.append((self.end, place))
        self.end = self.end.child(place)

    def count(self) -> None:
        """Add the value of the end to every move that led there, for whoever made it."""
        value = float(self.end.value or 0.0)
        for node, place in reversed(self._steps):
            value = -value
            node.visits[place] += 1
            node.totals[place] += value


def _way_down(root: Node, curiosity: float) -> Way:
    """To a position that was not judged yet, or in which the game is over."""
    way = Way(root)
    while way.end.moves:
        way.take(_choice(way.end, curiosity))
    return way


def _choice(node: Node, curiosity: float) -> int:
    pull, untried = curiosity * math.sqrt(sum(node.visits) or 1), float(node.value or 0.0)
    best, chosen = -math.inf, 0
    for place, count in enumerate(node.visits):
        worth = node.totals[place] / count if count else untried
        score = worth + pull * node.priors[place] / (1 + count)
        if score > best:
            best, chosen = score, place
    return chosen


def _open(ways: Sequence[Way], judge: Judge) -> None:
    """Have the positions judged at which these ways end."""
    if ways:
        found = judge([way.end.position for way in ways])
        for way, (priors, value) in zip(ways, found, strict=True):
            way.end.judged(priors, value)
