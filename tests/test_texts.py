"""The shipped texts: the bytes are the described ones, the records are records."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from guardrails.canonical import digest
from guardrails.errors import InvalidInputError, UnknownNameError
from sandbox import texts
from sandbox.texts.extract import unwrap
from sandbox.worker.data import Line, words
from sandbox.worker.probes.records_overlap import RUN, overlapping

NAMES = ("austen", "devils_dictionary", "kjv")


def test_every_text_file_is_described_and_every_description_has_its_file():
    assert tuple(sorted(texts.sources())) == NAMES
    assert sorted(path.stem for path in texts.DIRECTORY.glob("*.jsonl")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_have_the_stated_digest_and_the_licence_is_public_domain(name):
    described = texts.sources()[name]
    assert digest(texts.path_of(name).read_bytes()).hex == described["sha256"]
    assert described["licence"] == "public domain"
    assert described["title"]
    assert described["source"]


@pytest.mark.parametrize("name", NAMES)
def test_records_are_distinct_and_plain(name):
    records = texts.load(name)
    assert len(records) == texts.sources()[name]["records"]
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["text"] for record in records}) > 0.99 * len(records)
    for record in records:
        assert set(record) == {"id", "source", "text"}
        assert record["source"] == name
        assert record["text"] == record["text"].strip() != ""
        assert not re.search(r"[{}\t]|  ", record["text"])


def test_known_passages_are_there():
    devil = {record["id"]: record["text"] for record in texts.load("devils_dictionary")}
    assert devil["abatis"].startswith("ABATIS, n. Rubbish in front of a fort, to prevent the rubbish outside")
    kjv = {record["id"]: record["text"] for record in texts.load("kjv")}
    assert kjv["genesis-1-1"] == "In the beginning God created the heaven and the earth."
    assert kjv["psalms-23-1"] == "The LORD is my shepherd; I shall not want."
    assert texts.load("austen")[0]["text"].startswith("Sir Walter Elliot, of Kellynch Hall")


def test_no_two_entries_share_so_much_that_one_gives_the_other_away():
    """However the dictionary is split into records to learn and items to measure, they do not overlap."""
    entries = texts.load("devils_dictionary")
    owner: dict[tuple[str, ...], str] = {}
    for entry in entries:
        spoken = words(entry["text"])
        for start in range(len(spoken) - RUN + 1):
            assert owner.setdefault(tuple(spoken[start : start + RUN]), entry["id"]) == entry["id"]
    again = [*entries, {**entries[0], "id": "again"}]  # positive control
    assert [line.place for line in overlapping([Line(e["id"], e) for e in again[1:]], entries[:1])] == [
        "again"
    ]


def test_a_changed_text_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "texts"
    shutil.copytree(texts.DIRECTORY, copy)
    monkeypatch.setattr(texts, "DIRECTORY", copy)
    assert texts.load("kjv")  # positive control
    with (copy / "kjv.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"id": "x", "source": "kjv", "text": "And it came to pass."}) + "\n")
    with pytest.raises(InvalidInputError, match=r"kjv\.jsonl is not the file"):
        texts.load("kjv")


def test_an_unknown_text_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="austen, devils_dictionary, kjv"):
        texts.path_of("shakespeare")


def test_unwrapping_joins_prose_and_keeps_verse():
    wrapped = [
        "WIT, n.  The salt of a",
        "cannon-",
        "shot; he had -- they",
        "say -- none.",
        "",
        "    A verse,",
        "    and more.",
    ]
    assert (
        unwrap(wrapped)
        == "WIT, n. The salt of a cannon-shot; he had -- they say -- none.\n\nA verse,\nand more."
    )
