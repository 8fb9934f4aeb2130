"""Forms of an update: what of a champion is trained, and how what came of it is written.

Invariants:
- The champion's own files are never written; configuration and tokenizer of a full update are its, byte for byte.
- What is trained is kept and changed in float32, whatever the champion is stored in; a full update is stored as the
  champion is.
- Weights that are not finite are not written.

A recipe names its form by ``form``: ``adapter`` (LoRA by ``rank``, ``alpha`` and ``targets``; the rest is frozen, in
``dtype``), ``full`` (every weight; with ``dtype = bfloat16`` products are computed in it) or ``average``: every weight is
trained, and what is written lies ``SHARE`` of the way from the champion to what came of it (Wortsman et al. 2022,
arXiv:2109.01903): less is gained, and less is forgotten.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.errors import InvalidInputError, JobFailedError
from sandbox.worker import adapters, devices, weights

if TYPE_CHECKING:
    import torch
    from torch.nn import Parameter
    from transformers import PreTrainedModel

ADAPTER, FULL, AVERAGE = "adapter", "full", "average"
FORMS = (ADAPTER, FULL, AVERAGE)
AUTO = "auto"
SHARE = 0.5
BFLOAT16_WIDTH = 256
"""From this width on a frozen model in bfloat16 trains faster than in float32: 0.6 to 1.0 times as fast at a width of 128,
1.3 times at 256, 1.5 times at 384 and at 576 (an Intel Xeon with AMX, one thread)."""


def prepare(champion: Path, recipe: Mapping[str, Any], device: str = devices.CPU) -> PreTrainedModel:
    """The champion on its device, with what is to be trained set free, in training mode."""
    import torch

    if recipe["form"] not in FORMS:
        raise InvalidInputError(f"recipe: form = {recipe['form']!r:.40}: one of {', '.join(FORMS)}")
    if recipe["form"] in (FULL, AVERAGE):
        model = weights.load_model(champion, torch.float32).requires_grad_(True).train()
        if recipe.get("dtype", AUTO) != AUTO and weights.compute_dtype(recipe["dtype"]) is torch.bfloat16:
            kind = torch.device(device).type
            model.forward = torch.autocast(kind, dtype=torch.bfloat16)(model.forward)
        return model.to(device)
    model = weights.load_model(champion, frozen_dtype(champion, recipe["dtype"], device))
    return adapters.with_adapter(model, recipe).train().to(device)


def frozen_dtype(champion: Path, wanted: str, device: str = devices.CPU) -> torch.dtype:
    """What the frozen weights under an adapter are computed in; ``auto``: bfloat16 where that is known to be faster.

    On a GPU that multiplies bfloat16 natively, models of the same widths get it; how fast it is there was not measured.
    """
    import torch

    sizes = weights.architecture(champion) if wanted == AUTO else None
    if sizes is not None and sizes.width < BFLOAT16_WIDTH:
        return torch.float32
    if wanted == AUTO and device != devices.CPU:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return weights.compute_dtype(wanted)


def trained(model: PreTrainedModel) -> list[Parameter]:
    """The weights that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def save(model: PreTrainedModel, recipe: Mapping[str, Any], champion: Path, target: Path) -> None:
    """Write what was trained into a bundle's ``model/``.

    Raises:
        JobFailedError: a number in it is not finite.
    """
    import torch

    if not all(bool(torch.isfinite(parameter).all()) for parameter in trained(model)):
        raise JobFailedError("the weights hold numbers that are not finite after the last step")
    if recipe["form"] == ADAPTER:
        adapters.save_adapter(target, model)
        return
    model.to(devices.CPU)  # what is written is made on the processor, whatever trained it
    if recipe["form"] == AVERAGE:
        _approach(champion, model)
    stored = weights.read_config(champion).get("dtype", "float32")
    model.to(getattr(torch, str(stored))).save_pretrained(target, safe_serialization=True)
    for path in sorted(champion.iterdir()):
        if path.name == weights.CONFIG or path.name in weights.TOKENIZER_FILES:
            shutil.copyfile(path, target / path.name)
    for path in target.iterdir():
        path.chmod(0o644)


def _approach(champion: Path, model: PreTrainedModel) -> None:
    """Go back to the champion but for ``SHARE`` of the way."""
    import torch

    before = weights.load_model(champion, torch.float32)
    with torch.no_grad():
        for own, begun in zip(model.parameters(), before.parameters(), strict=True):
            own.lerp_(begun, 1 - SHARE)
