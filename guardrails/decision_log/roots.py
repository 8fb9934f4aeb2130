"""Root keys pinned outside the database: what ties a log to the people who founded it.

Invariants:
- A pinned key must be a root of the first roster *and* have signed it. Being listed is not enough: anybody who
  makes up a log can list the key of somebody else.
- Every later roster carries the consent of the one before it (``ledger.roster``), so the first one, pinned,
  vouches for all.
"""

from __future__ import annotations

from collections.abc import Iterable

from guardrails.codec import decode_record
from guardrails.decision_log.envelope import PAYLOAD_TYPE, pae
from guardrails.decision_log.keys import is_signed_by, person_keyid
from guardrails.decision_log.snapshot import Entry
from guardrails.errors import LogVerificationError, RecordError, UsageError
from guardrails.records import Predecessor, Role, Roster

MAX_PINS = 64


def root_keys(first: Entry) -> tuple[str, ...]:
    """The public keys of the roots in a log's first record."""
    roster = _roster(first)
    return tuple(key.public for person in roster.people if Role.ROOT in person.roles for key in person.keys)


def predecessor(first: Entry) -> Predecessor | None:
    """The log that this one says to follow; None for most."""
    return _roster(first).predecessor


def _roster(first: Entry) -> Roster:
    if first.statement.record != "roster":
        raise LogVerificationError("the first record is no roster", index=0)
    return decode_record(Roster, dict(first.statement.body))


def founding_keys(first: Entry) -> tuple[str, ...]:
    """The root keys that signed the first record: those worth pinning."""
    message = pae(PAYLOAD_TYPE, first.statement.encode())
    return tuple(key for key in root_keys(first) if is_signed_by(key, message, first.signatures))


def require_pinned(first: Entry, pins: Iterable[str]) -> None:
    """Raise LogVerificationError unless every pinned key is a root of the first roster and signed it."""
    signed = {person_keyid(key) for key in founding_keys(first)}
    for pin in pins:
        if person_keyid(pin) not in signed:
            raise LogVerificationError(
                "the first roster is not signed by the root key that was given",
                index=0,
                hint=f"pinned is {person_keyid(pin)}; this is another log, or somebody replaced it",
            )


def parse_pins(text: str, where: str) -> tuple[str, ...]:
    """The keys in a list of OpenSSH public keys, one a line; ``#`` begins a comment line.

    Raises:
        UsageError: no key in it, or something that is none. An empty list would pin nothing in silence.
    """
    lines = [line.strip() for line in text.splitlines()]
    keys = [" ".join(line.split()[:2]) for line in lines if line and not line.startswith("#")]
    try:
        for key in keys:
            person_keyid(key)
    except RecordError as error:
        raise UsageError(f"{where}: not an OpenSSH public key: {error.message}") from None
    if not 1 <= len(keys) <= MAX_PINS:
        raise UsageError(f"{where}: {len(keys)} root keys, 1 to {MAX_PINS} are needed")
    return tuple(dict.fromkeys(keys))
