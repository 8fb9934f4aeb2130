"""What goes to the terminal, and what to programs.

Invariants:
- Standard output carries results and nothing else; with ``--json`` exactly one object, in every case.
- Progress and remarks go to standard error; bars only where that is a terminal, else plain lines.
- Text of models and people is never interpreted: no markup, no control characters.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ui import presenters
from ui.presenters import Mark

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


SCHEMA = "interlock/v1"
ACCENT = "cyan"
STYLES = {"bad": "bold red", "caution": "yellow", "good": "cyan", "muted": "dim", "accent": ACCENT}
_WIDE = 160
_UNBOUNDED = 10_000
_LINE_EVERY_S = 5.0
_BARS = 6

Report = Callable[[str, float], None]


@dataclass
class Options:
    """The global options as they were given."""

    workspace: str = ""
    person: str = ""
    passphrase_file: str = ""
    passphrase_fd: int | None = None
    json: bool = False
    quiet: bool = False


class Output:
    """The two streams of one run of the command line."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.answered = False
        self._live: Console | None = None
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A terminal that cannot show a glyph gets a substitute, never a crash.
                stream.reconfigure(errors="backslashreplace")

    @property
    def json(self) -> bool:
        """Whether programs read the results."""
        return self._options.json

    @property
    def quiet(self) -> bool:
        """Whether nobody wants to watch."""
        return self._options.quiet

    # --- results -------------------------------------------------------------------------

    def result(self, kind: str, data: Any, draw: Callable[[Console], None]) -> None:
        """The answer: one JSON object, or whatever ``draw`` puts on the terminal."""
        self.answered = True
        if self.json:
            self._write_json(kind, data)
        else:
            draw(self.console(sys.stdout))

    def error(self, message: str, hint: str, status: int) -> None:
        """Say what went wrong. After a JSON answer there is no second object, only a line on standard error."""
        if self.json and not self.answered:
            self.answered = True
            self._write_json("error", {"message": message, "hint": hint, "exit": status})
        from rich.text import Text

        console = self.console(sys.stderr)
        line = Text("error: ", style=STYLES["bad"])
        line.append(presenters.plain(message), style="default")
        console.print(line, soft_wrap=True)
        if hint:
            console.print(Text(f"  hint: {presenters.plain(hint)}", style="dim"), soft_wrap=True)

    def _write_json(self, kind: str, data: Any) -> None:
        value = {"schema": SCHEMA, "kind": kind, "data": data}
        text = json.dumps(
            value, ensure_ascii=True, allow_nan=False, indent=2 if sys.stdout.isatty() else None
        )
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    # --- beside the results --------------------------------------------------------------

    def note(self, text: str) -> None:
        """A remark for the person watching."""
        if not self.quiet:
            self._aside(text, "dim")

    def announce(self, text: str) -> None:
        """Something the person needs in order to go on; not silenced by ``--quiet``."""
        self._aside(text, "bold")

    def _aside(self, text: str, style: str) -> None:
        from rich.text import Text

        console = self._live or self.console(sys.stderr)
        console.print(Text(presenters.plain(text), style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """A remark that even ``--quiet`` does not silence."""
        from rich.text import Text

        line = Text("warning: ", style=STYLES["caution"])
        line.append(presenters.plain(text), style="default")
        (self._live or self.console(sys.stderr)).print(line, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Report]:
        """A function that takes a stage and the share done: bars (one for each ``job: part``) or plain lines."""
        if self.quiet:
            yield lambda stage, share: None
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            yield from self._bars()
        else:
            yield _lines(sys.stderr)

    def _bars(self) -> Iterator[Report]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28, complete_style=ACCENT, finished_style=ACCENT),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=self.console(sys.stderr),
        )
        tasks: dict[str, Any] = {}

        def report(stage: str, share: float) -> None:
            job, _, part = stage.partition(": ")
            known = tasks.get(job)
            if known is None or (share < 1.0 and bars.tasks[bars.task_ids.index(known)].finished):
                for other in tasks.values():
                    bars.stop_task(other)
                if known is not None:
                    bars.remove_task(tasks.pop(job))
                while len(tasks) >= _BARS:
                    bars.remove_task(tasks.pop(next(iter(tasks))))
                tasks[job] = bars.add_task("", total=1.0)
            told = presenters.one_line(f"{job}: {part}" if part and share < 1.0 else job, 48)
            bars.update(tasks[job], completed=min(max(share, 0.0), 1.0), description=f"{told:<32}")

        self._live = bars.console
        try:
            with bars:
                yield report
        finally:
            self._live = None

    def console(self, stream: TextIO) -> Console:
        """A rich console on a stream: no markup, no highlighting, wide where nobody reads it live."""
        from rich.console import Console

        width = None
        if not stream.isatty():
            given = os.environ.get("COLUMNS", "")
            width = int(given) if given.isdigit() and int(given) > 0 else _WIDE
        return Console(
            file=stream, markup=False, highlight=False, emoji=False, width=width, no_color=_no_color() or None
        )


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def _lines(stream: TextIO) -> Report:
    """Plain progress lines: each new stage, and a sign of life every few seconds."""
    last: dict[str, Any] = {"stage": "", "at": 0.0, "share": -1.0}

    def report(stage: str, share: float) -> None:
        now = time.monotonic()
        fresh = stage != last["stage"]
        done = share >= 1.0 and last["share"] != share
        if fresh or done or now - last["at"] >= _LINE_EVERY_S:
            percent = f" {100 * share:.0f} %" if share > 0 else ""
            stream.write(f"{presenters.one_line(stage, 100)}{percent}\n")
            stream.flush()
            last.update(stage=stage, at=now, share=share)

    return report


