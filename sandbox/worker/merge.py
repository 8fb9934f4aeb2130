"""Fold an adapter into its champion: ``python -m sandbox.worker.merge REQUEST.json``.

Invariants:
- What is digested, measured, approved and served is this merged directory.
- The same champion and adapter give the same bytes: one thread order, no randomness, no time.
- Tensors that the adapter does not touch, configuration and tokenizer are the champion's, to the byte.
- The adapter is untrusted: only plain LoRA is folded, by arithmetic here; anything else is refused.

The request: ``{"champion": "/in/champion", "adapter": "/in/adapter", "out": "/out"}`` → ``/out/model``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import weights
from sandbox.worker.request import Field, main, report_line

if TYPE_CHECKING:
    import torch

FIELDS = {"champion": Field(str), "adapter": Field(str), "out": Field(str)}
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
REFUSED = (
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "lora_bias",
    "use_qalora",
    "target_parameters",
    "trainable_token_indices",
    "megatron_config",
)


@dataclass(frozen=True)
class Change:
    """What is added to one weight: ``scale · up @ down``."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def fold(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight in its own dtype, computed in float32."""
        if weight.dim() != 2 or self.up.shape[0] != weight.shape[0] or self.down.shape[1] != weight.shape[1]:
            raise InvalidInputError(f"adapter: {name}: its shape does not fit the champion's weight")
        return (weight.float() + self.scale * (self.up.float() @ self.down.float())).to(weight.dtype)


def merge(request: Mapping[str, Any]) -> None:
    """Write the champion with the adapter folded in to ``out/model``."""
    weights.prepare_runtime()
    champion, target = Path(request["champion"]), Path(request["out"]) / "model"
    changes = read_adapter(Path(request["adapter"]))
    target.mkdir(parents=True, exist_ok=True)
    files = weights.weight_files(champion)
    left = set(changes)
    for number, path in enumerate(files, start=1):
        left -= _merge_file(path, target / path.name, changes)
        report_line(number / len(files), "merging", file=path.name)
    if left:
        raise InvalidInputError(f"adapter: the champion has no weight {sorted(left)[0]!r:.120}")
    for path in sorted(champion.iterdir()):
        if path.is_file() and path.suffix != weights.WEIGHTS_SUFFIX:
            shutil.copyfile(path, target / path.name)


def read_adapter(directory: Path) -> dict[str, Change]:
    """The changes that a PEFT LoRA directory holds, by the name of the weight that each changes.

    Raises:
        InvalidInputError: It is no plain LoRA adapter, or a number in it is not finite.
    """
    scale = _scale(directory)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.tensors(directory):
        ending = next((end for end in (DOWN, UP) if name.endswith(end)), "")
        if not (ending and name.startswith(PREFIX) and tensor.dim() == 2 and tensor.is_floating_point()):
            raise InvalidInputError(f"adapter: tensor {name!r:.120} is not a LoRA matrix")
        if not bool(tensor.isfinite().all()):
            raise InvalidInputError(f"adapter: tensor {name!r:.120} holds numbers that are not finite")
        weight = name.removeprefix(PREFIX).removesuffix(ending) + ".weight"
        parts.setdefault(weight, {})[ending] = tensor
    changes = {}
    for weight, pair in parts.items():
        if len(pair) != 2 or pair[UP].shape[1] != pair[DOWN].shape[0]:
            raise InvalidInputError(f"adapter: {weight}: its two matrices do not belong together")
        changes[weight] = Change(pair[DOWN], pair[UP], scale)
    return changes


def _scale(directory: Path) -> float:
    try:
        config = json.loads((directory / "adapter_config.json").read_text("utf-8"))
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"adapter_config.json: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidInputError("adapter_config.json: only plain LoRA adapters can be folded in")
    for name in REFUSED:
        if config.get(name):
            raise InvalidInputError(
                f"adapter_config.json: {name} is not supported: only plain LoRA is folded in"
            )
    if config.get("bias", "none") != "none":
        raise InvalidInputError("adapter_config.json: bias must be none")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InvalidInputError("adapter_config.json: r must be a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise InvalidInputError("adapter_config.json: lora_alpha must be a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _merge_file(source: Path, target: Path, changes: Mapping[str, Change]) -> set[str]:
    from safetensors import safe_open
    from safetensors.torch import save_file

    merged: dict[str, torch.Tensor] = {}
    with safe_open(source, framework="pt") as archive:
        metadata = archive.metadata()
        for name in sorted(archive.keys()):
            tensor = archive.get_tensor(name)
            merged[name] = changes[name].fold(name, tensor) if name in changes else tensor
    save_file(merged, target, metadata=metadata)
    target.chmod(0o644)
    return set(merged) & set(changes)


if __name__ == "__main__":
    main(merge, FIELDS)
