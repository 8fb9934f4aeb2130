"""The self-supervised learner and the propose worker, on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import BASE, changed, proposal_request, training_data, write_request

from guardrails.canonical import digest_file, parse, parse_decimal
from guardrails.errors import InvalidInputError, JobFailedError, RecordError
from guardrails.records import ModelKind
from sandbox.models import tiny
from sandbox.worker import request as requests
from sandbox.worker import weights
from sandbox.worker.data import read_directory, write_records
from sandbox.worker.learners import LEARNERS, load_learner, recipes, self_supervised
from sandbox.worker.learners.settings import read_recipe
from sandbox.worker.propose import FIELDS, propose
from sandbox.worker.request import read_request


def files(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): str(digest_file(p))
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


def test_a_run_writes_a_bundle_and_the_same_run_writes_the_same_bytes(tmp_path, capsys):
    data = training_data(tmp_path / "data")
    propose(proposal_request(data, tmp_path / "one"))
    progress = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    propose(proposal_request(data, tmp_path / "two"))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert sorted(files(tmp_path / "one")) == [
        "data/train.jsonl",
        "model/adapter_config.json",
        "model/adapter_model.safetensors",
        "proposal.json",
    ]
    assert [line["progress"] for line in progress] == sorted(line["progress"] for line in progress)
    assert progress[-1] == {"progress": 1.0, "stage": "done"}
    assert all(line["loss"] > 0 for line in progress if "loss" in line)


def test_the_manifest_says_what_was_done_and_names_no_path(tmp_path):
    data = training_data(tmp_path / "data")
    propose(proposal_request(data, tmp_path / "out"))
    manifest = parse((tmp_path / "out" / "proposal.json").read_bytes())
    assert manifest["schema"] == "interlock/bundle/v1"
    assert (manifest["technique"], manifest["seed"], manifest["base"]) == ("self_supervised", 7, BASE)
    assert manifest["data"] == ["data/train.jsonl"]
    assert parse_decimal(manifest["claims"]["first_loss"]) > 0
    assert manifest["claims"]["records"] == "40"
    assert [dict(line.value) for line in read_directory(tmp_path / "out" / "data")] == [
        dict(line.value) for line in read_directory(data)
    ]
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.json"))
    assert str(tmp_path).encode() not in everything
    assert b"models/tiny" not in everything


def test_an_average_lies_half_way_from_the_champion_to_the_full_update(tmp_path):
    data = training_data(tmp_path / "data")
    for form in ("full", "average"):
        propose(proposal_request(data, tmp_path / form, form=form, lr="1e-2"))
    before = dict(weights.tensors(tiny.locate()))
    whole, half = (dict(weights.tensors(tmp_path / form / "model")) for form in ("full", "average"))
    assert set(before) == set(whole) == set(half)
    moved = 0
    for name, begun in before.items():
        assert begun.dtype == whole[name].dtype == half[name].dtype
        middle = (begun.float() + whole[name].float()) / 2
        # Stored in bfloat16, each side is rounded to 8 bits.
        rounded = torch.maximum(begun.abs(), whole[name].abs()).float() / 128
        assert bool(((half[name].float() - middle).abs() <= rounded).all()), name
        moved += int(((whole[name].float() - begun.float()).abs() > 4 * rounded).sum())
    assert moved > 1000, "too little was trained to tell half-way from either end"


@pytest.mark.parametrize("form", ["sideways", ""])
def test_a_form_that_there_is_not_is_refused(tmp_path, form):
    with pytest.raises(InvalidInputError, match="one of adapter, full, average"):
        propose(proposal_request(training_data(tmp_path / "data", 4), tmp_path / "out", form=form))
    assert not (tmp_path / "out").exists()


def test_the_seed_changes_the_weights(tmp_path):
    data = training_data(tmp_path / "data")
    propose(proposal_request(data, tmp_path / "one"))
    propose(proposal_request(data, tmp_path / "two") | {"seed": 8})
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one["data/train.jsonl"] == two["data/train.jsonl"]
    assert one["model/adapter_model.safetensors"] != two["model/adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "no record has any text"),
        ([{"id": "a", "text": "  "}], "no record has any text"),
        ([{"id": "a", "layout": "##"}], "no record has any text"),
        ([{"id": "a", "text": "A"}], "no record has two tokens"),
    ],
)
def test_data_without_a_usable_record_leaves_nothing_behind(tmp_path, records, why):
    write_records(tmp_path / "data" / "train.jsonl", records)
    with pytest.raises(InvalidInputError, match=why):
        propose(proposal_request(tmp_path / "data", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_nothing_behind(tmp_path):
    def break_it(tensors):
        tensors["model.norm.weight"][0] = float("nan")

    data = training_data(tmp_path / "data")
    champion = changed(tmp_path / "champion", break_it)
    with pytest.raises(JobFailedError, match="the loss became nan in step 1 of 3"):
        propose(proposal_request(data, tmp_path / "out") | {"champion": str(champion)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"stepz": 3}, "stepz: unknown key"),
        ({"steps": "many"}, "steps: must be a whole number from 1 to 1000000, not 'many'"),
        ({"steps": 0}, "steps: must be a whole number from 1"),
        ({"lr": "nan"}, "lr: must be a number above 0 and at most 1, not 'nan'"),
        ({"warmup": 2}, "warmup: must be a number from 0 to 1"),
        ({"length": 1}, "length: must be a whole number from 2"),
        ({"targets": "no_such_projection"}, "targets"),
        ({"dtype": "int8"}, "not 'int8'"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, recipe, why):
    data = training_data(tmp_path / "data", 4)
    with pytest.raises(InvalidInputError, match=why):
        propose(proposal_request(data, tmp_path / "out", **recipe))
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_no_digest_is_refused_before_work(tmp_path):
    with pytest.raises(RecordError, match="not a sha256 digest"):
        propose(proposal_request(tmp_path, tmp_path / "out") | {"base": "abc"})


def test_recipes_take_defaults_and_types_from_them():
    recipe = read_recipe({"lr": "1e-3", "steps": "5"}, recipes.TEXT)
    assert (recipe["lr"], recipe["steps"], recipe["rank"]) == (1e-3, 5, 8)


def test_techniques_are_found_by_name():
    assert load_learner("self_supervised", ModelKind.LLM) is self_supervised.learn
    with pytest.raises(InvalidInputError, match=f"known: {', '.join(sorted(LEARNERS))}"):
        load_learner("wishful_thinking", ModelKind.LLM)


def test_a_technique_without_a_learner_for_the_kind_says_which_there_are(monkeypatch):
    monkeypatch.setitem(LEARNERS, "only_texts", {ModelKind.LLM: "sandbox.worker.learners.self_supervised"})
    with pytest.raises(InvalidInputError, match="only_texts has no learner for models of kind lam") as error:
        load_learner("only_texts", ModelKind.LAM)
    assert "reinforcement" in error.value.hint
    assert "only_texts" not in error.value.hint


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"extra": 1}, "unknown field 'extra'"),
        ({"seed": "7"}, "field 'seed' must be int"),
        ({"seed": True}, "field 'seed' must be int"),
        ({"recipe": {"steps": 3}}, "field 'recipe' must map text to text"),
    ],
)
def test_a_request_is_read_strictly(tmp_path, change, why):
    request = proposal_request(tmp_path, tmp_path)
    assert read_request(write_request(tmp_path / "r.json", request), FIELDS) == request
    with pytest.raises(InvalidInputError, match=why):
        read_request(write_request(tmp_path / "r.json", request | change), FIELDS)
    del request["seed"]
    with pytest.raises(InvalidInputError, match="missing field 'seed'"):
        read_request(write_request(tmp_path / "r.json", request), FIELDS)


def test_the_worker_ends_with_status_one_and_one_line_that_says_why(tmp_path):
    write_records(tmp_path / "data" / "train.jsonl", [])
    request = write_request(tmp_path / "r.json", proposal_request(tmp_path / "data", tmp_path / "out"))
    command = [sys.executable, "-m", "sandbox.worker.propose"]
    done = subprocess.run([*command, str(request)], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("failed: no record has any text to learn from")
    assert "Traceback" not in done.stdout + done.stderr
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        1,
        "failed: exactly one argument is needed: the path of the request\n",
    )


def test_memory_that_there_is_not_is_said_in_our_words_whoever_ran_out_of_it(tmp_path, monkeypatch, capsys):
    def take(_: object) -> None:
        torch.empty(2**55)

    (tmp_path / "request.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["propose", str(tmp_path / "request.json")])
    with pytest.raises(SystemExit, match="1"):
        requests.main(take, {})
    assert capsys.readouterr().out.startswith(
        "failed: out of memory (let it do less at once, or raise memory_bytes"
    )
    with pytest.raises(SystemExit, match="1"):
        requests.main(lambda _: torch.ones(2) @ torch.ones(3), {})
    assert "out of memory" not in capsys.readouterr().out
