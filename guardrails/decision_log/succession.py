"""Whose key signs the log's checkpoints, and at which size: the log's key can be replaced.

Invariants:
- The checkpoint over ``n`` records is signed by the log key of the roster in force after them. A former key
  signs nothing that counts any more, a later one nothing from before: by position, never by date.
- The first checkpoint after a change carries both signatures, the former key's and the new one's: whoever
  knows only the former key can check the step, and finds the new key in the roster that it covers.
"""

from __future__ import annotations

from guardrails.decision_log import checkpoint as notes
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.snapshot import Entry
from guardrails.decision_log.tables import Reader
from guardrails.errors import DeniedError, StaleError

LOG = "log"


class LogKeys:
    """The log's keys, learnt from its rosters in order."""

    def __init__(self) -> None:
        self._since: list[tuple[int, str]] = []

    def learn(self, entry: Entry) -> None:
        """Take in the next record; only rosters say anything here."""
        services = entry.statement.body.get("services")
        if entry.statement.record != "roster" or not isinstance(services, dict):
            return
        public = str(services.get(LOG, ""))
        if not self._since or self._since[-1][1] != public:
            self._since.append((entry.seq + 1, public))

    def at(self, size: int) -> str:
        """The key that signs the checkpoint over so many records; empty where no roster is known.

        Before the first roster the log can only have been signed by the key that this one names.
        """
        known = [public for since, public in self._since if since <= size]
        return known[-1] if known else self._since[0][1] if self._since else ""


def key_in_force(tables: Reader) -> str:
    """The log's key by the roster in force; empty before set-up."""
    row = tables.get("roster", "current") or {}
    return str(row.get("roster", {}).get("services", {}).get(LOG, ""))


def require_in_force(tables: Reader, signer: ServiceKey) -> None:
    """Refuse to write with a key that the roster has replaced since this process started."""
    if key_in_force(tables) not in ("", signer.public_base64):
        raise StaleError(
            "the log's key was replaced, and this process still has the former one",
            hint="nothing was written; start it again",
        )


def sign(tables: Reader, point: Checkpoint, signer: ServiceKey, successor: ServiceKey | None) -> str:
    """The note of a tree head, by the key that the roster in force names; by both where it just changed.

    Raises:
        DeniedError: the roster names a key that nobody here has; the log could never be extended again.
    """
    named = key_in_force(tables)
    note = notes.sign(point, signer)
    if named in ("", signer.public_base64):
        return note
    if successor is None or successor.public_base64 != named:
        raise DeniedError(
            "the new roster names a log key that is not here; nothing was written",
            hint="commit it where `interlock roster rotate-service log` made the key",
        )
    return note + notes.sign(point, successor).rpartition("\n\n")[2]
