"""The base of ``rover``: as ``navigator``, with signs for obstacles, switch and supervisor. See ``README.md``."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "c5041de3a8acaf743d70fc401aef5161f9bcf0583e66fbff0fe1535be39c4b70"
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
