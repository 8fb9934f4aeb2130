"""Lava levels: layouts, the text an action model reads, and shortest paths. Light: no torch, no MiniGrid.

Invariants:
- A layout is its own canonical text: five rows of five cells joined by ``/``, with exactly one start
  (``>v<^``, the heading) and one goal ``G`` among floor ``.``, wall ``#`` and lava ``~``. Two different
  texts are two different layouts, and ``layout_id`` is a content address of the text.
- Every generated layout can be solved without touching lava, and every path of the length that a
  careless walker needs (one who takes lava for floor) crosses lava.
- Hold-out is a property of the layout, not of a seed: ``part_of`` puts each layout, with its rotations
  and mirror images, into exactly one part, so that no seed's training layout is another's held-out one.
- An observation shows the whole grid: nothing that matters is hidden, so the best action is a
  function of the observation alone.

>>> observe(parse_layout("v..../.~~../..~../..~G./....."), State(0, 1, 3))
'...../^~~../..~../..~G./..... a2^'
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from guardrails.errors import InvalidInputError

SIDE = 5
HEADINGS = ">v<^"  # in MiniGrid's order: east, south, west, north
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
ACTIONS = ("L", "R", "F")  # in MiniGrid's order: left, right, forward
FLOOR, WALL, LAVA, GOAL = ".", "#", "~", "G"
MAX_STEPS = 30
PARTS = ("train", "held_out")
HELD_OUT_SHARE = 4  # one layout in so many is held out
FORMS = 8  # rotations and mirror images of one layout, itself among them
SHORTEST, LONGEST = 4, 14  # actions on the shortest safe path of a generated layout
_TURNED = str.maketrans(">v<^", "v<^>")
_MIRRORED = str.maketrans("><", "<>")


@dataclass(frozen=True, order=True)
class State:
    """Where the agent stands and looks: column, row, heading (index into ``HEADINGS``)."""

    x: int
    y: int
    heading: int


@dataclass(frozen=True)
class Layout:
    """A parsed layout: ``rows`` without the agent, and the state that an episode starts in."""

    rows: tuple[str, ...]
    start: State

    def cell(self, x: int, y: int) -> str:
        """What lies at column x, row y; outside the grid there is wall."""
        return self.rows[y][x] if 0 <= x < SIDE and 0 <= y < SIDE else WALL


@functools.lru_cache(maxsize=65_536)
def parse_layout(text: str) -> Layout:
    """Read a layout's canonical text; raises InvalidInputError on anything else."""
    rows = text.split("/")
    if len(rows) != SIDE or any(len(row) != SIDE for row in rows):
        raise InvalidInputError(f"layout {text!r:.60}: not {SIDE} rows of {SIDE} cells joined by '/'")
    strange = sorted(set(text) - set(HEADINGS + FLOOR + WALL + LAVA + GOAL + "/"))
    if strange:
        raise InvalidInputError(f"layout {text!r:.60}: {strange[0]!r} is not a cell (known: {HEADINGS}.#~G)")
    starts = [(x, y, c) for y, row in enumerate(rows) for x, c in enumerate(row) if c in HEADINGS]
    if len(starts) != 1 or text.count(GOAL) != 1:
        raise InvalidInputError(f"layout {text!r:.60}: needs exactly one start ({HEADINGS}) and one goal (G)")
    x, y, symbol = starts[0]
    bare = tuple(row.replace(symbol, FLOOR) for row in rows)
    return Layout(bare, State(x, y, HEADINGS.index(symbol)))


def layout_id(layout: str) -> str:
    """The content address of a layout: ``layout-`` and 16 hexadecimal digits of its SHA-256."""
    return f"layout-{hashlib.sha256(layout.encode('ascii')).hexdigest()[:16]}"


def part_of(layout: str) -> str:
    """The part of all layouts that this one belongs to: ``train`` or ``held_out``, by its content.

    A layout's mirror images and rotations belong to the same part.
    """
    name = min(symmetric(layout, form) for form in range(FORMS))
    bucket = int.from_bytes(hashlib.sha256(b"part:" + name.encode("ascii")).digest()[:8], "big")
    return "held_out" if bucket % HELD_OUT_SHARE == 0 else "train"


