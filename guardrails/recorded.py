"""What the signed records themselves say of a model: asked before work is spent on a champion.

Invariants:
- No table is believed: every record is read, the tree over all of them is built anew, and it must be the one that
  the log's own key has signed.
- A champion is what the last adoption, promotion or rollback in the log made one. Whether the rules allowed that
  record is not asked again here: the gate did when it was appended, ``log verify`` and ``loader`` do from the start.
"""

from __future__ import annotations

from guardrails.decision_log import merkle
from guardrails.decision_log.snapshot import Entry
from guardrails.decision_log.store import Log
from guardrails.decision_log.tables import Reader
from guardrails.errors import LogVerificationError
from guardrails.ledger.rows import ModelRow, ProposalRow, read, require_model
from guardrails.records import Action

_MOVES = ("promotion", "rollback")


def require_recorded(log: Log, model: str, proposal: str = "") -> ModelRow:
    """The row of a model, found to say what the records say of its champion and of its base.

    Costs one reading of the log (some 50 microseconds a record), and holds no lock meanwhile.

    Args:
        log: The log, opened with its key.
        model: The model's name.
        proposal: A proposal whose bundle must be the recorded one too; empty: none.

    Raises:
        UnknownNameError: there is no such model.
        LogVerificationError: the tables say something else than the records, or the records are not those signed.
    """
    with log.read() as snapshot:
        row = require_model(snapshot.tables, model)
        tree, reigns, bundles = merkle.Tree(), [""], {""}
        for entry in snapshot.entries():
            tree.append(bytes.fromhex(entry.leaf))
            reigns += _moved_to(entry, model)
            if entry.statement.record == "proposal" and entry.statement.body.get("id") == proposal:
                bundles.add(str(entry.statement.body.get("bundle")))
        log.require_signed(snapshot, tree.root().hex())
        _require_same(model, "champion", str(row.champion), reigns[-1])
        _require_same(model, "base", str(row.original), next(filter(None, reigns), ""))
        bundle = _bundle_of(snapshot.tables, proposal)
        if bundle not in bundles:
            _require_same(proposal, "bundle", bundle, max(bundles))
        return row


def _moved_to(entry: Entry, model: str) -> list[str]:
    """The champion that a record makes of a model; empty where it makes none."""
    kind, body = entry.statement.record, entry.statement.body
    if kind in _MOVES and body.get("model") == model:
        return [str(body.get("bundle"))]
    if kind == "decision" and body.get("action") == Action.ADOPT.value and body.get("target") == model:
        return [str(body.get("digest"))]
    return []


def _bundle_of(tables: Reader, proposal: str) -> str:
    row = read(tables, ProposalRow, proposal) if proposal else None
    return "" if row is None or row.proposal is None else str(row.proposal.bundle)


def _require_same(name: str, what: str, stored: str, recorded: str) -> None:
    if stored != recorded:
        raise LogVerificationError(
            f"{name}: the table names the {what} {stored[:19]}, the records {recorded[:19] or 'none'}",
            hint="nothing was done; `interlock log verify` says more, `log rebuild` makes the tables anew",
        )
