"""Transfer and meta-learning of language models: what they refuse, what they write, and that it is the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.models import pupil
from sandbox.worker import merge, weights
from sandbox.worker.data import write_records
from sandbox.worker.environments.skills import parse_skill
from sandbox.worker.learners import Order, load_learner

CHAMPION = pupil.locate()
SHORT = {"transfer": {"steps": "2", "batch": "8"}, "meta": {"rounds": "2", "inner": "2", "batch": "8"}}
DIGITS = [f"{number:05d}" for number in range(41_027, 41_047)]


def puzzles(*skills: str) -> list[dict[str, str]]:
    """Twenty puzzles of each skill."""
    return [
        {"id": f"{name}-{digits}", "skill": name, "prompt": skill.prompt(digits), "answer": skill.answer(digits)}
        for name in skills
        for skill in (parse_skill(name),)
        for digits in DIGITS
    ]  # fmt: skip


def learn(
    folder: Path, technique: str, recipe: dict[str, str], records=None, seed: int = 7
) -> dict[str, str]:
    """Learn by a recipe in a new folder; what is written lies in its ``out``."""
    write_records(
        folder / "data" / "train.jsonl", puzzles("descending", "reverse") if records is None else records
    )
    (folder / "out").mkdir()
    return load_learner(technique, ModelKind.LLM)(
        Order(
            ModelKind.LLM, CHAMPION, folder / "data", folder / "out", recipe, seed, lambda *a, **k: None
        )
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {p.name: str(digest_file(p)) for p in sorted((folder / "out").rglob("*")) if p.is_file()}


def changed(folder: Path) -> bool:
    """Whether any weight below is another than the champion's."""
    before, after = dict(weights.tensors(CHAMPION)), dict(weights.tensors(folder))
    assert set(before) == set(after)
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("technique", "recipe"),
    [
        ("transfer", {}),
        ("transfer", {"form": "full"}),
        ("transfer", {"form": "full", "start": "scratch"}),
        ("meta", {}),
        ("meta", {"method": "joint"}),
    ],
)
def test_the_same_order_gives_the_same_bytes_and_another_seed_others(tmp_path, technique, recipe):
    asked = SHORT[technique] | recipe
    claims = learn(tmp_path / "a", technique, asked)
    learn(tmp_path / "b", technique, asked)
    learn(tmp_path / "c", technique, asked, seed=8)
    assert claims["records"] == "40"
    assert claims["steps"] == ("2" if technique == "transfer" else "4")
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    written = "adapter_model.safetensors" if "adapter_model.safetensors" in first else "model.safetensors"
    assert first[written] != other[written]
    assert first["train.jsonl"] == str(digest_file(tmp_path / "a" / "data" / "train.jsonl"))
    if written == "model.safetensors":
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert first[name] == str(digest_file(CHAMPION / name)), (
                f"{name} is the champion's, byte for byte"
            )
        assert changed(tmp_path / "a" / "out" / "model")


def test_an_adapter_is_what_transfer_writes_by_default_and_it_merges(tmp_path):
    learn(tmp_path, "transfer", SHORT["transfer"])
    adapter = tmp_path / "out" / "model"
    assert not (adapter / "model.safetensors").exists()
    merge.merge({"champion": str(CHAMPION), "adapter": str(adapter), "out": str(tmp_path / "m")})
    assert changed(tmp_path / "m" / "model")


def test_from_scratch_nothing_of_the_champion_is_left(tmp_path):
    learn(tmp_path, "transfer", SHORT["transfer"] | {"form": "full", "start": "scratch", "lr": "1e-9"})
    before, after = dict(weights.tensors(CHAMPION)), dict(weights.tensors(tmp_path / "out" / "model"))
    grown = [name for name in before if before[name].ndim == 2]
    assert grown
    near = [
        torch.corrcoef(torch.stack([before[n].float().flatten(), after[n].float().flatten()]))[0, 1]
        for n in grown
    ]
    assert max(abs(value) for value in near) < 0.1


def test_a_visit_that_is_not_followed_changes_nothing_but_by_its_share(tmp_path):
    """Reptile moves a part of the way: with half the step it stays nearer to the champion."""
    moved = []
    for step in ("1.0", "0.1"):
        learn(tmp_path / step, "meta", SHORT["meta"] | {"step": step})
        after = dict(weights.tensors(tmp_path / step / "out" / "model"))
        before = dict(weights.tensors(CHAMPION))
        moved.append(sum((after[n].float() - before[n].float()).norm().item() for n in before))
    assert 0 < moved[1] < moved[0] / 2


@pytest.mark.parametrize(
    ("technique", "recipe", "said"),
    [
        ("transfer", {"start": "scratch"}, "start = scratch needs form = full"),
        ("transfer", {"start": "afresh"}, "one of champion, scratch"),
        ("transfer", {"form": "soul"}, "form: must be one of adapter, full, average, not 'soul'"),
        ("transfer", {"lr": "nan"}, "lr: must be a number above 0 and at most 1, not 'nan'"),
        ("transfer", {"steps": "0"}, "steps: must be a whole number from 1"),
        ("transfer", {"method": "reptile"}, "method: unknown key"),
        ("meta", {"method": "magic"}, "one of reptile, joint"),
        ("meta", {"lr": "nan"}, "lr: must be a number above 0 and at most 1, not 'nan'"),
        ("meta", {"lr": "inf"}, "lr: must be a number above 0 and at most 1, not 'inf'"),
        ("meta", {"step": "1.5"}, "step: must be a number above 0 and at most 1"),
        ("meta", {"inner": "0"}, "inner: must be a whole number from 1"),
        ("meta", {"form": "adapter"}, "form: unknown key"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path, technique, recipe, said):
    with pytest.raises(InvalidInputError) as refused:
        learn(tmp_path, technique, recipe)
    assert said in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("technique", "records", "said"),
    [
        ("meta", puzzles("reverse"), "records of two skills or more"),
        ("transfer", [{"prompt": "41027<", "answer": ""}], "train.jsonl:1: a record needs prompt and answer"),
        ("transfer", [{"prompt": 41027, "answer": "74210"}], "all of them texts"),
        ("meta", [{"skill": "a", "text": "x", "answer": None}], "all of them texts"),
    ],
)
def test_records_that_cannot_be_learnt_from_are_refused(tmp_path, technique, records, said):
    with pytest.raises(InvalidInputError) as refused:
        learn(tmp_path, technique, SHORT[technique], records)
    assert said in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []
