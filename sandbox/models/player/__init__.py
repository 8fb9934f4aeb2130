"""The base of ``player``: a small Llama that plays Connect Four, shipped trained. See ``README.md``."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "63cecaaf6dcc21105ff07d983a9071fa07d561e4f35667541ad802eb240b9969"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def locate() -> Path:
    """The directory that holds the model's files (and this module)."""
    return Path(__file__).parent
