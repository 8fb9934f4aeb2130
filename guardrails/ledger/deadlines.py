"""Until when a change was allowed, from the state before it: what witnesses' times are compared with. Pure.

Invariant: a change was allowed for as long as everything that it rests on held: the approval by its policy, each
approval that counts by its own end, each waiver that the verdict used, the request of a rollback.
"""

from __future__ import annotations

from guardrails.codec import decode_record
from guardrails.decision_log.envelope import parse_time
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Reader
from guardrails.ledger.rows import RequestRow, read, require_proposal
from guardrails.ledger.standing import standing_of
from guardrails.ledger.waivers import granted_for
from guardrails.records import Promotion, Rollback


def expiry_of(tables: Reader, entry: Entry) -> str:
    """When a promotion or a rollback would have been too late; empty where nothing ends. Raises InterlockError."""
    if entry.statement.record == "rollback":
        request = read(tables, RequestRow, decode_record(Rollback, dict(entry.statement.body)).request)
        return "" if request is None or request.terms is None else request.terms.expires_at
    promotion = decode_record(Promotion, dict(entry.statement.body))
    row, time = require_proposal(tables, promotion.proposal), entry.statement.time
    standing = standing_of(tables, row, time)
    ends = [vote.expires_at for vote in row.votes if vote.record in standing.decisions and vote.expires_at]
    if row.proposal is not None:
        waivers = granted_for(tables, row.proposal.bundle)
        ends += [
            waiver.expires_at for waiver in waivers
            if waiver.rule in row.waived and waiver.holds_at(parse_time(time))
        ]  # fmt: skip
    return min([standing.expires_at, *ends])
