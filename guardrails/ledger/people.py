"""Who signed a record, and whether the roster then in force lets them.

Invariants: a machine record needs the signature of the service that makes such records; a decision needs
one signature by a key, not revoked, of the person that it names, in a role that this person holds, and so do
answers, in any role (who signs a roster: see ``roster``). A signature that nobody can be named for counts for nothing.
A signature states the fingerprint of the key that made it: with any other key id the same signature would
make a second record, and an approval that was taken back could be handed in again.
"""

from __future__ import annotations

from guardrails.decision_log.envelope import PAYLOAD_TYPE, pae
from guardrails.decision_log.keys import is_signed_by, service_keyid, verify_service
from guardrails.decision_log.store import Entry
from guardrails.errors import DeniedError, RecordError, StaleError, UnknownNameError
from guardrails.ledger.rows import Vote
from guardrails.records import Decision, Person, Roster

SERVICE_OF = {
    "proposal": "learner",
    "evidence": "evaluator",
    "verdict": "gate",
    "promotion": "gate",
    "rollback": "gate",
    "transition": "gate",
    "failure": "gate",
    "removal": "gate",
}
"""Record → the service whose key must sign it."""

SERVICES = ("evaluator", "gate", "learner", "log")


def require_service(entry: Entry, roster: Roster) -> None:
    """Refuse a machine record that its service did not sign."""
    service = SERVICE_OF[entry.statement.record]
    public = roster.services.get(service, "")
    if len(entry.signatures) != 1:
        raise DeniedError(f"{entry.statement.record}: needs exactly one signature, by the {service} service")
    refusal = f"{entry.statement.record}: not signed by the {service} service of roster {roster.version}"
    signature = entry.signatures[0]
    try:
        if public not in entry.proven:
            verify_service(public, _message(entry), signature.signature)
    except (DeniedError, RecordError):
        raise DeniedError(refusal) from None
    if signature.keyid != service_keyid(public):
        raise DeniedError(refusal)


def require_signer(entry: Entry, decision: Decision, roster: Roster) -> Person:
    """The person who made a decision; refuses unknown people, foreign or revoked keys and missing roles."""
    person = find_person(roster, decision.person)
    if decision.role not in person.roles:
        raise DeniedError(f"{person.id} does not hold the role {decision.role}")
    require_own(entry, person, decision.roster, roster, "decision")
    return person


def require_own(entry: Entry, person: Person, stated: int, roster: Roster, what: str) -> None:
    """Refuse a record that this person did not sign with a key in force, or prepared under another roster."""
    if len(entry.signatures) != 1 or not _signed_by(entry, person):
        raise DeniedError(f"the {what} is not signed by a key of {person.id} that is in force")
    if stated != roster.version:
        raise StaleError(
            f"the {what} was prepared under roster {stated}, {roster.version} is in force",
            hint="prepare and sign it again",
        )


def vote_of(entry: Entry, decision: Decision) -> Vote:
    """A decision as a vote: what a quorum counts."""
    return Vote(
        decision.action, decision.person, decision.role, entry.statement.time, decision.surface,
        decision.viewed, decision.reason, entry.leaf_digest, entry.seq, decision.roster, decision.binding,
        decision.expires_at,
    )  # fmt: skip


def find_person(roster: Roster, person_id: str) -> Person:
    """The person with an id; raises UnknownNameError."""
    for person in roster.people:
        if person.id == person_id:
            return person
    raise UnknownNameError(f"{person_id} is not in roster {roster.version}")


def _signed_by(entry: Entry, person: Person) -> bool:
    """True if one of the signatures holds under a key of this person that is not revoked."""
    keys = [key.public for key in person.keys if not key.revoked]
    if any(key in entry.proven for key in keys):
        return True
    message = _message(entry)
    return any(is_signed_by(key, message, entry.signatures) for key in keys)


def _message(entry: Entry) -> bytes:
    return pae(PAYLOAD_TYPE, entry.payload)
