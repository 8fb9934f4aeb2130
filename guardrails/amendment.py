"""A change of the roster, as people prepare, read and sign it before it reaches the log.

Invariants:
- What a root is shown (``changes``) is computed from the very bytes that are signed, against the roster in force.
- An amendment carries its exact payload and the signatures so far; adding a signature changes nothing else.
- Editing gives the next version and never removes a person or a key; the ledger has the last word on all of it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from guardrails.codec import decode_record
from guardrails.decision_log.envelope import (
    PAYLOAD_TYPE,
    SCHEMA,
    Envelope,
    Signature,
    Signer,
    Statement,
    pae,
    parse_statement,
)
from guardrails.decision_log.keys import person_keyid, service_keyid
from guardrails.errors import DeniedError, InvalidInputError, RecordError, UnknownNameError
from guardrails.ledger.roster import require_kept, require_sound, signed_roots
from guardrails.records import Key, Opening, Person, Role, Roster

KIND = "roster-amendment"
MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class Amendment:
    """The next roster on its way to the log. ``openings`` are the names of those who join."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()
    openings: tuple[Opening, ...] = ()

    @property
    def statement(self) -> Statement:
        """What is signed, parsed."""
        return parse_statement(self.payload)

    @property
    def roster(self) -> Roster:
        """The roster that would be in force."""
        return decode_record(Roster, dict(self.statement.body))

    @property
    def message(self) -> bytes:
        """The bytes that a signature covers; what ``ssh-keygen -Y sign`` is given."""
        return pae(PAYLOAD_TYPE, self.payload)

    def signed(self, *signers: Signer) -> Amendment:
        """With more signatures; one by the same key takes the place of the former."""
        added = {signer.keyid: Signature(signer.keyid, signer.sign(self.message)) for signer in signers}
        kept = tuple(item for item in self.signatures if item.keyid not in added)
        return replace(self, signatures=(*kept, *added.values()))

    def envelope(self) -> bytes:
        """The record, as it enters the log."""
        return Envelope(self.payload, self.signatures).encode()

    def missing(self, former: Roster | None) -> tuple[int, int]:
        """How many signatures of former roots and of new roots are missing."""
        short = [0, 0]
        for index, roster in enumerate((former, self.roster)):
            if roster is not None:
                signed = signed_roots(roster, self.payload, self.signatures)
                short[index] = max(roster.threshold - len(signed), 0)
        return short[0], short[1]

    def encode(self) -> bytes:
        """The file that goes from root to root."""
        value = {
            "schema": SCHEMA,
            "kind": KIND,
            "payload": _to_base64(self.payload),
            "signatures": [
                {"keyid": item.keyid, "sig": _to_base64(item.signature)} for item in self.signatures
            ],
            "openings": [{"salt": item.salt, "text": item.text} for item in self.openings],
        }
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")

    @classmethod
    def decode(cls, data: bytes, where: str) -> Amendment:
        """Read such a file.

        Raises:
            InvalidInputError: it is not one, or a name in it does not open what the roster commits to.
        """
        try:
            made = _decoded(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecordError) as error:
            reason = error.message if isinstance(error, RecordError) else "damaged"
            raise InvalidInputError(f"{where}: not a proposed roster: {reason:.200}") from None
        return made


# --- editing -------------------------------------------------------------------------------


def following(roster: Roster) -> Roster:
    """The same roster as its next version, to be edited."""
    return replace(roster, version=roster.version + 1, predecessor=None)


def with_person(roster: Roster, person: Person) -> Roster:
    """Somebody joins."""
    return replace(roster, people=(*roster.people, person))


def with_roles(roster: Roster, person_id: str, roles: tuple[Role, ...]) -> Roster:
    """Somebody's roles, all of them, from now on; none at all leaves a name without a say."""
    return _edited(roster, person_id, lambda person: replace(person, roles=roles))


def with_key(roster: Roster, person_id: str, public: str) -> Roster:
    """One more key of a person."""
    return _edited(roster, person_id, lambda person: replace(person, keys=(*person.keys, Key(public))))


def without_keys(roster: Roster, person_id: str, keyid: str = "") -> Roster:
    """Revoke one key of a person, or every one; raises UnknownNameError where there is none such."""
    if keyid and keyid not in {
        person_keyid(k.public) for p in roster.people if p.id == person_id for k in p.keys
    }:
        raise UnknownNameError(f"{person_id} has no key {keyid:.80}", hint="interlock roster show")
    return _edited(
        roster,
        person_id,
        lambda person: replace(
            person,
            keys=tuple(
                replace(key, revoked=True) if keyid in ("", person_keyid(key.public)) else key
                for key in person.keys
            ),
        ),
    )  # fmt: skip


