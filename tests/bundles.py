"""A bundle as a job leaves it, with everything that one may hold, and what it is to be refused."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from guardrails.errors import BundleError
from sandbox.isolation.collector import BUNDLE, collect

MANIFEST = {"schema": "interlock/bundle/v1", "intent": "to try", "technique": "self_supervised", "seed": 1}


def safetensors(**tensors: int) -> bytes:
    """A file of float32 tensors, each of so many elements."""
    header, data = {}, b""
    for name, elements in (tensors or {"weight": 3}).items():
        end = len(data) + 4 * elements
        header[name] = {"dtype": "F32", "shape": [elements], "data_offsets": [len(data), end]}
        data += os.urandom(4 * elements)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def whole_bundle(folder: Path) -> Path:
    """A bundle with everything that a bundle may hold."""
    for name in ("model", "adapter", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "proposal.json").write_text(json.dumps({**MANIFEST, "data": ["data/train.jsonl"]}))
    for name in (
        "config",
        "generation_config",
        "tokenizer",
        "tokenizer_config",
        "special_tokens_map",
        "vocab",
    ):
        (folder / "model" / f"{name}.json").write_text("{}")
    (folder / "model" / "merges.txt").write_text("a b\n")
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model" / "model.safetensors").write_bytes(safetensors(a=2, b=5))
    (folder / "model" / "README.md").write_text("made by a library")
    (folder / "adapter" / "adapter_config.json").write_text('{"auto_mapping": null, "r": 8}')
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(safetensors())
    (folder / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two", "origin": "generated"}\n')
    return folder


def refused(source: Path, match: str, shape: object = BUNDLE) -> str:
    """The message with which collecting is refused; nothing is left behind."""
    dest = source.parent / "collected"
    with pytest.raises(BundleError, match=match) as caught:
        collect(source, dest, shape)  # type: ignore[arg-type]
    assert not dest.exists()
    assert caught.value.exit_status == 3
    assert str(caught.value).isprintable()
    return str(caught.value)
