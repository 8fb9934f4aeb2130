"""The measurement job: ``python -m sandbox.worker.measure REQUEST.json``, inside isolation.

Invariants:
- Measures; judges nothing. The candidate's own claims are never read.
- The candidate's weights are untrusted: they are checked first, and loaded with the champion's
  configuration and tokenizer. Where they are unsound only that is reported, and nothing is run.
- Same request, same machine, same wheels: same numbers.

The request is one JSON object; ``original``, ``pool`` (the model's own training records, to compare ``data`` with) and
``cache`` may be left out, and ``losses`` (how many of the records the champion is to read). A suite of games may say
``until`` when to stop (``probes/games.py``). Further: how many records are compared with the items by ``meaning``; how many
``spans`` of them are looked for in what the models know by heart; and a file of the ``canaries`` that the gate planted:

    {"kind": "llm", "candidate": "/in/candidate", "champion": "/in/champion", "original": "/in/original",
     "suites": {"task": {"probe": "distribution", "path": "/in/suites/task.jsonl"}},
     "data": "/in/data", "pool": "/in/pool", "samples": 6, "seed": 7, "out": "/out", "cache": "/in/cache.json"}

It writes ``measurements.json`` (canonical bytes of ``records.Measurements``) and ``cache.json`` (what the
champion scored, for the next measurement against the same champion).
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrails import canonical
from guardrails.codec import encode_record
from guardrails.errors import InvalidInputError, RecordError
from guardrails.records import Measurements, ModelKind, Sample, Series
from sandbox.worker import data, weights
from sandbox.worker.probes import (
    PROBES,
    Item,
    Models,
    Scalars,
    integrity,
    load_probe,
    records_look,
    records_pool,
    records_quality,
)
from sandbox.worker.request import Field, main, report_line

CACHE_SCHEMA = "interlock/scalars/v1"
EVALUATOR = "1"
FIELDS = {
    "kind": Field(str),
    "candidate": Field(str),
    "champion": Field(str),
    "original": Field(str, optional=True),
    "suites": Field(dict),
    "data": Field(str),
    "pool": Field(str, optional=True),
    "losses": Field(int, optional=True),
    "meaning": Field(int, optional=True),
    "spans": Field(int, optional=True),
    "canaries": Field(str, optional=True),
    "samples": Field(int),
    "seed": Field(int),
    "out": Field(str),
    "cache": Field(str, optional=True),
}


@dataclass(frozen=True)
class Suite:
    """A named set of items and the probe that measures them; ``until`` for a match that may stop before its end."""

    name: str
    probe: str
    items: tuple[Item, ...]
    until: Mapping[str, str] = field(default_factory=dict)


def measure(request: Mapping[str, Any]) -> None:
    """Measure a candidate against the champion and write the results to ``out``."""
    kind, out = ModelKind(request["kind"]), Path(request["out"])
    candidate, champion = Path(request["candidate"]), Path(request["champion"])
    suites = read_suites(request["suites"])
    threads = weights.prepare_runtime()
    report_line(0.0, "integrity")
    facts = integrity.facts(candidate, champion)
    report_line(0.03, "records")
    planted = records_look.read_planted(request.get("canaries"))
    canaries, records = records_look.apart(data.read_directory(Path(request["data"])), planted)
    census = records_quality.census(records, [s.items for s in suites])
    facts |= census.facts | {"measure.evaluator": EVALUATOR, "measure.threads": str(threads)}
    facts["measure.judges"] = (
        "2"  # how findings say how good the judges are; older evidence has another form, or none
    )
    if kind is ModelKind.LLM:
        pool = data.read_directory(Path(request["pool"])) if "pool" in request else None
        pool = None if pool is None else records_look.apart(pool, planted)[1]
        facts |= records_pool.facts(records, pool)
        looked = records_look.texts(records, pool, [s.items for s in suites], request)
        facts |= looked.facts | ({"data.canaries": str(len(canaries))} if planted else {})
        census.update(looked)
    series: list[Series] = []
    samples: list[Sample] = []
    if integrity.sound(facts):
        dtype = _dtype(kind)
        identity = {
            "champion": str(weights.directory_digest(champion)),
            "dtype": dtype,
            "evaluator": EVALUATOR,
        }
        scalars = Scalars(known=read_cache(request.get("cache"), identity))
        models = _load(request, kind, dtype)
        facts["measure.dtype"] = dtype
        series, found = records_look.by_models(records, canaries, models, request, scalars)
        facts |= found.facts
        census.update(found)
        series += _run(suites, models, request["seed"], scalars)
        samples = _sample(suites, models, request["seed"], request["samples"])
        _write(out / "cache.json", {"schema": CACHE_SCHEMA, **identity, "scalars": _texts(scalars.fresh)})
    else:
        print("the candidate is unsound: nothing was run", flush=True)
    measured = Measurements(tuple(series), facts, tuple(samples), census.flagged, census.reasons)
    _write(out / "measurements.json", encode_record(measured))
    report_line(1.0, "done")


def read_suites(wanted: Mapping[str, Any]) -> list[Suite]:
    """The suites of a request with their items, in order of name."""
    suites = []
    for name, described in sorted(wanted.items()):
        if not isinstance(described, dict) or set(described) - {"until"} != {"probe", "path"}:
            raise InvalidInputError(
                f"suite {name!r:.60}: probe and path are needed, and nothing else but until"
            )
        if described["probe"] not in PROBES:
            raise InvalidInputError(f"suite {name!r:.60}: no probe is called {described['probe']!r:.40}")
        items = data.read_items(Path(described["path"]))
        suites.append(Suite(name, described["probe"], items, described.get("until", {})))
    if not suites:
        raise InvalidInputError("the request names no suite")
    return suites


def read_cache(path: str | None, identity: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """What an earlier measurement found of this champion; nothing where it was another champion.

    Raises:
        InvalidInputError: The file is not a cache.
    """
    if path is None:
        return {}
    try:
        cache = canonical.parse(Path(path).read_bytes())
        if cache.pop("schema") != CACHE_SCHEMA:
            raise InvalidInputError(f"cache: schema is not {CACHE_SCHEMA}")
        scalars = cache.pop("scalars")
        if cache != dict(identity):
            print("the cache is of another champion or evaluator: measuring anew", flush=True)
            return {}
        return {
            key: {name: canonical.parse_decimal(value) for name, value in row.items()}
            for key, row in scalars.items()
        }
    except (OSError, RecordError, KeyError, AttributeError, TypeError) as error:
        raise InvalidInputError(f"cache: {error}") from None


def _dtype(kind: ModelKind) -> str:
    chosen = "float32" if kind is ModelKind.LAM else "auto"  # an action model is small enough
    return str(weights.compute_dtype(chosen)).removeprefix("torch.")


def _load(request: Mapping[str, Any], kind: ModelKind, dtype_name: str) -> Models:
    dtype = weights.compute_dtype(dtype_name)
    directory = Path(request["champion"])
    report_line(0.1, "loading")
    champion = weights.load_model(directory, dtype)
    original = champion if "original" in request else None
    if "original" in request and not _same(Path(request["original"]), directory):
        original = weights.load_model(Path(request["original"]), dtype)
    return Models(
        candidate=weights.load_model(Path(request["candidate"]), dtype, config_from=directory),
        champion=champion,
        original=original,
        tokenizer=weights.load_tokenizer(directory),
        kind=kind,
    )


def _same(one: Path, other: Path) -> bool:
    return one == other or weights.directory_digest(one) == weights.directory_digest(other)


def _run(suites: list[Suite], models: Models, seed: int, scalars: Scalars) -> list[Series]:
    total, done = sum(len(suite.items) for suite in suites), 0
    found: list[Series] = []
    for suite in suites:
        start, weight = done / total, len(suite.items) / total

        def report(share: float, stage: str, start: float = start, weight: float = weight) -> None:
            report_line(0.12 + 0.83 * (start + share * weight), stage)

        probe = load_probe(suite.probe)
        stop = {"until": suite.until} if suite.until else {}
        found += probe(suite.items, models, seed, suite=suite.name, scalars=scalars, report=report, **stop)
        done += len(suite.items)
    return found


def _sample(suites: list[Suite], models: Models, seed: int, count: int) -> list[Sample]:
    """Samples from every suite whose probe can show some, in equal shares, drawn by the seed."""
    shown = [suite for suite in suites if hasattr(importlib.import_module(PROBES[suite.probe]), "samples")]
    found: list[Sample] = []
    for number, suite in enumerate(shown):
        share = (count + len(shown) - 1 - number) // len(shown)
        chosen = random.Random(f"{seed}/{suite.name}").sample(suite.items, min(share, len(suite.items)))  # noqa: S311
        if chosen:
            report_line(0.95 + 0.05 * number / len(shown), f"samples of {suite.name}")
            module = importlib.import_module(PROBES[suite.probe])
            found += module.samples(chosen, models, suite=suite.name)
    return found


def _texts(scalars: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, str]]:
    return {
        key: {name: canonical.decimal(value) for name, value in row.items()} for key, row in scalars.items()
    }


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical.encode(value))


if __name__ == "__main__":
    main(measure, FIELDS)
