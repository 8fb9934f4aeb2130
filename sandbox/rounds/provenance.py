"""What a run depends on besides its inputs: versions, processor, programs.

Invariants:
- Nothing here comes from a job: versions are those installed, digests are of the files that ran.
- What measures is named by digest, so that scores of other code are never taken for its own.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from guardrails.canonical import digest, digest_file, encode
from sandbox import command_learner
from sandbox.command_learner import Staged
from sandbox.config import ModelConfig
from sandbox.isolation import gpu
from sandbox.isolation.spec import JobOutcome

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")
GPU = "gpu"
"""The line of a record that says on which GPU a proposal was trained; the processor's have none."""
_WORKER = Path(__file__).parent.parent / "worker"


def environment() -> dict[str, str]:
    """What a run depends on besides its inputs: versions and the processor."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {"python": platform.python_version(), "machine": platform.machine(), **versions}


def provenance(model: ModelConfig, outcome: JobOutcome, staged: Staged | None) -> dict[str, str]:
    """What the run depended on, which program it was, and what that was refused."""
    machine = {
        "processor": processor(), "threads": str(model.threads), "memory_bytes": str(model.limits.memory_bytes),
    }  # fmt: skip
    if model.gpu is not None:
        machine[GPU] = gpu.named(model.gpu)
    return environment() | machine | (staged.provenance if staged else {}) | command_learner.refusals(outcome)


def processor() -> str:
    """What the processor calls itself: libraries choose their arithmetic by it, so its results are its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return "".join(c for c in (names or ["unknown"])[0][:80] if c.isprintable())


def evaluator_version() -> str:
    """Digest of the measuring code and of the packages that it stands on."""
    sources = {str(p.relative_to(_WORKER)): str(digest_file(p)) for p in sorted(_WORKER.rglob("*.py"))}
    return digest(encode({**sources, **environment()})).hex[:16]
