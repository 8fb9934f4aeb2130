"""Logs that somebody has tampered with, and what they do to a copy: they hold the database and every service's key."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fakes import BLOCKED, BROKEN, MODEL, REVIEWABLE, Site, measurements, policy, verify

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.decision_log import succession
from guardrails.decision_log.envelope import format_time, open_envelope, parse_statement, seal
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.merkle import leaf_hash
from guardrails.decision_log.store import Log
from guardrails.ledger import project
from guardrails.ledger.subjects import subjects_of
from guardrails.records import Action, Decision, Promotion, Role, Waiver
from guardrails.registry import ArtifactStore

OTHER = Digest("ab" * 32)
"""A digest of nothing that is there."""


def eventful(folder: Path) -> Site:
    """A site with a history that has a bit of everything."""
    site = Site(folder)
    promoted = site.promoted("first")
    review = site.judged(REVIEWABLE, "second")
    site.decide("cy", Action.WITHDRAW, site.judged())
    blocked = site.judged(BLOCKED)
    until = format_time(site.clock.time.replace(year=2027))
    waiver = Waiver("pii", site.row(blocked).proposal.bundle, "p-ada", until)
    for who in ("ada", "bo"):
        site.decide(who, Action.WAIVE, blocked, waiver=waiver)
    site.gate.tick()
    site.decide("di", Action.HALT, "workspace")
    site.decide("ada", Action.RESUME, "workspace")
    site.judged(BROKEN)
    site.approve("ada", review)
    site.decide("ada", Action.WITHDRAW, review)
    site.approve("bo", review)
    site.approve("ada", review)
    site.rollback("ada", site.row(promoted).proposal.bundle)
    site.enrol()
    site.judged(measurements(saved=0.08), "third")
    return site


def waiting(folder: Path) -> Site:
    """P-0001 was promoted; P-0002 waits with one of two signatures; P-0003 is blocked; P-0004 waits, unsigned."""
    site = Site(folder, source=policy(expiresAfter="72h"))
    site.promoted("first")
    site.approve("ada", site.judged(REVIEWABLE, "second"))
    site.judged(BLOCKED, "third")
    site.judged(content="fourth")
    return site


class Copy:
    """A copy of the history to tamper with, by raw SQL and with every key of the services."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        shutil.copytree(site.folder, folder)
        self.folder, self.url = folder, f"sqlite:///{folder / 'log.db'}"
        self.store = ArtifactStore(folder / "artifacts")

    def verify(self, **options):
        return verify(self.url, self.store, **options)

    def sql(self, statement: str, *values) -> None:
        with sqlite3.connect(self.folder / "log.db") as connection:
            # Triggers keep honest programs from it; whoever has the file just drops them.
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'trigger'"
            ).fetchall():
                connection.execute(f'drop trigger "{name}"')
            changed = connection.execute(statement, values)
            is_change = statement.startswith(("update", "insert", "delete"))
            assert changed.rowcount > 0 or not is_change, "the attack changed nothing"

    def envelopes(self) -> list[bytes]:
        with Log.open(self.url) as log, log.read() as snapshot:
            return [entry.envelope for entry in snapshot.entries()]

    def find(self, record: str, **body) -> int:
        """The position of the last record of a kind with these values in its body."""
        with Log.open(self.url) as log, log.read() as snapshot:
            return [
                entry.seq for entry in snapshot.entries()
                if entry.statement.record == record and body.items() <= dict(entry.statement.body).items()
            ][-1]  # fmt: skip

    def rewrite(self, envelopes: list[bytes], *, signer: ServiceKey | None = None) -> None:
        """Make a new log of these records: tree, checkpoints and tables all fit, the rules were not asked.

        This is the strongest attacker short of stealing people's keys: whoever holds log and services.
        """
        (self.folder / "log.db").unlink()
        for side in ("-wal", "-shm"):
            (self.folder / f"log.db{side}").unlink(missing_ok=True)
        key = signer or self.site.services["log"]

        def lenient(tables, entry):
            try:
                project(tables, entry)
            except Exception:
                return

        # The store refuses to sign with a key that no roster names; an attacker's own program does not.
        unasked = patch.object(succession, "key_in_force", return_value="")
        with Log.create(self.url, self.site.log.origin, key, lenient, prove=False) as log, unasked:
            for envelope in envelopes:
                with log.transaction() as tx:
                    try:
                        tx.append(envelope)
                    except Exception:
                        # References to what is gone would be refused by the store; an attacker writes past it.
                        tx._check = lambda entry: None
                        tx.append(envelope)

    def remade(self, seq: int, change: Callable, signer) -> list[bytes]:
        """All records, the one at a position changed and signed anew; a verdict names its own new digest."""
        envelopes = self.envelopes()
        statement = change(parse_statement(open_envelope(envelopes[seq]).payload))
        if statement.record == "verdict":
            own = canonical.digest(canonical.encode(dict(statement.body)))
            statement = replace(statement, subjects={**statement.subjects, "verdict": own})
        envelopes[seq] = seal(statement.encode(), signer)
        return envelopes

    def append(self, *records, signer=None, time="", references=()) -> None:
        """Append records past every rule, as whoever holds the services' keys can."""
        made = [
            record if isinstance(record, bytes)
            else self.site.sealed(record, signer or self.site.services["gate"], time=time)
            for record in records
        ]  # fmt: skip
        lenient = lambda tables, entry: None  # noqa: E731
        careless = Log.open(self.url, self.site.services["log"], lenient, prove=False)
        with careless as log, log.transaction() as tx:
            for envelope in made:
                tx.append(envelope)


