"""The ``tiny`` model: a language model of 1.1 million parameters, for tests and quick tries."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "aaa89b9548d86baf2c2ef27f1d0561b8df926fda198d46bd6574c9926e06038e"
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
