"""The learner's job: ``python -m sandbox.worker.propose REQUEST.json``, inside isolation.

Invariants:
- The manifest ``proposal.json`` is written last: without it there is no proposal.
- A learner that only asked people (``questions.jsonl``, no model) leaves no manifest: there is nothing to propose.
- Any failure ends with exit status 1 and one line that says why, and leaves no manifest.
- Nothing written here is evidence: claims are shown as claims, the champion is measured elsewhere.

The request is one JSON object:

    {"kind": "llm", "technique": "self_supervised", "recipe": {"steps": "60"}, "seed": 7,
     "champion": "/in/champion", "data": "/in/data", "out": "/out", "base": "sha256:…", "intent": "…",
     "memory_bytes": 8589934592, "device": "cpu"}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, digest, encode
from guardrails.records import ModelKind
from sandbox.worker import devices, weights
from sandbox.worker.learners import Order, load_learner
from sandbox.worker.questions import QUESTIONS
from sandbox.worker.request import Field, main, report_line

SCHEMA = "interlock/bundle/v1"
FIELDS = {
    "kind": Field(str),
    "technique": Field(str),
    "recipe": Field(dict),
    "seed": Field(int),
    "champion": Field(str),
    "data": Field(str),
    "out": Field(str),
    "base": Field(str),
    "intent": Field(str),
    "memory_bytes": Field(int, optional=True),
    "device": Field(str, optional=True),
}


def propose(request: Mapping[str, Any]) -> None:
    """Run one learner and write the bundle to ``out``."""
    base = Digest.parse(request["base"])
    out = Path(request["out"])
    device = request.get("device", devices.CPU)
    weights.prepare_runtime()
    devices.require(device)
    order = Order(
        kind=ModelKind(request["kind"]),
        champion=Path(request["champion"]),
        data=Path(request["data"]),
        out=out,
        recipe=request["recipe"],
        seed=request["seed"],
        report=report_line,
        memory_bytes=devices.memory_bytes(device, request.get("memory_bytes", 0)),
        device=device,
    )
    claims = load_learner(request["technique"], order.kind)(order)
    if (out / QUESTIONS).exists() and not (out / "model").exists():
        report_line(1.0, "asked")
        return
    objective = {
        "technique": request["technique"],
        "recipe": dict(request["recipe"]),
        "kind": order.kind.value,
    }
    manifest = {
        "schema": SCHEMA,
        "intent": request["intent"],
        "technique": request["technique"],
        "base": str(base),
        "data": sorted(f"data/{path.name}" for path in (out / "data").glob("*.jsonl")),
        "objective": str(digest(encode(objective))),
        "seed": request["seed"],
        "claims": claims,
    }
    (out / "proposal.json").write_bytes(encode(manifest))
    report_line(1.0, "done")


if __name__ == "__main__":
    main(propose, FIELDS)
