"""Budgets of the policies: what may wait for people, be proposed and be computed a day and a week. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError
from guardrails.ledger.in_force import effective_for
from guardrails.ledger.rows import ModelRow, ProposalRow, read_all
from guardrails.records import State

DAY = timedelta(days=1)
WEEK = timedelta(days=7)


def require_within_budgets(tables: Reader, model: ModelRow, now: str) -> None:
    """Refuse a new proposal while the policies' budgets for proposals and compute are used up."""
    effective = effective_for(tables, model)
    moment = parse_time(now)
    rows = list(read_all(tables, ProposalRow))
    week = [row for row in rows if _is_of_last(WEEK, row.created_at, moment)]
    today = [row for row in week if is_of_last_day(row.created_at, moment)]
    pending = sum(1 for row in rows if row.state in (State.AWAITING_APPROVAL, State.APPROVED))
    budgets = (
        ("proposals waiting for people", pending, effective.proposals_pending),
        ("proposals in the last 24 hours", len(today), effective.proposals_per_day),
        ("proposals in the last 7 days", len(week), effective.proposals_per_week),
        ("CPU hours in the last 24 hours", _cpu_hours(today), effective.cpu_hours_per_day),
        ("CPU hours in the last 7 days", _cpu_hours(week), effective.cpu_hours_per_week),
    )
    for what, used, limit in budgets:
        if limit is not None and used >= limit:
            raise DeniedError(
                f"budget: {what}: {used:g} of {limit:g} used", hint="decide on what waits, or wait"
            )


def is_of_last_day(time: str, now: datetime) -> bool:
    """Whether a record's time lies in the 24 hours before another time.

    What is dated later does not: the roots have set the log's clock back since, and it would count until then.
    """
    return _is_of_last(DAY, time, now)


def _is_of_last(span: timedelta, time: str, now: datetime) -> bool:
    return timedelta(0) <= now - parse_time(time) < span


def _cpu_hours(rows: list[ProposalRow]) -> float:
    return sum(_cpu_seconds(row) for row in rows) / 3600


def _cpu_seconds(row: ProposalRow) -> float:
    trained = row.proposal.compute.cpu_s if row.proposal else 0.0
    failed = row.failure.compute.cpu_s if row.failure and row.failure.compute else 0.0
    return trained + failed + (row.evidence.compute.cpu_s if row.evidence else 0.0)
