"""How a proposal came to its end, in one sentence: who decided, and why."""

from __future__ import annotations

from collections.abc import Callable

from guardrails.ledger.rows import ProposalRow, Vote
from guardrails.records import Action, Commitment, State
from ui.presenters.texts import one_line

_ENDS = {State.REJECTED: "rejected", State.WITHDRAWN: "withdrawn", State.PROMOTED: "approved"}
_REASON_CHARS = 200


def ending(row: ProposalRow, name_of: Callable[[str], str], text_of: Callable[[Commitment], str]) -> str:
    """Who rejected, withdrew or approved it and why; for other ends what the log notes, empty where it notes nothing."""
    word = _ENDS.get(row.state)
    voted = [vote for vote in row.votes if (vote.action is Action.APPROVE) == (row.state is State.PROMOTED)]
    if word is None or not voted:
        return row.note
    return f"{word} by " + ", ".join(_said(vote, name_of, text_of) for vote in voted)


def _said(vote: Vote, name_of: Callable[[str], str], text_of: Callable[[Commitment], str]) -> str:
    return f"{one_line(name_of(vote.person), 60)}: “{one_line(text_of(vote.reason), _REASON_CHARS)}”"
