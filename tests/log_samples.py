"""A small projection and signed records for it: what the tests of the log write and check."""

from __future__ import annotations

import itertools
import os
import re
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guardrails.canonical import digest
from guardrails.decision_log import checkpoint, merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.envelope import Reference, Statement, format_time, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.store import Entry, Log, Snapshot
from guardrails.decision_log.tables import MemoryTables, Tables
from guardrails.errors import DeniedError

ORIGIN = "interlock/00000000-0000-4000-8000-000000000000"
KEY = ServiceKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
COUNTER = itertools.count()


def project(tables: Tables, entry: Entry) -> None:
    """A projection that touches two tables before it makes up its mind."""
    total = (tables.get("totals", "all") or {"count": 0})["count"]
    tables.put("totals", "all", {"count": total + 1})
    tables.put("rows", f"{entry.seq:08}", dict(entry.statement.body))
    if entry.statement.body.get("refuse"):
        raise DeniedError("the projection refuses this")


def record(body: dict[str, Any] | None = None, *references: Reference, log: str = ORIGIN) -> bytes:
    """A sealed record, different each time."""
    body = {"n": next(COUNTER), "pid": os.getpid()} | (body or {})
    moment = format_time(datetime.now(UTC))
    return seal(Statement("proposal", {"x": digest(b"x")}, body, log, moment, references).encode(), KEY)


def add(log: Log, *envelopes: bytes) -> list[Entry]:
    with log.transaction() as transaction:
        return [transaction.append(envelope) for envelope in envelopes or (record(),)]


def check(snapshot: Snapshot) -> list[Entry]:
    """Everything that must hold of any state of any log; returns its records."""
    found = list(snapshot.entries())
    assert [entry.seq for entry in found] == list(range(snapshot.size))
    tree, replayed = merkle.Tree(), MemoryTables()
    heads = {Checkpoint(ORIGIN, 0, tree.root().hex())}
    for entry in found:
        tree.append(merkle.leaf_hash(entry.envelope))
        heads.add(Checkpoint(ORIGIN, tree.size, tree.root().hex()))
        project(replayed, entry)
    assert snapshot.root == tree.root().hex()
    newest = checkpoint.verify(snapshot.checkpoint(), ORIGIN, KEY.public_base64)
    assert newest == Checkpoint(ORIGIN, snapshot.size, snapshot.root)
    noted = [checkpoint.verify(note, ORIGIN, KEY.public_base64) for note in snapshot.checkpoints()]
    assert set(noted) <= heads
    assert noted[0].size == 0
    assert noted[-1] == newest
    assert snapshot.tables.names() == replayed.names()
    for name in replayed.names():
        assert list(snapshot.tables.scan(name)) == list(replayed.scan(name))
    return found


def tamper(url: str, *statements: str) -> None:
    """What somebody can do who can write the database: the triggers do not stop them."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            statements = (*(f"DROP TRIGGER {name}" for (name,) in names.all()), *statements)
        else:
            statements = ("SET LOCAL session_replication_role = replica", *map(_postgresql, statements))
        for statement in statements:
            connection.exec_driver_sql(statement)


def _postgresql(statement: str) -> str:
    """The same statement where bytes are written another way."""
    statement = statement.replace("zeroblob(32)", r"'\x" + "00" * 32 + "'::bytea")
    return re.sub(r"x'([0-9a-f]*)'", r"'\\x\1'::bytea", statement)
