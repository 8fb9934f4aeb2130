"""Replay against forgetting: one part of a control may be learnt, and only the other counts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tiny_models import copy_tiny

from guardrails.errors import ConfigError, InvalidInputError
from guardrails.records import ModelKind
from sandbox import tasks
from sandbox.config import ModelConfig, load_config
from sandbox.worker.data import Line, read_lines, write_records
from sandbox.worker.learners import Order, load_learner
from sandbox.worker.probes.records_overlap import overlapping

SECRET = b"s" * 32
READER = ModelConfig(
    name="reader", kind=ModelKind.LLM, base="shipped:tiny", recipes=(), train=("shipped:devils-dictionary",),
    controls={"control-austen": "shipped:austen"}, replay=("control-austen",), items=200,
)  # fmt: skip
PUPIL = ModelConfig(
    name="pupil", kind=ModelKind.LLM, base="shipped:pupil", recipes=(), train=("sort",),
    controls={"control-copy": "copy"}, replay=("control-copy",), task="skills", items=200,
)  # fmt: skip


@pytest.mark.parametrize("model", [READER, PUPIL], ids=lambda model: model.name)
def test_what_is_replayed_is_named_and_none_of_it_counts(model, tmp_path):
    (control,) = model.controls
    records = tasks.training_records(model, tmp_path, SECRET)
    replayed = [record for record in records if "replay" in record]
    assert {record["replay"] for record in replayed} == {control}
    assert len(replayed) > 100
    without = tasks.training_records(replace(model, replay=()), tmp_path, SECRET)
    assert [record for record in records if "replay" not in record] == without
    for suite in tasks.private_suites(model, tmp_path, SECRET, "n"):
        if suite.name.startswith("control"):
            assert len(suite.items) == 200
            assert not {record["text"] for record in replayed} & {item.get("text") for item in suite.items}
            assert not overlapping([Line(str(n), record) for n, record in enumerate(replayed)], suite.items)


def test_only_controls_can_be_replayed(tmp_path):
    text = '[models.m]\nkind = "llm"\nbase = "b"\ntrain = ["t"]\ncontrols = {c = "x"}\nreplay = ["d"]\n'
    (tmp_path / "interlock.toml").write_text(text)
    with pytest.raises(ConfigError, match="names of this model's controls"):
        load_config(tmp_path)
    (tmp_path / "interlock.toml").write_text(text.replace('["d"]', '["c"]'))
    assert load_config(tmp_path).models["m"].replay == ("c",)


def learnt(folder, share: str, with_replay: bool = True) -> tuple[dict[str, str], list[str]]:
    """Claims of a run over two updates, and the ids of the records that it says it used."""
    draw = random.Random(3)
    words = [
        "in",
        "the",
        "beginning",
        "of",
        "all",
        "things",
        "there",
        "was",
        "a",
        "word",
        "and",
        "a",
        "light",
    ]
    lines = [{"id": f"own-{n}", "text": " ".join(draw.choices(words, k=12))} for n in range(8)]
    if with_replay:
        lines += [
            {"id": f"old-{n}", "text": " ".join(draw.choices(words, k=12)), "replay": "c"} for n in range(8)
        ]
    write_records(folder / "data" / "train.jsonl", lines)
    out = folder / "out"
    out.mkdir()
    recipe = {"steps": "2", "batch": "4", "replay": share}
    order = Order(
        ModelKind.LLM, copy_tiny(folder / "champion"), folder / "data", out, recipe, 1, lambda *a, **k: None
    )
    claims = load_learner("self_supervised", ModelKind.LLM)(order)
    return claims, [str(line.value["id"]) for line in read_lines(out / "data" / "train.jsonl")]


def test_records_for_replay_are_learnt_only_where_the_recipe_says_so(tmp_path):
    claims, used = learnt(tmp_path / "a", "0")
    assert (claims["records"], {name[:3] for name in used}) == ("8", {"own"})
    mixed, both = learnt(tmp_path / "b", "0.5")
    assert (mixed["records"], {name[:3] for name in both}) == ("16", {"own", "old"})
    assert mixed["last_loss"] != claims["last_loss"]


@pytest.mark.parametrize(
    ("share", "said"), [("1", "below 1"), ("-0.1", "from 0 and below 1"), ("0.5", "needs records")]
)
def test_a_share_that_cannot_be_had_is_refused(tmp_path, share, said):
    with pytest.raises(InvalidInputError, match=said):
        learnt(tmp_path, share, with_replay=False)
