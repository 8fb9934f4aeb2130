"""When a gate on PostgreSQL compares the rows again: whenever a transaction of somebody else may have changed one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fakes import MODEL, Site, halt, resume
from postgresql_server import Server

from guardrails.decision_log import postgresql
from guardrails.decision_log.database import Prepared
from guardrails.decision_log.store import Transaction
from guardrails.errors import LogVerificationError, StaleError
from guardrails.records import Failure

FORGE = """
    UPDATE projection SET body = convert_to(replace(convert_from(body, 'UTF8'), ':', ': '), 'UTF8')
    WHERE "table" = 'models'
"""
REPAIR = FORGE.replace("':', ': '", "': ', ':'")
OF_A_ROW = pytest.raises(LogVerificationError, match=f"projection models/{MODEL}")


class Writers:
    """Connections of whoever may write to the database, each with a transaction of its own, which may be open."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, isolation_level="READ COMMITTED", poolclass=sa.NullPool)
        self._open: dict[int, sa.Connection] = {}

    def do(self, statement: str, who: int = 0) -> None:
        if who not in self._open:
            self._open[who] = self._engine.connect()
        self._open[who].exec_driver_sql(statement)

    def commit(self, who: int = 0) -> None:
        if who in self._open:
            self._open[who].commit()

    def rollback(self, who: int = 0) -> None:
        if who in self._open:
            self._open[who].rollback()

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


@pytest.fixture
def site(postgresql_server: Server, folder: Path) -> Iterator[Site]:
    """A gate that has compared all rows once. Another one for each test: PostgreSQL remembers what a table once had."""
    made = Site(folder / "site", url=postgresql_server.fresh())
    assert not made.gate.halted_by()
    yield made
    made.close()


@pytest.fixture
def writers(site: Site) -> Iterator[Writers]:
    found = Writers(site.url)
    yield found
    found.close()


@contextmanager
def compared() -> Iterator[list[int]]:
    """How often all rows were compared."""
    times, each = [0], Prepared.each

    def counting(statement: Prepared, connection: Any) -> Iterator[Any]:
        times[0] += 1
        return each(statement, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "each", counting)
        yield times


def fail(site: Site, transaction: Transaction, name: str = "") -> None:
    """Append a record that touches no row which is forged here."""
    name = name or site.gate._clerk.next_id(transaction, "P")
    site.gate._clerk.append(transaction, Failure(name, MODEL, "propose", "again", "out of memory", ""))


def test_what_the_gate_itself_writes_is_not_compared_again(site: Site):
    with compared() as times:
        for number in range(3):
            site.propose(f"again {number}")
            halt(site)
            resume(site)
            site.gate.halted_by()
    assert times == [0]


def test_what_is_in_the_way_of_nobody_changes_nothing(site: Site, writers: Writers):
    """Readers, and a transaction that has long been open and has written."""
    writers.do("SELECT * FROM projection")
    writers.do("CREATE TABLE elsewhere (x int)", who=1)
    halt(site)
    resume(site)
    with compared() as times:
        halt(site)
        resume(site)
        assert times == [0]
        writers.commit(1)
        site.gate.halted_by()
        assert times == [1]
        writers.do("DROP TABLE elsewhere")
        writers.rollback()
        site.gate.halted_by()
        assert times == [2], "also where it was undone"


def test_a_record_that_was_refused_costs_a_comparison(site: Site):
    """The number of its savepoint is used up, and the gate no longer knows it for its own."""
    with compared() as times:
        with site.log.transaction() as transaction:
            fail(site, transaction)
            with pytest.raises(StaleError):
                fail(site, transaction, "P-0001")
            fail(site, transaction)
        assert times == [0]
        site.gate.halted_by()
        site.gate.halted_by()
        assert times == [1]


@pytest.mark.parametrize("moment", ["before", "in a transaction", "after the last look"])
def test_a_row_that_somebody_changes_is_found_whenever_it_is_changed(
    site: Site, writers: Writers, moment: str
):
    writers.do("SELECT 1")
    if moment == "in a transaction":
        with site.log.transaction() as transaction:
            assert transaction.size
            writers.do(FORGE)
            writers.commit()
    else:
        if moment == "after the last look":
            site.gate.halted_by()
        writers.do(FORGE)
        writers.commit()
    for _ in range(2):
        with OF_A_ROW:
            halt(site)
    writers.do(REPAIR)
    writers.commit()
    assert halt(site)


def test_a_row_that_was_changed_long_ago_and_is_committed_late_is_found(site: Site, writers: Writers):
    """The number of the transaction is lower than those of the gate's own, and was given before all was compared."""
    writers.do(FORGE)
    halt(site)
    resume(site)
    writers.commit()
    with OF_A_ROW:
        halt(site)


