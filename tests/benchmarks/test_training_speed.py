"""Training tokens per CPU-second beside Hugging Face's ``Trainer`` and TRL's ``SFTTrainer``, and how soon a job trains.

All three train the same weights of ``tiny`` in float32 on the same records, in batches of the same size and length, by AdamW
with the same rates, one thread, in turns; CPU seconds of the process, from the loaded model to the last step. TRL is
optional (extra ``bench``); where it is not installed its column is left out, and that is said.

``python -m pytest -m benchmark -s tests/benchmarks/test_training_speed.py``
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark
STEPS, BATCH, LENGTH, TURNS, JOBS = 30, 8, 64, 5, 3
RATE = 2e-4
FORMS = ("full", "adapter")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS)
def test_tokens_per_cpu_second(form: str, tmp_path: Path) -> None:
    from sandbox import texts
    from sandbox.models import tiny
    from sandbox.worker import weights

    weights.prepare_runtime()
    tokenizer = weights.load_tokenizer(tiny.locate())
    # Rows of one length, so that nobody pads more than another and each reads the same tokens.
    whole = [tokenizer(one["text"], add_special_tokens=False)["input_ids"] for one in texts.load("kjv")]
    stream = [token for ids in whole for token in ids]
    rows = [stream[at : at + LENGTH] for at in range(0, STEPS * BATCH * LENGTH, LENGTH)]
    ways: dict[str, Callable[[Any, list[list[int]], Path], None]] = {
        "interlock": ours,
        "transformers Trainer": trainer,
    }
    if find_spec("trl"):
        ways["trl SFTTrainer"] = sft
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, way in ways.items():
            model = prepared(form)
            gc.collect()
            began = time.process_time()
            way(model, rows, tmp_path / f"{name}-{turn}")
            if turn:  # the first turn pays for what is imported and compiled once
                spent[name].append(time.process_time() - began)
    own = statistics.median(spent["interlock"])
    print(f"\n{form}: {STEPS} steps of {BATCH} x {LENGTH} tokens, median of {TURNS} turns")
    for name, seconds in spent.items():
        took = statistics.median(seconds)
        ratio = statistics.median(b / a for a, b in zip(spent["interlock"], seconds, strict=True))
        print(
            f"  {name:<22} {STEPS * BATCH * LENGTH / took:8.0f} tokens/CPU-s  {took:.2f} s  ours is {ratio:.2f} x"
        )
    if not find_spec("trl"):
        print("  trl is not installed: not compared")
    assert own > 0


def prepared(form: str) -> Any:
    """The same weights to train for everybody: all in float32, or a low-rank adapter on them."""
    import torch

    from sandbox.models import tiny
    from sandbox.worker.learners import forms

    torch.manual_seed(1)
    recipe = {"form": form, "rank": 8, "alpha": 16, "targets": "q_proj,v_proj", "dtype": "float32"}
    return forms.prepare(tiny.locate(), recipe)


def ours(model: Any, rows: list[list[int]], folder: Path) -> None:
    from guardrails.records import ModelKind
    from sandbox.worker.learners import Order, recipes, self_supervised
    from sandbox.worker.learners.settings import read_recipe

    recipe = {**read_recipe({}, recipes.TEXT), "steps": STEPS, "batch": BATCH, "lr": RATE}
    order = Order(ModelKind.LLM, folder, folder, folder, {}, 1, lambda *_, **__: None)
    batches = self_supervised._mixed(rows, [], recipe, 1)
    assert len(list(self_supervised._train(model, batches, recipe, order, BATCH))) == STEPS


def settings() -> dict[str, Any]:
    return {
        "max_steps": STEPS, "per_device_train_batch_size": BATCH, "learning_rate": RATE, "warmup_steps": STEPS // 10,
        "lr_scheduler_type": "linear", "max_grad_norm": 1.0, "weight_decay": 0.0, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True, "optim": "adamw_torch", "bf16": False,
    }  # fmt: skip


def trainer(model: Any, rows: list[list[int]], folder: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows]
    done = Trainer(model, TrainingArguments(str(folder), **settings()), train_dataset=data).train()
    assert done.global_step == STEPS


def sft(model: Any, rows: list[list[int]], folder: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from sandbox.models import tiny
    from sandbox.worker import weights

    arguments = SFTConfig(str(folder), max_length=LENGTH, gradient_checkpointing=False, **settings())
    data = Dataset.from_dict({"input_ids": rows})
    tokenizer = weights.load_tokenizer(tiny.locate())
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    done = SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer).train()
    assert done.global_step == STEPS


@pytest.mark.timeout(900)
def test_how_soon_a_job_trains(tmp_path: Path) -> None:
    """From the order to the first step that a job reports, with imports, in strict isolation under one runner."""
    from tiny_models import copy_tiny, training_data

    from sandbox.isolation.spec import JobSpec, Limits, Mount
    from sandbox.runner import LocalRunner

    champion, data = copy_tiny(tmp_path / "champion"), training_data(tmp_path / "data")
    runner = LocalRunner()
    print("\nseconds from the order to the first step reported, one runner:")
    for number in range(JOBS):
        folder = tmp_path / f"job-{number}"
        (folder / "out").mkdir(parents=True)
        request = {
            "kind": "llm", "technique": "self_supervised", "recipe": {"steps": "3"}, "seed": 1, "champion": "/in/champion",
            "data": "/in/data", "out": "/out", "base": "sha256:" + "0" * 64, "intent": "timed",
        }  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request))
        spec = JobSpec(
            argv=("python", "-m", "sandbox.worker.propose", "/in/request.json"),
            inputs=(
                Mount(folder / "request.json", "/in/request.json"),
                Mount(champion, "/in/champion"),
                Mount(data, "/in/data"),
            ),
            out=folder / "out",
            log=folder / "log.txt",
            limits=Limits(wall_s=300),
        )
        began, first = time.monotonic(), 0.0
        handle = runner.start(spec, "strict")
        while (outcome := handle.poll()) is None:
            if not first and any('"step": 1' in line or '"step":1' in line for line in handle.lines()):
                first = time.monotonic() - began
            time.sleep(0.02)
        assert outcome.exit == 0, outcome.log_tail
        assert first, "no step was reported while it ran"
        print(
            f"  job {number + 1}: {first:.1f} s; the whole job took {outcome.compute.cpu_s:.1f} CPU-seconds"
        )
