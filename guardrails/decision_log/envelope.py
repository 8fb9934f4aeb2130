"""What one record of the decision log is, to the byte: in-toto Statement v1 in a DSSE envelope.

Invariants:
- One statement has one encoding and one envelope has one encoding; ``parse_statement`` and
  ``open_envelope`` refuse every other byte string, so nothing can be altered without a trace.
- A signature covers the DSSE pre-authentication encoding: payload type and payload, both with lengths.
- A statement names its log, so a record of one log is refused by every other.
- An envelope is shorter than 64 KiB (tiled logs give an entry's length in 16 bits); what is larger
  belongs in the artifact store, and its digest in the record.

This module checks form. Who may sign what is the business of the ledger and of verification.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.codec import made
from guardrails.decision_log import plain
from guardrails.decision_log.plain import (
    KIND,
    MOMENT,
    PREDICATE_PREFIX,
    PREDICATE_VERSION,
    STATEMENT_TYPE,
)
from guardrails.errors import RecordError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SCHEMA = plain.SCHEMA
NAMESPACE = "interlock-decision"
MAX_ENVELOPE_BYTES = 65_535

# An envelope with one signature whose key id needs no escapes: what stands before, between and after its base64.
_BEFORE_PAYLOAD = b'{"payload":"'
_BEHIND_PAYLOAD = b'","payloadType":"%b","signatures":[{"keyid":"' % PAYLOAD_TYPE.encode()
_SIGNED_ONCE = re.compile(rb'([ !#-\[\]-~]+)","sig":"([A-Za-z0-9+/]+={0,2})"\}\]\}')
_STATEMENT = {"_type", "predicate", "predicateType", "subject"}
_PREDICATE = {"body", "log", "references", "schema", "time"}
_PAE = re.compile(rb"DSSEv1 ([1-9][0-9]{0,3}) ")
_RECORD, _TIME = re.compile(KIND), re.compile(MOMENT)


class Signer(Protocol):
    """Something that can sign. ``keyid`` says which key; it is a hint and proves nothing."""

    @property
    def keyid(self) -> str:
        """The fingerprint of the public key."""

    @property
    def scheme(self) -> Literal["ed25519", "sshsig"]:
        """``ed25519`` for services, ``sshsig`` for people."""

    def sign(self, pae: bytes) -> bytes:
        """The signature over a pre-authentication encoding."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a signature covers: DSSE v1 pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def unpae(data: bytes) -> tuple[str, bytes]:
    """Payload type and payload of a pre-authentication encoding: the strict inverse of ``pae``."""
    match = _PAE.match(data)
    if match:
        start = match.end() + int(match[1]) + 1
        kind, rest = data[match.end() : start - 1], data[start:]
        length, separator, payload = rest.partition(b" ")
        try:
            text = kind.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if separator and length == b"%d" % len(payload) and pae(text, payload) == data:
            return text, payload
    raise RecordError("not a DSSE pre-authentication encoding, or changed in length")


def format_time(moment: datetime) -> str:
    """An aware moment as ``YYYY-MM-DDTHH:MM:SS.ffffffZ``, which sorts as text."""
    if moment.tzinfo is None:
        raise RecordError(f"time {moment} has no time zone")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """The moment that ``format_time`` wrote; raises RecordError on any other spelling."""
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:  # the thirtieth of February
        pass
    raise RecordError(f"not a time like 2026-01-31T23:59:59.000000Z: {text!r:.80}")


# --- statement -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """An earlier record of the same log: its position, and its leaf hash in the tree."""

    seq: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.seq) is not int or self.seq < 0:
            raise RecordError(f"reference to record {self.seq!r:.80}: positions count from 0")
        Digest(self.sha256)


