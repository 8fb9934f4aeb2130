"""How a learner is run and its bundle made: for a proposal, and again when one is reproduced.

Invariants:
- What is digested is what is measured and what would be served: an adapter is merged in a job of its own, the merged
  model is the bundle's, and the adapter is kept beside it.
- A model that names a GPU is trained on that one, or not at all; merged it is on the processor, like all others.
- Nothing is recorded here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest
from guardrails.errors import BundleError, IsolationUnavailableError
from sandbox import command_learner
from sandbox.answers import asking
from sandbox.command_learner import Staged
from sandbox.config import ModelConfig, Recipe
from sandbox.isolation import gpu
from sandbox.isolation.collector import MERGED, TRAINED, collect
from sandbox.isolation.manifest import Manifest, read_manifest
from sandbox.isolation.spec import JobOutcome
from sandbox.rounds import jobs
from sandbox.rounds.bench import Bench, Report
from sandbox.worker import devices
from sandbox.worker.questions import Question


def intent_of(model: str, technique: str, seed: int) -> str:
    """What our own learners state as the purpose of a proposal."""
    return f"{technique} on {model}, seed {seed}"


def order(model: ModelConfig, recipe: Recipe, seed: int, champion: Digest, intent: str) -> dict[str, Any]:
    """The request of a learner's job: all that it is told."""
    return {
        "kind": model.kind.value, "technique": recipe.technique, "recipe": recipe.settings, "seed": seed,
        "champion": "/in/champion", "data": "/in/data", "out": "/out", "base": str(champion), "intent": intent,
        "memory_bytes": limited(model, recipe).limits.memory_bytes,
        "device": devices.CPU if model.gpu is None else devices.GPU,
    }  # fmt: skip


def train(
    bench: Bench, model: ModelConfig, recipe: Recipe, folder: Path, request: dict[str, Any], report: Report
) -> tuple[JobOutcome, Staged | None]:
    """Run one learner on the champion that ``request`` names and on ``folder / "data"``, to its end.

    Raises:
        IsolationUnavailableError: the model names a GPU that no job can be given here.
        JobFailedError: it did not end well.
    """
    require_gpu(model)
    bench.gate.store.checkout(Digest.parse(request["base"]), folder / "champion", below="model")
    mounts = {"/in/champion": folder / "champion", "/in/data": folder / "data"}
    staged = command_learner.stage(recipe.learner, folder) if recipe.learner else None
    own = limited(model, recipe)
    return jobs.run(bench, own, folder, "propose", request, mounts, report, staged, model.gpu), staged


def require_gpu(model: ModelConfig) -> None:
    """Return if the model names no GPU, or one that a job can be given here; raises IsolationUnavailableError."""
    if model.gpu is None:
        return
    try:
        gpu.find(model.gpu)
    except IsolationUnavailableError as error:
        asked = f"gpu = {model.gpu} in [models.{model.name}] asks for it; without that line it trains on the processor"
        raise IsolationUnavailableError(error.level, [*error.failures, asked]) from None


def take_bundle(folder: Path) -> tuple[Manifest, tuple[Question, ...]]:
    """Collect what a learner left into ``folder / "bundle"``; its questions are no part of that."""
    collect(folder / "propose" / "out", folder / "bundle", TRAINED)
    return read_manifest(folder / "bundle"), asking.set_aside(folder / "bundle")


def has_adapter(folder: Path) -> bool:
    """Whether the bundle's model is an adapter, to be merged."""
    return (folder / "bundle" / "model" / "adapter_config.json").exists()


def merge(bench: Bench, model: ModelConfig, folder: Path, champion: Digest, report: Report) -> JobOutcome:
    """Merge a bundle's adapter into the champion; afterwards ``model/`` is whole, ``adapter/`` beside it."""
    bundle = folder / "bundle"
    if (bundle / "adapter").exists():
        raise BundleError(
            "adapter: beside an adapter in model/ there is no place for another",
            hint="put either a whole model into model/, or an adapter",
        )
    (bundle / "model").rename(bundle / "adapter")
    request = {"champion": "/in/champion", "adapter": "/in/adapter", "out": "/out"}
    if not (folder / "champion").exists():
        bench.gate.store.checkout(champion, folder / "champion", below="model")
    mounts = {"/in/champion": folder / "champion", "/in/adapter": bundle / "adapter"}
    outcome = jobs.run(bench, model, folder, "merge", request, mounts, report)
    collect(folder / "merge" / "out", folder / "merged", MERGED)
    (folder / "merged" / "model").rename(bundle / "model")
    return outcome


def limited(model: ModelConfig, recipe: Recipe) -> ModelConfig:
    """The model with the limits of the recipe's program, where these are tighter."""
    if recipe.learner is None or recipe.learner.limits is None:
        return model
    return replace(model, limits=model.limits.tightest(recipe.learner.limits))
