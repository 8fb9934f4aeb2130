"""A site with a row in every table, forgeries of each, and whatever a gate must not do then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from fakes import BLOCKED, MODEL, PASSING, Site, erase, halt, policy, resume

from guardrails.decision_log.envelope import seal
from guardrails.records import Action, Waiver

TABLES = ("erased", "models", "policies", "proposals", "requests", "roster", "waivers", "workspace")
FORGERIES = ("changed", "removed", "added")


def site_with_a_row_in_every_table(folder: Path) -> Site:
    """A site with a row in every table, and something to do for each kind of decision."""
    made = Site(folder)
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
    erase(made, named)
    made.rejected = made.judged(PASSING, "rejected")
    made.decide("ada", Action.REJECT, made.rejected)
    made.clock.pass_(days=31)
    made.waiting = made.judged(PASSING, "waiting")
    return made


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
