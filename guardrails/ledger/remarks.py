"""How much may be said of one proposal or request: enough for every discussion, not enough to bury it.

Invariants:
- Nobody, and nobody's stolen key, can take away the others' room: one person's remarks end before all of them do.
- Deciding is never limited: only comments and requests for change are counted.
- Asked by the gate, before anybody is asked for a passphrase and again where it appends; not by the verifier: a log
  with more remarks, written before there was a limit, stays what it is.
"""

from __future__ import annotations

from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError
from guardrails.ledger.rows import ProposalRow, RequestRow, read
from guardrails.records import Action, Decision

MAX_REMARKS = 500
"""So many comments and requests for change are kept of one proposal, and comments of one request."""
MAX_REMARKS_EACH = 50
"""So many of them by one person."""

COUNTED = (Action.COMMENT, Action.REQUEST_CHANGES)


def require_room(tables: Reader, decision: Decision) -> None:
    """Refuse one more remark where there is no room for it; every other decision passes.

    Raises:
        DeniedError: this person, or everybody together, has said as much as is kept.
    """
    if decision.action not in COUNTED:
        return
    row = read(tables, ProposalRow, decision.target) or read(tables, RequestRow, decision.target)
    said = [remark for remark in row.remarks if remark.action in COUNTED] if row else []
    own = sum(remark.person == decision.person for remark in said)
    if own >= MAX_REMARKS_EACH:
        raise DeniedError(
            f"{decision.target}: you have said {own} things of it, {MAX_REMARKS_EACH} are kept of one person",
            hint="decide: approve, reject or withdraw; what else there is to say belongs elsewhere",
        )
    if said and len(said) >= MAX_REMARKS:
        raise DeniedError(
            f"{decision.target}: {len(said)} remarks have been made on it, {MAX_REMARKS} are kept",
            hint="decide: approve, reject or withdraw; what else there is to say belongs elsewhere",
        )
