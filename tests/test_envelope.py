"""The bytes of a record: one encoding, nothing alterable, nothing malformed let in."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails import canonical
from guardrails.canonical import Digest, digest
from guardrails.decision_log import envelope as env
from guardrails.decision_log import merkle, plain
from guardrails.decision_log.envelope import Envelope, Reference, Signature, Statement
from guardrails.decision_log.keys import PersonKey, ServiceKey, verify_person, verify_service
from guardrails.errors import DeniedError, InterlockError, RecordError

TIME = "2026-01-31T23:59:59.000001Z"
SERVICE = ServiceKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
PERSON = PersonKey(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


def statement(**changes: Any) -> Statement:
    fields: dict[str, Any] = {
        "record": "proposal",
        "subjects": {"bundle": digest(b"b"), "base": digest(b"a")},
        "body": {"seed": 7, "model": "navigator"},
        "log": "interlock/test",
        "time": TIME,
        "references": (Reference(3, "ab" * 32),),
    }
    return Statement(**(fields | changes))


def admit(data: bytes) -> Statement:
    """Everything between bytes from outside and a statement that one of two pinned keys signed."""
    opened = env.open_envelope(data)
    message = env.pae(env.PAYLOAD_TYPE, opened.payload)
    for signature in opened.signatures:
        if signature.keyid == SERVICE.keyid:
            verify_service(SERVICE.public_base64, message, signature.signature)
        elif signature.keyid == PERSON.keyid:
            verify_person(PERSON.public, message, signature.signature)
        else:
            raise DeniedError(f"unknown key {signature.keyid}")
    return env.parse_statement(opened.payload)


# --- golden bytes --------------------------------------------------------------------------


def test_pae_is_the_one_of_the_dsse_specification():
    assert env.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert env.pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_payload_is_exactly_this():
    expected = (
        '{"_type":"https://in-toto.io/Statement/v1","predicate":{"body":{"model":"navigator","seed":7},'
        '"log":"interlock/test","references":[{"seq":3,"sha256":"' + "ab" * 32 + '"}],'
        '"schema":"interlock/v1","time":"2026-01-31T23:59:59.000001Z"},'
        '"predicateType":"urn:interlock:predicate:proposal:v1","subject":['
        '{"digest":{"sha256":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},"name":"base"},'
        '{"digest":{"sha256":"3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"},"name":"bundle"}]}'
    )
    assert statement().encode() == expected.encode()


def test_an_envelope_is_plain_dsse_that_any_json_reader_understands():
    payload = statement().encode()
    outer = json.loads(env.seal(payload, SERVICE))
    assert set(outer) == {"payload", "payloadType", "signatures"}
    assert outer["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(outer["payload"]) == payload
    assert [item["keyid"] for item in outer["signatures"]] == [SERVICE.keyid]


# --- round trips ---------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
bodies = st.recursive(
    texts | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcXYZ_09 ", max_size=6), inner, max_size=3)
    ),
    max_leaves=10,
)
digests = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))
statements = st.builds(
    Statement,
    record=st.from_regex(r"[a-z][a-z0-9]{0,8}(_[a-z0-9]{1,5}){0,2}", fullmatch=True),
    subjects=st.dictionaries(texts, digests, min_size=1, max_size=4),
    body=st.dictionaries(st.text("abcdef_", max_size=8), bodies, max_size=4),
    log=texts.filter(bool),
    time=st.datetimes(timezones=st.just(UTC)).map(env.format_time),
    references=st.lists(st.builds(Reference, st.integers(0, 2**40), digests.map(lambda d: d.hex)), max_size=4)
    .filter(lambda refs: len({ref.seq for ref in refs}) == len(refs))
    .map(tuple),
)


@settings(deadline=None)
@given(statements)
def test_statement_round_trip(value: Statement):
    payload = value.encode()
    again = env.parse_statement(payload)
    assert again == value
    assert again.encode() == payload
    assert plain.body_of(payload) == canonical.encode(dict(value.body)), (
        "the body stands in the payload as it is"
    )


@settings(deadline=None)
@given(statements, st.text(min_size=1, max_size=8), st.booleans())
def test_an_envelope_means_the_same_to_the_parser_and_to_the_pattern(
    value: Statement, keyid: str, both: bool
):
    """Most envelopes are read by a pattern alone: never otherwise than the parser of JSON would read them."""
    made = [Signature(keyid, b"1" * 64), *([Signature(keyid + "x", b"2" * 64)] if both else [])]
    data = Envelope(value.encode(), tuple(made)).encode()
    usual = not both and keyid.isascii() and keyid.isprintable() and not set(keyid) & {'"', "\\"}
    assert (env._signed_once(data) is not None) is usual
    found = env.open_envelope(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "_signed_once", lambda _data: None)
        assert env.open_envelope(data) == found == Envelope(value.encode(), tuple(made))


ODD = st.sampled_from(
    [b'"', b"\\", b",", b"{", b"}", b" ", b"0", b"-0", b"1.5", b"null", b"\xc3\xa9", b'"log":"', b"\\u00e9", b"\\ud800",
     b'"a":1,', b"[[[[", b"9007199254740992", b"NaN"]
)  # fmt: skip


def read_by(parse: Any, payload: bytes) -> Any:
    try:
        return parse(payload)
    except RecordError as error:
        return error.message


@settings(deadline=None, max_examples=400)
@given(statements, st.integers(0, 2000), st.integers(0, 6), ODD | st.binary(max_size=3))
def test_a_statement_means_the_same_to_the_parser_and_to_the_patterns(
    value: Statement, at: int, removed: int, put: bytes
):
    """Whatever is done to a payload: it is read, or refused for the same reason, as a parser of all of it does."""
    payload = value.encode()
    at %= len(payload)
    for data in (payload, payload[:at] + put + payload[at + removed :]):
        whole = read_by(env._parsed, data)
        assert read_by(env.parse_statement, data) == whole
        assert isinstance(whole, Statement) or data != payload


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"2026-01-31T23", b"2026-02-30T23", "not a time"),
        (b'"seq":4', b'"seq":3', "referenced twice"),
    ],
)
def test_what_a_pattern_cannot_see_is_refused_all_the_same(old: bytes, new: bytes, reason: str):
    payload = statement(references=(Reference(3, "ab" * 32), Reference(4, "cd" * 32))).encode()
    assert plain.split(payload.replace(old, new)) is not None, "the pattern takes it"
    with pytest.raises(RecordError, match=reason):
        env.parse_statement(payload.replace(old, new))


def nested(depth: int) -> bytes:
    return (b'{"a":' * depth + b"1" + b"}" * depth) if depth else b"1"


@pytest.mark.parametrize("depth", range(58, 66))
def test_a_body_may_not_be_deeper_for_being_read_by_itself(depth: int):
    usual = statement(body={"a": 1}).encode()
    payload = usual.replace(b'"body":{"a":1}', b'"body":' + nested(depth))
    assert read_by(env.parse_statement, payload) == read_by(env._parsed, payload)
    assert isinstance(read_by(env._parsed, payload), Statement) is (depth <= canonical.MAX_DEPTH - 2)


def test_most_statements_are_read_by_patterns():
    """Otherwise the comparisons above would compare the parser with itself."""
    whole = plain.split(statement().encode())
    assert whole is not None
    assert whole.body == b'{"model":"navigator","seed":7}'
    assert plain.split(statement(log="caf\u00e9").encode()) is None
    assert plain.split(statement(references=()).encode()) is not None


@settings(deadline=None)
@given(statements, st.booleans())
def test_envelope_round_trip(value: Statement, both: bool):
    signers = (SERVICE, PERSON) if both else (PERSON,)
    data = env.seal(value.encode(), *signers)
    assert env.open_envelope(data).encode() == data
    assert data == env.seal(value.encode(), *reversed(signers))  # the order of signing leaves no trace
    assert admit(data) == value


@settings(deadline=None)
@given(st.datetimes(timezones=st.timezones()))
def test_time_round_trip(moment: datetime):
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert env.parse_time(env.format_time(moment)) == utc


def test_time_is_utc_with_microseconds_and_sorts_as_text():
    east = datetime(2026, 2, 1, 0, 59, 59, 1, tzinfo=timezone(timedelta(hours=1)))
    assert env.format_time(east) == TIME
    assert env.format_time(datetime(1, 1, 1, tzinfo=UTC)) < env.format_time(east)
    with pytest.raises(RecordError, match="time zone"):
        env.format_time(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T23:59:59Z",
        "2026-01-31T23:59:59.000001+00:00",
        "2026-01-31 23:59:59.000001Z",
        "2026-02-30T00:00:00.000000Z",
        "2026-01-31T24:00:00.000000Z",
        "٢026-01-31T23:59:59.000001Z",
        TIME + "\n",
        "",
    ],
)
def test_other_spellings_of_time_are_refused(text: str):
    with pytest.raises(RecordError, match="not a time"):
        env.parse_time(text)


# --- tampering -----------------------------------------------------------------------------

SEALED = env.seal(statement().encode(), SERVICE, PERSON)


def test_the_untouched_envelope_is_admitted():
    assert admit(SEALED) == statement()


def test_the_format_is_frozen():
    """Payload, order, both signatures: a change here makes every existing log unreadable."""
    assert len(SEALED) == 1319
    leaf = "64ec7f73a868ccb4c2ca37c60b0b69c0d7acea3e32d3de7fc727ba0b87448751"
    assert merkle.leaf_hash(SEALED).hex() == leaf


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_single_byte_matters(mask: int):
    for position in range(len(SEALED)):
        altered = bytearray(SEALED)
        altered[position] ^= mask
        with pytest.raises(InterlockError):
            admit(bytes(altered))


@settings(deadline=None)
@given(st.integers(0, len(SEALED) - 1), st.integers(0, 255))
def test_any_other_byte_anywhere_is_refused(position: int, value: int):
    altered = SEALED[:position] + bytes([value]) + SEALED[position + 1 :]
    if altered != SEALED:
        with pytest.raises(InterlockError):
            admit(altered)


@settings(deadline=None)
@given(st.integers(0, len(SEALED)), st.integers(0, 255))
def test_inserted_and_removed_bytes_are_refused(position: int, value: int):
    with pytest.raises(InterlockError):
        admit(SEALED[:position] + bytes([value]) + SEALED[position:])
    if position < len(SEALED):
        with pytest.raises(InterlockError):
            admit(SEALED[:position] + SEALED[position + 1 :])
        with pytest.raises(InterlockError):
            admit(SEALED[:position])


def reencode(change: Any) -> bytes:
    """The envelope after ``change`` edited its parsed JSON, in canonical JSON again."""
    outer = json.loads(SEALED)
    change(outer)
    return canonical.encode(outer)


def _swap(outer: Any) -> None:
    outer["signatures"].reverse()


def _repeat(outer: Any) -> None:
    outer["signatures"].insert(0, outer["signatures"][0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(payloadType="text/plain"), "payload type"),
        (lambda e: e.update(signatures=[]), "without a signature"),
        (lambda e: e.update(signatures={}), "not an array"),
        (_swap, "order"),
        (_repeat, "two signatures by one key"),
        (lambda e: e["signatures"][0].update(keyid=""), "without an id"),
        (lambda e: e["signatures"][0].update(cert="x"), "exactly keyid, sig"),
        (lambda e: e.update(extra=1), "exactly payload"),
        (lambda e: e.pop("payload"), "exactly payload"),
        (lambda e: e.update(payload="é"), "not base64"),
        (lambda e: e.update(payload=5), "not a string"),
        (lambda e: e.update(payload=e["payload"].replace("+", "-")[:-1] + "*"), "not base64"),
    ],
)
def test_malformed_envelopes_are_refused_for_the_right_reason(change: Any, reason: str):
    with pytest.raises(RecordError, match=reason):
        env.open_envelope(reencode(change))


def test_a_quote_that_ends_the_key_and_the_payload_at_once_is_not_json():
    data = b'{"payload":","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"k","sig":"AAAA"}]}'
    with pytest.raises(RecordError, match="not JSON"):
        env.open_envelope(data)


def test_a_second_spelling_of_base64_is_refused():
    data = Envelope(b"x", (Signature("k", b"s"),)).encode()  # "x" is eA==; eB== decodes to "x" as well
    assert base64.b64decode("eB==") == b"x"
    with pytest.raises(RecordError, match="canonical base64"):
        env.open_envelope(data.replace(b"eA==", b"eB=="))


def test_the_longest_envelope_is_accepted_and_one_byte_more_is_not():
    overhead = len(Envelope(b"", (Signature("k" * 10, b"s"),)).encode())
    room = env.MAX_ENVELOPE_BYTES - overhead
    fits = b"x" * (room // 4 * 3)
    pad = "k" * (10 + room % 4)
    data = Envelope(fits, (Signature(pad, b"s"),)).encode()
    assert len(data) == env.MAX_ENVELOPE_BYTES
    assert env.open_envelope(data).payload == fits
    with pytest.raises(RecordError, match="more than 65535"):
        Envelope(fits, (Signature(pad + "k", b"s"),)).encode()
    with pytest.raises(RecordError, match="more than 65535"):
        env.open_envelope(data + b" ")


# --- statements ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"record": "Proposal"}, "lower_snake_case"),
        ({"record": "a__b"}, "lower_snake_case"),
        ({"record": "x:v1"}, "lower_snake_case"),
        ({"subjects": {}}, "no subject"),
        ({"log": ""}, "name its log"),
        ({"time": "today"}, "not a time"),
        ({"references": (Reference(1, "ab" * 32), Reference(1, "cd" * 32))}, "referenced twice"),
    ],
)
def test_statements_that_cannot_be_made(changes: dict[str, Any], reason: str):
    with pytest.raises(RecordError, match=reason):
        statement(**changes)


@pytest.mark.parametrize("value", [1.5, None, 2**53, {"é": 1}, "\ud800", b"x"])
def test_a_body_holds_only_what_a_record_may_hold(value: Any):
    with pytest.raises(RecordError):
        statement(body={"value": value}).encode()


@pytest.mark.parametrize(("seq", "sha256"), [(-1, "ab" * 32), (True, "ab" * 32), (0, "AB" * 32), (0, "ab")])
def test_references_that_cannot_be_made(seq: int, sha256: str):
    with pytest.raises(RecordError):
        Reference(seq, sha256)


def edited(change: Any) -> bytes:
    value = json.loads(statement().encode())
    change(value)
    return canonical.encode(value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto Statement v1"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "not one of Interlock's"),
        (lambda s: s.update(predicateType="urn:interlock:predicate:proposal:v2"), "not one of Interlock's"),
        (lambda s: s.update(predicateType=5), "not one of Interlock's"),
        (lambda s: s.update(predicateType="urn:interlock:predicate:v1"), "lower_snake_case"),
        (lambda s: s["predicate"].update(schema="interlock/v0"), "schema"),
        (lambda s: s["predicate"].update(log=5), "name its log"),
        (lambda s: s["predicate"].update(time=5), "not a time"),
        (lambda s: s["predicate"].update(body=[]), "not an object"),
        (lambda s: s["predicate"].update(references={}), "not an array"),
        (lambda s: s["predicate"]["references"][0].update(seq="3"), "positions count from 0"),
        (lambda s: s["predicate"]["references"][0].update(seq=True), "positions count from 0"),
        (lambda s: s["predicate"].update(note="x"), "exactly body"),
        (lambda s: s.pop("subject"), "exactly _type"),
        (lambda s: s["subject"].reverse(), "unsorted or repeated"),
        (lambda s: s["subject"].append(s["subject"][1]), "unsorted or repeated"),
        (lambda s: s["subject"].clear(), "no subject"),
        (lambda s: s["subject"][0]["digest"].update(sha512="x"), "exactly sha256"),
        (lambda s: s["subject"][0]["digest"].update(sha256=5), "not a string"),
        (lambda s: s["subject"][0].update(name=5), "not a string"),
    ],
)
def test_malformed_payloads_are_refused_for_the_right_reason(change: Any, reason: str):
    assert env.parse_statement(edited(lambda _: None)) == statement()
    with pytest.raises(RecordError, match=reason):
        env.parse_statement(edited(change))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_without_a_crash(data: bytes):
    with pytest.raises(RecordError):
        env.open_envelope(data)
    with pytest.raises(RecordError):
        env.parse_statement(data)


def test_a_list_of_the_right_names_is_no_envelope_and_one_key_signs_once():
    with pytest.raises(RecordError, match="is not an object with exactly"):
        env.open_envelope(canonical.encode(["payload", "payloadType", "signatures"]))
    one = Signature("key", b"x")
    assert Envelope(b"{}", (one,)).encode()  # the control
    with pytest.raises(RecordError, match="two signatures by one key"):
        Envelope(b"{}", (one, one)).encode()


@pytest.mark.parametrize("data", [b"", b"DSSEv1 4 text 3 {}", b"DSSEv1 4 text 2 {} ", b"DSSEv2 4 text 2 {}"])
def test_what_is_no_pre_authentication_encoding_is_refused(data):
    assert env.unpae(b"DSSEv1 4 text 2 {}") == ("text", b"{}")
    with pytest.raises(RecordError, match="not a DSSE pre-authentication encoding"):
        env.unpae(data)