def untouched(site: Site, folder: Path) -> Copy:
    """A copy of a site's history to tamper with, and the control: as it is, it holds."""
    made = Copy(site, folder)
    found = made.verify(root_key=site.people["ada"].key.public)
    assert found.ok, f"the control does not hold: {found}"
    return made


def refused(found, reason: str, index: int | None = -1) -> None:
    """Assert that a verification failed for this reason (at this record)."""
    assert not found.ok
    assert reason in found.reason, found.reason
    if index != -1:
        assert found.index == index, (found.index, found.reason)


@dataclass(frozen=True)
class Case:
    """One attack on a copy, and the reasons of which one must be given, parted by ``|``."""

    name: str
    reason: str
    attack: Callable[[Copy], Any]

    def is_refused_on(self, copy: Copy) -> None:
        """Assert that the attack is refused for its reason."""
        self.attack(copy)
        found = copy.verify()
        assert not found.ok, "it passed"
        assert any(part in found.reason for part in self.reason.split("|")), found.reason


class Table(list[Case]):
    """Attacks, one after the other as they stand in a test's file."""

    def case(self, name: str, reason: str) -> Callable[[Callable[[Copy], Any]], Callable[[Copy], Any]]:
        def keep(attack: Callable[[Copy], Any]) -> Callable[[Copy], Any]:
            self.append(Case(name, reason, attack))
            return attack

        return keep


def decision(
    copy: Copy, who: str, action: Action, target: str, change: Callable[[Decision], Decision] = lambda d: d, *,
    signer: Any = None, time: str = "", role: Role | None = None, **wish: Any,
) -> bytes:  # fmt: skip
    """A decision as the gate would prepare it, changed, its subjects made to fit, and signed."""
    site = copy.site
    draft = site.draft(who, action, target, role, **wish)
    statement = parse_statement(draft.payload)
    changed = change(decode_record(Decision, dict(statement.body)))
    with site.log.read() as snapshot:
        about = subjects_of(snapshot.tables, changed) or dict(statement.subjects)
    statement = replace(statement, body=encode_record(changed), subjects=about, time=time or statement.time)
    return seal(statement.encode(), signer or site.people[who].key)


def bound(**fields: Any) -> Callable[[Decision], Decision]:
    """Change what a decision is bound to."""
    return lambda d: replace(d, binding=replace(d.binding, **fields))


def raw(copy: Copy, seq: int, change: Callable[[dict], Any]) -> None:
    """Change the JSON of a stored envelope, and its leaf hash with it."""
    value = json.loads(copy.envelopes()[seq])
    made = change(value)
    data = made if isinstance(made, bytes) else canonical.encode(value)
    copy.sql("update entries set envelope = ?, leaf = ? where seq = ?", data, leaf_hash(data).hex(), seq)


def promotion(copy: Copy, proposal: str, **fields: Any) -> Promotion:
    row, model = copy.site.row(proposal), copy.site.model()
    votes = tuple(vote.record for vote in row.votes)
    made = Promotion(
        proposal, MODEL, row.proposal.bundle, model.champion, votes, False, rehearsed=model.champion
    )
    return replace(made, **fields)
