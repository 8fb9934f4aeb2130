"""guardrails.records: every record reads back from its bytes, and from no others."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import StrEnum

import pytest
from fakes import PASSING
from hypothesis import given
from hypothesis import strategies as st

from guardrails import canonical, records
from guardrails.canonical import Digest
from guardrails.codec import decode_record, encode_record
from guardrails.errors import RecordError
from guardrails.ledger import rows
from guardrails.records import Commitment, Compute, Measurements, Opening, PolicySource, Series, open_text

RECORDS = [
    records.Proposal, records.Failure, records.Measurements, records.Evidence, records.Finding, records.Verdict,
    records.Person, records.Roster, records.Binding, records.Decision, records.PolicySource, records.Waiver,
    records.Promotion, records.Rollback, records.Transition, records.Compute, records.Sample,
    rows.Workspace, rows.RosterRow, rows.Vote, rows.ProposalRow, rows.ModelRow, rows.PolicyRow, rows.RequestRow,
    rows.WaiverRow,
]  # fmt: skip

KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
SCALARS = {
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    bool: st.booleans(),
    int: st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER),
    float: st.floats(allow_nan=False),
    Digest: st.binary(max_size=3).map(canonical.digest),
}


def values(hint) -> st.SearchStrategy:
    """Any value of a field's type."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return st.none() | values(inner[0])
    if origin is tuple:
        return st.lists(values(typing.get_args(hint)[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(KEYS, values(typing.get_args(hint)[1]), max_size=2)
    if hint is Series:
        return st.integers(0, 3).flatmap(
            lambda n: st.builds(
                Series, probe=KEYS, suite=KEYS, items=st.tuples(*[KEYS] * n),
                columns=st.dictionaries(KEYS, st.tuples(*[SCALARS[float]] * n), max_size=2),
            )
        )  # fmt: skip
    if dataclasses.is_dataclass(hint) and hint not in SCALARS:
        return made(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    return SCALARS[hint]


def made(cls) -> st.SearchStrategy:
    """Any record of a class."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_record_reads_back_from_its_bytes(cls, data):
    record = data.draw(made(cls))
    encoded = canonical.encode(encode_record(record))
    again = decode_record(cls, canonical.parse(encoded))
    assert again == record
    assert canonical.encode(encode_record(again)) == encoded


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_unknown_missing_and_ill_typed_fields_are_refused(cls, data):
    encoded = encode_record(data.draw(made(cls)))
    with pytest.raises(RecordError, match="unknown field"):
        decode_record(cls, {**encoded, "surprise": "x"})
    needed = [f.name for f in dataclasses.fields(cls)
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]  # fmt: skip
    name = data.draw(st.sampled_from(needed))
    if name in encoded:
        with pytest.raises(RecordError):
            decode_record(cls, {key: value for key, value in encoded.items() if key != name})
        for wrong in (None, 1.5, b"x", object()):
            with pytest.raises(RecordError):
                decode_record(cls, {**encoded, name: wrong})
        swapped = ["x"] if not isinstance(encoded[name], list) else "x"
        with pytest.raises(RecordError):
            decode_record(cls, {**encoded, name: swapped})


@pytest.mark.parametrize("data", [None, [], "x", 1, [("id", "x")]])
def test_what_is_no_object_is_no_record(data):
    with pytest.raises(RecordError, match="an object is needed"):
        decode_record(Compute, data)


def test_booleans_are_not_numbers_and_numbers_are_not_floats():
    good = encode_record(Compute(1.0, 2.0, 3, 4, "test"))
    assert decode_record(Compute, good) == Compute(1.0, 2.0, 3, 4, "test")
    for change in (
        {"memory_bytes": True},
        {"wall_s": 1.0},
        {"wall_s": 1},
        {"wall_s": "1"},
        {"memory_bytes": "3"},
    ):
        with pytest.raises(RecordError):
            decode_record(Compute, {**good, **change})


def test_enums_take_their_words_only():
    good = encode_record(records.Transition("P-0001", records.State.EXPIRED, "x"))
    for word in ("Expired", "EXPIRED", "", "gone", 1):
        with pytest.raises(RecordError):
            decode_record(records.Transition, {**good, "state": word})


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_column_has_a_number_for_each_item(items, numbers):
    names, column = tuple(map(str, range(items))), (1.0,) * numbers
    if items == numbers:
        assert Series("p", "s", names, {"c": column}).columns["c"] == column
        return
    with pytest.raises(RecordError, match=f"{numbers} numbers for {items} items"):
        Series("p", "s", names, {"c": column})
    data = {"probe": "p", "suite": "s", "items": list(names), "columns": {"c": ["1.0"] * numbers}}
    with pytest.raises(RecordError):
        decode_record(Series, data)


def test_measurements_are_found_by_probe_and_suite():
    assert PASSING.find("distribution", "control").suite == "control"
    assert PASSING.find("distribution", "nowhere") is None
    assert PASSING.find("elsewhere", "control") is None
    nan = dataclasses.replace(PASSING, series=(Series("p", "s", ("a",), {"c": (math.nan,)}),))
    again = decode_record(Measurements, canonical.parse(canonical.encode(encode_record(nan))))
    assert math.isnan(again.series[0].columns["c"][0]), "a NaN is kept, so that a check can refuse it"


# --- commitments ---------------------------------------------------------------------------


@given(SCALARS[str])
def test_a_commitment_binds_a_text_without_holding_it(text):
    first, second = open_text(text), open_text(text)
    assert first.commitment() == Opening(first.salt, text).commitment()
    assert first.commitment() != second.commitment(), "the salt keeps equal texts apart"
    assert isinstance(first.commitment(), Commitment)
    assert first.commitment() != Opening(first.salt, text + "x").commitment()
    assert len(bytes.fromhex(first.salt)) == 16


def test_finite_means_a_real_number():
    assert records.is_finite(0.0)
    assert not any(map(records.is_finite, (None, math.nan, math.inf, -math.inf)))


def test_a_lean_row_leaves_out_defaults_at_every_depth_and_reads_back():
    finding = records.Finding(
        "r", "c", records.Outcome.PASS, records.Severity.WARN, "< 1", "f:1", "m", observed=0.5
    )
    verdict = records.Verdict(
        "P-0001",
        records.VerdictKind.ELIGIBLE,
        {},
        canonical.digest(b""),
        (finding,),
        (),
        0.95,
        1,
        "interlock-engine/1",
    )
    lean = encode_record(verdict, lean=True)
    assert not {"waived", "shadow", "metric", "n"} & set(lean["findings"][0])
    assert lean["findings"][0]["observed"] == "0.5"
    assert decode_record(records.Verdict, lean) == verdict


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("order", "ab", "an array is needed"), ("order", {"a": 1}, "an array is needed"),
     ("files", "ab", "an object is needed"), ("files", ["ab"], "an object is needed")],
)  # fmt: skip
def test_a_text_is_not_read_as_the_array_of_its_letters(field, value, reason):
    honest = {"name": "main", "digest": "sha256:" + "ab" * 32, "order": ["a"], "files": {"a": "b"}}
    assert decode_record(PolicySource, honest).order == ("a",)
    with pytest.raises(RecordError, match=f"PolicySource.{field}: {reason}"):
        decode_record(PolicySource, {**honest, field: value})
