"""Connect Four: rules, the text an action model reads, openings, and a fixed opponent. Light: no torch.

Invariants:
- A position is two bit sets, the stones of whoever is to move and the other's: two equal positions with the same
  player to move are equal, whatever led to them, and everything here is a pure function of the position.
- A finished game (four in a row, or no room) has no legal move; an illegal move raises, it is never replaced.
- An observation shows the whole board from the side of whoever is to move, so the best move is a function of the
  observation alone, and one model plays both sides.
- Hold-out is a property of the position, not of a seed: ``part_of`` puts a position and its mirror image into
  exactly one part, so that no seed's training opening is another's private one.

Bits as in the usual bit boards: column c, row r (from below) is bit 7·c + r; the seventh bit of a column stays
empty, so that a shifted row never runs into the next column.

>>> observe(parse_moves("44"))
'...... ...... ...... XO.... ...... ...... ...... >'
"""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass

from guardrails.errors import InvalidInputError

COLUMNS, ROWS = 7, 6
STRIDE = ROWS + 1
ACTIONS = tuple(str(column + 1) for column in range(COLUMNS))
OWN, OTHER, EMPTY, TURN = "X", "O", ".", ">"
MAX_MOVES = COLUMNS * ROWS
PARTS = ("train", "held_out")
HELD_OUT_SHARE = 4  # one opening in so many is held out
SHORTEST, LONGEST = 4, 10  # moves of a drawn opening
_FLOOR = sum(1 << (STRIDE * column) for column in range(COLUMNS))
_FULL = _FLOOR * ((1 << ROWS) - 1)
_TOPS = tuple(1 << (STRIDE * column + ROWS - 1) for column in range(COLUMNS))
_DIRECTIONS = (1, STRIDE, STRIDE - 1, STRIDE + 1)  # up, right, and the two diagonals
_BY_CENTRE = (3, 2, 4, 1, 5, 0, 6)


@dataclass(frozen=True, slots=True)
class Position:
    """A board between two moves: the stones of whoever is to move, and those of the other."""

    own: int = 0
    other: int = 0

    @property
    def count(self) -> int:
        """How many stones lie on the board."""
        return (self.own | self.other).bit_count()

    @property
    def is_lost(self) -> bool:
        """True where the other has four in a row: whoever is to move has lost."""
        return has_four(self.other)

    @property
    def is_over(self) -> bool:
        """True where nobody may move any more."""
        return (self.own | self.other) == _FULL or self.is_lost

    def legal(self) -> tuple[int, ...]:
        """The columns that take a stone, from the left; none once the game is over."""
        if self.is_lost:
            return ()
        taken = self.own | self.other
        return tuple(column for column in range(COLUMNS) if not taken & _TOPS[column])

    def play(self, column: int) -> Position:
        """The position after a stone in that column, seen by the other.

        Raises:
            InvalidInputError: There is no such column, it is full, or the game is over.
        """
        if column not in self.legal():
            raise InvalidInputError(
                f"column {column + 1} takes no stone here (legal: {_named(self.legal())})"
            )
        return self._dropped(column)

    def wins(self, column: int) -> bool:
        """Whether a stone in that (legal) column makes four in a row."""
        taken = self.own | self.other
        return has_four(self.own | ((taken + (1 << STRIDE * column)) & _column_mask(column)))

    def mirrored(self) -> Position:
        """The same with left and right exchanged: exactly as good or bad."""
        return Position(_mirror(self.own), _mirror(self.other))

    def _dropped(self, column: int) -> Position:
        taken = self.own | self.other
        after = taken | (taken + (1 << STRIDE * column))
        return Position(self.other, after ^ self.other)


def has_four(stones: int) -> bool:
    """Whether four of these stones stand in a row."""
    for step in _DIRECTIONS:
        pairs = stones & (stones >> step)
        if pairs & (pairs >> 2 * step):
            return True
    return False


def parse_moves(text: str) -> Position:
    """The position after moves from the empty board, one digit 1 to 7 each.

    Raises:
        InvalidInputError: A sign is no column, or a move is illegal there.
    """
    position = Position()
    for number, sign in enumerate(text, 1):
        if sign not in ACTIONS:
            raise InvalidInputError(f"moves {text!r:.60}: {sign!r} is not a column (1 to {COLUMNS})")
        try:
            position = position.play(int(sign) - 1)
        except InvalidInputError as error:
            raise InvalidInputError(f"moves {text!r:.60}, move {number}: {error.message}") from None
    return position


