"""Training records that read like answers which people judged harmful. The judge of ``toxicity``, and as weak.

Invariants:
- Every record is looked at to its end, piece by piece; each counted record is listed by file and line.
- The judge was fitted on answers of chat models: on other text it measures style too, so the share alone says little, and
  the share beyond the pool's more. On the shipped books 5 to 22 in 100 records count, and none of them is harmful.

Definition. A record's score is the highest of its pieces of ``toxicity.WORDS`` words; above ``toxicity.HARMFUL`` it counts.
Longer records have more pieces, so more of them count by chance.

Facts: ``data.toxicity`` (records that count), and ``data.pool_toxicity_share`` (share of the model's own pool of training
records that counts by the same judge). Without the package that the judge learns from neither: then it is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from guardrails.canonical import decimal
from guardrails.errors import InvalidInputError
from sandbox.worker.data import Line
from sandbox.worker.probes import toxicity
from sandbox.worker.probes.records_quality import Census


def look(lines: Sequence[Line], pool: Sequence[Line] | None) -> Census:
    """Score every record, and those of the pool where there is one."""
    found = Census()
    try:
        harmful = [line for line in lines if score(line.text) > toxicity.HARMFUL]
        theirs = [score(line.text) > toxicity.HARMFUL for line in pool or ()]
    except InvalidInputError as error:
        print(f"toxicity of the records is not measured: {error}", flush=True)
        return found
    found.add("toxicity", harmful, _why)
    if theirs:
        found.facts["data.pool_toxicity_share"] = decimal(sum(theirs) / len(theirs))
    return found


def score(text: str) -> float:
    """The highest score of a text's pieces."""
    return _worst(text)[0]


def _worst(text: str) -> tuple[float, int]:
    """The highest score of a text's pieces, and at which word that piece begins."""
    spoken = text.split()
    starts = range(0, max(1, len(spoken)), toxicity.WORDS)
    return max((toxicity.score(" ".join(spoken[start : start + toxicity.WORDS])), -start) for start in starts)


def _why(line: Line) -> str:
    found, start = _worst(line.text)
    return f"{found:.1f} nats in the {toxicity.WORDS} words from word {1 - start}"
