"""The log as its users meet it: what it takes, what it refuses, what it notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from log_samples import KEY, ORIGIN, add, check, project, record, tamper

from guardrails.decision_log import checkpoint, merkle
from guardrails.decision_log.database import Prepared
from guardrails.decision_log.envelope import Reference
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.store import Entry, Log
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, InterlockError, LogVerificationError, RecordError, UnknownNameError
from guardrails.records import Commitment, Opening, open_text


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    with Log.create(url, ORIGIN, KEY, project) as made:
        yield made


# --- appending and reading -----------------------------------------------------------------


def test_a_new_log_is_empty_and_signed(log: Log, url: str):
    with log.read() as snapshot:
        assert check(snapshot) == []
        assert snapshot.root == merkle.EMPTY_ROOT.hex()
    with Log.open(url) as again, again.read() as snapshot:
        assert (again.origin, snapshot.size) == (ORIGIN, 0)


def test_records_come_back_as_they_went_in(log: Log):
    envelopes = [record() for _ in range(5)]
    with log.transaction() as transaction:
        for position, envelope in enumerate(envelopes):
            assert transaction.next_seq == position
            entry = transaction.append(envelope)
            assert (entry.seq, entry.envelope) == (position, envelope)
            assert entry.leaf == merkle.leaf_hash(envelope).hex()
            assert transaction.entry(position) == entry  # visible at once to the transaction itself
    with log.read() as snapshot:
        assert [entry.envelope for entry in check(snapshot)] == envelopes
        assert [entry.seq for entry in snapshot.entries(1, 3)] == [1, 2]
        assert [entry.seq for entry in snapshot.entries(3, 99)] == [3, 4]
        assert snapshot.entry(4).statement.body["n"] == snapshot.tables.get("rows", "00000004")["n"]
        for missing in (-1, 5):
            with pytest.raises(UnknownNameError, match="the log has 5"):
                snapshot.entry(missing)


def test_more_records_than_one_batch_holds(log: Log):
    add(log, *(record() for _ in range(1100)))
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1100


def test_each_commit_leaves_one_checkpoint_and_proofs_lead_to_it(log: Log):
    for count in (1, 3, 2, 7):
        add(log, *(record() for _ in range(count)))
    with log.read() as snapshot:
        check(snapshot)
        heads = [checkpoint.verify(note, ORIGIN, KEY.public_base64) for note in snapshot.checkpoints()]
        assert [head.size for head in heads] == [0, 1, 4, 6, 13]
        root = bytes.fromhex(snapshot.root)
        for head in heads:
            proof = snapshot.consistency_proof(head.size)
            merkle.verify_consistency(head.size, 13, bytes.fromhex(head.root), root, proof)
        for entry in snapshot.entries():
            path = snapshot.inclusion_proof(entry.seq)
            merkle.verify_inclusion(bytes.fromhex(entry.leaf), entry.seq, 13, path, root)


def test_a_transaction_that_appends_nothing_changes_nothing(log: Log):
    with log.transaction() as transaction:
        assert transaction.size == 0
    with log.read() as snapshot:
        assert len(list(snapshot.checkpoints())) == 1


def test_a_snapshot_does_not_move_and_does_not_block(log: Log):
    add(log)
    with log.read() as before:
        add(log)
        assert len(check(before)) == 1
        with log.read() as after:
            assert len(check(after)) == 2
        assert before.tables.get("totals", "all") == {"count": 1}


def test_appending_stays_cheap_as_the_log_grows(log: Log):
    statements: list[str] = []
    made_into_sql = Prepared._sql

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def count(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    def counted(prepared: Prepared, connection: Any) -> Any:
        statements.append(made_into_sql(prepared, connection)[0])
        return made_into_sql(prepared, connection)

    Prepared._sql = counted
    try:
        costs = []
        for size in (3, 1023):  # the worst positions: every peak stands, and the append completes them all
            with log.transaction() as transaction:
                while transaction.size < size:
                    transaction.append(record())
            statements.clear()
            add(log)
            costs.append(len(statements))
    finally:
        Prepared._sql = made_into_sql
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
    assert costs[0] == costs[1] > 0, costs  # 8 more levels cost no statement more: peaks are read in one


# --- refusing ------------------------------------------------------------------------------


def test_an_exception_undoes_everything(log: Log):
    add(log)
    opening = open_text("Ada Lovelace")
    with log.read() as snapshot:
        before = (snapshot.size, snapshot.root, list(snapshot.checkpoints()))

    def interrupted(error: type[BaseException]) -> None:
        with log.transaction() as transaction:
            transaction.append(record(), [opening])
            transaction.append(record())
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(error)
    with log.read() as snapshot:
        check(snapshot)
        assert (snapshot.size, snapshot.root, list(snapshot.checkpoints())) == before
        assert snapshot.opening(opening.commitment()) is None
    assert [entry.seq for entry in add(log)] == [1]  # no gap


def test_errors_of_the_caller_pass_through_as_they_are(log: Log):
    def read_a_file() -> None:
        with log.transaction() as transaction:
            transaction.append(record())
            b"\xff".decode()

    with pytest.raises(UnicodeDecodeError):
        read_a_file()
    with log.read() as snapshot:
        assert snapshot.size == 0


def test_a_refused_record_leaves_no_trace_and_the_transaction_goes_on(log: Log):
    opening = open_text("reason")
    with log.transaction() as transaction:
        first = transaction.append(record())
        with pytest.raises(DeniedError, match="the projection refuses this"):
            transaction.append(record({"refuse": True}), [opening])
        assert (transaction.size, transaction.opening(opening.commitment())) == (1, None)
        second = transaction.append(record())
    assert (first.seq, second.seq) == (0, 1)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 2


def test_records_that_do_not_belong(log: Log):
    [first] = add(log)
    refused: list[tuple[bytes, str]] = [
        (record(log="interlock/other"), "of log 'interlock/other' cannot enter"),
        (first.envelope, "already in the log, as record 0"),
        (record(None, Reference(1, first.leaf)), "record 1 that this log does not have"),
        (record(None, Reference(0, "ab" * 32)), "record 0 that this log does not have"),
        (record(None, first.reference, Reference(7, "ab" * 32)), "record 7 that this log does not have"),
        (b"", "not JSON"),
        (b"{}", "not an object with exactly"),
        (first.envelope + b"\n", "not canonical JSON"),
    ]
    for envelope, reason in refused:
        with pytest.raises(RecordError, match=reason), log.transaction() as transaction:
            transaction.append(envelope)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1
    add(log, record(None, first.reference))  # the control: a true reference is fine


def test_one_record_may_refer_to_another_of_the_same_transaction(log: Log):
    with log.transaction() as transaction:
        first = transaction.append(record())
        transaction.append(record(None, first.reference))
    with log.read() as snapshot:
        assert check(snapshot)[1].statement.references == (first.reference,)


def test_the_same_record_twice_in_one_transaction(log: Log):
    envelope = record()
    with pytest.raises(RecordError, match="already in the log"):
        add(log, envelope, envelope)
    with log.read() as snapshot:
        assert snapshot.size == 0


def test_a_batch_is_the_same_log_as_its_records_one_by_one(log: Log):
    add(log)
    [first] = add(log)
    envelopes = [record(None, first.reference) for _ in range(1100)]
    with log.transaction() as transaction:
        transaction.append(record())
        entries = transaction.append_all(envelopes)
        inner = transaction.append_all([record(None, entries[7].reference)])
        assert transaction.append_all([]) == []
        transaction.append(record(None, inner[0].reference))
    assert [entry.seq for entry in entries] == list(range(3, 1103))
    with log.read() as snapshot:
        found = check(snapshot)
        assert [entry.envelope for entry in found[3:1103]] == envelopes
        for seq in (0, 3, 700, 1104):
            path = snapshot.inclusion_proof(seq)
            merkle.verify_inclusion(
                bytes.fromhex(found[seq].leaf), seq, 1105, path, bytes.fromhex(snapshot.root)
            )
    add(log)


def test_records_of_a_batch_may_refer_to_earlier_ones_of_it_only(log: Log):
    one = record()
    leaf = merkle.leaf_hash(one).hex()
    with log.transaction() as transaction:
        transaction.append_all([one, record(None, Reference(0, leaf))])
    later = record()
    batch = [record(None, Reference(3, merkle.leaf_hash(later).hex())), later]
    with pytest.raises(RecordError, match="record 3 that this log does not have"), log.transaction() as tx:
        tx.append_all(batch)


def test_a_refused_batch_leaves_no_trace_and_the_transaction_goes_on(log: Log):
    [first] = add(log)
    same = record()
    refused = {
        "already in the log, as record 0": [record(), first.envelope],
        "already in the log, as record 2": [same, same],
        "cannot enter": [record(), record(log="interlock/other")],
        "record 9 that": [record(None, Reference(9, "ab" * 32))],
        "refuses this": [record(), record({"refuse": True})],
        "not JSON": [record(), b""],
    }
    with log.transaction() as transaction:
        transaction.append(record())
        for reason, batch in refused.items():
            with pytest.raises(InterlockError, match=reason):
                transaction.append_all(batch)
            assert transaction.size == 2
        transaction.append_all([record()])
    with log.read() as snapshot:
        assert len(check(snapshot)) == 3


# --- openings ------------------------------------------------------------------------------


def test_openings_lie_beside_the_log_and_can_be_erased(log: Log, url: str):
    opening = open_text("Ada Lovelace, née Byron")
    with log.transaction() as transaction:
        transaction.append(record(), [opening, opening])
        assert transaction.opening(opening.commitment()) == opening
    with log.transaction() as transaction:
        transaction.append(record(), [opening])  # said again: kept once
    with log.read() as snapshot:
        assert snapshot.opening(opening.commitment()) == opening
        assert snapshot.opening(Commitment("00" * 32)) is None
    tamper(url, "DELETE FROM openings")
    with log.read() as snapshot:
        assert snapshot.opening(opening.commitment()) is None
        check(snapshot)  # the tree never held it


def test_an_altered_opening_is_noticed(log: Log, url: str):
    opening = open_text("approved because the tests pass")
    with log.transaction() as transaction:
        transaction.append(record(), [opening])
    tamper(url, "UPDATE openings SET text = 'approved because I was told to'")
    with log.read() as snapshot, pytest.raises(LogVerificationError, match="not what that binds"):
        snapshot.opening(opening.commitment())


def test_a_malformed_opening_is_refused(log: Log):
    with pytest.raises(RecordError, match="salt"), log.transaction() as transaction:
        transaction.append(record(), [Opening("not hexadecimal", "x")])
    with log.read() as snapshot:
        assert snapshot.size == 0


# --- projections ---------------------------------------------------------------------------


def test_rebuilding_undoes_whatever_was_done_to_the_projection(log: Log, url: str):
    add(log, *(record() for _ in range(4)))
    tamper(url, "UPDATE projection SET body = x'7b7d' WHERE key = '00000001'")
    tamper(url, "INSERT INTO projection VALUES ('champions', 'navigator', x'7b7d')")
    tamper(url, "DELETE FROM projection WHERE key = 'all'")
    with log.read() as snapshot, pytest.raises(AssertionError):
        check(snapshot)
    assert log.rebuild() == 4
    with log.read() as snapshot:
        assert len(check(snapshot)) == 4
        assert len(list(snapshot.checkpoints())) == 2  # nothing was appended, so nothing was signed


def test_a_record_that_cannot_be_replayed_is_named_and_nothing_is_lost(log: Log, url: str):
    add(log, record(), record(), record())

    def choosy(tables: Tables, entry: Entry) -> None:
        if entry.seq == 1:
            raise DeniedError("no longer allowed")
        project(tables, entry)

    reason = "record 1: it cannot be replayed: no longer allowed"
    with Log.open(url, KEY, choosy) as other, pytest.raises(LogVerificationError, match=reason):
        other.rebuild()
    with log.read() as snapshot:
        check(snapshot)


# --- tampering -----------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["entries", "nodes", "checkpoints"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "UPDATE {} SET {} = {}"])
def test_accidents_are_stopped_by_the_database(log: Log, url: str, table: str, verb: str):
    add(log)
    column = {"entries": "time", "nodes": "hash", "checkpoints": "note"}[table]
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql(verb.format(table, column, column))
    tamper(url)
    with log.read() as snapshot:
        check(snapshot)


def forged() -> str:
    return record({"forged": True}).hex()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM entries WHERE seq = 6", "covers 7 records"),
        ("DELETE FROM checkpoints WHERE size = 7", "covers 6 records"),
        ("DELETE FROM entries WHERE seq = 6; DELETE FROM nodes WHERE level = 0 AND position = 6", "covers 7"),
        ("DELETE FROM checkpoints", "no checkpoint"),
        ("DELETE FROM nodes WHERE level = 2", "tree node 2/0 is missing"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2", "checkpoint has root"),
        ("UPDATE checkpoints SET note = replace(note, '7', '8') WHERE size = 7", "checkpoint"),
        (
            "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 6)",
            "covers 6",
        ),
        ("INSERT INTO entries VALUES (7, 'ff', x'00', '')", "covers 7 records, the log has 8"),
    ],
)
def test_a_log_that_was_altered_at_its_end_is_not_extended(log: Log, url: str, statement: str, reason: str):
    for _ in range(7):
        add(log)
    tamper(url, *statement.split("; "))
    with pytest.raises(LogVerificationError, match=reason):
        add(log)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE entries SET envelope = x'{forged}' WHERE seq = 2", "record 2: its bytes are not those"),
        ("UPDATE entries SET envelope = x'7b7d' WHERE seq = 2", "record 2: .* not an object"),
        ("DELETE FROM entries WHERE seq = 2", "record 2: it is missing"),
        ("UPDATE entries SET leaf = 'ff' WHERE seq = 2", "record 2: its bytes are not those"),
    ],
)
def test_an_altered_record_is_named_when_it_is_read(log: Log, url: str, statement: str, reason: str):
    add(log, *(record() for _ in range(5)))
    tamper(url, statement.format(forged=forged()))
    with log.read() as snapshot:
        assert [entry.seq for entry in snapshot.entries(0, 2)] == [0, 1]
        with pytest.raises(LogVerificationError, match=reason) as caught:
            list(snapshot.entries())
        assert caught.value.index == 2


def use_everything(url: str) -> None:
    with Log.open(url, KEY, project) as log:
        with log.read() as snapshot:
            list(snapshot.entries())
            list(snapshot.tables.scan("rows"))
        add(log)
        log.rebuild()


def test_the_control_of_what_follows(log: Log, url: str):
    add(log, record(), record())
    use_everything(url)


@pytest.mark.parametrize("value", ["1000000000000", "'text'", "1.5", "x'ff'", "x'" + "00" * 32 + "'"])
@pytest.mark.parametrize(
    "column",
    ["entries.leaf", "entries.envelope", "nodes.hash", "checkpoints.note", "projection.body", "meta.value"],
)
def test_values_of_the_wrong_kind_are_an_error_of_ours(log: Log, url: str, column: str, value: str):
    """SQLite stores anything in any column; no such value may crash whoever reads it."""
    add(log, record(), record())
    table, name = column.split(".")
    tamper(url, f"UPDATE OR IGNORE {table} SET {name} = {value}")
    with pytest.raises(InterlockError):
        use_everything(url)


def test_a_consistent_forgery_is_caught_by_the_signed_checkpoint(log: Log, url: str):
    """Bytes, leaf and tree nodes all rewritten; only the checkpoint cannot be, without the key."""
    add(log)
    envelope = record({"forged": True})
    leaf, time_ = merkle.leaf_hash(envelope).hex(), Entry.parse(0, envelope).statement.time
    tamper(
        url,
        f"UPDATE entries SET envelope = x'{envelope.hex()}', leaf = '{leaf}', time = '{time_}'",
        f"UPDATE nodes SET hash = x'{leaf}'",
    )
    with log.read() as snapshot, pytest.raises(AssertionError):
        check(snapshot)
    with pytest.raises(LogVerificationError, match="the newest checkpoint has root"):
        add(log)


def test_another_services_key_cannot_extend_the_log(log: Log, url: str):
    add(log)
    reason = "not signed by this log's key"
    with (
        Log.open(url, ServiceKey.generate(), project) as other,
        pytest.raises(LogVerificationError, match=reason),
    ):
        add(other)
    with log.read() as snapshot:
        assert len(check(snapshot)) == 1
