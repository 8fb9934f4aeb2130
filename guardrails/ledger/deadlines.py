"""Until when a promotion was allowed, from the state before it: what witnesses' times are compared with."""

from __future__ import annotations

from guardrails.codec import decode_record
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader
from guardrails.ledger.rows import require_proposal
from guardrails.ledger.standing import standing_of
from guardrails.records import Promotion


def expiry_of(tables: Reader, entry: Entry) -> str:
    """The time at which the approval that a promotion rests on would have ended; raises InterlockError."""
    promotion = decode_record(Promotion, dict(entry.statement.body))
    row = require_proposal(tables, promotion.proposal)
    return standing_of(tables, row, entry.statement.time).expires_at
