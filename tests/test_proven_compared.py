"""guardrails.decision_log.proven: when all rows are compared again, and what is found then."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fakes import MODEL, Site, halt, memory_folder, resume
from forged_tables import FORGERIES, TABLES, forged, prepared, site_with_a_row_in_every_table

from guardrails.decision_log.database import Prepared
from guardrails.errors import LogVerificationError, StorageError


@pytest.fixture(scope="module")
def full() -> Iterator[Site]:
    folder = memory_folder()
    made = site_with_a_row_in_every_table(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many rows were compared at each look and append."""
    found: list[int] = []
    each = Prepared.each

    def counting(statement: Prepared, connection: Any) -> Iterator[Any]:
        found.append(0)
        for row in each(statement, connection):
            found[-1] += 1
            yield row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "each", counting)
        yield found


def test_rows_are_compared_again_only_if_somebody_else_has_written(site):
    proposal = site.judged()
    other = site.open()
    with counted() as found:
        site.gate.halted_by()
        found.clear()
        for number in range(3):
            site.propose(f"again {number}")
            site.gate.halted_by()
        assert found == [], "nobody else has written"
        other.halted_by()
        with site.log.read() as snapshot:
            size = sum(len(list(snapshot.tables.bodies(name))) for name in snapshot.tables.names())
        assert found == [size], "who has not looked yet compares all"
        halt(site)
        found.clear()
        other.halted_by()
        assert len(found) == 1, "somebody else has written, in good faith"
    assert site.state(proposal) == "awaiting_approval"


@pytest.mark.parametrize("how", FORGERIES)
@pytest.mark.parametrize("table", TABLES)
def test_a_table_forged_between_two_appends_of_a_gate_that_stays_is_refused(full, table, how):
    """By another connection, and rows that the append does not touch are looked at too."""
    append = prepared(full, "halt")
    with counted() as found:
        full.gate.halted_by()
        assert found == [], "the control: just now nothing needed to be compared"
    with forged(full, table, how):
        with pytest.raises(LogVerificationError, match=f"projection {table}/"):
            append()
        with pytest.raises(LogVerificationError, match=f"projection {table}/"):
            full.gate.halted_by()  # also the second time
    assert full.gate.halted_by() == ""


FORGE = """
    UPDATE projection SET body = CAST(replace(CAST(body AS TEXT), ':', ': ') AS BLOB)
    WHERE "table" = 'models' AND CAST(body AS TEXT) NOT LIKE '%: %'
"""


@pytest.mark.parametrize("table", ["entries", "nodes", "checkpoints", "projection"])
def test_a_trigger_that_forges_within_the_transaction_of_the_gate_is_found(site, table):
    site.gate.halted_by()
    done_by_somebody(site, f"CREATE TRIGGER forging AFTER INSERT ON {table} BEGIN {FORGE}; END")
    site.gate.halted_by()  # it has done nothing so far
    halt(site)
    with pytest.raises(LogVerificationError, match=f"projection models/{MODEL}"):
        resume(site)


GIVES_WAY = """
    ALTER TABLE checkpoints RENAME TO other;
    CREATE TABLE checkpoints (size INTEGER PRIMARY KEY ON CONFLICT REPLACE, note VARCHAR NOT NULL);
    INSERT INTO checkpoints SELECT * FROM other; DROP TABLE other
"""


@pytest.mark.parametrize(
    ("statements", "times"),
    [
        ("CREATE TABLE other (x); CREATE INDEX those ON other (x); ANALYZE", 1),
        ("CREATE TABLE other (x); CREATE TRIGGER t AFTER INSERT ON other BEGIN SELECT 1; END", 3),
        ("CREATE VIEW other AS SELECT * FROM projection", 3),
        ("CREATE UNIQUE INDEX other ON projection (body)", 3),
        ("DROP TRIGGER nodes_refuse_update", 3),
        (GIVES_WAY, 3),
    ],
)
def test_rows_are_compared_each_time_where_the_schema_is_not_the_logs_own(site, statements, times):
    site.gate.halted_by()
    done_by_somebody(site, statements)
    with counted() as found:
        for _ in range(3):
            site.gate.halted_by()
        assert len(found) == times


def done_by_somebody(site: Site, statements: str) -> None:
    """What somebody else does to the file, by SQLite."""
    raw = sqlite3.connect(sa.make_url(site.url).database or "")
    raw.executescript(statements)
    raw.close()


def test_a_row_that_was_changed_in_the_file_itself_is_refused(site):
    """Past SQLite, whose own word would be that nobody has written."""
    site.judged()
    path = Path(sa.make_url(site.url).database or "")
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    site.log.close()  # and with it the pages that SQLite has in memory
    assert site.gate.halted_by() == ""
    data = bytearray(path.read_bytes())
    at = data.index(b'"technique":"') + len(b'"technique":"')
    data[at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(LogVerificationError, match="projection proposals/"):
        site.gate.halted_by()


def in_the_file(site: Site) -> Path:
    """The log's file, with everything in it and nothing of it in memory."""
    path = Path(sa.make_url(site.url).database or "")
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    site.log.close()
    return path


def test_a_row_that_was_changed_in_the_file_during_a_transaction_is_refused_by_the_next(site):
    """What the transaction itself writes must not hide it."""
    site.judged()
    path = in_the_file(site)
    assert site.gate.halted_by() == ""
    with site.log.transaction():
        data = path.read_bytes()
        at = data.index(b'"technique":"') + len(b'"technique":"')
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
    with pytest.raises(LogVerificationError, match="projection proposals/"):
        site.gate.halted_by()


def copied_over(path: Path) -> None:
    """The log's file put back from a copy, as who restores a backup does it: under the name of the other."""
    copy = path.with_name("copy.db")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    copy.rename(path)


def test_what_is_acknowledged_stands_in_the_file_that_has_the_name_of_the_log(site):
    """Also where it was replaced while a gate had it open."""
    path = Path(sa.make_url(site.url).database or "")
    site.gate.halted_by()
    copied_over(path)
    halt(site)
    assert site.open().halted_by() != "", "another process finds it there"
    with site.log.read() as snapshot:
        size = snapshot.size
    with pytest.raises(StorageError, match="was replaced"), site.log.transaction():
        copied_over(path)
    with site.log.read() as snapshot:
        assert snapshot.size == size
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    with pytest.raises(StorageError, match="cannot be opened"):
        resume(site)
