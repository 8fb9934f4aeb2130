"""The learners that let a model write: under a smaller limit they come to the same in parts, and take less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_language_reinforcement import answered
from tiny_models import BASE, write_request

from guardrails.canonical import parse
from guardrails.errors import InvalidInputError
from guardrails.records import ModelKind
from sandbox.models import pupil, tiny
from sandbox.worker import weights
from sandbox.worker.data import write_records
from sandbox.worker.environments.skills import parse_skill
from sandbox.worker.learners import Order, forms, load_learner, memory
from sandbox.worker.learners.active import texts
from sandbox.worker.learners.language import (
    expert_iteration,
    policy_gradient,
    preference,
    rehearsal,
    sampling,
)
from sandbox.worker.learners.language.pairs import IGNORED
from sandbox.worker.learners.memory import Plan, Room

SKILL = parse_skill("sort")
DIGITS = [f"{number:05d}" for number in range(90210, 90250)]
STEPS = {"steps": "3", "lr": "1e-3"}
SAMPLED = STEPS | {"prompts": "4", "group": "4"}
BOTH = STEPS | {"batch": "6", "rehearsed": "6"}
LEARNERS = {
    "policy_gradient": ("reinforcement", SAMPLED),
    "expert_iteration": ("reinforcement", SAMPLED | {"method": "expert_iteration"}),
    "preference": ("reinforcement", BOTH | {"method": "preference", "samples": "4", "ask": "12"}),
    "active": ("active", BOTH | {"ask": "12"}),
}
WHOLE = {"policy_gradient": 16, "expert_iteration": 16, "preference": 18, "active": 12}
"""Rows of an update: answers drawn, pairs of answers and rehearsed words, answers and rehearsed words."""


@dataclass
class Run:
    """What a learner came to."""

    claims: dict[str, str]
    loading: dict[str, Any]
    steps: list[dict[str, Any]]
    tensors: dict[str, torch.Tensor]
    files: dict[str, bytes]
    questions: list[dict[str, Any]]


def run(folder: Path, learner: str, plan: Plan | None = None, **given: Any) -> Run:
    """One order; ``plan``: as if memory had decided so, which only its own tests decide by bytes."""
    technique, recipe = LEARNERS[learner]
    records = [
        {"id": d, "prompt": SKILL.prompt(d), "answer": SKILL.answer(d), "text": SKILL.prompt(d)}
        for d in DIGITS
    ]
    write_records(folder / "data" / "train.jsonl", records)
    if "answers" in given:
        write_records(folder / "data" / "answers.jsonl", given["answers"])
    out = folder / "out"
    out.mkdir()
    said: list[tuple[str, dict[str, Any]]] = []
    order = Order(
        ModelKind.LLM, pupil.locate(), folder / "data", out, recipe | given.get("recipe", {}), 7,
        lambda share, stage, **numbers: said.append((stage, numbers)), given.get("memory_bytes", 0),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if plan is not None:
            patch.setattr(Room, "plan", lambda self, rows, length, **more: plan)
            patch.setattr(Room, "written", lambda self, rows, length, **more: plan.written)
        claims = load_learner(technique, ModelKind.LLM)(order)
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    tensors = {name: t for path in out.rglob("*.safetensors") for name, t in load_file(path).items()}
    questions = [json.loads(line) for line in files.get("questions.jsonl", b"").splitlines()]
    return Run(
        claims, next(n for stage, n in said if stage == "loading"),
        [numbers for stage, numbers in said if stage == "training"], tensors, files, questions,
    )  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """What people said to the questions of the learners that ask."""
    asked = {name: run(tmp_path_factory.mktemp(name), name).questions for name in ("preference", "active")}
    told = [
        {
            **q,
            "answer": SKILL.answer(q["prompt"][:5]),
            "options": [],
            "chosen": -1,
            "skipped": False,
            "fresh": True,
        }
        for q in asked["active"]
    ]
    return {"preference": answered(asked["preference"]), "active": told}


def trained(folder: Path, learner: str, people, plan: Plan | None = None, **given: Any) -> Run:
    if learner in people:
        given["answers"] = people[learner]
    return run(folder, learner, plan, **given)


@pytest.mark.parametrize("learner", LEARNERS)
def test_in_parts_it_learns_the_same_and_the_same_parts_give_the_same_bytes(tmp_path, people, learner):
    whole = trained(tmp_path / "whole", learner, people)
    assert (whole.claims["rows_at_once"], whole.claims["checkpointing"]) == (str(WHOLE[learner]), "no")
    plan = Plan(5, written=3)
    parts, again = (trained(tmp_path / name, learner, people, plan) for name in ("parts", "again"))
    assert parts.files == again.files
    assert {key: parts.claims[key] for key in plan.claims} == plan.claims
    assert {key: parts.loading[key] for key in plan.claims} == plan.claims
    for step, same in zip(parts.steps, whole.steps, strict=True):
        assert step == pytest.approx(same, abs=2e-3)
    assert parts.tensors.keys() == whole.tensors.keys()
    assert len({json.dumps(step) for step in whole.steps}) > 1, (
        "something is learnt: equal numbers say something"
    )


@pytest.mark.parametrize("learner", ["preference", "active"])
def test_in_parts_it_asks_the_same(tmp_path, people, learner):
    whole, parts = run(tmp_path / "whole", learner), run(tmp_path / "parts", learner, Plan(0, written=3))
    assert parts.loading["written_at_once"] == 3
    assert [q["prompt"] for q in parts.questions] == [q["prompt"] for q in whole.questions]
    assert [q.get("options") for q in parts.questions] == [q.get("options") for q in whole.questions]


# --- the parts of an update -----------------------------------------------------------------


@pytest.fixture(scope="module")
def champion():
    return weights.load_model(pupil.locate(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return sampling.load_tokenizer(pupil.locate())


def prompts(tokenizer, count: int) -> list[list[int]]:
    """Prompts of two lengths."""
    asked = [
        SKILL.prompt(digits) if number % 2 else digits[:2] for number, digits in enumerate(DIGITS[:count])
    ]
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked]


def drawn(model, tokenizer, at_once: int) -> sampling.Said:
    generator = torch.Generator().manual_seed(3)
    return sampling.sample(model, prompts(tokenizer, 12), 8, tokenizer.eos_token_id, 1.0, generator, at_once)


def test_the_same_is_drawn_however_many_rows_are_read_at_once(champion, tokenizer):
    whole = drawn(champion, tokenizer, 12)
    assert len({tuple(row) for row in whole.ids[:, -whole.tokens :].tolist()}) > 6, "of many answers"
    for at_once in (5, 1):
        parts = drawn(champion, tokenizer, at_once)
        assert torch.equal(parts.ids, whole.ids)
        assert torch.equal(parts.spoken, whole.spoken)


def test_a_model_that_recomputes_in_training_remembers_while_it_draws(champion, tokenizer):
    model = Plan(1, checkpointing=True).applied(forms.prepare(pupil.locate(), {"form": "full"}))
    assert model.is_gradient_checkpointing
    assert model.training
    assert torch.equal(drawn(model, tokenizer, 4).ids, drawn(champion, tokenizer, 4).ids)
    assert model.training, "it is left as it was found"


def losses(learner: str, model, champion, tokenizer, plan: Plan) -> Iterator[torch.Tensor]:
    """An update's loss in parts."""
    said = drawn(champion, tokenizer, 12)
    rows = prompts(tokenizer, 12)
    if learner == "policy_gradient":
        advantages = torch.linspace(-1, 1, 12)
        recipe = {"temperature": 0.6, "kl": 0.05}
        return policy_gradient.loss_in_parts(model, champion, said, advantages, recipe, plan.rows)
    if learner == "expert_iteration":
        return expert_iteration.loss_in_parts(model, said, plan.rows)
    words = rehearsal.rehearsals(champion, tokenizer, rows, 7, 6, seed=1)
    if learner == "preference":
        pairs = [(row, [*row[:1], 1], [*row[:2], 1]) for row in rows[:5]]
        recipe = {"beta": 0.1, "imitation": 0.2, "keep": 0.7}
        return preference.loss_in_parts(model, champion, pairs, words, recipe, plan, preference.Own())
    answers = [(row + row[:2], [IGNORED] * len(row) + row[:2]) for row in rows[:5]]
    return texts.loss_in_parts(model, answers, words, 0.7, plan, [0.0])