def test_a_transaction_that_begins_within_one_of_the_gate_and_ends_after_it(site: Site, writers: Writers):
    with site.log.transaction():
        writers.do(FORGE)
    site.gate.halted_by()
    writers.commit()
    with OF_A_ROW:
        site.gate.halted_by()


def test_a_prepared_transaction_is_found_when_it_is_committed(site: Site, postgresql_server: Server):
    """It belongs to no connection."""
    halt(site)
    database = str(sa.make_url(site.url).database)
    limit = postgresql_server.ask(database, "SHOW max_prepared_transactions")[0][0]
    assert int(limit) > 0
    engine = sa.create_engine(site.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in ("BEGIN", FORGE, "PREPARE TRANSACTION 'forged'"):
            connection.exec_driver_sql(statement)
    resume(site)
    site.gate.halted_by()
    with compared() as times:
        halt(site)
        site.gate.halted_by()
        assert times == [0]
    postgresql_server.ask(database, "COMMIT PREPARED 'forged'")
    with OF_A_ROW:
        resume(site)


# --- what changes rows without a transaction of its own -------------------------------------------

FORGING = (
    f"CREATE FUNCTION forging() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {FORGE}; RETURN NEW; END $$"
)
TRIGGER = "CREATE TRIGGER forging BEFORE INSERT OR UPDATE ON {} FOR EACH ROW {} EXECUTE FUNCTION forging()"


@pytest.mark.parametrize("table", ["entries", "nodes", "checkpoints", "projection"])
def test_a_trigger_that_forges_within_the_transaction_of_the_gate(site: Site, writers: Writers, table: str):
    writers.do(FORGING)
    writers.do(TRIGGER.format(table, "WHEN (NEW.\"table\" <> 'models')" if table == "projection" else ""))
    writers.commit()
    site.gate.halted_by()  # it has done nothing so far
    halt(site)
    with OF_A_ROW:
        resume(site)


def test_a_trigger_that_writes_other_bytes_than_it_is_given(site: Site, writers: Writers):
    """The gate has then changed just as many rows as it meant to."""
    writers.do(FORGING.replace(FORGE, "NEW.body = NEW.body || ' '::bytea"))
    writers.do(TRIGGER.format("projection", ""))
    writers.commit()
    site.gate.halted_by()
    halt(site)
    with pytest.raises(LogVerificationError, match=r"projection .* differs"):
        resume(site)


# Once, so that the row stays what the forger wants however often the code is run.
ONCE = "NOT EXISTS (SELECT FROM projection WHERE \"table\" = 'models' AND convert_from(body, 'UTF8') LIKE '%%: %%')"
ANEW = """
    ALTER TABLE projection ALTER COLUMN body TYPE bytea USING (CASE WHEN "table" = 'models'
        THEN convert_to(replace(convert_from(body, 'UTF8'), ':', ': '), 'UTF8') ELSE body END)
"""
AFTER = "TRIGGER forging AFTER INSERT ON checkpoints {} FOR EACH ROW EXECUTE FUNCTION forging()"
LATE = {
    "a trigger, at once": [FORGING, f"CREATE {AFTER.format('')}"],
    "a trigger, with the commit": [
        FORGING, f"CREATE CONSTRAINT {AFTER.format('DEFERRABLE INITIALLY DEFERRED')}"
    ],
    "a trigger that writes the table anew": [
        FORGING.replace(FORGE, f"IF {ONCE} THEN {ANEW}; END IF"), f"CREATE {AFTER.format('')}"
    ],
    "a constraint that writes the table anew": [
        f"""CREATE FUNCTION forging(size bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            IF {ONCE} AND size > (SELECT max(seq) FROM entries) THEN {ANEW}; END IF; RETURN true; END $$""",
        "ALTER TABLE checkpoints ADD CHECK (forging(size)) NOT VALID",
    ],
    "a default": [
        f"CREATE FUNCTION forging() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {FORGE}; RETURN 1; END $$",
        "ALTER TABLE checkpoints ADD COLUMN other int", "ALTER TABLE checkpoints ALTER other SET DEFAULT forging()",
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", LATE)
def test_code_that_forges_after_the_last_row_was_written(site: Site, writers: Writers, how: str):
    for statement in LATE[how]:
        writers.do(statement)
    writers.commit()
    site.gate.halted_by()  # it has done nothing so far
    halt(site)
    with OF_A_ROW:
        resume(site)


MADE_SO = {
    "a view": "ALTER TABLE projection RENAME TO other; CREATE VIEW projection AS SELECT * FROM other",
    "policies": "ALTER TABLE projection ENABLE ROW LEVEL SECURITY; CREATE POLICY those ON projection USING (true)",
    "rules": "CREATE RULE nothing AS ON DELETE TO projection WHERE false DO INSTEAD NOTHING",
    "triggers": f"{FORGING}; {TRIGGER.format('projection', 'WHEN (false)')}",
    "parts elsewhere": "CREATE TABLE part () INHERITS (projection)",
    "not logged": "ALTER TABLE projection SET UNLOGGED",
    "a view of another": "ALTER TABLE nodes RENAME TO other; CREATE VIEW nodes AS SELECT * FROM other",
    "rules of another": "CREATE RULE nothing AS ON INSERT TO openings WHERE false DO ALSO NOTHING",
    "triggers of another": f"{FORGING}; {TRIGGER.format('openings', 'WHEN (false)')}",
    "a foreign key": "CREATE TABLE part (size bigint REFERENCES checkpoints)",
    "an expression": "CREATE INDEX other ON nodes ((position + 1))",
    "a condition": "CREATE INDEX other ON nodes (position) WHERE level > 3",
    "a type": "CREATE DOMAIN notes AS varchar; ALTER TABLE checkpoints ADD other notes",
    "an operator": """
        CREATE FUNCTION same(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT pg_catalog.texteq($1, $2)';
        CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = same)
    """,
    "a function": "CREATE FUNCTION max(varchar) RETURNS varchar LANGUAGE sql AS 'SELECT $1'",
}


@pytest.mark.parametrize("what", MADE_SO)
def test_a_table_that_may_answer_differently_by_itself_is_compared_each_time(
    site: Site, writers: Writers, what: str
):
    writers.do(MADE_SO[what])
    writers.commit()
    with compared() as times:
        for _ in range(3):
            site.gate.halted_by()
        assert times == [3]


HARMLESS = """
    CREATE TABLE elsewhere (x int PRIMARY KEY CHECK (x > 0)); CREATE INDEX other ON entries (time);
    CREATE FUNCTION ours() RETURNS int LANGUAGE sql AS 'SELECT 1'; ANALYZE
"""


def test_what_cannot_touch_the_rows_has_them_compared_once(site: Site, writers: Writers):
    """The control of those above."""
    writers.do(HARMLESS)
    writers.commit()
    with compared() as times:
        for _ in range(3):
            site.gate.halted_by()
        assert times == [1]


def test_where_the_servers_own_names_do_not_come_first_rows_are_compared_each_time(
    site: Site, writers: Writers
):
    database = sa.make_url(site.url).database
    writers.do("CREATE SCHEMA first")
    writers.do(f"ALTER DATABASE {database} SET search_path = first, pg_catalog, public")
    writers.commit()
    site.log.close()  # connections made from now on look there
    with compared() as times:
        for _ in range(3):
            site.gate.halted_by()
        assert times == [3]


def test_a_table_that_was_written_anew_is_another_file(site: Site, writers: Writers):
    with site.log.transaction() as transaction:
        raw = transaction._connection.connection.driver_connection
        before = postgresql.state(raw, "projection")
        assert before == postgresql.state(raw, "projection")
        raw.execute("ALTER TABLE projection ALTER COLUMN body TYPE bytea USING (body || ''::bytea)")
        after = postgresql.state(raw, "projection")
        assert before is not None
        assert after is not None
        assert after.table == before.table
        assert after.file != before.file
        raw.execute("ROLLBACK")


# --- in whatever order --------------------------------------------------------------------------


class Somebody:
    """Two writers who forge and repair one row, and commit late or never."""

    def __init__(self, writers: Writers, chance: random.Random) -> None:
        self._writers = writers
        self._chance = chance
        self._begun: dict[int, bool] = {}
        self.forged = False

    def acts(self) -> None:
        who = self._chance.randrange(2)
        if who in self._begun:
            left = self._begun.pop(who)
            if self._chance.random() < 0.6:
                self._writers.commit(who)
                self.forged = left
            else:
                self._writers.rollback(who)
        elif not self._begun:  # one row can be changed in one transaction at a time
            self._writers.do(REPAIR if self.forged else FORGE, who)
            self._begun[who] = not self.forged
        else:
            self._writers.do("SELECT pg_current_xact_id()", who)
            (self._writers.commit if self._chance.random() < 0.5 else self._writers.rollback)(who)


@pytest.mark.parametrize("seed", range(3))
def test_in_whatever_order_transactions_begin_and_end_nothing_is_written_upon_a_forgery(
    site: Site, writers: Writers, seed: int
):
    chance = random.Random(seed)
    somebody = Somebody(writers, chance)
    refused = accepted = 0
    with compared() as times:
        for _ in range(100):
            if chance.random() < 0.3:
                somebody.acts()
            was = somebody.forged
            try:
                with site.log.transaction() as transaction:
                    for _ in range(chance.randrange(3)):
                        fail(site, transaction)
                        if chance.random() < 0.15:
                            somebody.acts()
            except LogVerificationError:
                assert was
                refused += 1
            else:
                assert not was
                accepted += 1
    assert refused > 10
    assert accepted > 10
    assert times[0] - refused < accepted - 10, "the control: rows were not compared each time"
