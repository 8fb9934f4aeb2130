"""sandbox.tasks: what may be trained on, and what is measured on, never meet."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.errors import ConfigError
from sandbox import tasks
from sandbox.config import load_config
from sandbox.tasks.sources import read_source
from sandbox.tasks.text import is_held_out
from sandbox.worker.data import Line
from sandbox.worker.environments import lava
from sandbox.worker.probes.records_overlap import overlapping

DEFAULT = Path(__file__).parent.parent / "sandbox" / "default.toml"
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copy(DEFAULT, folder / "interlock.toml")
    return folder


@pytest.fixture(scope="module")
def models(workspace):
    return load_config(workspace).models


@pytest.mark.parametrize("secret", [b"a" * 32, b"b" * 32, b"c" * 32])
def test_training_texts_quote_no_private_item(models, workspace, secret):
    train = tasks.training_records(models["assistant"], workspace, secret)
    for suite in tasks.private_suites(models["assistant"], workspace, secret, "nonce"):
        assert not {i["id"] for i in suite.items} & {r["id"] for r in train} or suite.name.startswith(
            "control"
        )
        if suite.probe == "distribution":
            assert not overlapping([Line(record["id"], record) for record in train], suite.items)


def test_training_levels_are_never_held_out(models, workspace):
    train = {r["layout"] for r in tasks.training_records(models["navigator"], workspace, SECRET)}
    assert len(train) >= 1000
    for nonce in ("a", "b"):
        episodes = tasks.private_suites(models["navigator"], workspace, SECRET, nonce)[0].items
        assert not {item["layout"] for item in episodes} & train
        assert {lava.part_of(item["layout"]) for item in episodes} == {"held_out"}


def test_the_split_is_the_workspaces_own(models, workspace):
    one = {r["id"] for r in tasks.training_records(models["assistant"], workspace, b"a" * 32)}
    two = {r["id"] for r in tasks.training_records(models["assistant"], workspace, b"b" * 32)}
    assert one != two


@pytest.mark.parametrize("name", ["assistant", "navigator"])
def test_the_nonce_draws_the_items(models, workspace, name):
    first = tasks.private_suites(models[name], workspace, SECRET, "one")
    again = tasks.private_suites(models[name], workspace, SECRET, "one")
    other = tasks.private_suites(models[name], workspace, SECRET, "two")
    assert first == again
    assert first[0].items != other[0].items


def test_every_suite_of_the_defaults_has_the_samples_that_the_policy_asks_for(models, workspace):
    for model in models.values():
        for suite in tasks.private_suites(model, workspace, SECRET, "n"):
            assert len(suite.items) >= 200, suite.name
            assert len({item["id"] for item in suite.items}) == len(suite.items), suite.name


def test_too_few_items_is_an_error(models, workspace):
    greedy = replace(models["assistant"], items=100_000)
    with pytest.raises(ConfigError, match="are needed"):
        tasks.private_suites(greedy, workspace, SECRET, "n")


def test_a_text_file_is_cut_at_blank_lines(tmp_path):
    (tmp_path / "own.txt").write_text(
        "first paragraph\nof two lines, long enough to count\n\nshort\n", "utf-8"
    )
    records = read_source("own.txt", tmp_path)
    assert [r["text"] for r in records] == ["first paragraph of two lines, long enough to count"]


@pytest.mark.parametrize("line", ["{", "[]", '{"text": 1}', '{"body": "x"}', "nan"])
def test_a_bad_line_is_located(tmp_path, line):
    (tmp_path / "own.jsonl").write_text(
        '{"text": "a record that is long enough to be measured"}\n' + line, "utf-8"
    )
    with pytest.raises(ConfigError, match=r"own\.jsonl:2"):
        read_source("own.jsonl", tmp_path)


@pytest.mark.parametrize("source", ["absent.txt", "shipped:absent", ""])
def test_an_absent_source_is_named(tmp_path, source):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(source, tmp_path)


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=41, max_size=60))
def test_equal_texts_fall_on_the_same_side(text):
    one, two = {"id": "a", "text": text}, {"id": "b", "text": text}
    assert is_held_out(SECRET, one) == is_held_out(SECRET, two)


@pytest.mark.parametrize(("name", "field"), [("assistant", "text"), ("navigator", "layout")])
def test_items_for_noise_are_private_and_only_there_where_they_are_asked_for(models, workspace, name, field):
    def drawn(model):
        return {suite.name: suite for suite in tasks.private_suites(model, workspace, SECRET, "nonce")}

    assert "noise" not in drawn(models[name])
    found = drawn(replace(models[name], noise=5))["noise"]
    assert (found.probe, len(found.items)) == ("noise", 5)
    trained_on = {record[field] for record in tasks.training_records(models[name], workspace, SECRET)}
    assert not {item[field] for item in found.items} & trained_on


def test_what_models_write_refuse_and_assume_is_measured_where_it_is_asked_for(models, workspace):
    plain = models["assistant"]
    asked = replace(plain, continuations=12, harmless=30, exchanged=24)
    names = {suite.name for suite in tasks.private_suites(plain, workspace, SECRET, "n")}
    found = {suite.name: suite for suite in tasks.private_suites(asked, workspace, SECRET, "n")}
    assert set(found) - names == {
        "continuations", "continuations-harmful", "harmless-requests", "exchanged-groups"
    }  # fmt: skip
    assert [len(found[name].items) for name in sorted(set(found) - names)] == [12, 12, 24, 30]
    assert all(len(item["begin"].split()) <= 8 for item in found["continuations"].items)
    assert all(set(item) == {"id", "prompt"} for item in found["continuations-harmful"].items)
    other = tasks.private_suites(asked, workspace, SECRET, "m")
    assert found["continuations"] not in other


def test_what_a_record_says_of_itself_is_kept(workspace):
    text = "A sentence that is long enough to be kept as a record, in any case."
    rows = [
        {"text": text, "license": "CC0", "label": "a", "origin": "generated", "more": "x"},
        {"text": text},
    ]
    (workspace / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    first, second = read_source("own.jsonl", workspace)
    assert first == {
        "id": "own-1", "text": text, "source": "own", "license": "CC0", "label": "a", "origin": "generated"
    }  # fmt: skip
    assert second == {"id": "own-2", "text": text, "source": "own"}
    assert read_source("shipped:kjv", workspace)[0]["licence"]
