"""Low-rank adapters: put onto a frozen champion, and written as the merge job reads them.

Invariants:
- Only the adapter is trained; the champion's own weights are never written.
- What is written names no path of this machine: the manifest names the base, by digest.
- The same weights are written as the same bytes by every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError
from sandbox.worker import devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_adapter(model: PreTrainedModel, recipe: Mapping[str, Any]) -> PreTrainedModel:
    """The model with a fresh adapter by the recipe's ``rank``, ``alpha`` and ``targets``; the rest is frozen.

    Raises:
        InvalidInputError: the model has none of the projections that ``targets`` names.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe["rank"],
        lora_alpha=recipe["alpha"],
        lora_dropout=0.0,
        target_modules=sorted(name.strip() for name in recipe["targets"].split(",")),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InvalidInputError(f"recipe: targets: {str(error).splitlines()[0]}") from None


def save_adapter(target: Path, model: PreTrainedModel) -> None:
    """Write a model's adapter (PEFT layout, safetensors) into a folder, from the processor's memory."""
    model.to(devices.CPU)
    model.save_pretrained(target, safe_serialization=True)
    (target / "README.md").unlink(missing_ok=True)  # a model card with nothing in it
    described = json.loads((target / "adapter_config.json").read_text("utf-8"))
    described["base_model_name_or_path"] = ""  # the manifest names the base by digest
    described["target_modules"] = sorted(
        described["target_modules"]
    )  # a set, in each process in another order
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    (target / "adapter_config.json").write_text(text, "utf-8")
    for path in target.iterdir():
        path.chmod(0o644)