@dataclass(frozen=True)
class Statement:
    """What one record says. ``record`` is its kind, ``subjects`` what it is about, by digest.

    ``body`` is the record itself, ``log`` the origin of the log that it belongs to, ``time`` when
    its author says it was made, ``references`` the earlier records that it rests on.
    """

    record: str
    subjects: Mapping[str, Digest]
    body: Mapping[str, Any]
    log: str
    time: str
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.record, str) and _RECORD.fullmatch(self.record)):
            raise RecordError(f"not a record kind in lower_snake_case: {self.record!r:.80}")
        if not self.subjects:
            raise RecordError(f"{self.record}: no subject; in-toto wants at least one thing with a digest")
        if not (isinstance(self.log, str) and self.log):
            raise RecordError(f"{self.record}: the statement does not name its log")
        _require_sound(self.record, self.time, self.references)

    def encode(self) -> bytes:
        """The canonical payload; raises RecordError if the body holds what no record may hold."""
        subjects = [
            {"digest": {"sha256": self.subjects[name].hex}, "name": name} for name in sorted(self.subjects)
        ]
        predicate = {
            "body": dict(self.body),
            "log": self.log,
            "references": [{"seq": item.seq, "sha256": item.sha256} for item in self.references],
            "schema": SCHEMA,
            "time": self.time,
        }
        return canonical.encode(
            {
                "_type": STATEMENT_TYPE,
                "predicate": predicate,
                "predicateType": f"{PREDICATE_PREFIX}{self.record}{PREDICATE_VERSION}",
                "subject": subjects,
            }
        )


def _require_sound(record: str, time: str, references: Sequence[Reference]) -> None:
    """Refuse a day that there is not, and a record that is cited twice."""
    parse_time(time)
    if len(references) > 1 and len({one.seq for one in references}) != len(references):
        raise RecordError(f"{record}: a record is referenced twice")


def parse_statement(payload: bytes) -> Statement:
    """The statement of a payload: the strict inverse of ``Statement.encode``.

    Raises:
        RecordError: the payload is anything else than what ``encode`` would have written.
    """
    parts = plain.split(payload)
    if parts is not None:
        try:
            return _put_together(parts)
        except RecordError:
            pass  # the reason is found by the parser that reads all of it
    return _parsed(payload)


def _put_together(parts: plain.Parts) -> Statement:
    body = canonical.parse(parts.body, within=plain.BODY_DEPTH)
    if not isinstance(body, dict):
        raise RecordError("predicate.body is not an object")
    # The patterns have checked what the constructors would, but for two things.
    subjects = {name: Digest.known(hex_) for hex_, name in parts.subjects}
    if len(parts.subjects) > 1:
        _require_ordered(parts.record, [name for _, name in parts.subjects])
    references = tuple([made(Reference, {"seq": int(seq), "sha256": hex_}) for seq, hex_ in parts.references])
    _require_sound(parts.record, parts.time, references)
    return made(
        Statement,
        {
            "record": parts.record, "subjects": subjects, "body": body, "log": parts.log, "time": parts.time,
            "references": references,
        },
    )  # fmt: skip


def _parsed(payload: bytes) -> Statement:
    outer = _fields(canonical.parse(payload), "statement", _STATEMENT)
    inner = _fields(outer["predicate"], "predicate", _PREDICATE)
    if outer["_type"] != STATEMENT_TYPE:
        raise RecordError(f"not an in-toto Statement v1: {outer['_type']!r:.80}")
    if inner["schema"] != SCHEMA:
        raise RecordError(f"schema {inner['schema']!r:.80} is not {SCHEMA}")
    if not isinstance(inner["body"], dict):
        raise RecordError("predicate.body is not an object")
    subjects = [_subject(item) for item in _list(outer["subject"], "subject")]
    record = _record_kind(outer["predicateType"])
    _require_ordered(record, [name for name, _ in subjects])
    return Statement(
        record=record,
        subjects=dict(subjects),
        body=inner["body"],
        log=inner["log"],
        time=inner["time"],
        references=tuple(_reference(item) for item in _list(inner["references"], "references")),
    )


def _require_ordered(record: str, names: Sequence[str]) -> None:
    # The bytes are canonical and every field is known, so only this could be written in two ways.
    if any(one >= other for one, other in itertools.pairwise(names)):
        raise RecordError(f"{record}: subjects are unsorted or repeated")


def _record_kind(predicate_type: Any) -> str:
    text = predicate_type if isinstance(predicate_type, str) else ""
    if not (text.startswith(PREDICATE_PREFIX) and text.endswith(PREDICATE_VERSION)):
        raise RecordError(f"predicate type {predicate_type!r:.80} is not one of Interlock's")
    return text[len(PREDICATE_PREFIX) : -len(PREDICATE_VERSION)]


def _subject(item: Any) -> tuple[str, Digest]:
    subject = _fields(item, "subject", {"digest", "name"})
    hashes = _fields(subject["digest"], "subject.digest", {"sha256"})
    return _text(subject["name"], "subject.name"), Digest(_text(hashes["sha256"], "subject.digest.sha256"))


