"""guardrails.decision_log.proven: who writes to the tables without a key misleads nobody who signs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from fakes import MODEL, PASSING, REVIEWABLE, Site, halt, memory_folder
from forged_tables import ACTS, FORGERIES, TABLES, forged, prepared, site_with_a_row_in_every_table
from log_samples import tamper
from postgresql_server import Server

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.decision_log.store import Log
from guardrails.errors import DeniedError, InterlockError, LogVerificationError
from guardrails.gate import Gate
from guardrails.ledger import project
from guardrails.records import Action, Transition
from guardrails.records import State as ProposalState


@pytest.fixture(scope="module")
def full() -> Iterator[Site]:
    folder = memory_folder()
    made = site_with_a_row_in_every_table(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


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