# --- pieces that several commands draw -------------------------------------------------------


def marked(mark: Mark) -> Text:
    """Glyph and word in the mark's tone."""
    from rich.text import Text

    return Text(str(mark), style=STYLES[mark.tone])


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> Table:
    """A calm table: a head, a rule, rows. Cells are texts (made safe here) or renderables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(presenters.plain(cell)) if isinstance(cell, str) else cell for cell in row))
    return made


def show_fitting(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Sequence[str],
    spare: int,
) -> None:
    """Print a table; on a terminal too narrow for it, up to ``spare`` columns less, from the right.

    A column less is easier to read than names that are cut in the middle.
    """
    for left_out in range(spare + 1):
        kept = len(columns) - left_out
        made = table(columns[:kept], [row[:kept] for row in rows], right=right)
        if console.measure(made, options=console.options.update(width=_UNBOUNDED)).maximum <= console.width:
            break
    console.print(made)


def pairs(items: Iterable[tuple[str, Any]]) -> Table:
    """Names and values, one a line."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in items:
        shown = Text(presenters.plain(value)) if isinstance(value, str) else value
        made.add_row(name, shown)
    return made


def heading(text: str) -> Text:
    """A section's title."""
    from rich.text import Text

    return Text(presenters.one_line(text), style=f"bold {ACCENT}")


def line(*parts: Any) -> Text:
    """Texts and marks on one line."""
    from rich.text import Text

    made = Text()
    for index, part in enumerate(parts):
        if index:
            made.append(" ")
        if isinstance(part, Text):
            made.append_text(part)
        elif isinstance(part, Mark):
            made.append_text(marked(part))
        else:
            made.append(presenters.plain(str(part)))
    return made


def empty(console: Console, what: str, next_step: str) -> None:
    """What to say where a list has nothing: that it is empty, and what to do next."""
    from rich.text import Text

    console.print(Text(what))
    console.print(Text(f"  next: {next_step}", style="dim"), soft_wrap=True)


def show(console: Console, *things: RenderableType) -> None:
    """Print several things, one below the other."""
    for thing in things:
        console.print(thing)