def _reference(item: Any) -> Reference:
    reference = _fields(item, "references", {"seq", "sha256"})
    return Reference(reference["seq"], _text(reference["sha256"], "references.sha256"))


# --- envelope ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """One signature and the key that it claims. Raw Ed25519, or a binary SSHSIG."""

    keyid: str
    signature: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload and the signatures over it."""

    payload: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The canonical DSSE bytes, signatures in the order of their key ids."""
        _require_distinct(self.signatures)
        ordered = sorted(self.signatures, key=lambda item: item.keyid)
        data = canonical.encode(
            {
                "payload": _to_base64(self.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": item.keyid, "sig": _to_base64(item.signature)} for item in ordered],
            }
        )
        if len(data) > MAX_ENVELOPE_BYTES:
            raise RecordError(
                f"the envelope has {len(data)} bytes, more than {MAX_ENVELOPE_BYTES}",
                hint="keep what is large in the artifact store and record its digest",
            )
        return data


def seal(payload: bytes, *signers: Signer) -> bytes:
    """The envelope bytes of a payload, signed by each of the signers."""
    message = pae(PAYLOAD_TYPE, payload)
    return Envelope(payload, tuple(Signature(item.keyid, item.sign(message)) for item in signers)).encode()


def open_envelope(data: bytes) -> Envelope:
    """The envelope of its bytes: the strict inverse of ``Envelope.encode``. Verifies no signature.

    Raises:
        RecordError: the bytes are anything else than what ``encode`` would have written.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise RecordError(f"the envelope has {len(data)} bytes, more than {MAX_ENVELOPE_BYTES}")
    if (plainly := _signed_once(data)) is not None:  # most are so, and need no parser
        return plainly
    fields = _fields(canonical.parse(data), "envelope", {"payload", "payloadType", "signatures"})
    if fields["payloadType"] != PAYLOAD_TYPE:
        raise RecordError(f"payload type {fields['payloadType']!r:.80} is not {PAYLOAD_TYPE}")
    signatures = tuple(_signature(item) for item in _list(fields["signatures"], "signatures"))
    _require_distinct(signatures)
    # The bytes are canonical and every field is known, so only this could be written in two ways.
    if any(one.keyid > other.keyid for one, other in itertools.pairwise(signatures)):
        raise RecordError("the signatures of the envelope are not in the order of their key ids")
    return Envelope(_from_base64(fields["payload"], "payload"), signatures)


def _signed_once(data: bytes) -> Envelope | None:
    """What a pattern finds in the bytes of an envelope, which is canonical JSON then; None where a parser has to look."""
    end = data.find(_BEHIND_PAYLOAD, len(_BEFORE_PAYLOAD))
    behind = _SIGNED_ONCE.fullmatch(data, end + len(_BEHIND_PAYLOAD))
    if behind is None or end < 0 or not data.startswith(_BEFORE_PAYLOAD):
        return None
    try:
        signature = Signature(behind[1].decode("ascii"), _bytes_of(behind[2], "sig"))
        return Envelope(_bytes_of(data[len(_BEFORE_PAYLOAD) : end], "payload"), (signature,))
    except RecordError:
        return None


def _require_distinct(signatures: Sequence[Signature]) -> None:
    if not signatures:
        raise RecordError("an envelope without a signature")
    keyids = [item.keyid for item in signatures]
    if not all(keyids) or len(set(keyids)) != len(keyids):
        raise RecordError("an envelope with two signatures by one key, or by a key without an id")


def _signature(item: Any) -> Signature:
    fields = _fields(item, "signatures", {"keyid", "sig"})
    return Signature(_text(fields["keyid"], "keyid"), _from_base64(fields["sig"], "sig"))


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(value: Any, where: str) -> bytes:
    return _bytes_of(_text(value, where).encode("utf-8"), where)


def _bytes_of(encoded: bytes, where: str) -> bytes:
    try:
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except (binascii.Error, ValueError):
        raise RecordError(f"{where} is not base64") from None
    # Unused low bits, which only the last four letters can have, would give one signature several spellings.
    if encoded and binascii.b2a_base64(data[-(len(data) % 3 or 3) :], newline=False) != encoded[-4:]:
        raise RecordError(f"{where} is not canonical base64")
    return data


# --- shape of parsed JSON ------------------------------------------------------------------


def _fields(value: Any, where: str, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        raise RecordError(f"{where} is not an object with exactly {', '.join(sorted(names))}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"{where} is not an array")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where} is not a string")
    return value
