"""Folding an adapter into its champion: right, deterministic, and only plain LoRA."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import copy_tiny, proposal_request, training_data

from guardrails.errors import InvalidInputError
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.merge import merge
from sandbox.worker.propose import propose


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapter")
    propose(proposal_request(training_data(directory / "data"), directory / "out", lr=1e-2, alpha=64))
    return directory / "out" / "model"


@pytest.fixture
def champion(tmp_path):
    return copy_tiny(tmp_path / "champion")


def run(champion, adapter, out):
    merge({"champion": str(champion), "adapter": str(adapter), "out": str(out)})
    return out / "model"


def test_two_merges_give_the_same_directory(champion, adapter, tmp_path):
    one, two = run(champion, adapter, tmp_path / "one"), run(champion, adapter, tmp_path / "two")
    assert weights.directory_digest(one) == weights.directory_digest(two)
    assert weights.directory_digest(one) != weights.directory_digest(champion)


def test_it_equals_what_peft_merges(champion, adapter, tmp_path):
    from peft import PeftModel

    merged = load_file(run(champion, adapter, tmp_path / "out") / "model.safetensors")
    model = PeftModel.from_pretrained(weights.load_model(champion, torch.float32), adapter).merge_and_unload()
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    before = load_file(champion / "model.safetensors")
    assert any(not torch.equal(merged[name], before[name]) for name in merged)
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor.float(), expected[name].float(), rtol=0.01, atol=1e-6)


def test_what_the_adapter_does_not_touch_stays_to_the_byte(champion, adapter, tmp_path):
    out = run(champion, adapter, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == sorted(tiny.FILES)
    for name in set(tiny.FILES) - {"model.safetensors"}:
        assert (out / name).read_bytes() == (champion / name).read_bytes()
    before, after = load_file(champion / "model.safetensors"), load_file(out / "model.safetensors")
    for name in before:
        if not ("q_proj" in name or "v_proj" in name):
            assert torch.equal(before[name], after[name])


def test_an_adapter_of_zeros_gives_back_the_champion(champion, adapter, tmp_path):
    nothing = tmp_path / "nothing"
    shutil.copytree(adapter, nothing)
    tensors = {
        name: torch.zeros_like(tensor)
        for name, tensor in load_file(nothing / "adapter_model.safetensors").items()
    }
    save_file(tensors, nothing / "adapter_model.safetensors")
    out = run(champion, nothing, tmp_path / "out")
    before, after = load_file(champion / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def altered(adapter, target, config=None, tensors=None):
    shutil.copytree(adapter, target)
    if config is not None:
        path = target / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors is not None:
        held = load_file(target / "adapter_model.safetensors")
        tensors(held)
        save_file(held, target / "adapter_model.safetensors")
    return target


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"bias": "all"}, "bias must be none"),
        ({"r": 0}, "r must be a whole number"),
        ({"lora_alpha": "8"}, "lora_alpha must be a number"),
    ],
)
def test_anything_but_plain_lora_is_refused(champion, adapter, tmp_path, config, why):
    with pytest.raises(InvalidInputError, match=why):
        run(champion, altered(adapter, tmp_path / "bad", config=config), tmp_path / "out")


def first(tensors, ending):
    return next(name for name in sorted(tensors) if name.endswith(ending))


def not_finite(tensors):
    tensors[first(tensors, "lora_A.weight")][0, 0] = float("nan")


def half_a_pair(tensors):
    del tensors[first(tensors, "lora_B.weight")]


def other_shape(tensors):
    name = first(tensors, "lora_B.weight")
    tensors[name] = tensors[name][:-1].clone()


def unknown_weight(tensors):
    for part in ("lora_A.weight", "lora_B.weight"):
        tensors[f"base_model.model.model.elsewhere.{part}"] = tensors[first(tensors, part)].clone()


def not_lora(tensors):
    tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (not_finite, "not finite"),
        (half_a_pair, "do not belong together"),
        (other_shape, "does not fit the champion's weight"),
        (unknown_weight, "the champion has no weight 'model.elsewhere.weight'"),
        (not_lora, "is not a LoRA matrix"),
    ],
)
def test_tensors_that_do_not_belong_are_refused(champion, adapter, tmp_path, change, why):
    with pytest.raises(InvalidInputError, match=why):
        run(champion, altered(adapter, tmp_path / "bad", tensors=change), tmp_path / "out")


def test_a_champion_in_several_files_keeps_its_files(champion, adapter, tmp_path):
    held = load_file(champion / "model.safetensors")
    names = sorted(held)
    (champion / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: held[name] for name in part}, champion / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (champion / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    split = run(champion, adapter, tmp_path / "split")
    whole = run(tiny.locate(), adapter, tmp_path / "whole")
    assert (split / "model.safetensors.index.json").is_file()
    one, other = dict(weights.tensors(split)), dict(weights.tensors(whole))
    assert sorted(one) == sorted(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