def symmetric(layout: str, form: int) -> str:
    """One of the eight forms of a layout: ``form % 4`` quarter turns to the right, mirrored from 4 on.

    Form 0 is the layout itself. Every form is as hard as every other.
    """
    rows = layout.split("/")
    if form >= 4:
        rows = ["".join(reversed(row)).translate(_MIRRORED) for row in rows]
    for _ in range(form % 4):
        rows = ["".join(column).translate(_TURNED) for column in zip(*reversed(rows), strict=True)]
    return "/".join(rows)


# --- moving --------------------------------------------------------------------------------


def advance(layout: Layout, state: State, action: str) -> tuple[State, str]:
    """The next state and the cell entered by going forward ('' for a turn or a bump)."""
    if action == "L":
        return State(state.x, state.y, (state.heading - 1) % 4), ""
    if action == "R":
        return State(state.x, state.y, (state.heading + 1) % 4), ""
    dx, dy = STEPS[state.heading]
    cell = layout.cell(state.x + dx, state.y + dy)
    if cell == WALL:
        return state, ""
    return State(state.x + dx, state.y + dy, state.heading), cell


def shortest_path(layout: str, *, careless: bool = False) -> str | None:
    """The actions of one shortest path to the goal, or None where there is none.

    Args:
        layout: The layout's canonical text.
        careless: Take lava for floor, as a walker would who does not know it.
    """
    return _search(parse_layout(layout), careless=careless)


def is_solvable(layout: str) -> bool:
    """True where the goal can be reached without touching lava, within an episode's steps."""
    path = shortest_path(layout)
    return path is not None and len(path) <= MAX_STEPS


def _search(grid: Layout, *, careless: bool) -> str | None:
    came: dict[State, tuple[State, str] | None] = {grid.start: None}
    queue = deque([grid.start])
    while queue:
        state = queue.popleft()
        if grid.cell(state.x, state.y) == GOAL:
            return _trace(came, state)
        for action in ACTIONS:
            after, entered = advance(grid, state, action)
            if after not in came and (careless or entered != LAVA):
                came[after] = (state, action)
                queue.append(after)
    return None


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> str:
    actions = []
    link = came[state]
    while link is not None:
        actions.append(link[1])
        link = came[link[0]]
    return "".join(reversed(actions))


def goal_distances(layout: str) -> dict[State, int]:
    """The number of actions to the goal from every safe state that can still reach it."""
    grid = parse_layout(layout)
    before: dict[State, list[State]] = {}
    goals = []
    for state in _standing(grid):
        if grid.cell(state.x, state.y) == GOAL:
            goals.append(state)
            continue
        for action in ACTIONS:
            after, entered = advance(grid, state, action)
            if entered != LAVA:
                before.setdefault(after, []).append(state)
    distances = dict.fromkeys(goals, 0)
    queue = deque(goals)
    while queue:
        state = queue.popleft()
        for earlier in before.get(state, ()):
            if earlier not in distances:
                distances[earlier] = distances[state] + 1
                queue.append(earlier)
    return distances


def best_actions(layout: str, state: State, distances: dict[State, int]) -> tuple[str, ...]:
    """Every action that shortens the way from a state; empty where the goal is out of reach."""
    grid = parse_layout(layout)
    left = distances.get(state)
    if left is None:
        return ()
    return tuple(a for a in ACTIONS if distances.get(advance(grid, state, a)[0], left) == left - 1)


def _standing(grid: Layout) -> Iterator[State]:
    for y in range(SIDE):
        for x in range(SIDE):
            if grid.cell(x, y) not in (WALL, LAVA):
                yield from (State(x, y, heading) for heading in range(4))


# --- what the model reads --------------------------------------------------------------------


