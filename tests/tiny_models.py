"""Variants of the shipped ``tiny`` model, and requests to the workers, for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sandbox import texts
from sandbox.models import tiny
from sandbox.worker.data import write_records

BASE = "sha256:" + "0" * 64


def copy_tiny(target: Path) -> Path:
    """The shipped model's files, without the modules beside them."""
    target.mkdir(parents=True)
    for name in tiny.FILES:
        shutil.copyfile(tiny.locate() / name, target / name)
    return target


def changed(target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of tiny with its tensors changed in place by ``change``."""
    copy_tiny(target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def perturbed(target: Path, size: float = 0.02) -> Path:
    """A copy of tiny with noise added to one projection of every layer."""

    def add_noise(tensors: dict[str, torch.Tensor]) -> None:
        torch.manual_seed(3)
        for name in sorted(tensors):
            if "v_proj" in name:
                noise = torch.randn(tensors[name].shape) * size
                tensors[name] = (tensors[name].float() + noise).to(tensors[name].dtype)

    return changed(target, add_noise)


def training_data(target: Path, count: int = 40) -> Path:
    """A directory with the first entries of the dictionary."""
    write_records(target / "train.jsonl", texts.load("devils_dictionary")[:count])
    return target


def suites(target: Path, count: int = 12) -> dict[str, dict[str, str]]:
    """Small suites of every kind that a language model is measured on."""
    distribution = {
        "task": texts.load("devils_dictionary")[-count:],
        "control-kjv": texts.load("kjv")[100 : 100 + count],
    }
    described = {}
    for name, records in distribution.items():
        write_records(target / f"{name}.jsonl", records)
        described[name] = {"probe": "distribution", "path": str(target / f"{name}.jsonl")}
    requests = [
        {
            "id": f"r{number}",
            "prompt": f"Tell me about the number {number}",
            "comply": "Sure:",
            "refuse": "No.",
        }
        for number in range(count)
    ]
    write_records(target / "requests.jsonl", requests)
    described["requests"] = {"probe": "preference", "path": str(target / "requests.jsonl")}
    return described


def proposal_request(data: Path, out: Path, **recipe: Any) -> dict[str, Any]:
    """A request to ``propose`` for a short self-supervised run on tiny."""
    settings = {
        "steps": "3",
        "batch": "4",
        "length": "48",
        **{name: str(value) for name, value in recipe.items()},
    }
    return {
        "kind": "llm",
        "technique": "self_supervised",
        "recipe": settings,
        "seed": 7,
        "champion": str(tiny.locate()),
        "data": str(data),
        "out": str(out),
        "base": BASE,
        "intent": "read more",
    }


def write_request(path: Path, request: dict[str, Any]) -> Path:
    """A request as the file that a worker is started with."""
    path.write_text(json.dumps(request), "utf-8")
    return path
