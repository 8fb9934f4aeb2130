"""The records that a model learnt from, looked at more closely than a census does: by texts alone, and by the models.

Invariants:
- Records that the gate planted (canaries) are told by their text, never by their mark, and are in no count but their own.
- What was not asked for is left out, so that no policy can pass on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guardrails.records import Series
from sandbox.worker import data
from sandbox.worker.data import Line
from sandbox.worker.probes import (
    Item,
    Models,
    Scalars,
    memorisation,
    records_loss,
    records_meaning,
    records_toxicity,
)
from sandbox.worker.probes.records_quality import Census
from sandbox.worker.request import report_line


def read_planted(path: str | None) -> frozenset[str]:
    """The texts of the canaries that the gate planted."""
    return frozenset(line.text for line in data.read_lines(Path(path))) if path else frozenset()


def apart(lines: Sequence[Line], planted: frozenset[str]) -> tuple[list[Line], list[Line]]:
    """The canaries among the records, and the others."""
    return [line for line in lines if line.text in planted], [
        line for line in lines if line.text not in planted
    ]


def texts(
    records: Sequence[Line],
    pool: Sequence[Line] | None,
    suites: Sequence[Sequence[Item]],
    request: Mapping[str, Any],
) -> Census:
    """What can be seen without the models: how harmful records read, and which repeat an item in other words."""
    found = records_toxicity.look(records, pool)
    if request.get("meaning"):
        report_line(0.06, "meaning")
        found.update(records_meaning.look(records, suites, request["meaning"], request["seed"]))
    return found


def by_models(
    records: Sequence[Line],
    canaries: Sequence[Line],
    models: Models,
    request: Mapping[str, Any],
    scalars: Scalars,
) -> tuple[list[Series], Census]:
    """What the champion finds odd in the records, and what the candidate knows of them by heart."""
    found = Census()
    if models.tokenizer is None:
        return [], found
    seed = request["seed"]
    if request.get("losses"):
        report_line(0.11, "losses")
        found.update(records_loss.look(records, models.champion, models.tokenizer, request["losses"], seed))
    if not request.get("spans"):
        return [], found
    report_line(0.115, "memorisation")
    series, known = memorisation.look(
        records,
        canaries,
        models,
        request["spans"],
        seed,
        scalars,
        lambda share: report_line(0.115, "memorisation"),
    )
    found.update(known)
    return list(series), found
