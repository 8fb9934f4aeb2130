"""Skills: puzzles whose answers can be checked, held out by their digits, and the model that answers them."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.canonical import digest, digest_file
from guardrails.errors import ConfigError, DeniedError, InvalidInputError
from guardrails.ledger.rows import ModelRow
from guardrails.records import ModelKind
from sandbox import tasks
from sandbox.config import ModelConfig
from sandbox.models import pupil
from sandbox.rounds import bench
from sandbox.worker import weights
from sandbox.worker.data import Line
from sandbox.worker.environments import skills
from sandbox.worker.probes.records_overlap import overlapping
from sandbox.worker.probes.records_quality import census

SECRET = b"s" * 32
MODEL = ModelConfig(
    name="pupil", kind=ModelKind.LLM, base="shipped:pupil", recipes=(), train=("sort", "descending"),
    controls={"control-copy": "copy"}, task="skills", items=240,
)  # fmt: skip


@given(st.text(alphabet=skills.DIGITS, min_size=5, max_size=5))
def test_every_answer_is_five_digits_that_its_rule_alone_gives(digits):
    made = {name: skills.parse_skill(name).answer(digits) for name in skills.RULES}
    assert all(len(answer) == 5 and set(answer) <= set(skills.DIGITS) for answer in made.values())
    assert list(made["sort"]) == sorted(digits)
    assert made["descending"] == made["sort"][::-1]
    assert made["copy"] == made["reverse"][::-1] == digits
    assert skills.parse_skill("rotate4").answer(made["rotate1"]) == digits


def test_a_skill_has_its_own_sign_or_the_one_that_is_named():
    signs = [skills.parse_skill(name).sign for name in skills.RULES]
    assert len(set(signs)) == len(signs)
    assert skills.parse_skill("rotate1:?").prompt("12345") == "12345?"
    for wrong in ("soort", "sort:", "sort:9", "sort:??", ""):
        with pytest.raises(InvalidInputError):
            skills.parse_skill(wrong)


@pytest.mark.parametrize(("said", "share"), [("12345", 1.0), ("12354", 0.6), ("", 0.0), ("1234567", 1.0)])
def test_the_share_of_right_places(said, share):
    assert skills.share_right(said, "12345") == share


@pytest.mark.parametrize("secret", [b"a" * 32, b"b" * 32])
def test_digits_of_a_private_puzzle_are_never_trained_on_under_any_sign(tmp_path, secret):
    everything = replace(MODEL, train=tuple(skills.RULES), items=400)
    trained = {record["prompt"][:5] for record in tasks.training_records(everything, tmp_path, secret)}
    for nonce in ("one", "two"):
        for suite in tasks.private_suites(everything, tmp_path, secret, nonce):
            assert not {item.get("prompt", item.get("text"))[:5] for item in suite.items} & trained
    assert len(trained) > 2000


def test_suites_of_the_named_size_drawn_by_the_nonce(tmp_path):
    first = tasks.private_suites(MODEL, tmp_path, SECRET, "one")
    assert [(suite.name, suite.probe) for suite in first] == [
        ("skills", "written"), ("control-copy", "distribution"), ("control-copy-answers", "written"),
    ]  # fmt: skip
    assert all(len({item["id"] for item in suite.items}) == 240 for suite in first)
    assert first == tasks.private_suites(MODEL, tmp_path, SECRET, "one")
    assert first[0].items != tasks.private_suites(MODEL, tmp_path, SECRET, "two")[0].items
    prompts = [item["prompt"] for item in first[0].items]
    assert {prompt[-1] for prompt in prompts} == {">", "<"}


def test_the_records_are_what_the_census_lets_pass_and_a_planted_one_is_found(tmp_path):
    records = tasks.training_records(replace(MODEL, train=("sort",)), tmp_path, SECRET)[:100]
    suites = [suite.items for suite in tasks.private_suites(MODEL, tmp_path, SECRET, "n")]
    lines = [Line(f"train.jsonl:{number}", record) for number, record in enumerate(records, 1)]
    facts = census(lines, suites).facts
    names = ("near_duplicates", "pii", "secrets", "language", "overlap", "unsourced", "unlicensed")
    assert {facts[f"data.{name}"] for name in names} == {"0"}
    item = suites[0][0]
    for planted in ({"prompt": item["prompt"]}, {"text": f"{item['prompt']}{item['answers'][0]}."}):
        assert [line.place for line in overlapping([*lines, Line("planted", planted)], suites[0])] == [
            "planted"
        ]


def test_a_task_without_skills_or_with_unknown_ones_says_so(tmp_path):
    with pytest.raises(ConfigError, match="train is empty"):
        tasks.training_records(replace(MODEL, train=()), tmp_path, SECRET)
    with pytest.raises(ConfigError, match="no skill is called 'juggle'"):
        tasks.private_suites(replace(MODEL, controls={"control-x": "juggle"}), tmp_path, SECRET, "n")


def test_a_model_is_adopted_with_the_label_of_its_task():
    text = replace(MODEL, task="", train=("shipped:kjv",), labels={"tier": "x"})
    assert tasks.labels_of(MODEL) == {"task": "skills"}
    assert tasks.labels_of(text) == {"tier": "x"}
    assert tasks.labels_of(replace(MODEL, labels={"task": "skills", "tier": "x"})) == {
        "task": "skills",
        "tier": "x",
    }
    for wrong in (replace(MODEL, labels={"task": "text"}), replace(text, labels={"task": "skills"})):
        with pytest.raises(ConfigError, match="the label task says"):
            tasks.labels_of(wrong)


def test_what_a_model_is_to_be_quick_to_learn_is_a_label_of_its_own():
    quick = replace(MODEL, adapt=("rotate4:?", "swap:?"))
    assert tasks.labels_of(quick) == {"task": "skills", "adapt": "rotate4:?, swap:?"}
    for wrong in (replace(quick, labels={"adapt": "copy"}), replace(MODEL, labels={"adapt": "copy"})):
        with pytest.raises(ConfigError, match="the label adapt"):
            tasks.labels_of(wrong)


def test_what_it_was_adopted_to_learn_cannot_be_changed_afterwards(monkeypatch):
    """Rules go by the label that a root signed for: of an easier skill the same suite would say more."""
    signed = {"task": "skills", "adapt": "rotate4:?"}
    base = digest(b"base")
    view = SimpleNamespace(model=lambda name: ModelRow(name, MODEL.kind.value, base, base, (), signed))
    monkeypatch.setattr(bench, "proven_view_of", lambda log: contextlib.nullcontext(view))
    made = SimpleNamespace(gate=SimpleNamespace(log=None))
    bench.require_own_task(made, replace(MODEL, adapt=("rotate4:?",)))
    for adapt in (("copy",), ("rotate4:?", "copy"), ()):
        with pytest.raises(DeniedError, match="adopted to be quick to learn"):
            bench.require_own_task(made, replace(MODEL, adapt=adapt))
    signed.pop("adapt")
    bench.require_own_task(made, replace(MODEL, adapt=("copy",)))  # adopted before there was such a label


# --- the shipped model ------------------------------------------------------------------


def test_the_weights_are_the_described_ones_and_small():
    path = pupil.locate() / "model.safetensors"
    assert digest_file(path).hex == pupil.WEIGHTS_SHA256
    assert path.stat().st_size < 1.2 * 2**20


def test_the_model_leaves_head_room_in_sort_and_knows_no_other_sign():
    import torch

    from sandbox.models.pupil.make import right

    model = weights.load_model(pupil.locate(), torch.float32)
    tokenizer = weights.load_tokenizer(pupil.locate())
    assert 0.45 < right(model, tokenizer, "sort", 300) < 0.7
    assert right(model, tokenizer, "copy", 100) > 0.95
    assert right(model, tokenizer, "rotate2", 100) < 0.05


def test_drawn_digits_are_the_generators_alone():
    assert skills.draw_digits(random.Random(4)) == skills.draw_digits(random.Random(4))
