"""guardrails.decision_log.proven: who writes to the tables without a key misleads nobody who signs."""

from __future__ import annotations

import sqlite3
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fakes import BLOCKED, MODEL, PASSING, REVIEWABLE, Site, halt, memory_folder, policy, resume
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import tamper
from postgresql_server import Server

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.decision_log import kept, merkle
from guardrails.decision_log.database import Prepared
from guardrails.decision_log.envelope import seal
from guardrails.decision_log.kept import KeptTables
from guardrails.decision_log.keys import PersonKey
from guardrails.decision_log.scratch import Scratch
from guardrails.decision_log.store import Log
from guardrails.decision_log.tables import MemoryTables
from guardrails.errors import DeniedError, InterlockError, LogVerificationError, StorageError
from guardrails.gate import Gate
from guardrails.ledger import project
from guardrails.ledger.erasure import digest_of_list
from guardrails.records import Action, Role, Transition, Waiver
from guardrails.records import State as ProposalState

TABLES = ("erased", "models", "policies", "proposals", "requests", "roster", "waivers", "workspace")
FORGERIES = ("changed", "removed", "added")


@pytest.fixture(scope="module")
def full() -> Iterator[Site]:
    """A site with a row in every table, and something to do for each kind of decision."""
    made = Site(memory_folder())
    made.promoted("first")
    blocked = made.judged(BLOCKED, "blocked")
    waiver = Waiver("pii", made.row(blocked).proposal.bundle, "p-ada", "2027-01-01T00:00:00.000000Z")
    for who in ("ada", "bo"):
        made.decide(who, Action.WAIVE, blocked, waiver=waiver)
    halt(made)
    resume(made)
    with made.log.read() as snapshot:
        reasons = [e.statement.body["reason"] for e in snapshot.entries() if "reason" in e.statement.body]
    named = (made.draft("ada", Action.HALT, "workspace").decision.reason.__class__(reasons[-1]["sha256"]),)
    made.decide("ada", Action.ERASE, "workspace", role=Role.ROOT, digest=digest_of_list(named), erase=named)
    made.rejected = made.judged(PASSING, "rejected")
    made.decide("ada", Action.REJECT, made.rejected)
    made.clock.pass_(days=31)
    made.waiting = made.judged(PASSING, "waiting")
    yield made
    made.close()


def prepared(site: Site, name: str) -> Callable[[], object]:
    """One act, prepared while all is well: what is left is to sign and to append."""
    decisions = {
        "promotion": ("ada", Action.APPROVE, site.waiting, {}),
        "rollback": ("bo", Action.ROLLBACK, MODEL, {"digest": site.model().original}),
        "activation": ("ada", Action.ACTIVATE, "main", {"policy": policy(coolDown="5m")}),
        "halt": ("di", Action.HALT, "workspace", {}),
        "resume": ("ada", Action.RESUME, "workspace", {}),
    }
    if name in decisions:
        who, action, target, fields = decisions[name]
        draft = site.draft(who, action, target, **fields)
        return lambda: site.gate.commit(draft, site.people[who].key)
    if name == "roster":
        envelope = seal(site.gate.draft_roster(site.roster()), site.people["ada"].key)
        return lambda: site.gate.commit_roster(envelope, [])
    return {
        "removal": lambda: site.gate.remove(site.rejected),
        "preparing": lambda: site.draft("ada", Action.APPROVE, site.waiting),
        "judging": lambda: site.gate.judge(site.waiting),
        "training": lambda: site.gate.require_ready(MODEL),
        "halted?": lambda: site.gate.halted_by(),  # noqa: PLW0108 - the gate is another one by then
    }[name]


ACTS = ("preparing", "judging", "training", "halted?", "removal", "halt", "resume", "promotion", "rollback",
        "activation", "roster")  # fmt: skip


@contextmanager
def forged(site: Site, table: str, how: str) -> Iterator[None]:
    """One row of a table forged, and put back afterwards."""
    engine = sa.create_engine(site.url, poolclass=sa.NullPool)
    where = {"name": table}
    with engine.begin() as connection:
        rows = connection.execute(
            sa.text('SELECT key, body FROM projection WHERE "table" = :name ORDER BY key'), where
        ).all()
        assert rows, f"the site has no row in {table}"
        where["key"], body = rows[0]
        if how == "changed":
            # White space: the same meaning even, and yet not the bytes that the records make.
            statement = 'UPDATE projection SET body = :body WHERE "table" = :name AND key = :key'
            connection.execute(sa.text(statement), {**where, "body": body.replace(b":", b": ", 1)})
        elif how == "removed":
            connection.execute(sa.text('DELETE FROM projection WHERE "table" = :name AND key = :key'), where)
        else:
            connection.execute(
                sa.text('INSERT INTO projection ("table", key, body) VALUES (:name, :key, :body)'),
                {**where, "key": "zz-forged", "body": body},
            )
    yield
    with engine.begin() as connection:
        connection.execute(sa.text('DELETE FROM projection WHERE "table" = :name'), where)
        for key, value in rows:
            connection.execute(
                sa.text('INSERT INTO projection ("table", key, body) VALUES (:name, :key, :body)'),
                {"name": table, "key": key, "body": value},
            )


def test_the_site_has_a_row_in_every_table(full):
    with full.log.read() as snapshot:
        assert snapshot.tables.names() == TABLES


@pytest.mark.parametrize("how", FORGERIES)
@pytest.mark.parametrize("table", TABLES)
def test_with_any_table_forged_nothing_is_signed(full, table, how):
    acts = {name: prepared(full, name) for name in ACTS}
    before, honest = full.kinds(), full.gate
    for gate in (honest, full.open()):  # one that has seen the log before, and a new process
        full.gate = gate
        with forged(full, table, how):
            for name, act in acts.items():
                with pytest.raises(LogVerificationError, match=f"projection {table}/") as caught:
                    act()
                assert (caught.value.exit_status, "log rebuild" in caught.value.hint) == (7, True), name
    full.gate = honest
    assert full.kinds() == before


def test_the_control_each_of_these_acts_works_where_nothing_is_forged(full):
    for name in ACTS:
        before = len(full.kinds())
        prepared(full, name)()
        assert (len(full.kinds()) > before) is (name not in ("preparing", "training", "halted?"))
    assert full.verify().ok


# --- what the guard prevents ------------------------------------------------------------------


def careless(site: Site) -> Gate:
    """A gate that believes the tables, as one without the guard would."""
    log = Log.open(site.url, site.services["log"], project, prove=False)
    return Gate(log, site.store, site.services, b"s" * 32, site.clock)


def exchange_a_key(site: Site) -> PersonKey:
    """Ada's key in the table of the roster becomes another one: for that no key of anybody is needed."""
    key = PersonKey.generate()
    own, other = site.people["ada"].key.public.encode(), key.public.encode()
    with sa.create_engine(site.url, poolclass=sa.NullPool).begin() as connection:
        body = connection.execute(sa.text("SELECT body FROM projection WHERE \"table\" = 'roster'")).scalar()
        assert own in body
        forged_ = {"body": body.replace(own, other)}
        connection.execute(sa.text("UPDATE projection SET body = :body WHERE \"table\" = 'roster'"), forged_)
    return key


@pytest.mark.parametrize("guarded", [True, False])
def test_a_forged_key_promotes_only_where_there_is_no_guard(site, guarded):
    proposal, champion = site.judged(), site.model().champion
    draft = site.draft("ada", Action.APPROVE, proposal)
    key = exchange_a_key(site)
    if guarded:
        with pytest.raises(LogVerificationError, match="projection roster/current differs"):
            site.gate.commit(draft, key)
        assert site.kinds()[-1] == "verdict"
        site.log.rebuild()
        with pytest.raises(DeniedError, match="not signed by"):
            site.gate.commit(draft, key)
        assert site.model().champion == champion
        assert site.verify().ok
        return
    assert careless(site).commit(draft, key).state == "promoted"
    assert site.kinds()[-1] == "promotion", "the gate's own key signed what nobody was asked about"
    assert site.verify().index == len(site.kinds()) - 2


