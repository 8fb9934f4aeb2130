"""guardrails.canonical: one value, one encoding; everything else is refused."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from guardrails import canonical
from guardrails.canonical import MAX_DEPTH, MAX_INTEGER, Digest
from guardrails.errors import RecordError

ASCII = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = TEXT | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_reads_back(value):
    data = canonical.encode(value)
    assert canonical.parse(data) == value
    assert canonical.encode(canonical.parse(data)) == data


@given(VALUES)
def test_the_encoding_is_plain_json_in_utf8_without_white_space(value):
    data = canonical.encode(value)
    assert json.loads(data.decode("utf-8")) == value
    outside = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert data == outside.encode("utf-8")


@given(VALUES, VALUES)
def test_different_values_have_different_encodings(left, right):
    same = canonical.encode(left) == canonical.encode(right)
    # Python thinks that True is 1; bytes know better.
    assert same == (json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True))


@given(st.binary(max_size=60))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"{}\n")
@example(b'{"a":1 }')
@example(b'{"b":1,"a":1}')
@example(b'{"a":1,"a":1}')
@example(b'"\\u0041"')
@example(b'"\\/"')
@example(b'"\\ud800"')
@example(b'"\xff"')
@example(b"1.0")
@example(b"1e3")
@example(b"-0")
@example(b"NaN")
@example(b"Infinity")
@example(b"null")
@example(b'{"a":null}')
@example(b'{"\xc3\xa4":1}')
@example(b"9007199254740992")
@example(b"1" * 5000)
@example(b"[" * 100_000)
@example(b'{"a":' * 30_000)
def test_bytes_that_encode_would_not_write_are_refused(data):
    try:
        value = canonical.parse(data)
    except RecordError:
        return
    assert canonical.encode(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_another_value(value, data):
    encoded = canonical.encode(value)
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + bytes([data.draw(st.integers(0, 255))]) + encoded[at + 1 :]
    assume(changed != encoded)
    try:
        other = canonical.parse(changed)
    except RecordError:
        return
    assert canonical.encode(other) == changed != encoded


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        float("nan"),
        b"bytes",
        {1: "x"},
        {"ä": 1},
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        "\ud800",
        {"a": None},
        {1},
    ],
)
def test_what_no_record_may_hold_is_refused(value):
    with pytest.raises(RecordError):
        canonical.encode(value)
    with pytest.raises(RecordError):
        canonical.encode([value])


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_limited():
    assert canonical.parse(canonical.encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(RecordError, match="nested deeper"):
        canonical.encode(nested(MAX_DEPTH + 1))
    with pytest.raises(RecordError):
        canonical.parse(b"[" * (MAX_DEPTH + 1) + b'"x"' + b"]" * (MAX_DEPTH + 1))


@given(st.floats(allow_nan=False))
def test_a_number_reads_back_to_the_same_float(number):
    text = canonical.decimal(number)
    again = canonical.parse_decimal(text)
    assert again == number
    assert canonical.decimal(again) == text


def test_numbers_that_are_none_keep_their_names_and_zero_has_one_sign():
    assert math.isnan(canonical.parse_decimal(canonical.decimal(math.nan)))
    assert canonical.decimal(-math.inf) == "-Infinity"
    assert canonical.decimal(-0.0) == canonical.decimal(0.0) == canonical.decimal(0) == "0.0"


@given(st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
@example("1")
@example("1.50")
@example("-0.0")
@example("nan")
@example("+1.0")
@example(" 1.0")
@example("1_0.0")
@example("1E5")
@example("٣.٠")
def test_other_spellings_of_numbers_are_refused(text):
    try:
        number = canonical.parse_decimal(text)
    except RecordError:
        return
    assert canonical.decimal(number) == text


@pytest.mark.parametrize("value", [None, [], {}, b"1.0", 1])
def test_what_is_no_text_is_no_number(value):
    with pytest.raises(RecordError):
        canonical.parse_decimal(value)


@given(st.binary(max_size=2000))
def test_digests_are_sha256_and_name_it(data):
    found = canonical.digest(data)
    assert str(found) == "sha256:" + hashlib.sha256(data).hexdigest()
    assert Digest.parse(str(found)) == found
    assert found.hex.startswith(found.short)


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_001)
    assert canonical.digest_file(path) == canonical.digest(b"x" * 3_000_001)


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "md5:" + "0" * 64, "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "A" * 64,
     "SHA256:" + "0" * 64, "0" * 64, "sha256:" + "0" * 64 + "\n", "sha256: " + "0" * 63],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(RecordError):
        Digest.parse(text)


@pytest.mark.parametrize("data", [b"1.5", b"[1e3]", b"NaN", b"-Infinity"])
def test_a_number_that_is_no_integer_is_named_as_the_reason(data):
    with pytest.raises(RecordError, match="is not an integer; measured numbers are decimal strings"):
        canonical.parse(data)
