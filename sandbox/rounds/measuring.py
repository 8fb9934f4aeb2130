"""A measurement: candidate and champion on private items, in a job that is never the one that trained.

Invariants:
- The job is shown the models and the items, and no log, no secret and nothing that the learner wrote but its records.
- Every measurement draws its items anew; a match that may stop counts only in the order of the draw.
- What it found is decoded by the gate's own code before anything is recorded; a failure is recorded as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails.canonical import Digest, decimal, parse
from guardrails.codec import decode_record
from guardrails.errors import BundleError, JobFailedError, RecordError
from guardrails.gate import MeasurementOrder
from guardrails.matches import Stopping
from guardrails.records import Measurements, ModelKind
from sandbox import tasks
from sandbox.canaries import canaries
from sandbox.config import ModelConfig
from sandbox.isolation.collector import MEASUREMENT, collect
from sandbox.rounds import jobs
from sandbox.rounds.bench import Bench, Report, job_folder, measuring, require_own_task
from sandbox.rounds.provenance import evaluator_version

STOPPING = ("games",)
"""Probes that may stop before their last item."""


@dataclass(frozen=True)
class _Layout:
    """What a measuring job is told and shown. ``drawn`` is the order of the items of each match that may stop."""

    folder: Path
    request: dict[str, Any]
    mounts: dict[str, Path] = field(default_factory=dict)
    drawn: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def show(self, name: str, path: Path, at: str = "") -> None:
        """Mount a path as ``/in/NAME``, and tell the job so under its name."""
        self.mounts[f"/in/{at or name}"] = path
        self.request[name] = f"/in/{at or name}"


def measure(bench: Bench, model: ModelConfig, proposal_id: str, report: Report) -> str:
    """Measure a proposal against the champion on private items, and judge it; returns its new state."""
    require_own_task(bench, model)
    with measuring(bench, proposal_id), job_folder(bench) as folder:
        order = bench.gate.begin_measurement(proposal_id)
        layout = _Layout(
            folder, {"kind": model.kind.value, "samples": model.samples, "seed": order.seed, "out": "/out"}
        )
        _show_models(bench, order, layout)
        _show_items(bench, model, order, layout)
        _show_records(bench, model, order, layout)
        cache = _champion_cache(bench, order.champion)
        if cache.exists():
            layout.show("cache", cache, at="cache.json")
        try:
            outcome = jobs.run(bench, model, folder, "measure", layout.request, layout.mounts, report)
            collect(folder / "measure" / "out", folder / "measured", MEASUREMENT)
            measured = (folder / "measured" / "measurements.json").read_bytes()
            require_order(decode_record(Measurements, parse(measured)), layout.drawn)
        except (JobFailedError, BundleError, RecordError) as error:
            bench.gate.record_failure(model.name, "measure", order.technique, error, proposal_id=proposal_id)
            raise JobFailedError(
                f"{proposal_id}: {error.message}", log_tail=getattr(error, "log_tail", "")
            ) from None
        _keep_cache(folder / "measured" / "cache.json", cache)
        bench.gate.record_evidence(order, measured, evaluator_version(), outcome.level, outcome.compute)
    return bench.gate.judge(proposal_id)


def _show_models(bench: Bench, order: MeasurementOrder, layout: _Layout) -> None:
    """The models that are compared; the original is mounted only where it is no longer the champion."""
    shown = {"candidate": order.bundle, "champion": order.champion}
    if order.original != order.champion:
        shown["original"] = order.original
    for name, bundle in shown.items():
        bench.gate.store.checkout(bundle, layout.folder / name, below="model")
        layout.show(name, layout.folder / name)
    layout.request.setdefault("original", layout.request["champion"])


def _show_items(bench: Bench, model: ModelConfig, order: MeasurementOrder, layout: _Layout) -> None:
    """The private items of each suite, drawn for this measurement."""
    suites = layout.request["suites"] = {}
    layout.mounts["/in/items"] = layout.folder / "items"
    for suite in tasks.private_suites(model, bench.workspace, bench.secret, order.nonce):
        tasks.write_items(suite.items, layout.folder / "items" / f"{suite.name}.jsonl")
        suites[suite.name] = {"probe": suite.probe, "path": f"/in/items/{suite.name}.jsonl"}
        if suite.probe in STOPPING and suite.name in order.matches:
            suites[suite.name]["until"] = _until(order.matches[suite.name])
            layout.drawn[suite.name] = tuple(item["id"] for item in suite.items)


def _show_records(bench: Bench, model: ModelConfig, order: MeasurementOrder, layout: _Layout) -> None:
    """The records that the candidate was trained on, and for a language model what they are compared with."""
    layout.show("data", _records(bench, order, layout.folder))
    if model.kind is not ModelKind.LLM:
        return
    pool = tasks.training_records(model, bench.workspace, bench.secret)
    tasks.write_items(pool, layout.folder / "pool" / "train.jsonl")
    layout.show("pool", layout.folder / "pool")
    layout.request.update(losses=model.losses, meaning=model.meaning, spans=model.spans)
    if model.canaries:
        tasks.write_items(canaries(model, bench.secret), layout.folder / "canaries" / "canaries.jsonl")
        layout.mounts["/in/canaries"] = layout.folder / "canaries"
        layout.request["canaries"] = "/in/canaries/canaries.jsonl"


def _until(stop: Stopping) -> dict[str, str]:
    return {"null": decimal(stop.null), "alpha": decimal(stop.alpha), "least": str(stop.least)}


def require_order(measured: Measurements, drawn: dict[str, tuple[str, ...]]) -> None:
    """A match that may stop early counts only in the order of the draw, from its first item on."""
    for series in measured.series:
        wanted = drawn.get(series.suite, series.items)
        if series.items != wanted[: len(series.items)]:
            raise BundleError(
                f"suite {series.suite}: its items are not the first of those drawn, in their order"
            )


def _records(bench: Bench, order: MeasurementOrder, folder: Path) -> Path:
    """The training records to examine: what the supervisor mounted; for a submission, what it claims."""
    if order.submitted:
        if any(entry.path.startswith("data/") for entry in bench.gate.store.tree(order.bundle)):
            bench.gate.store.checkout(order.bundle, folder / "data", below="data")
        else:
            (folder / "data").mkdir()
        return folder / "data"
    file = folder / "data" / "train.jsonl"
    file.parent.mkdir()
    file.write_bytes(bench.gate.store.get_bytes(order.data))
    return file.parent


def _champion_cache(bench: Bench, champion: Digest) -> Path:
    return bench.workspace / "cache" / f"{champion.short}-{evaluator_version()}.json"


def _keep_cache(fresh: Path, cache: Path) -> None:
    """Keep the champion's scores for the next measurement; losing them costs time only."""
    if fresh.exists():
        cache.parent.mkdir(exist_ok=True)
        fresh.replace(cache)
