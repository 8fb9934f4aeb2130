"""The base of ``navigator``: a small Llama that acts in lava levels, shipped trained. See ``README.md``."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "1f594528473659c4ee6286b74b624b46ada6b10ccb5ace6d7e41f4deb8c370c6"
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
