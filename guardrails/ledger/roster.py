"""The roster: who may follow whom, and who must have agreed.

Invariants:
- A roster enters with the threshold of distinct roots of the roster before it *and* of its own roots: the old
  ones hand over, the new ones take over. A signature by anybody else makes the record unacceptable.
- Nobody and no key ever leaves: a person's keys are revoked instead, and what was revoked stays revoked. So a
  key means one person through the whole log, and a decision made before its key was revoked keeps its name.
- A key belongs to one person, under one spelling; no key of a service belongs to a person or to two services.
- No roster locks the door behind itself: its roots can reach its threshold.
- Revocation, like every other change, counts from the record's position in the log, never from a date.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from guardrails.decision_log.envelope import PAYLOAD_TYPE, Signature, pae
from guardrails.decision_log.keys import is_signed_by, person_keyid, service_keyid
from guardrails.decision_log.sshsig import PublicKey
from guardrails.decision_log.store import Entry
from guardrails.decision_log.tables import Tables
from guardrails.errors import DeniedError, StaleError
from guardrails.ledger.people import SERVICES
from guardrails.ledger.rows import RosterRow, read, write
from guardrails.records import Person, Role, Roster


def enter(tables: Tables, entry: Entry, roster: Roster) -> None:
    """Put a roster in force from this record on, or refuse it."""
    row = read(tables, RosterRow)
    former = None if row is None else row.roster
    require_sound(roster)
    expected = 1 if former is None else former.version + 1
    if roster.version != expected:
        raise StaleError(f"roster version {roster.version} does not follow {expected - 1}")
    _require_signed(entry, former, roster)
    if former is not None:
        require_kept(former, roster)
        if roster.predecessor is not None:
            raise DeniedError("only the first roster of a log can name a predecessor")
    write(tables, RosterRow(roster, entry.leaf_digest))


def require_sound(roster: Roster) -> None:
    """Refuse a roster that could be read in two ways, or that nobody could ever change again.

    Raises:
        DeniedError: with what is wrong.
        RecordError: a key is not written as OpenSSH writes it.
    """
    roots = roots_of(roster)
    if not roots:
        raise DeniedError("a roster needs at least one root", hint="a root whose key is not revoked")
    if not 1 <= roster.threshold <= len(roots):
        raise DeniedError(
            f"threshold {roster.threshold}, but {len(roots)} of its roots can sign",
            hint="nobody could ever change such a roster",
        )
    if len({person.id for person in roster.people}) != len(roster.people):
        raise DeniedError("a person stands twice in the roster")
    parsed = [PublicKey.parse(key.public) for person in roster.people for key in person.keys]
    written = [key.public for person in roster.people for key in person.keys]
    if len({key.keyid for key in parsed}) != len(parsed):
        raise DeniedError("a key stands twice in the roster", hint="one key belongs to one person")
    if written != [key.text for key in parsed]:
        raise DeniedError("a key is not written as 'type base64', without anything else")
    _require_services(roster, {service_keyid(_base64(key)) for key in parsed})


def require_kept(former: Roster, roster: Roster) -> None:
    """Refuse a roster that leaves out a person or a key, or that lets a revoked key sign again."""
    people = {person.id: person for person in roster.people}
    for person in former.people:
        if person.id not in people:
            raise DeniedError(f"{person.id} left the roster", hint="revoke the keys; nobody is left out")
        keys = {key.public: key for key in people[person.id].keys}
        for key in person.keys:
            if key.public not in keys:
                raise DeniedError(
                    f"key {person_keyid(key.public)} of {person.id} left the roster", hint="revoke it instead"
                )
            if key.revoked and not keys[key.public].revoked:
                raise DeniedError(
                    f"key {person_keyid(key.public)} of {person.id} was revoked and cannot come back",
                    hint="use a new key",
                )


def roots_of(roster: Roster) -> tuple[Person, ...]:
    """The roots that can sign: people in that role with a key that is not revoked."""
    return tuple(
        person
        for person in roster.people
        if Role.ROOT in person.roles and any(not key.revoked for key in person.keys)
    )


def signed_roots(roster: Roster, payload: bytes, signatures: Iterable[Signature]) -> tuple[str, ...]:
    """The ids of the roots of a roster whose signature on a payload holds; each counts once."""
    message, given = pae(PAYLOAD_TYPE, payload), tuple(signatures)
    return tuple(
        person.id
        for person in roots_of(roster)
        if any(not key.revoked and is_signed_by(key.public, message, given) for key in person.keys)
    )


def _require_signed(entry: Entry, former: Roster | None, roster: Roster) -> None:
    payload = entry.statement.encode()
    for which in (former, roster):
        if which is not None:
            signed = len(signed_roots(which, payload, entry.signatures))
            if signed < which.threshold:
                what = "roster" if which is former else "roster (its own roots)"
                raise DeniedError(f"{what}: signed by {signed} of the {which.threshold} roots needed")
    both = (*(roots_of(former) if former else ()), *roots_of(roster))
    keys = {key.public for person in both for key in person.keys if not key.revoked}
    for signature in entry.signatures:
        if not any(is_signed_by(public, pae(PAYLOAD_TYPE, payload), (signature,)) for public in keys):
            raise DeniedError(
                f"roster: the signature of {signature.keyid:.80} is by no root, or does not hold"
            )


def _require_services(roster: Roster, people: set[str]) -> None:
    if set(roster.services) != set(SERVICES):
        raise DeniedError(f"a roster names a key for each of {', '.join(SERVICES)}, and for nothing else")
    services = [service_keyid(public) for public in roster.services.values()]
    if len(set(services)) != len(services):
        raise DeniedError("two services have the same key")
    if people & set(services):
        raise DeniedError("the key of a service stands in the roster as a person's")


def _base64(key: PublicKey) -> str:
    """The raw public key as services write theirs; the same 32 bytes can be dressed as either."""
    return base64.b64encode(key.raw).decode("ascii")
