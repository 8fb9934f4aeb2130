"""Trials: one proposal and its measurement, as the loop makes them, but without isolation and without a log.

The worker's own programs run in this process, one after the other (imports cost more than many a training): ``propose``,
``merge`` where an adapter came of it, ``measure``. What a suite shows is read by the checks that judge
(``guardrails.checks``). Of the training records only one is examined: these are trials of learners, not of records.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails.canonical import parse
from guardrails.checks import CHECKS
from guardrails.codec import decode_record
from guardrails.records import Measurements
from guardrails.statistics import Estimate
from sandbox import tasks
from sandbox.config import ModelConfig
from sandbox.worker import measure as worker_measure
from sandbox.worker import merge as worker_merge
from sandbox.worker import propose as worker_propose
from sandbox.worker.data import write_records

SECRET = b"trial" * 7
MODEL_FILES = (".json", ".safetensors", ".txt", ".jinja")
CONFIDENCE = 0.95


@dataclass
class Trial:
    """What one proposal came to. ``cpu_s`` is of the learner alone; ``asked`` what it wanted to know instead."""

    folder: Path
    claims: dict[str, str]
    cpu_s: float
    asked: list[dict[str, Any]] = field(default_factory=list)
    measurements: Measurements | None = None

    @property
    def model(self) -> Path:
        """The candidate: a whole model's directory."""
        return self.folder / "bundle" / "model"

    def read(self, check: str, metric: str, confidence: float = CONFIDENCE, **params: Any) -> Estimate:
        """What a check makes of the measurements."""
        assert self.measurements is not None
        found = CHECKS[check]
        return found.estimate(
            metric, found.params(**params), self.measurements, self.measurements.facts, confidence
        )

    def gain(self, suite: str) -> Estimate:
        """Candidate over champion, paired by item; above 0 is better."""
        return self.read("gain.task", "delta", suite=suite)


def model_files(source: Path, target: Path) -> Path:
    """A shipped model without the scripts that made it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix in MODEL_FILES:
            shutil.copyfile(path, target / path.name)
    return target


def propose(
    folder: Path,
    champion: Path,
    model: ModelConfig,
    technique: str,
    recipe: Mapping[str, Any],
    seed: int,
    *,
    answers: Iterable[Mapping[str, Any]] = (),
    records: Iterable[Mapping[str, Any]] | None = None,
    device: str = "cpu",
) -> Trial:
    """Train a candidate in ``folder`` (not there yet); ``answers`` are what people said, ``records`` replace the task's."""
    out = folder / "bundle"
    out.mkdir(parents=True)
    own = tasks.training_records(model, folder, SECRET) if records is None else [dict(r) for r in records]
    tasks.write_items(own, folder / "data" / "train.jsonl")
    given = [dict(answer) for answer in answers]
    if given:
        write_records(folder / "data" / "answers.jsonl", given)
    cpu_s = _run(worker_propose.propose, folder, {
        "kind": model.kind.value, "technique": technique, "recipe": {k: str(v) for k, v in recipe.items()}, "seed": seed,
        "champion": str(champion), "data": str(folder / "data"), "out": str(out),
        "base": "sha256:" + "0" * 64, "intent": "a trial", "device": device,
    })  # fmt: skip
    questions = out / "questions.jsonl"
    asked = [json.loads(line) for line in questions.read_text().splitlines()] if questions.exists() else []
    manifest = out / "proposal.json"
    claims = json.loads(manifest.read_text())["claims"] if manifest.exists() else {}
    if (out / "model" / "adapter_config.json").exists():
        (out / "model").rename(out / "adapter")
        request = {"champion": str(champion), "adapter": str(out / "adapter"), "out": str(out)}
        _run(worker_merge.merge, folder, request)
    return Trial(folder, claims, cpu_s, asked)


def measure(
    trial: Trial, champion: Path, model: ModelConfig, nonce: str, suites: Collection[str] = ()
) -> Trial:
    """Measure the candidate against the champion on private items that ``nonce`` draws; all suites where none is named."""
    folder = trial.folder
    request: dict[str, Any] = {
        "kind": model.kind.value, "candidate": str(trial.model), "champion": str(champion), "original": str(champion),
        "suites": {}, "data": str(folder / "one"), "samples": 0, "seed": 1, "out": str(folder / "measured"),
    }  # fmt: skip
    first = (folder / "data" / "train.jsonl").read_bytes().split(b"\n", 1)[0]
    (folder / "one").mkdir()
    (folder / "one" / "train.jsonl").write_bytes(first + b"\n")
    for suite in tasks.private_suites(model, folder, SECRET, nonce):
        if suites and suite.name not in suites:
            continue
        path = folder / "items" / f"{suite.name}.jsonl"
        tasks.write_items(suite.items, path)
        request["suites"][suite.name] = {"probe": suite.probe, "path": str(path)}
    _run(worker_measure.measure, folder, request)
    trial.measurements = decode_record(
        Measurements, parse((folder / "measured" / "measurements.json").read_bytes())
    )
    return trial


def trial(
    folder: Path, champion: Path, model: ModelConfig, technique: str, recipe: Mapping[str, Any], seed: int,
    suites: Collection[str] = (), **given: Any,
) -> Trial:  # fmt: skip
    """Propose, and measure with the seed for a nonce."""
    made = propose(folder, champion, model, technique, recipe, seed, **given)
    return measure(made, champion, model, str(seed), suites)


def table(rows: Iterable[tuple[str, int, Estimate, float]]) -> str:
    """Lines for people: what, seed, gain with its interval, CPU seconds."""
    return "\n".join(
        f"{name:<28} seed {seed}  {e.value:+.4f} [{e.lower:+.4f}, {e.upper:+.4f}]  n {e.n}  {cpu_s:.0f} cpu-s"
        for name, seed, e, cpu_s in rows
    )


def _run(program: Callable[[Mapping[str, Any]], None], folder: Path, request: Mapping[str, Any]) -> float:
    """One worker program to its end, with its progress in a file; returns the CPU seconds that it took."""
    before = time.process_time()
    with (folder / f"{program.__name__}.log").open("w") as log, contextlib.redirect_stdout(log):
        program(request)
    return time.process_time() - before