@pytest.mark.parametrize("learner", LEARNERS)
def test_parts_have_the_gradient_of_the_whole(learner, champion, tokenizer):
    form = {"form": "adapter", "dtype": "float32", "rank": 4, "alpha": 8, "targets": "q_proj,v_proj"}
    if learner != "active":
        form["form"] = "full"
    gradients, counts = [], []
    for plan in (Plan(32), Plan(5), Plan(2), Plan(2, checkpointing=True)):
        torch.manual_seed(1)
        model = plan.applied(forms.prepare(pupil.locate(), form))
        with torch.no_grad():
            for parameter in forms.trained(model):  # away from the champion, where much would be zero
                parameter.add_(0.02 * torch.randn(parameter.shape))
        counts.append(0)
        for loss in losses(learner, model, champion, tokenizer, plan):
            loss.backward()
            counts[-1] += 1
        gradients.append(torch.cat([p.grad.flatten() for p in forms.trained(model)]))
    scale = gradients[0].abs().max()
    assert scale > 0
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-4 * scale
    assert counts[0] == 1
    assert counts[1] > 2
    assert counts[2] == counts[3] > counts[1]


def test_what_fits_goes_together_and_what_does_not_in_parts_of_no_more_rows():
    first, second = list("abcde"), list("xyz")
    assert list(Plan(13).parts(first, second, size=2)) == [(first, second)]
    parts = [("".join(one), "".join(other)) for one, other in Plan(4).parts(first, second, size=2)]
    assert parts == [("ab", ""), ("cd", ""), ("e", ""), ("", "xyz")]
    assert list(Plan(8).parts(first, [])) == [(first, [])]


