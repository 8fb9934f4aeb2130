"""guardrails.decision_log.kept: rows in a file of their own, which stand still while one looks at them."""

from __future__ import annotations

import sqlite3
import tracemalloc
from typing import Any

import pytest
from fakes import halt
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.decision_log import kept
from guardrails.decision_log.kept import KeptTables
from guardrails.decision_log.scratch import Scratch
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import StorageError

CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("ab"), st.integers(0, 9).map(str)),
    max_size=12,
)


def changed(tables: KeptTables | MemoryTables, changes: list[tuple[str, str, str]], tag: int) -> None:
    for at, (what, table, key) in enumerate(changes):
        if what == "put":
            tables.put(table, key, {"n": tag + at})
        else:
            tables.delete(table, key)


def rows_in(tables: Any) -> list[Any]:
    return [tables.names(), *(list(tables.bodies(name)) for name in ("a", "b", "c"))]


def everything_in(tables: Any) -> dict[str, list[Any]]:
    return {name: list(tables.bodies(name)) for name in tables.names()}


@settings(deadline=None)
@given(CHANGES, CHANGES, CHANGES, st.sampled_from([1, 2, 3, 256]))
def test_a_look_at_tables_stands_still_and_what_is_undone_leaves_no_trace(first, second, third, page):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "_PAGE", page)
        tables, oracle = KeptTables(), MemoryTables()
        for one in (tables, oracle):
            changed(one, first, 0)
        was = rows_in(oracle)
        look, begun = tables.as_it_is(), tables.bodies("a")
        tables.remember()
        changed(tables, second, 100)
        mark, middle = tables.mark(), rows_in(tables)
        changed(tables, third, 200)
        tables.undo(mark)
        assert rows_in(tables) == middle
        assert (rows_in(look), list(begun)) == (was, was[1])
        tables.undo(0)
        tables.forget()
        assert rows_in(tables) == rows_in(look) == was
        changed(tables, third, 300)
        changed(oracle, third, 300)
        assert (rows_in(tables), rows_in(look)) == (rows_in(oracle), was)
        assert [look.body("a", str(key)) for key in range(10)] == [
            dict(was[1]).get(str(k)) for k in range(10)
        ]


@pytest.mark.parametrize("left", range(4))
def test_without_room_for_the_private_rows_nothing_is_believed_of_what_was_left_there(site, left):
    """Where the file of rows fails in the midst of a record, and also in undoing what was done."""
    proposal, run, count = site.judged(), Scratch._run, iter(range(left))

    def full_disk(scratch: Scratch, how: Any, statement: str, values: Any) -> Any:
        if statement.startswith(("INSERT", "DELETE")) and next(count, None) is None:
            how, statement, values = sqlite3.connect(":memory:").execute, "SELECT * FROM nowhere", ()
        return run(scratch, how, statement, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scratch, "_run", full_disk)
        with pytest.raises(StorageError, match="no room"):
            halt(site)
    assert site.gate.halted_by() == "", "the halt was not recorded"
    with site.log.transaction() as transaction, site.log.read() as snapshot:
        assert everything_in(transaction.tables) == everything_in(snapshot.tables)
    assert site.state(proposal) == "awaiting_approval"
    halt(site)
    assert site.gate.halted_by() != ""


def test_memory_does_not_grow_with_the_rows():
    tables = KeptTables()
    tracemalloc.start()
    for number in range(20_000):
        tables.put("t", f"{number:06d}", {"text": "x" * 1_000})
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 200_000, "20 MB of rows"
    assert sum(1 for _ in tables.bodies("t")) == 20_000