def test_a_forgery_while_the_gate_is_at_work_is_not_read(site):
    """PostgreSQL's lock binds only those who take it: what is decided by must not come from the tables."""
    proposal = site.judged(REVIEWABLE)
    with site.log.transaction() as transaction:
        honest = transaction.tables.get("policies", "main")
        transaction._connection.exec_driver_sql("UPDATE projection SET body = x'7b7d'")
        assert transaction.tables.get("policies", "main") == honest
        assert dict(transaction.tables.scan("proposals"))[proposal]["state"] == "awaiting_approval"
        transaction._connection.rollback()
    assert site.state(proposal) == "awaiting_approval"


def test_evidence_that_only_a_table_names_is_not_judged_by(site):
    proposal = site.propose()
    site.measure(proposal, REVIEWABLE)
    better = site.store.put_bytes(canonical.encode(encode_record(PASSING)))
    own = str(site.row(proposal).evidence.measurements)
    body = "replace(CAST(body AS TEXT), '{}', '{}')"
    tamper(
        site.url,
        f"UPDATE projection SET body = CAST({body.format(own, better)} AS BLOB) WHERE \"table\" = 'proposals'",
    )
    with pytest.raises(LogVerificationError, match=f"projection proposals/{proposal} differs"):
        site.gate.judge(proposal)
    assert careless(site).judge(proposal) == "awaiting_approval", "the control"
    assert site.verify().index == site.verify().entries - 1, "which only whoever judges again finds out"


# --- what has been seen is kept, and only what is new is replayed -----------------------------


def test_only_new_records_are_replayed(site):
    seen: list[int] = []

    def counting(tables, entry):
        seen.append(entry.seq)
        project(tables, entry)

    gate = site.open(counting)
    size = len(site.kinds())
    gate.halted_by()
    assert seen == list(range(size))
    seen.clear()
    gate.halted_by()
    assert seen == []
    proposal = site.judged()
    gate.halted_by()
    assert seen == list(range(size, len(site.kinds())))
    seen.clear()
    gate.commit(site.draft("ada", Action.APPROVE, proposal), site.people["ada"].key)
    assert len(seen) == 2, "an approval and a promotion, each once"
    gate.halted_by()
    assert len(seen) == 2


def cut_to(site: Site, size: int) -> None:
    """The log as it was at a former checkpoint, tables and all: nothing in it is forged."""
    tamper(
        site.url, f"DELETE FROM entries WHERE seq >= {size}", f"DELETE FROM checkpoints WHERE size > {size}"
    )
    with sa.create_engine(site.url, poolclass=sa.NullPool).begin() as connection:
        for level, position in connection.exec_driver_sql("SELECT level, position FROM nodes").all():
            if (position + 1) << level > size:
                connection.exec_driver_sql(
                    f"DELETE FROM nodes WHERE level = {level} AND position = {position}"
                )
    with Log.open(site.url, site.services["log"], project) as fresh:
        fresh.rebuild()


def test_a_log_that_is_shorter_than_it_was_is_refused_by_whoever_has_seen_it(site):
    size = len(site.kinds())
    site.judged()
    cut_to(site, size)
    with pytest.raises(LogVerificationError, match=f"has {size} records, this process has seen {size + 4}"):
        site.gate.halted_by()
    with pytest.raises(LogVerificationError, match="this process has seen"):
        site.propose()
    assert site.open().halted_by() == "", "the control: who has never seen the rest cannot know"


def test_another_log_of_the_same_length_is_refused_by_whoever_has_seen_the_first(site):
    size = len(site.kinds())
    site.judged()
    cut_to(site, size)
    again = site.open()
    site.gate, seen = again, site.gate
    site.judged()
    site.judged()
    with pytest.raises(LogVerificationError, match="the records are not those"):
        seen.halted_by()
    with pytest.raises(LogVerificationError, match="are not those that this process has seen signed"):
        seen.halted_by()  # also once it has let go of what it had, and read all of it again
    assert again.halted_by() == ""


def test_an_old_record_that_was_changed_misleads_nobody(site):
    site.judged()
    with site.log.read() as snapshot:
        other = snapshot.entry(3).envelope
    tamper(site.url, f"UPDATE entries SET envelope = x'{other.hex()}' WHERE seq = 2")
    assert site.gate.halted_by() == "", "it goes by what it has seen"
    with pytest.raises(LogVerificationError, match="record 2: its bytes are not those"):
        site.open().halted_by()


