"""The ``pupil`` model: a language model of half a million parameters that answers puzzles over five digits."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_SHA256 = "bc4020b065d0f83303f557596f09c237f18300de83f35f3133ef7740baf1ff6e"


def locate() -> Path:
    """The directory that holds the model's files (and this module)."""
    return Path(__file__).parent