def observe(layout: Layout, state: State) -> str:
    """The observation of a state: the grid with the agent in it, then the agent's place and heading."""
    rows = list(layout.rows)
    heading = HEADINGS[state.heading]
    rows[state.y] = rows[state.y][: state.x] + heading + rows[state.y][state.x + 1 :]
    return f"{'/'.join(rows)} {place(state)}"


def place(state: State) -> str:
    """A state in three signs: column a to e, row 1 to 5, heading."""
    return f"{'abcde'[state.x]}{state.y + 1}{HEADINGS[state.heading]}"


def reachable(layout: str) -> list[State]:
    """Every state that an episode can stand in and act from, in a fixed order."""
    grid = parse_layout(layout)
    seen = {grid.start}
    queue = deque([grid.start])
    while queue:
        state = queue.popleft()
        for action in ACTIONS:
            after, entered = advance(grid, state, action)
            if entered not in (LAVA, GOAL) and after not in seen:
                seen.add(after)
                queue.append(after)
    return sorted(seen)


def states_for(layouts: Sequence[str], count: int, seed: int) -> list[dict[str, str]]:
    """Distinct states out of layouts, evenly from all of them: items ``{"id", "state"}`` for drift.

    Raises:
        InvalidInputError: The layouts hold fewer distinct states than asked for.
    """
    draw = random.Random(f"states:{seed}")  # noqa: S311 - a reproducible draw, not a secret
    queues = []
    for text in layouts:
        grid = parse_layout(text)
        states = [observe(grid, state) for state in reachable(text)]
        draw.shuffle(states)
        queues.append(states)
    chosen: dict[str, None] = {}
    while len(chosen) < count and any(queues):
        for states in queues:
            if states and len(chosen) < count:
                chosen.setdefault(states.pop())
    if len(chosen) < count:
        raise InvalidInputError(
            f"{len(queues)} layouts hold {len(chosen)} distinct states, fewer than {count}"
        )
    return [{"id": f"state-{hashlib.sha256(s.encode('ascii')).hexdigest()[:16]}", "state": s} for s in chosen]


# --- generating ------------------------------------------------------------------------------


def generate_layouts(
    count: int, seed: int | str, *, part: str = "", exclude: Iterable[str] = ()
) -> list[str]:
    """Distinct layouts, the same for the same arguments.

    Args:
        count: How many.
        seed: Names the draw; a text serves where the draw depends on a secret or a nonce.
        part: Only layouts of this part (``train`` or ``held_out``); empty for both.
        exclude: Layouts that must not come again.
    """
    if part not in ("", *PARTS):
        raise InvalidInputError(f"there is no part {part!r} of the layouts (known: {', '.join(PARTS)})")
    draw = random.Random(f"layouts:{seed}")  # noqa: S311 - a reproducible draw, not a secret
    taken = set(exclude)
    layouts: list[str] = []
    while len(layouts) < count:
        text = _draw_layout(draw)
        if text in taken or (part and part_of(text) != part) or not _is_worthwhile(text):
            continue
        taken.add(text)
        layouts.append(text)
    return layouts


def _draw_layout(draw: random.Random) -> str:
    cells = [FLOOR] * (SIDE * SIDE)
    lava, walls = draw.randint(4, 7), draw.randint(0, 2)
    spots = draw.sample(range(SIDE * SIDE), 2 + lava + walls)
    cells[spots[0]] = draw.choice(HEADINGS)
    cells[spots[1]] = GOAL
    for spot in spots[2 : 2 + lava]:
        cells[spot] = LAVA
    for spot in spots[2 + lava :]:
        cells[spot] = WALL
    return "/".join("".join(cells[SIDE * y : SIDE * (y + 1)]) for y in range(SIDE))


def _is_worthwhile(text: str) -> bool:
    """Solvable at a fair length, and the careless way is shorter, so that it leads through lava."""
    safe = shortest_path(text)
    if safe is None or not SHORTEST <= len(safe) <= LONGEST:
        return False
    careless = shortest_path(text, careless=True)
    return careless is not None and len(careless) < len(safe)
