"""sandbox.worker.learners.memory: a job's memory limit decides how many rows are learnt from at once, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_self_supervised import files
from tiny_models import proposal_request, training_data

from guardrails.canonical import parse
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.models import tiny
from sandbox.worker import weights
from sandbox.worker.learners import Order, forms, memory
from sandbox.worker.learners.language.pairs import IGNORED, losses_of
from sandbox.worker.learners.memory import Plan
from sandbox.worker.propose import propose

MIB = 1 << 20
RECIPE = {"form": "adapter", "dtype": "float32", "rank": 8, "alpha": 16, "targets": "q_proj,v_proj"}
ORDER = Order(
    kind=ModelKind.LLM, champion=tiny.locate(), data=Path(), out=Path(), recipe={}, seed=1, report=print
)  # fmt: skip
LENGTH = 256


def planned(mib: int, rows: int = 8, recipe: dict[str, object] = RECIPE) -> Plan:
    return memory.plan(replace(ORDER, memory_bytes=mib * MIB), recipe, rows, LENGTH)


def limit_for(wanted: Plan) -> int:
    """The least limit, in MiB, under which this is the plan."""
    for mib in range(420, 700, 2):
        try:
            if planned(mib) == wanted:
                return mib
        except InvalidInputError:
            continue
    raise AssertionError(f"no limit gives {wanted}")


def test_a_generous_limit_and_none_at_all_take_the_batch_as_the_recipe_says():
    assert planned(8192) == memory.plan(ORDER, RECIPE, 8, LENGTH) == Plan(8)


@settings(max_examples=30, deadline=None)
@given(st.integers(440, 1200), st.integers(0, 400), st.integers(1, 40))
def test_more_memory_never_means_fewer_rows_and_the_same_always_the_same(mib, more, rows):
    try:
        less = planned(mib, rows)
    except InvalidInputError:
        return
    also = planned(mib + more, rows)
    assert planned(mib, rows) == less
    assert less.checkpointing >= also.checkpointing
    assert also.rows >= less.rows or less.checkpointing > also.checkpointing
    assert less.rows in {-(-rows // 2**parts) for parts in range(8)}


def test_activations_are_recomputed_only_where_one_row_alone_is_too_much():
    limits = [limit_for(Plan(1, True)), limit_for(Plan(1)), limit_for(Plan(2)), limit_for(Plan(8))]
    assert limits == sorted(limits)


def test_training_every_weight_leaves_room_for_fewer_rows():
    assert planned(limit_for(Plan(2)), recipe=RECIPE | {"form": "full"}).rows == 1


def test_a_limit_too_small_for_one_row_fails_before_anything_is_loaded(tmp_path, monkeypatch):
    data = training_data(tmp_path / "data")
    monkeypatch.setattr(weights, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(
        InvalidInputError, match=r"needs about \d+ MiB to learn from, the job has 300"
    ) as refused:
        propose(proposal_request(data, tmp_path / "out") | {"memory_bytes": 300 * MIB})
    assert "memory_bytes" in refused.value.hint
    assert not (tmp_path / "out" / "proposal.json").exists()


def run(tmp_path: Path, name: str, mib: int, capsys) -> tuple[dict[str, str], list[float]]:
    """One run under a limit: its claims, and the loss of every update."""
    request = proposal_request(tmp_path / "data", tmp_path / name, length=LENGTH, batch=8, steps=2, lr=1e-2)
    capsys.readouterr()
    propose(request | {"memory_bytes": mib * MIB})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    claims = parse((tmp_path / name / "proposal.json").read_bytes())["claims"]
    return claims, [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("wanted", [Plan(2), Plan(1, True)])
def test_a_smaller_limit_learns_the_same_in_parts_and_the_same_limit_the_same_bytes(tmp_path, capsys, wanted):
    training_data(tmp_path / "data")
    whole, losses = run(tmp_path, "whole", 8192, capsys)
    mib = limit_for(wanted)
    parts, same = run(tmp_path, "parts", mib, capsys)
    again, _ = run(tmp_path, "again", mib, capsys)
    assert (whole["rows_at_once"], whole["checkpointing"]) == ("8", "no")
    assert {name: parts[name] for name in wanted.claims} == wanted.claims
    assert same == pytest.approx(losses, abs=2e-3)
    assert losses[-1] < losses[0] - 0.01, "something is learnt: equal losses say something"
    assert files(tmp_path / "parts") == files(tmp_path / "again")
    assert parts == again


def test_parts_have_the_gradient_of_the_whole():
    rows = [
        ([5, 6, 7, 8, 9], [IGNORED, 6, 7, 8, 9]),
        ([10, 11], [IGNORED, 11]),
        ([12, 13, 14], [IGNORED, IGNORED, 14]),
    ]
    gradients = []
    for plan in (Plan(3), Plan(2), Plan(1), Plan(1, checkpointing=True)):
        torch.manual_seed(1)
        model = plan.applied(forms.prepare(tiny.locate(), RECIPE | {"form": "full", "dtype": "auto"}))
        for loss in losses_of(model, rows, plan.rows):
            loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in forms.trained(model)]))
    scale = gradients[0].abs().max()
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-4 * scale
    assert model.is_gradient_checkpointing
    assert torch.equal(gradients[2], gradients[3]), "recomputing changes nothing"


def test_every_weight_can_be_trained_with_products_in_bfloat16():
    rows = [([5, 6, 7, 8, 9], [IGNORED, 6, 7, 8, 9])]
    losses = {}
    for dtype in ("auto", "bfloat16"):
        model = forms.prepare(tiny.locate(), {"form": "full", "dtype": dtype})
        (loss,) = losses_of(model, rows, 1)
        loss.backward()
        assert (
            {p.dtype for p in model.parameters()}
            == {p.grad.dtype for p in model.parameters()}
            == {torch.float32}
        )
        losses[dtype] = loss.item()
    assert losses["auto"] != losses["bfloat16"]
    assert losses["auto"] == pytest.approx(losses["bfloat16"], abs=0.05)


def test_a_narrow_model_stays_in_float32_where_nothing_else_is_asked_for():
    assert forms.frozen_dtype(tiny.locate(), "auto") is torch.float32
    assert forms.frozen_dtype(tiny.locate(), "bfloat16") is torch.bfloat16