# --- scores of some tokens ------------------------------------------------------------------


def test_scores_of_some_tokens_are_one_product_in_bfloat16_and_what_they_were_in_float32(tokenizer):
    lying: list[bool] = []
    for dtype, together in ((torch.bfloat16, True), (torch.float32, False)):
        model = weights.load_model(pupil.locate(), dtype)
        head = model.get_output_embeddings()
        with sampling.scored_in_one(model):
            head.register_forward_pre_hook(lambda _, given: lying.append(given[0].is_contiguous()))
            model(input_ids=torch.ones(3, 5, dtype=torch.long), logits_to_keep=2)
        assert lying.pop() is together
        model(input_ids=torch.ones(3, 5, dtype=torch.long), logits_to_keep=2)
        assert lying.pop() is False, "and only there"


# --- what the limit decides -----------------------------------------------------------------


MIB = 1 << 20


def limited(mib: int, reference: bool = False) -> Room:
    order = Order(ModelKind.LLM, tiny.locate(), Path(), Path(), {}, 1, lambda *a, **k: None, mib * MIB)
    return memory.training(order, {"form": "full", "dtype": "auto"}, reference=reference)


def test_a_champion_beside_it_and_tables_that_are_compared_leave_less_room():
    room = limited(700)
    assert limited(700, reference=True).plan(64, 200).rows <= room.plan(64, 200).rows
    plain, compared = room.plan(64, 200, scored=20), room.plan(64, 200, scored=20, compared=200)
    assert room.plan(64, 200).rows < plain.rows
    assert compared.rows < plain.rows


def test_no_limit_means_everything_at_once():
    room = limited(0)
    assert room.plan(64, 10_000, written=3) == Plan(64, written=3)
    assert room.written(64, 10_000, in_step=True) == 64


def test_what_is_held_of_all_rows_is_not_made_less_by_reading_fewer():
    assert limited(520).written(64, 100, in_step=False) > limited(520).written(64, 100, in_step=True) >= 1
    with pytest.raises(
        InvalidInputError, match=r"512 rows of 400 tokens need about \d+ MiB to write, the job has 520"
    ):
        limited(520).written(512, 400, in_step=True)
    with pytest.raises(InvalidInputError, match=r"one row of 90000 tokens needs about \d+ MiB to write"):
        limited(520).written(512, 90_000, in_step=False)


