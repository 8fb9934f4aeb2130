"""guardrails.recorded: no work is spent on a champion, a base or a bundle that only a table names."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from fakes import MODEL, Site, memory_folder

from guardrails import canonical
from guardrails.decision_log import merkle
from guardrails.decision_log.envelope import seal
from guardrails.errors import LogVerificationError
from guardrails.recorded import require_recorded

ROW = 'SELECT body FROM projection WHERE "table" = ? AND key = ?'
FORGE = 'UPDATE projection SET body = ? WHERE "table" = ? AND key = ?'


@pytest.fixture
def site():
    made = Site(memory_folder())
    made.promoted("first")
    made.rollback("ada", made.model().original)
    yield made
    made.close()


def database(site: Site) -> sqlite3.Connection:
    """The file, as somebody has it who may write to it."""
    connection = sqlite3.connect(site.folder / "log.db", isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    return connection


def forge(site: Site, table: str, key: str, old: str, new: str) -> None:
    connection = database(site)
    body = connection.execute(ROW, (table, key)).fetchone()[0]
    assert old.encode() in body
    connection.execute(FORGE, (body.replace(old.encode(), new.encode()), table, key))
    connection.close()


def test_what_the_records_say_is_believed(site):
    proposal = site.propose("next")
    assert site.gate.require_ready(MODEL) == site.model().champion == site.model().original
    assert site.gate.begin_measurement(proposal).champion == site.model().champion
    assert require_recorded(site.log, MODEL, proposal).name == MODEL


@pytest.mark.parametrize("field", ["champion", "original"])
def test_a_forged_pointer_trains_and_measures_nothing(site, field):
    proposal, evil, base = site.propose("next"), site.bundle("evil"), site.model().original
    before = site.kinds()
    forge(site, "models", MODEL, f'"{field}":"{base}"', f'"{field}":"{evil}"')
    named = "champion" if field == "champion" else "base"
    for act in (lambda: site.gate.require_ready(MODEL), lambda: site.gate.begin_measurement(proposal)):
        with pytest.raises(LogVerificationError, match=f"the table names the {named} {str(evil)[:19]}"):
            act()
    assert site.kinds() == before
    site.log.rebuild()
    assert site.gate.require_ready(MODEL) == base, "the control"


def test_a_forged_bundle_is_not_measured(site):
    proposal, evil = site.propose("next"), site.bundle("evil")
    forge(
        site, "proposals", proposal, f'"bundle":"{site.row(proposal).proposal.bundle}"', f'"bundle":"{evil}"'
    )
    assert site.gate.require_ready(MODEL)
    with pytest.raises(LogVerificationError, match="the table names the bundle"):
        site.gate.begin_measurement(proposal)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_record_that_was_exchanged_along_with_the_pointer(site, thorough):
    """With its leaf, and even with its place in the stored tree: the signed root is of other records."""
    evil = site.bundle("evil")
    with site.log.read() as snapshot:
        entry = next(e for e in snapshot.entries() if e.statement.record == "rollback")
        body = {**entry.statement.body, "bundle": str(evil)}
    statement = replace(entry.statement, body=body)
    envelope = seal(statement.encode(), site.services["gate"])
    leaf = merkle.leaf_hash(envelope)
    connection = database(site)
    changed = connection.execute(
        "UPDATE entries SET envelope = ?, leaf = ? WHERE seq = ?", (envelope, leaf.hex(), entry.seq)
    )
    assert changed.rowcount == 1
    if thorough:
        connection.execute("UPDATE nodes SET hash = ? WHERE level = 0 AND position = ?", (leaf, entry.seq))
    connection.close()
    forge(site, "models", MODEL, f'"champion":"{site.model().champion}"', f'"champion":"{evil}"')
    with pytest.raises(LogVerificationError, match="the newest checkpoint has root"):
        site.gate.require_ready(MODEL)


def test_who_wrote_an_honest_row_changed_nothing(site):
    """The control of the forgery itself."""
    with site.log.read() as snapshot:
        honest = canonical.encode(snapshot.tables.get("models", MODEL))
    connection = database(site)
    connection.execute(FORGE, (honest, "models", MODEL))
    connection.close()
    assert site.gate.require_ready(MODEL) == site.model().champion
