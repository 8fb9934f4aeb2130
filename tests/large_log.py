"""A long log that the real rules accept: what a workspace writes when it works for years, made in batches.

Each round of five records is a job that failed, a person's word on it, and a measurement of one proposal from its
note to its verdict; so a fifth of the records are people's, with a text of their own, and the tables grow with
the log. Everything is signed by the key that the rules ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes import BLOCKED, Site

from guardrails.canonical import Digest, digest, encode
from guardrails.codec import encode_record
from guardrails.decision_log.envelope import Reference, Statement, format_time, seal
from guardrails.decision_log.merkle import leaf_hash
from guardrails.decision_log.store import Log
from guardrails.records import (
    Action,
    Compute,
    Decision,
    Failure,
    Opening,
    State,
    Surface,
    Transition,
    open_text,
)

ROUND = 5
SET_UP = 3
_BATCH = 1_000


def grow(folder: Path, records: int, *, batched: bool = True, projected: bool = True) -> Site:
    """A site whose log has about this many records: in batches, or each in a transaction of its own.

    ``projected`` is False for a log of which only the records are wanted: its tables are those of the set-up, and a
    million records take minutes.
    """
    site = Site(folder)
    made = rounds(site)
    size = _size(site)
    log = site.log
    if not projected:
        log = Log.open(site.url, site.services["log"], lambda _tables, _entry: None, prove=False)
    while size < records:
        batch = [next(made) for _ in range(_BATCH // ROUND)]
        envelopes = [envelope for one, _ in batch for envelope in one]
        openings = [opening for _, opening in batch]
        if batched:
            with log.transaction() as transaction:
                transaction.append_all(envelopes, openings)
        else:
            for number, envelope in enumerate(envelopes):
                with log.transaction() as transaction:
                    transaction.append(envelope, openings[number // ROUND :][:1])
        size += len(envelopes)
    return site


def _size(site: Site) -> int:
    with site.log.read() as snapshot:
        return snapshot.size


def proposals(site: Site, count: int) -> list[bytes]:
    """So many signed proposals, as they could follow the site's first one, each of a bundle of its own."""
    row = site.row("P-0001")
    assert row.proposal
    made = []
    for number in range(2, count + 2):
        one = replace(row.proposal, id=f"P-{number:04d}", bundle=digest(b"bundle %d" % number))
        subjects = {"bundle": one.bundle, "champion": one.champion, "data": one.data}
        time = format_time(site.clock())
        said = Statement("proposal", subjects, encode_record(one), site.log.origin, time)
        made.append(seal(said.encode(), site.services["learner"]))
    return made


def rounds(site: Site) -> Iterator[tuple[list[bytes], Opening]]:
    """Five signed records, and the text that one of them commits to, again and again."""
    row = site.row(site.judged(BLOCKED))
    ada, gate, evaluator = site.people["ada"], site.services["gate"], site.services["evaluator"]
    assert row.proposal
    assert row.evidence
    assert row.verdict
    bundle = {"bundle": row.proposal.bundle}
    about = {**bundle, "champion": row.evidence.champion, "measurements": row.evidence.measurements}
    proposal = Reference(row.proposal_seq, row.proposal_record.hex)
    seq, attempt, number = _size(site), row.attempt, 1

    def sealed(record: Any, signer: Any, subjects: dict[str, Digest], *references: Reference) -> bytes:
        body = encode_record(record)
        kind, own = type(record).__name__.lower(), digest(encode(body))
        named = {name: value or own for name, value in subjects.items()}
        time = format_time(site.clock())
        return seal(Statement(kind, named, body, site.log.origin, time, references).encode(), signer)

    itself: Any = None
    while True:
        attempt, number = attempt + 1, number + 1
        opening = open_text(f"the job of P-{number:04d} ran out of memory; it gets more the next time")
        failed = Failure(
            f"P-{number:04d}", row.model, "propose", "self_supervised", "killed: out of memory",
            "step 100 loss 2.31\nstep 200 loss 2.12\nKilled\n", Compute(12.5, 11.25, 2 << 30, 1 << 20, "cgroup"),
        )  # fmt: skip
        word = Decision(
            Action.COMMENT, failed.id, ada.id, ada.roles[0], opening.commitment(), Surface.CLI, ("findings",),
            site.version, failed.id,
        )  # fmt: skip
        first = [sealed(failed, gate, {"failure": itself}), sealed(word, ada.key, {"comment": itself})]
        begun = sealed(Transition(row.id, State.MEASURING, "measured again", attempt), gate, bundle)
        opened = leaf_hash(begun)
        numbers = replace(row.evidence, measurement=Digest(opened.hex()))
        evidence = sealed(numbers, evaluator, about, proposal)
        measured = Digest(leaf_hash(evidence).hex())
        verdict = replace(row.verdict, evidence=measured, attempt=attempt)
        judged = {"evidence": measured, "verdict": itself}
        last = sealed(verdict, gate, judged, proposal, Reference(seq + 3, measured.hex))
        yield [*first, begun, evidence, last], opening
        seq += ROUND
