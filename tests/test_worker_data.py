"""Records and items in JSONL: strict in, canonical out."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrails.canonical import digest
from guardrails.errors import InvalidInputError
from sandbox.worker import data

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
RECORDS = st.lists(st.fixed_dictionaries({"id": TEXT, "text": TEXT}, optional={"origin": TEXT}), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(records=RECORDS)
def test_what_was_written_reads_back_equal_and_has_one_digest(tmp_path, records):
    first = data.write_records(tmp_path / "a.jsonl", records)
    again = data.write_records(
        tmp_path / "b.jsonl", [dict(reversed(list(record.items()))) for record in records]
    )
    assert [dict(line.value) for line in data.read_lines(tmp_path / "a.jsonl")] == records
    assert first == again == digest((tmp_path / "a.jsonl").read_bytes())


def test_places_count_every_line_and_empty_lines_are_skipped(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "origin": "generated"}\n', "utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": 3}\n', "utf-8")
    lines = data.read_directory(tmp_path)
    assert [line.place for line in lines] == ["a.jsonl:1", "b.jsonl:1", "b.jsonl:3"]
    assert [line.text for line in lines] == ["", "one", "two"]
    assert [line.generated for line in lines] == [False, False, True]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "a", "text": "b"}', "a key stands twice"),
        (b'{"text": NaN}', "NaN is not JSON"),
        (b"[1]", "must be a JSON object, not list"),
        (b"{", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path, line, why):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InvalidInputError, match=r"x\.jsonl:2") as caught:
        data.read_lines(tmp_path / "x.jsonl")
    assert why in str(caught.value)


def test_a_line_without_end_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 100)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "y" * 200}), "utf-8")
    with pytest.raises(InvalidInputError, match="more than 100 bytes"):
        data.read_lines(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "lines", [[], [{"text": "no id"}], [{"id": "a"}, {"id": "a"}], [{"id": 3}], [{"id": ""}]]
)
def test_items_need_distinct_ids_and_at_least_one(tmp_path, lines):
    data.write_records(tmp_path / "s.jsonl", lines)
    with pytest.raises(InvalidInputError, match=r"s\.jsonl"):
        data.read_items(tmp_path / "s.jsonl")


def test_missing_files_and_directories_are_said(tmp_path):
    with pytest.raises(InvalidInputError, match="No such file"):
        data.read_lines(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInputError, match="no such directory"):
        data.read_directory(tmp_path / "none")
