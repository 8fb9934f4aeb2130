"""Every learner on a GPU that is not there (``accelerator``) beside the same order on the processor; the stand-in itself.

What only a real one can show is not tested here: its rounding, its speed, its memory running out.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerator
import pytest
import test_determinism
import torch
import trials
from safetensors.torch import load_file
from test_determinism import ORDERS, SORTING, STEPS, VISITS, WALKED, WIRED, agent, answered, pupils

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.config import ModelConfig
from sandbox.models import tiny
from sandbox.worker import devices
from sandbox.worker.environments.policy import Policy
from sandbox.worker.learners import Order, forms, memory

CHEAP = ("llm self_supervised", "lam transfer, adapter")
SKILL, SCRATCH = pupils("descending"), {"start": "scratch", "form": "full"}
MORE: dict[str, tuple[ModelConfig, str, Mapping[str, Any]]] = {
    "llm self_supervised, in bfloat16": (SORTING, "self_supervised", STEPS | {"dtype": "bfloat16"}),
    "llm self_supervised, full, in bfloat16": (
        SORTING, "self_supervised", STEPS | {"form": "full", "dtype": "bfloat16"},
    ),
    "llm transfer, from scratch": (SKILL, "transfer", STEPS | SCRATCH),
    "lam self_supervised, observations": (WIRED, "self_supervised", WALKED | {"predict": "both", "replay": "0.5"}),
    "lam self_supervised, hindsight": (WIRED, "self_supervised", WALKED | {"aim": "hindsight"}),
    "lam transfer, from scratch": (WIRED, "transfer", WALKED | SCRATCH | {"demonstrations": 8}),
    "lam meta, rescale": (agent("navigator", "rewired"), "meta", VISITS | {"method": "rescale"}),
    "lam meta, joint": (agent("navigator", "rewired"), "meta", VISITS | {"method": "joint"}),
}  # fmt: skip
"""Ways through our learners that the determinism tests do not take."""
ALL = {**ORDERS, **MORE}
ROUNDING = {"atol": 2e-5, "rtol": 1e-3}
"""Updates of many weights at once, which PyTorch chooses on a GPU, round otherwise than one by one."""


@dataclass
class Made:
    """What an order came to: tensors by file and name, and the bytes of all that was written beside them."""

    tensors: dict[str, torch.Tensor]
    beside: dict[str, bytes]
    claims: dict[str, str]
    computed: int = 0
    drawn: int = 0


def made(order: str, folder: Path, device: str) -> Made:
    """Carry out an order of the determinism tests, its questions answered; on a GPU that is not there if told so."""
    model, technique, recipe = ALL[order]
    champion = trials.model_files(test_determinism.BASES[model.name].locate(), folder / "champion")

    def run(name: str, **given: Any) -> trials.Trial:
        return trials.propose(folder / name, champion, model, technique, recipe, 7, device=device, **given)

    gpu = accelerator.Accelerator()
    with gpu if device == devices.GPU else contextlib.nullcontext():
        trial = run("first")
        if trial.asked:
            trial = run("second", answers=[answered(question) for question in trial.asked])
    return _read(trial, gpu)


def _read(trial: trials.Trial, gpu: accelerator.Accelerator) -> Made:
    bundle = trial.folder / "bundle"
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    tensors, beside = {}, {}
    for path in files:
        name = path.relative_to(bundle).as_posix()
        if path.suffix == ".safetensors":
            tensors |= {f"{name}: {key}": tensor for key, tensor in load_file(path).items()}
        elif path.name != "proposal.json":  # its claims are compared as numbers
            beside[name] = path.read_bytes()
    return Made(tensors, beside, trial.claims, gpu.computed, gpu.drawn)


def require_alike(processor: Mapping[str, str], gpu: Mapping[str, str]) -> None:
    """The same claims; numbers but for rounding."""
    assert set(processor) == set(gpu)
    for name, text in processor.items():
        try:
            assert float(gpu[name]) == pytest.approx(float(text), rel=1e-3, abs=1e-4), name
        except ValueError:
            assert gpu[name] == text


@pytest.mark.parametrize(
    "order", [*CHEAP, *(pytest.param(name, marks=pytest.mark.slow) for name in ALL if name not in CHEAP)]
)
def test_a_learner_computes_on_its_gpu_and_comes_to_the_same(order: str, tmp_path: Path) -> None:
    processor, gpu = (made(order, tmp_path / device.partition(":")[0], device) for device in devices.DEVICES)
    assert gpu.computed > 1000, "it was the processor that computed"
    assert gpu.drawn == 0, "numbers were drawn on the GPU"
    require_alike(processor.claims, gpu.claims)
    assert gpu.beside == processor.beside
    assert set(gpu.tensors) == set(processor.tensors)
    for name, tensor in processor.tensors.items():
        torch.testing.assert_close(
            gpu.tensors[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **ROUNDING
        )


@pytest.mark.slow
def test_what_is_computed_again_on_the_way_back_is_computed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "plan", lambda *_: memory.Plan(2, checkpointing=True))
    processor, gpu = (made(CHEAP[0], tmp_path / device[:3], device) for device in devices.DEVICES)
    assert gpu.claims["checkpointing"] == "yes"
    for name, tensor in processor.tensors.items():
        torch.testing.assert_close(gpu.tensors[name], tensor, **ROUNDING)


# --- the positive controls: what was forgotten is found -------------------------------------


def test_a_batch_left_on_the_processor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.worker.learners.language import pairs

    real = pairs.tensors
    monkeypatch.setattr(pairs, "tensors", lambda rows, device: real(rows, torch.device("cpu")))
    with pytest.raises(RuntimeError, match="same device"):
        made("llm self_supervised", tmp_path, devices.GPU)


def test_a_model_left_on_the_processor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = forms.prepare
    monkeypatch.setattr(forms, "prepare", lambda champion, recipe, device="cpu": real(champion, recipe))
    assert made("llm self_supervised", tmp_path, devices.GPU).computed == 0


def test_probabilities_left_on_the_gpu_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Policy._compute
    monkeypatch.setattr(Policy, "_compute", lambda self, chunk: real(self, chunk).to(self._model.device))
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        made("lam reinforcement", tmp_path, devices.GPU)


# --- the stand-in: what CUDA takes and what it refuses --------------------------------------


TAKEN: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "a number of the processor's": lambda cpu, gpu: gpu * torch.tensor(2.0) + 1,
    "its indices": lambda cpu, gpu: gpu[torch.tensor([0, 1])],
    "its indices, to write by": lambda cpu, gpu: gpu.index_put_((torch.tensor([0]),), gpu[:1] * 2),
    "a copy into it": lambda cpu, gpu: torch.empty_like(gpu).copy_(cpu),
    "made there": lambda cpu, gpu: gpu + torch.ones(3, device="cuda"),
    "made there after another": lambda cpu, gpu: gpu + torch.ones_like(cpu, device=gpu.device),
    "made of the caller's memory": lambda cpu, gpu: gpu + torch.as_tensor(cpu, device=gpu.device),
    "moved by the name of another": lambda cpu, gpu: gpu + cpu.to(gpu),
    "made in a function": lambda cpu, gpu: torch.nn.functional.cross_entropy(
        gpu[None], torch.tensor([0]).cuda()
    ),
    "a view": lambda cpu, gpu: gpu[1:] + gpu.flip(0)[1:],
    "deep copies": lambda cpu, gpu: gpu + copy.deepcopy(gpu),
}
REFUSED: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "both": lambda cpu, gpu: cpu + gpu,
    "both, in place": lambda cpu, gpu: gpu.mul_(cpu),
    "both, in one": lambda cpu, gpu: torch.cat([cpu, gpu]),
    "both, multiplied": lambda cpu, gpu: cpu @ gpu,
    "into a number of the processor's": lambda cpu, gpu: torch.zeros(()).add_(gpu.sum()),
    "into the processor's rows": lambda cpu, gpu: cpu.index_put_((torch.tensor([0]),), gpu[:1]),
    "the GPU's indices": lambda cpu, gpu: cpu[torch.tensor([0]).cuda()],
    "the processor's where the GPU's are chosen": lambda cpu, gpu: torch.where(gpu > 0, gpu, cpu),
    "the processor's mask": lambda cpu, gpu: gpu.masked_fill(cpu > 0, 0.0),
    "the processor's labels": lambda cpu, gpu: torch.nn.functional.cross_entropy(
        gpu[None], torch.tensor([0])
    ),
    "the processor's ids": lambda cpu, gpu: torch.nn.Embedding(3, 2).to("cuda")(torch.tensor([1, 2])),
    "many at once": lambda cpu, gpu: torch._foreach_add([cpu, gpu], [cpu, cpu]),
    "a draw by the processor's generator": lambda cpu, gpu: torch.multinomial(
        gpu, 1, generator=torch.Generator()
    ),
    "made there by it": lambda cpu, gpu: torch.rand(3, device="cuda", generator=torch.Generator()),
    "numpy": lambda cpu, gpu: gpu.numpy(),
}


def three() -> torch.Tensor:
    return torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize("way", TAKEN)
def test_what_cuda_takes_is_taken_and_stays_there(way: str) -> None:
    with accelerator.Accelerator():
        found = TAKEN[way](three(), three().to("cuda:0"))
        assert (found.device, found.is_cuda, found.cpu().device.type) == (accelerator.GPU, True, "cpu")


@pytest.mark.parametrize("way", REFUSED)
def test_what_cuda_refuses_is_refused(way: str) -> None:
    with accelerator.Accelerator():
        with pytest.raises((RuntimeError, TypeError), match=r"same device|for generator|to numpy"):
            REFUSED[way](three(), three().to("cuda:0"))
        REFUSED["numpy"](three(), three())  # within the processor nothing is


def test_a_module_moves_with_what_its_layers_share_and_back() -> None:
    with accelerator.Accelerator() as gpu:
        first, second = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
        second.weight = first.weight
        both = torch.nn.Sequential(first, second).to("cuda:0")
        assert first.weight is second.weight
        both(three().cuda()).sum().backward()
        assert first.weight.grad is not None
        assert (first.weight.device, first.weight.grad.device) == (accelerator.GPU, accelerator.GPU)
        torch.optim.AdamW(both.parameters()).step()
        assert both.to("cpu")(three()).device == accelerator.CPU
        before = gpu.computed
        both(three())
        assert gpu.computed == before


def test_a_gradient_goes_back_to_where_its_tensor_is() -> None:
    with accelerator.Accelerator():
        leaf = three().requires_grad_()
        (leaf.to("cuda:0") * 2).sum().backward()
        assert leaf.grad is not None
        assert (leaf.grad.device, leaf.grad.tolist()) == (accelerator.CPU, [2.0, 2.0, 2.0])


def test_fewer_bits_are_those_of_the_device_that_was_named() -> None:
    with accelerator.Accelerator():
        layer, x = torch.nn.Linear(3, 3).to("cuda:0"), three().cuda()
        for kind, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32)):
            with torch.autocast(kind, dtype=torch.bfloat16):
                assert layer(x).dtype is dtype


# --- which device, and how much of it -------------------------------------------------------


def test_a_device_that_is_not_there_is_no_reason_to_take_another() -> None:
    devices.require("cpu")
    with pytest.raises(JobFailedError, match="finds no GPU") as caught:
        devices.require("cuda:0")
    assert "take gpu out" in str(caught.value.hint)
    with pytest.raises(InvalidInputError, match="none of cpu, cuda:0"):
        devices.require("cuda:1")


def test_of_a_gpu_what_is_free_is_planned_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600 << 20, 8 << 30))
    assert devices.memory_bytes("cpu", 5) == 5
    limit = devices.memory_bytes("cuda:0", 5)
    assert limit == 600 << 20
    recipe = {"form": "adapter", "dtype": "auto", "rank": 8, "targets": "q_proj"}
    order = Order(
        ORDERS[CHEAP[0]][0].kind,
        tiny.locate(),
        tmp_path,
        tmp_path,
        {},
        1,
        lambda *_, **__: None,
        limit,
        "cuda:0",
    )
    assert memory.plan(order, recipe, 64, 512).rows < 64
    with pytest.raises(InvalidInputError, match="the job has 600") as caught:
        memory.plan(order, recipe, 1, 1 << 20)
    assert "memory of the GPU" in str(caught.value.hint)


@pytest.mark.parametrize("native", [True, False])
def test_wide_frozen_models_are_in_bfloat16_where_the_gpu_multiplies_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    monkeypatch.setattr(forms, "BFLOAT16_WIDTH", 1)
    expected = torch.bfloat16 if native else torch.float32
    assert forms.frozen_dtype(tiny.locate(), "auto", "cuda:0") is expected
    assert forms.frozen_dtype(tiny.locate(), "float32", "cuda:0") is torch.float32
