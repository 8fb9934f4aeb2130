"""Tables in memory and in the database: whatever is done to both, nobody can tell them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.decision_log import database
from guardrails.decision_log.kept import KeptTables
from guardrails.decision_log.scratch import ReplayTables, Scratch
from guardrails.decision_log.tables import MemoryTables, SqlTables, Tables
from guardrails.errors import LogVerificationError, RecordError, StorageError
from guardrails.ledger.rows import ProposalRow, Workspace, proposals_in, read, read_all, replaced, write
from guardrails.records import State

names = st.sampled_from(["proposals", "champions", "Champions", "é"])
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
rows = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(-5, 5) | st.text("é\U0001f512 x", max_size=3))
steps = st.lists(
    st.tuples(st.just("put"), names, keys, rows) | st.tuples(st.just("delete"), names, keys), max_size=25
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("tables") / "log.db"
    engine = database.connect(f"sqlite:///{path}", writable=True, create=True)
    with database.transaction(engine, write=True) as connection:
        database.metadata.create_all(connection)
    yield engine
    engine.dispose()


def everything(tables: Tables) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    return {name: list(tables.scan(name)) for name in tables.names()}


@settings(max_examples=60, deadline=None)
@given(steps)
def test_both_kinds_of_tables_agree(engine: Any, actions: list[Any]):
    memory = MemoryTables()
    with database.transaction(engine, write=True) as connection:
        stored = SqlTables(connection)
        assert stored.names() == ()
        for action, table, key, *row in actions:
            for tables in (memory, stored):
                getattr(tables, action)(table, key, *row)
            assert memory.get(table, key) == stored.get(table, key) == (row[0] if row else None)
        assert everything(memory) == everything(stored)
        for found in everything(stored).values():
            assert [key for key, _ in found] == sorted(key for key, _ in found)
        connection.execute(database.projection.delete())


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(1, 4))
def test_tables_of_a_replay_agree_however_few_rows_they_hold(actions: list[Any], held: int):
    """Whatever was written out to the scratch file, and read again, is what it was."""
    memory, scratch = MemoryTables(), Scratch()
    replayed = ReplayTables(scratch, held)
    for action, table, key, *row in actions:
        before, reading = list(memory.scan(table)), replayed.scan(table)
        for tables in (memory, replayed):
            getattr(tables, action)(table, key, *row)
        assert list(reading) == before, "a reading that began before a change does not see it"
        assert memory.get(table, key) == replayed.get(table, key) == (row[0] if row else None)
    assert everything(memory) == everything(replayed)
    scratch.close()


def labelled(tables: Any) -> dict[str, list[str]]:
    return {
        label: [row.id for row in proposals_in(tables, label)] for label in ("open", "promoted", "barred")
    }


states = st.lists(st.tuples(st.integers(0, 5), st.none() | st.sampled_from(list(State))), max_size=20)


@settings(max_examples=80, deadline=None)
@given(states, states, st.integers(1, 4))
def test_rows_are_found_by_their_label_as_by_looking_at_all_of_them(first: Any, second: Any, held: int):
    scratch = Scratch()
    kinds: list[Any] = [MemoryTables(), ReplayTables(scratch, held), KeptTables()]

    def change(actions: Any) -> dict[str, list[str]]:
        for number, state in actions:
            key = f"P-{number}"
            for tables in kinds:
                if state is None:
                    tables.delete("proposals", key)
                else:
                    write(tables, ProposalRow(key, "m", "t", state, "", ""), key)
        return labelled(kinds[0])

    before = change(first)
    assert [labelled(tables) for tables in kinds] == [before] * 3
    kept = kinds[2]
    look = kept.as_it_is()
    kept.remember()
    after = change(second)
    assert [labelled(tables) for tables in kinds] == [after] * 3
    assert labelled(look) == before
    kept.undo(0)
    assert labelled(kept) == labelled(look) == before
    scratch.close()


def test_proposals_are_looked_for_among_those_with_the_label_only():
    scratch = Scratch()
    tables = ReplayTables(scratch)
    for number in range(50):
        write(tables, ProposalRow(f"P-{number}", "m", "t", State.FAILED, "", ""), f"P-{number}")
    write(tables, ProposalRow("P-7", "m", "t", State.PROMOTED, "", ""), "P-7")
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        held = ReplayTables.held
        patch.setattr(
            ReplayTables, "held", lambda self, table, key: asked.append(key) or held(self, table, key)
        )
        patch.setattr(ReplayTables, "all_held", lambda *_: pytest.fail("all were looked at"))
        assert [row.id for row in proposals_in(tables, "promoted")] == ["P-7"]
        assert list(proposals_in(tables, "barred")) == []
    assert asked == ["P-7"]
    scratch.close()


def test_rows_that_are_held_as_records_are_the_rows_that_others_write():
    vote = Workspace("interlock/x", "2026-01-01T00:00:00.000000Z", 3, counters={"P": 2})
    scratch, memory = Scratch(), MemoryTables()
    replayed = ReplayTables(scratch, held=1)
    for tables in (memory, replayed):
        for key in ("a", "b", "c"):  # by now the first one is on disk
            write(tables, vote, key)
    assert list(memory.bodies("workspace")) == list(replayed.bodies("workspace"))
    assert scratch.ask("SELECT count(*) FROM rows").fetchone() == (1,)
    assert replayed._count == 1
    assert read(replayed, Workspace, "a") == read(replayed, Workspace, "c") == vote
    assert list(read_all(replayed, Workspace)) == [vote] * 3
    with pytest.raises(RecordError, match="cannot be called"):
        write(replayed, vote, "a\0")
    scratch.close()


def test_a_scratch_file_that_cannot_grow_says_so():
    scratch = Scratch()
    pages = scratch.ask("PRAGMA page_count").fetchone()[0]
    scratch.ask(f"PRAGMA max_page_count = {pages}")
    tables = ReplayTables(scratch, held=1)
    for number in range(2):
        tables.put("t", f"{number}", {"a": "x" * 9000})
    with pytest.raises(StorageError, match="no room for its own notes"):
        tables.put("t", "2", {})
    scratch.close()


def test_what_is_read_is_a_copy_and_a_scan_does_not_move():
    tables = MemoryTables()
    row = {"list": ["a"]}
    tables.put("t", "k", row)
    row["list"].append("b")
    got = tables.get("t", "k")
    assert got == {"list": ["a"]}
    got["list"].append("c")
    scan = tables.scan("t")
    tables.put("t", "j", {})
    tables.delete("t", "k")
    assert list(scan) == [("k", {"list": ["a"]})]
    assert list(tables.scan("t")) == [("j", {})]
    assert list(tables.scan("none")) == []


def test_a_scan_of_the_database_does_not_move_while_it_is_written(engine: Any):
    with database.transaction(engine, write=True) as connection:
        tables = SqlTables(connection)
        for key in ("a", "b", "c"):
            tables.put("t", key, {})
        seen = []
        for key, _ in tables.scan("t"):
            seen.append(key)
            tables.delete("t", "c")
            tables.put("t", key + "!", {})
        assert seen == ["a", "b", "c"]
        connection.execute(database.projection.delete())


@pytest.mark.parametrize("value", [{"x": 1.5}, {"x": None}, {"é": 1}])
def test_rows_hold_only_what_records_may_hold(engine: Any, value: dict[str, Any]):
    with pytest.raises(RecordError):
        MemoryTables().put("t", "k", value)
    with pytest.raises(RecordError), database.transaction(engine, write=True) as connection:
        SqlTables(connection).put("t", "k", value)


@pytest.mark.parametrize("key", ["\udcff", "a\0b"])
def test_a_name_that_no_database_can_hold_is_simply_not_there(engine: Any, key: str):
    """What a person types reaches ``get`` as it is, undecodable bytes of a command line included."""
    with database.transaction(engine, write=True) as connection:
        for tables in (MemoryTables(), SqlTables(connection)):
            assert tables.get("t", key) is None
            tables.delete("t", key)
            with pytest.raises(RecordError, match="cannot be called"):
                tables.put("t", key, {})


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_row_is_named(engine: Any, body: bytes):
    with database.transaction(engine, write=True) as connection:
        connection.execute(database.projection.insert().values(table="t", key="k", body=body))
        with pytest.raises(LogVerificationError, match="projection t/k is damaged"):
            SqlTables(connection).get("t", "k")
        connection.execute(database.projection.delete())


def test_the_two_live_in_different_places(tmp_path: Path):
    """The control of the comparison above: rows in memory do not leak into the database."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    engine = database.connect(url, writable=True, create=True)
    with database.transaction(engine, write=True) as connection:
        database.metadata.create_all(connection)
        MemoryTables().put("t", "k", {})
        assert SqlTables(connection).get("t", "k") is None


def test_a_row_gets_no_field_that_its_kind_lacks():
    with pytest.raises(TypeError, match="Workspace has no field nothing"):
        replaced(Workspace("interlock/x", "2026-01-01T00:00:00.000000Z", 3), nothing=1)
