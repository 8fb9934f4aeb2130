"""Records of two ages: the forms that say more, and what a log that has begun with them no longer takes.

Some records have grown a field since the first logs were written. A log from before stays what it was: its
records are read as they were meant then. But the field is a protection, so leaving it out must not be a way
around it: with the first record of the fuller form a log is ``strict``, and the former form is refused.

| record | field | without it |
|---|---|---|
| transition to ``measuring`` | ``attempt`` | the error budget is spent when evidence comes, an aborted measurement is free |
| evidence | ``measurement`` | it does not say which measurement it comes from |
| promotion | ``rehearsed`` | nobody says that the way back was tried |
| proposal | ``generated`` | it does not say which of its data a model wrote |
| decision on a request | ``terms`` | the request never expires, a rollback does not name the champion that it leaves |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guardrails.decision_log.tables import Tables
from guardrails.errors import StaleError
from guardrails.ledger.rows import Workspace, read, replaced, write
from guardrails.records import Action, Decision, Evidence, Promotion, Proposal, State, Transition

REQUESTED = (
    Action.ROLLBACK, Action.HALT, Action.RESUME, Action.ACTIVATE, Action.DEACTIVATE, Action.WAIVE, Action.REVOKE,
    Action.SET_CLOCK, Action.ERASE,
)  # fmt: skip
"""The actions that people sign together under the id of a request."""


def enter(tables: Tables, record: Any) -> None:
    """Note a record of the fuller form; refuse one of the former form once there was such a record.

    Raises:
        StaleError: the record leaves out what this log has learned to ask for.
    """
    is_full = _is_full(record)
    if is_full is None:
        return
    workspace = read(tables, Workspace)
    if workspace is None or is_full is workspace.strict:
        return
    if not is_full:
        raise StaleError(
            f"a {type(record).__name__.lower()} of a former form: this log asks for more by now",
            hint="prepare it again with the version that is installed",
        )
    write(tables, replaced(workspace, strict=True))


def _is_full(record: Any) -> bool | None:
    """Whether a record is of the fuller form; None where there is one form only."""
    says = _SAYS_MORE.get(type(record))
    return None if says is None else says(record)


_SAYS_MORE: dict[type[Any], Callable[[Any], bool | None]] = {
    Transition: lambda record: record.attempt is not None if record.state is State.MEASURING else None,
    Evidence: lambda record: record.measurement is not None,
    Promotion: lambda record: record.rehearsed is not None,
    Proposal: lambda record: record.generated is not None,
    Decision: lambda record: record.terms is not None if record.action in REQUESTED else None,
}