def with_service(roster: Roster, name: str, public: str) -> Roster:
    """A service's key from now on."""
    return replace(roster, services={**roster.services, name: public})


def require_acceptable(former: Roster | None, roster: Roster) -> None:
    """Refuse early what the ledger would refuse, before anybody is asked for a passphrase."""
    require_sound(roster)
    if former is not None:
        require_kept(former, roster)
        if replace(roster, version=former.version) == former:
            raise DeniedError("this roster changes nothing")


def _edited(roster: Roster, person_id: str, change: Callable[[Person], Person]) -> Roster:
    if person_id not in {person.id for person in roster.people}:
        raise UnknownNameError(f"{person_id:.80} is not in roster {roster.version}")
    return replace(
        roster, people=tuple(change(person) if person.id == person_id else person for person in roster.people)
    )


# --- reading -------------------------------------------------------------------------------


def changes(former: Roster | None, roster: Roster, name_of: Callable[[str], str]) -> tuple[str, ...]:
    """What is different, one sentence each, weightiest first: threshold, roots, people, keys, services."""
    lines: list[str] = []
    before = {person.id: person for person in former.people} if former else {}
    if former is None:
        lines.append(f"a first roster; changes need {roster.threshold} of its roots")
    elif roster.threshold != former.threshold:
        lines.append(f"changes need {roster.threshold} roots instead of {former.threshold}")
    for person in roster.people:
        lines.extend(_changes_of(before.get(person.id), person, name_of(person.id)))
    left = set(before) - {person.id for person in roster.people}
    lines.extend(f"{name_of(person_id)} ({person_id}) is left out" for person_id in sorted(left))
    old = former.services if former else {}
    for name, public in sorted(roster.services.items()):
        if old.get(name) != public:
            was = f" instead of {service_keyid(old[name])}" if name in old else ""
            lines.append(f"the {name} service signs with {service_keyid(public)}{was}")
    if roster.predecessor is not None:
        lines.append(f"it goes on from {roster.predecessor.origin}, at {roster.predecessor.size} records")
    return tuple(lines)


def _changes_of(former: Person | None, person: Person, name: str) -> Iterable[str]:
    roles = ", ".join(person.roles) or "no role"
    if former is None:
        yield f"{name} ({person.id}) joins as {roles}"
    else:
        if former.roles != person.roles:
            yield f"{name} ({person.id}): {roles} instead of {', '.join(former.roles) or 'no role'}"
        if former.name != person.name:
            yield f"{person.id} goes by another name: {name}"
    known = {key.public: key for key in former.keys} if former else {}
    for key in person.keys:
        keyid, own = person_keyid(key.public), f" of {name}"
        if key.public not in known:
            yield f"new key {keyid}{own} ({key.public.split()[0]}){', revoked' if key.revoked else ''}"
        elif key.revoked and not known[key.public].revoked:
            yield f"key {keyid}{own} is revoked"
        elif not key.revoked and known[key.public].revoked:
            yield f"key {keyid}{own} is no longer revoked"


def _decoded(data: bytes) -> Amendment:
    value = json.loads(data[: MAX_FILE_BYTES + 1])
    if value["schema"] != SCHEMA or value["kind"] != KIND:
        raise RecordError("another kind of file")
    made = Amendment(
        base64.b64decode(value["payload"], validate=True),
        tuple(
            Signature(str(item["keyid"]), base64.b64decode(item["sig"], validate=True))
            for item in value["signatures"]
        ),
        tuple(Opening(str(item["salt"]), str(item["text"])) for item in value["openings"]),
    )
    if made.statement.record != "roster":
        raise RecordError("it holds no roster")
    committed = {person.name for person in made.roster.people}
    if any(opening.commitment() not in committed for opening in made.openings):
        raise RecordError("a name in it does not fit the roster that is signed")
    return made


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def fields_of(amendment: Amendment, former: Roster | None, name_of: Callable[[str], str]) -> dict[str, Any]:
    """What is known of an amendment, for JSON and for people."""
    old, new = amendment.missing(former)
    roster = amendment.roster
    return {
        "log": amendment.statement.log,
        "version": roster.version,
        "time": amendment.statement.time,
        "threshold": roster.threshold,
        "changes": list(changes(former, roster, name_of)),
        "signed_by": [item.keyid for item in amendment.signatures],
        "missing_old": old,
        "missing_new": new,
        "complete": not (old or new),
    }
