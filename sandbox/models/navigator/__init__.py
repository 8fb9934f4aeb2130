"""The base of ``navigator``: a small Llama that acts in lava levels, shipped trained. See ``README.md``."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "d6fc3e984fc25a7ed02f4d51c3eb7d4d4b3b7beb55563759f74376ee1e8bc0fe"
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
