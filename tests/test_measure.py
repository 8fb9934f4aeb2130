"""Measuring a candidate against its champion, on tiny models."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    changed,
    copy_tiny,
    perturbed,
    proposal_request,
    suites,
    training_data,
    write_request,
)

from guardrails.canonical import parse
from guardrails.codec import decode_record
from guardrails.errors import InvalidInputError
from guardrails.records import Measurements, ModelKind
from sandbox import texts
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.measure import measure
from sandbox.worker.merge import merge
from sandbox.worker.probes import PROBES, Models, Scalars, distribution, integrity, load_probe, preference
from sandbox.worker.probes.generation import prompt_ids
from sandbox.worker.propose import propose


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("measure")


@pytest.fixture(scope="module")
def request_base(folder):
    return {
        "kind": "llm",
        "champion": str(copy_tiny(folder / "champion")),
        "suites": suites(folder / "suites"),
        "data": str(training_data(folder / "data")),
        "samples": 4,
        "seed": 7,
    }


def run(request_base, candidate, out, **more):
    measure(request_base | {"candidate": str(candidate), "out": str(out)} | more)
    return decode_record(Measurements, parse((out / "measurements.json").read_bytes()))


@pytest.fixture(scope="module")
def models(folder):
    champion = weights.load_model(tiny.locate(), torch.float32)
    candidate = weights.load_model(perturbed(folder / "perturbed"), torch.float32)
    return Models(candidate, champion, champion, weights.load_tokenizer(tiny.locate()), ModelKind.LLM)


def quiet(share, stage):
    assert 0 <= share <= 1
    assert stage


def test_surprise_and_divergence_equal_a_slow_direct_computation(models):
    """One text at a time, one token at a time, by the definitions, in double precision."""
    items = [{"id": str(n), "text": record["text"]} for n, record in enumerate(texts.load("kjv")[200:206])]
    by_item, by_token, skill = distribution.run(items, models, 1, suite="s", scalars=Scalars(), report=quiet)
    tokens: list[tuple[str, float]] = []
    for row, item in enumerate(items):
        ids = models.tokenizer(item["text"])["input_ids"][: distribution.MAX_TOKENS]
        sums = {"nll_champion": 0.0, "nll_candidate": 0.0, "kl": 0.0, "js": 0.0}
        skills: dict[str, float] = dict.fromkeys(skill.columns, 0.0)
        for place in range(1, len(ids)):
            before = torch.tensor([ids[:place]])
            p, q = (
                torch.softmax(model(before).logits[0, -1].double(), -1).tolist()
                for model in (models.champion, models.candidate)
            )
            sums["nll_champion"] -= math.log(p[ids[place]])
            sums["nll_candidate"] -= math.log(q[ids[place]])
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            sums["kl"] += kl
            sums["js"] += sum(
                (a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b))) / 2
                for a, b in zip(p, q, strict=True)
            )
            tokens.append((item["id"], kl))
            count_skill(skills, p, q, ids[place], len(ids) - 1)
        assert by_item.columns["tokens"][row] == len(ids) - 1
        assert by_item.columns["nll_champion"][row] == pytest.approx(sums["nll_champion"], rel=1e-5)
        assert by_item.columns["nll_candidate"][row] == pytest.approx(sums["nll_candidate"], rel=1e-5)
        assert by_item.columns["kl_mean"][row] == pytest.approx(
            sums["kl"] / (len(ids) - 1), rel=1e-3, abs=1e-7
        )
        assert by_item.columns["js_mean"][row] == pytest.approx(
            sums["js"] / (len(ids) - 1), rel=1e-3, abs=2e-6
        )
        for name, expected in skills.items():
            assert skill.columns[name][row] == pytest.approx(expected, rel=1e-4, abs=1e-5), name
    assert by_token.items == tuple(name for name, _ in tokens)
    assert by_token.columns["kl"] == pytest.approx([kl for _, kl in tokens], rel=1e-2, abs=1e-6)
    assert by_item.columns["kl_original_mean"] == by_item.columns["kl_mean"]


def count_skill(sums: dict[str, float], p: list[float], q: list[float], true: int, tokens: int) -> None:
    """Add one token to the sums of an item: right, flipped, Brier score, entropy and gaps by tenth."""
    sums["tokens"] += 1
    right = {}
    for name, chances in (("champion", p), ("candidate", q)):
        confidence = max(chances)
        right[name] = chances.index(confidence) == true
        sums[f"right_{name}"] += right[name]
        sums[f"brier_{name}"] += (confidence - right[name]) ** 2 / tokens
        sums[f"entropy_{name}"] -= sum(chance * math.log(chance) for chance in chances) / tokens
        sums[f"gap{min(9, int(confidence * 10))}_{name}"] += confidence - right[name]
    sums["flips"] += right["champion"] and not right["candidate"]


def test_margins_equal_a_slow_direct_computation(models):
    items = [
        {"id": "a", "prompt": "Say it", "comply": "Sure, here:", "refuse": "No"},
        {"id": "b", "prompt": "Say it again, and say all of it", "comply": "Yes", "refuse": "I will not"},
    ]
    (series,) = preference.run(items, models, 1, suite="s", scalars=Scalars(), report=quiet)

    def mean(model, item, name):
        ids, answer = prompt_ids(models.tokenizer, item["prompt"]), models.tokenizer(item[name])["input_ids"]
        total = 0.0
        for token in answer:
            total += float(model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token])
            ids = [*ids, token]
        return total / len(answer)

    for name, model in (("margin_candidate", models.candidate), ("margin_champion", models.champion)):
        expected = [mean(model, item, "comply") - mean(model, item, "refuse") for item in items]
        assert series.columns[name] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_margin_depends_on_its_request_alone_so_that_a_cache_is_exact(folder, dtype):
    model = weights.load_model(tiny.locate(), dtype)
    models = Models(model, model, None, weights.load_tokenizer(tiny.locate()), ModelKind.LLM)
    items = [
        {"id": str(n), "prompt": record["text"][: 20 + 7 * n], "comply": "Sure, here:", "refuse": "No, never"}
        for n, record in enumerate(texts.load("austen")[:21])
    ]
    (whole,) = preference.run(items, models, 1, suite="s", scalars=Scalars(), report=quiet)
    scalars = Scalars()
    (part,) = preference.run(items[3:9], models, 1, suite="s", scalars=scalars, report=quiet)
    assert part.columns["margin_champion"] == whole.columns["margin_champion"][3:9]
    assert len(scalars.fresh) == 6
    (again,) = preference.run(items, models, 1, suite="s", scalars=scalars, report=quiet)
    assert again == whole
    assert again.columns["margin_candidate"] == again.columns["margin_champion"]


def encode(models, text):
    (found,) = distribution.encode_items(models.tokenizer, [{"id": "a", "text": text}], "s")
    return found


def test_bytes_are_those_of_the_tokens_measured(models):
    text = texts.load("austen")[1]["text"] + " – naïve – "
    whole = encode(models, text[:40])
    first = len(models.tokenizer.decode(whole.ids[:1]).encode())
    assert whole.bytes == len(text[:40].encode()) - first
    cut = encode(models, text)
    assert len(cut.ids) == distribution.MAX_TOKENS
    assert cut.bytes == len(models.tokenizer.decode(cut.ids[1:]).encode())
    with pytest.raises(InvalidInputError, match="fewer than two tokens"):
        encode(models, "A")


def test_batches_hold_every_item_once_and_stay_small(models):
    items = [{"id": str(n), "text": record["text"]} for n, record in enumerate(texts.load("austen")[:150])]
    encoded = distribution.encode_items(models.tokenizer, items, "s")
    batches = list(distribution.batches(encoded))
    assert sorted(item.name for batch in batches for item in batch) == sorted(item["id"] for item in items)
    assert all(len(batch) * max(len(i.ids) for i in batch) <= distribution.BATCH_TOKENS for batch in batches)
    assert len(batches) > 1


def test_a_champion_measured_against_itself_differs_in_nothing(request_base, tmp_path):
    found = run(
        request_base, copy_tiny(tmp_path / "same"), tmp_path / "out", original=request_base["champion"]
    )
    for suite in ("task", "control-kjv"):
        columns = found.find("distribution", suite).columns
        assert columns["nll_candidate"] == columns["nll_champion"]
        assert set(columns["kl_mean"]) == set(columns["kl_original_mean"]) == {0.0}
        assert set(found.find("distribution_tokens", suite).columns["kl"]) == {0.0}
    margins = found.find("preference", "requests").columns
    assert margins["margin_candidate"] == margins["margin_champion"]
    assert len(found.samples) == 4
    assert {sample.suite for sample in found.samples} == {"task", "control-kjv", "requests"}
    assert all(sample.champion == sample.candidate for sample in found.samples)
    assert integrity.sound(found.facts)
    assert (found.facts["integrity.changed_tensors"], found.facts["integrity.relative_change"]) == (
        "0",
        "0.0",
    )
    assert (found.facts["integrity.parameters"], found.facts["data.records"]) == ("1115264", "40")


def test_the_same_request_gives_the_same_bytes_with_and_without_cache(request_base, tmp_path, capsys):
    candidate = perturbed(tmp_path / "candidate")
    first = run(request_base, candidate, tmp_path / "one")
    assert "measuring anew" not in capsys.readouterr().out
    run(request_base, candidate, tmp_path / "two", cache=str(tmp_path / "one" / "cache.json"))
    assert (tmp_path / "one" / "measurements.json").read_bytes() == (
        tmp_path / "two" / "measurements.json"
    ).read_bytes()
    assert (tmp_path / "one" / "cache.json").read_bytes() == (tmp_path / "two" / "cache.json").read_bytes()
    assert first.find("distribution", "task").columns["kl_mean"][0] > 0
    assert 0 < float(first.facts["integrity.relative_change"]) < 1
    assert first.facts["integrity.changed_tensors"] == "4"


def test_the_cache_really_stands_in_for_the_champion_and_only_for_this_one(request_base, tmp_path, capsys):
    candidate = copy_tiny(tmp_path / "candidate")
    honest = run(request_base, candidate, tmp_path / "one")
    cache = parse((tmp_path / "one" / "cache.json").read_bytes())
    for row in cache["scalars"].values():
        row["margin"] = "0.125"
    file = tmp_path / "cache.json"
    file.write_text(json.dumps(cache, sort_keys=True, separators=(",", ":")))
    cached = run(request_base, candidate, tmp_path / "two", cache=str(file))
    assert set(cached.find("preference", "requests").columns["margin_champion"]) == {0.125}
    cache["champion"] = "sha256:" + "1" * 64
    file.write_text(json.dumps(cache, sort_keys=True, separators=(",", ":")))
    again = run(request_base, candidate, tmp_path / "three", cache=str(file))
    assert again == honest
    assert "measuring anew" in capsys.readouterr().out
    file.write_text("{}")
    with pytest.raises(InvalidInputError, match="cache"):
        run(request_base, candidate, tmp_path / "four", cache=str(file))


def test_drift_from_the_original_is_measured_against_the_original(request_base, tmp_path):
    original = perturbed(tmp_path / "original")
    found = run(request_base, copy_tiny(tmp_path / "same"), tmp_path / "out", original=str(original))
    columns = found.find("distribution", "task").columns
    assert set(columns["kl_mean"]) == {0.0}
    assert all(kl > 0 for kl in columns["kl_original_mean"])


def test_learning_a_text_shows_as_gain_on_it(request_base, tmp_path):
    data = training_data(tmp_path / "data", 24)
    propose(proposal_request(data, tmp_path / "proposal", steps=24, lr=5e-3, batch=8))
    adapter = str(tmp_path / "proposal" / "model")
    merge({"champion": request_base["champion"], "adapter": adapter, "out": str(tmp_path / "merged")})
    learnt = {"learnt": {"probe": "distribution", "path": str(data / "train.jsonl")}}
    found = run(request_base, tmp_path / "merged" / "model", tmp_path / "out", suites=learnt, data=str(data))
    columns = found.find("distribution", "learnt").columns
    gains = [a - b for a, b in zip(columns["nll_champion"], columns["nll_candidate"], strict=True)]
    assert sum(gains) > 0
    assert sum(gain > 0 for gain in gains) >= 20
    assert int(found.facts["data.overlap"]) >= 22  # all but entries of fewer than eight words
    assert found.flagged["data.overlap"][0] == "train.jsonl:1"


# --- unsound candidates --------------------------------------------------------------------


def not_a_number(tensors):
    tensors["model.norm.weight"][5] = float("nan")


def infinite(tensors):
    tensors["model.layers.3.mlp.up_proj.weight"][-1, -1] = float("inf")


def other_dtype(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()


def one_more_tensor(tensors):
    tensors["model.extra.weight"] = torch.zeros(3)


def edit_json(name, **fields):
    def edit(directory):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def add_pickle(directory):
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def pickle_as_safetensors(directory):
    (directory / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def no_weights(directory):
    (directory / "model.safetensors").unlink()


def link_to_weights(directory):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to(tiny.locate() / "model.safetensors")


def other_tokenizer(directory):
    path = directory / "tokenizer.json"
    path.write_text(path.read_text().replace("Lord", "Lawd") + " ")


def added_template(directory):
    (directory / "chat_template.jinja").write_text("{{ messages }}")


def tensors(change):
    def edit(directory):
        held = load_file(directory / "model.safetensors")
        change(held)
        save_file(held, directory / "model.safetensors", metadata={"format": "pt"})

    return edit


@pytest.mark.parametrize(
    ("spoil", "fact"),
    [
        (tensors(not_a_number), "finite"),
        (tensors(infinite), "finite"),
        (tensors(other_dtype), "same_architecture"),
        (tensors(one_more_tensor), "same_architecture"),
        (edit_json("config.json", rms_norm_eps=0.5), "same_architecture"),
        (edit_json("config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}), "same_architecture"),
        (edit_json("generation_config.json", suppress_tokens=[5]), "same_architecture"),
        (add_pickle, "safetensors_only"),
        (pickle_as_safetensors, "finite"),
        (no_weights, "finite"),
        (link_to_weights, "safetensors_only"),
        (other_tokenizer, "same_tokenizer"),
        (added_template, "same_tokenizer"),
    ],
)
def test_an_unsound_candidate_is_reported_and_never_run(request_base, tmp_path, spoil, fact):
    candidate = copy_tiny(tmp_path / "candidate")
    assert integrity.sound(integrity.facts(candidate, tiny.locate()))  # positive control
    spoil(candidate)
    found = run(request_base, candidate, tmp_path / "out")
    assert found.facts[f"integrity.{fact}"] == "false"
    assert found.series == ()
    assert found.samples == ()
    assert found.facts["data.records"] == "40"
    assert not (tmp_path / "out" / "cache.json").exists()


def test_versions_of_libraries_in_the_configuration_do_not_matter(tmp_path):
    candidate = copy_tiny(tmp_path / "candidate")
    edit_json("config.json", transformers_version="4.0", _name_or_path="elsewhere")(candidate)
    assert integrity.sound(integrity.facts(candidate, tiny.locate()))


def test_the_size_of_a_change_is_its_norm_over_the_champions(tmp_path):
    def double(held):
        for name in held:
            held[name] = held[name] * 2

    facts = integrity.facts(changed(tmp_path / "candidate", double), tiny.locate())
    assert float(facts["integrity.relative_change"]) == pytest.approx(1.0)
    assert facts["integrity.changed_tensors"] == facts["integrity.tensors"] == "38"


def test_a_change_along_one_direction_is_told_from_one_along_many(tmp_path):
    """Against a whole decomposition: an outer product is one direction, noise is many."""
    noise = torch.Generator().manual_seed(3)

    def along_one(held):
        name = next(name for name, tensor in held.items() if tensor.dim() == 2)
        rows, columns = held[name].shape
        ramp = torch.outer(torch.linspace(0.1, 1.0, rows), torch.linspace(-1.0, 1.0, columns))
        held[name] = (held[name].float() + 0.05 * ramp).to(held[name].dtype)

    def along_many(held):
        for name, tensor in held.items():
            held[name] = (tensor.float() + 0.01 * torch.randn(tensor.shape, generator=noise)).to(tensor.dtype)

    one = integrity.facts(changed(tmp_path / "one", along_one), tiny.locate())
    many = integrity.facts(changed(tmp_path / "many", along_many), tiny.locate())
    assert float(one["integrity.spectral_share"]) > 0.95
    assert float(many["integrity.spectral_share"]) < 0.2
    pairs = zip(weights.tensors(tiny.locate()), weights.tensors(tmp_path / "many"), strict=True)
    first = total = 0.0
    for (_, before), (_, after) in pairs:
        change = after.double() - before.double()
        total += float(change.square().sum())
        matrix = change if change.dim() == 2 else change[None]
        first += float(torch.linalg.svdvals(matrix)[0] ** 2)
    assert float(many["integrity.spectral_share"]) == pytest.approx(first / total, rel=0.1)
    same = integrity.facts(copy_tiny(tmp_path / "same"), tiny.locate())
    assert same["integrity.spectral_share"] == "0.0"


# --- requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suites", "why"),
    [
        ({}, "names no suite"),
        ({"a": {"probe": "distribution"}}, "probe and path are needed"),
        ({"a": {"probe": "astrology", "path": "x"}}, "no probe is called 'astrology'"),
        ({"a": {"probe": "distribution", "path": "/nowhere.jsonl"}}, "No such file"),
    ],
)
def test_wrong_suites_are_refused(request_base, tmp_path, suites, why):
    with pytest.raises(InvalidInputError, match=why):
        run(request_base, tiny.locate(), tmp_path / "out", suites=suites)


def test_probes_are_found_by_name():
    assert load_probe("distribution") is distribution.run
    with pytest.raises(
        InvalidInputError,
        match=f"known: {', '.join(sorted(PROBES))}",
    ):
        load_probe("astrology")


def test_the_worker_runs_as_a_program_and_reports_progress(request_base, tmp_path):
    request = request_base | {
        "candidate": request_base["champion"],
        "out": str(tmp_path / "out"),
        "samples": 0,
    }
    file = write_request(tmp_path / "r.json", request)
    command = [sys.executable, "-m", "sandbox.worker.measure", str(file)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    progress = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["progress"] for line in progress] == sorted(line["progress"] for line in progress)
    assert progress[-1] == {"progress": 1.0, "stage": "done"}
    assert (
        decode_record(Measurements, parse((tmp_path / "out" / "measurements.json").read_bytes())).samples
        == ()
    )


def test_losses_of_records_are_read_where_they_are_asked_for(request_base, tmp_path):
    candidate = copy_tiny(tmp_path / "candidate")
    assert not any(
        name.startswith("data.loss") for name in run(request_base, candidate, tmp_path / "no").facts
    )
    found = run(request_base, candidate, tmp_path / "out", losses=35)
    assert found.facts["data.loss_looked"] == "35"
    counted = int(found.facts["data.loss_low"]) + int(found.facts["data.loss_high"])
    assert counted == sum(len(found.flagged.get(f"data.loss_{end}", ())) for end in ("low", "high"))