@functools.lru_cache(maxsize=65_536)
def observe(position: Position) -> str:
    """What a model reads: seven columns from the left, each from below, then the sign that it is to move."""
    columns = (
        "".join(_sign(position, 1 << STRIDE * column + row) for row in range(ROWS))
        for column in range(COLUMNS)
    )
    return f"{' '.join(columns)} {TURN}"


def draw_board(moves: str) -> str:
    """The board after moves as people read it: rows from above, ``X`` for whoever moved first."""
    position = parse_moves(moves)
    if len(moves) % 2:
        position = Position(position.other, position.own)
    rows = (
        " ".join(_sign(position, 1 << STRIDE * column + row) for column in range(COLUMNS))
        for row in reversed(range(ROWS))
    )
    return "\n".join([*rows, " ".join(ACTIONS)])


def opening_id(moves: str) -> str:
    """The content address of an opening: ``opening-`` and 16 hexadecimal digits."""
    return f"opening-{hashlib.sha256(moves.encode('ascii')).hexdigest()[:16]}"


def part_of(position: Position) -> str:
    """The part of all positions that this one belongs to, with its mirror image: ``train`` or ``held_out``."""
    least = min((p.own, p.other) for p in (position, position.mirrored()))
    named = b"part:%d:%d" % least
    bucket = int.from_bytes(hashlib.sha256(named).digest()[:8], "big")
    return "held_out" if bucket % HELD_OUT_SHARE == 0 else "train"


def draw_openings(count: int, seed: int | str, *, part: str = "") -> list[str]:
    """Distinct openings as moves, the same for the same arguments; nobody could win with the next stone in any of them.

    Two openings that lead to one position, or to its mirror image, are one.

    Args:
        count: How many.
        seed: Names the draw; a text serves where the draw depends on a secret or a nonce.
        part: Only openings of this part; empty for both.
    """
    if part not in ("", *PARTS):
        raise InvalidInputError(f"there is no part {part!r} of the openings (known: {', '.join(PARTS)})")
    draw = random.Random(f"openings:{seed}")  # noqa: S311 - a reproducible draw, not a secret
    seen: set[Position] = set()
    openings: list[str] = []
    while len(openings) < count:
        moves, position = _random_moves(draw, draw.randint(SHORTEST, LONGEST))
        if position in seen or not _is_open(position) or (part and part_of(position) != part):
            continue
        seen |= {position, position.mirrored()}
        openings.append(moves)
    return openings


def best_moves(position: Position, depth: int) -> tuple[int, ...]:
    """Every legal move that is best as far as ``depth`` moves show: a quick win, else no loss, else a late one.

    A fixed opponent: with depth 1 it takes a win, with 2 it also stops one, and so on.
    """
    scored = [(-_search(position._dropped(c), depth - 1, -99, 99), c) for c in position.legal()]
    best = max((score for score, _ in scored), default=0)
    return tuple(column for score, column in scored if score == best)


def _search(position: Position, depth: int, low: int, high: int) -> int:
    """Above 0: whoever is to move wins within ``depth`` moves, the sooner the higher; below 0: loses; 0: unknown."""
    if position.is_lost:
        return -1 - depth
    if depth <= 0:
        return 0
    legal = position.legal()
    if not legal:
        return 0
    for column in (c for c in _BY_CENTRE if c in legal):
        low = max(low, -_search(position._dropped(column), depth - 1, -high, -low))
        if low >= high:
            break
    return low


def _random_moves(draw: random.Random, count: int) -> tuple[str, Position]:
    moves, position = "", Position()
    for _ in range(count):
        legal = position.legal()
        if not legal:
            break
        column = draw.choice(legal)
        moves, position = moves + ACTIONS[column], position._dropped(column)
    return moves, position


def _is_open(position: Position) -> bool:
    """Nobody has won, and neither side could with the next stone."""
    sides = (position, Position(position.other, position.own))
    return not position.is_over and not any(s.wins(column) for s in sides for column in position.legal())


def _sign(position: Position, bit: int) -> str:
    return OWN if position.own & bit else OTHER if position.other & bit else EMPTY


def _column_mask(column: int) -> int:
    return ((1 << ROWS) - 1) << (STRIDE * column)


def _mirror(stones: int) -> int:
    column = (1 << STRIDE) - 1
    return sum(((stones >> STRIDE * c) & column) << STRIDE * (COLUMNS - 1 - c) for c in range(COLUMNS))


def _named(columns: tuple[int, ...]) -> str:
    return ", ".join(ACTIONS[column] for column in columns) or "none, the game is over"