def test_a_row_whose_name_is_no_text_is_refused_in_words_and_mended(site):
    site.judged()
    tamper(site.url, "INSERT INTO projection VALUES ('models', x'6162', x'7b7d')")
    with pytest.raises(LogVerificationError, match="bytes where str belongs"):
        site.gate.halted_by()
    site.log.rebuild()
    assert site.gate.halted_by() == ""
    assert site.verify().ok


def given_up(site: Site, note: bytes) -> None:
    with site.log.transaction() as tx:
        tx.append(note)
        assert tx.tables.get("models", MODEL)["attempts"] == 2
        raise DeniedError("not after all")


def test_what_was_not_committed_leaves_no_trace(site):
    proposal = site.judged()
    for _ in range(2):
        note = site.sealed(Transition(proposal, ProposalState.MEASURING, "x", 2), site.services["gate"])
        with pytest.raises(DeniedError, match="not after all"):
            given_up(site, note)
        with site.log.transaction() as tx:
            assert tx.tables.get("models", MODEL)["attempts"] == 1
    assert site.approve("ada", proposal).state == "promoted"
    assert site.verify().ok


def test_a_record_that_is_refused_is_undone_and_the_others_of_its_transaction_stay(site):
    proposal = site.judged()
    with site.log.transaction() as tx:
        for attempt in (7, 2):  # the first is refused, after the workspace's row was written
            note = Transition(proposal, ProposalState.MEASURING, "x", attempt)
            envelope = site.sealed(note, site.services["gate"])
            if attempt == 7:
                with pytest.raises(InterlockError, match="attempt 7"):
                    tx.append(envelope)
            else:
                tx.append(envelope)
    assert site.verify().ok
    assert site.state(proposal) == "measuring"
    assert site.gate.halted_by() == ""


def test_threads_of_one_process_share_what_was_seen(site):
    proposals: list[str] = []

    def work(number: int) -> None:
        for _ in range(3):
            site.gate.halted_by()
            proposals.append(site.propose(f"of thread {number}"))

    contents = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in contents:
        thread.start()
    for thread in contents:
        thread.join()
    assert len(set(proposals)) == 9
    assert site.verify().ok
    assert site.gate.halted_by() == ""


def test_a_gate_that_was_overtaken_catches_up(site):
    other = site.open()
    assert other.halted_by() == ""
    halt(site)
    assert other.halted_by() == "R-0002"


# --- PostgreSQL -------------------------------------------------------------------------------


def test_on_postgresql_too(postgresql_server: Server, folder):
    made = Site(folder / "site", url=postgresql_server.fresh())
    proposal = made.judged()
    draft = made.draft("ada", Action.APPROVE, proposal)
    key = exchange_a_key(made)
    for gate in (made.gate, made.open()):
        with pytest.raises(LogVerificationError, match="projection roster/current differs"):
            gate.commit(draft, key)
    made.log.rebuild()
    assert made.gate.commit(draft, made.people["ada"].key).state == "promoted"
    assert made.verify().ok
    made.close()


# --- the frontier -----------------------------------------------------------------------------


def test_the_frontier_has_the_root_of_the_whole_tree():
    tree, frontier = merkle.Tree(), merkle.Frontier()
    assert frontier.root() == tree.root() == merkle.EMPTY_ROOT
    for number in range(70):
        former, leaf = frontier.copy(), merkle.leaf_hash(bytes([number]))
        tree.append(leaf)
        frontier.append(leaf)
        assert frontier.root() == tree.root()
        assert (former.size, former.root()) == (number, tree.root(number))


# --- rows in a file of their own ----------------------------------------------------------------

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


# --- what is compared, and when -------------------------------------------------------------------


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


def test_memory_does_not_grow_with_the_rows():
    tables = KeptTables()
    tracemalloc.start()
    for number in range(20_000):
        tables.put("t", f"{number:06d}", {"text": "x" * 1_000})
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 200_000, "20 MB of rows"
    assert sum(1 for _ in tables.bodies("t")) == 20_000