def test_the_two_answers_of_a_choice_are_not_parted():
    rows = {limited(mib).plan(64, 512, least=2).rows for mib in range(560, 3600, 40)}
    assert min(rows) == 2
    assert max(rows) == 64
    with pytest.raises(InvalidInputError, match="2 rows of 512 tokens need about"):
        limited(430).plan(64, 512, least=2)


@pytest.mark.parametrize("learner", LEARNERS)
def test_too_small_a_limit_is_refused_before_anything_is_loaded(tmp_path, people, learner, monkeypatch):
    monkeypatch.setattr(weights, "load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(forms.weights, "load_model", lambda *_: pytest.fail("loaded"))
    for module in (policy_gradient, preference):
        monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("loaded"))
    for name in [learner, "asking"] if learner in people else [learner]:
        given = {} if name == "asking" else {"answers": people.get(learner) or []}
        with pytest.raises(
            InvalidInputError, match=r"about \d+ MiB to (write|learn from), the job has 300"
        ) as no:
            run(tmp_path / name, learner, memory_bytes=300 * MIB, **{k: v for k, v in given.items() if v})
        assert "memory_bytes" in no.value.hint
        assert not list((tmp_path / name / "out").iterdir())


# --- jobs -----------------------------------------------------------------------------------


WORDS = [
    "abandon",
    "wine",
    "ocean",
    "paper",
    "lemon",
    "river",
    "stone",
    "cloud",
    "garden",
    "window",
    "candle",
]


def long_text(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 7 + at * (at + 3)) % len(WORDS)] for at in range(words))


# A process begins with the peak of the one that started it, which for tests of models is large: so one that is small does.
WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(folder: Path, technique: str, recipe: dict[str, str], mib: int) -> tuple[int, dict[str, str]]:
    """A real job under a limit, in a process of its own: its peak of resident memory in MiB, and its claims."""
    (folder / "out").mkdir(parents=True)
    request = {
        "kind": "llm", "technique": technique, "recipe": recipe, "seed": 7, "champion": str(tiny.locate()),
        "data": str(folder.parent / "data"), "out": str(folder / "out"), "base": BASE, "intent": "learn",
        "memory_bytes": mib * MIB,
    }  # fmt: skip
    path = write_request(folder / "request.json", request)
    job = subprocess.run(
        [sys.executable, "-c", WATCH, sys.executable, "-m", "sandbox.worker.propose", str(path)],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return int(job.stdout) >> 10, parse((folder / "out" / "proposal.json").read_bytes())["claims"]


JOBS = {
    "policy_gradient": ("reinforcement", {"prompts": "8", "group": "4"}, 560),
    "preference": ("reinforcement", {"method": "preference", "batch": "16", "rehearsed": "16"}, 560),
    "active": ("active", {"batch": "16", "rehearsed": "16"}, 560),
}


@pytest.mark.slow
@pytest.mark.parametrize("learner", JOBS)
def test_under_a_smaller_limit_a_job_takes_less_memory_and_stays_below_it(tmp_path, learner):
    technique, recipe, tight = JOBS[learner]
    records = [{"id": str(n), "prompt": long_text(n, 100), "answer": "1 2", "text": "x"} for n in range(16)]
    write_records(tmp_path / "data" / "train.jsonl", records)
    if learner != "policy_gradient":
        kind = "choice" if learner == "preference" else "answer"
        both = [[long_text(n + other, 8) for other in (3, 5)] for n in range(16)]
        told = [
            {"id": f"q{n}", "kind": kind, "prompt": long_text(n, 100), "options": options if kind == "choice" else [],
             "answer": options[0], "chosen": 0 if kind == "choice" else -1, "skipped": False, "fresh": True}
            for n, options in enumerate(both)
        ]  # fmt: skip
        write_records(tmp_path / "data" / "answers.jsonl", told)
    recipe = {"steps": "2", **recipe}
    whole, all_at_once = peak(tmp_path / "whole", technique, recipe, 8192)
    less, some = peak(tmp_path / "tight", technique, recipe, tight)
    assert int(some["rows_at_once"]) < int(all_at_once["rows_at_once"]) == 32 + 16 * (learner == "preference")
    assert less < tight < whole
    print(f"{learner}: {whole} MiB at once, {less} MiB in parts of {some['rows_at_once']}, limit {tight}")
