"""Removing what people handed in, once a signed record of the log erased it (``interlock log erase``).

Invariants:
- Nothing goes but what a record erased, and only where the artifact is the statement that the log's record names.
- First the journal, then the artifact: interrupted anywhere, the next call finds the artifact and goes on.
- With an answer go the drafts that it took the place of, also those that were taken back; what its person typed after
  handing it in is another answer, and stays.
- What stays: the record with its signature and counts, and whatever was trained on the answers before (``data`` of a
  proposal, its bundle): that is evidence of what a model was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from guardrails.answers import parse_statement, require_as_recorded
from guardrails.canonical import Digest
from guardrails.codec import encode_record
from guardrails.decision_log.snapshot import Snapshot
from guardrails.decision_log.tables import ERASED_TABLE
from guardrails.errors import RecordError
from guardrails.ledger.rows import AnswersRow, read_all
from guardrails.registry import ArtifactStore
from sandbox.answers.book import Given, given_in, read_book, signed_before
from sandbox.answers.desk import FOLDER
from sandbox.answers.journal import Journal, Line


def erased_and_there(snapshot: Snapshot, store: ArtifactStore) -> list[AnswersRow]:
    """The statements that a record erased and that are still in the store."""
    return [
        row for row in read_all(snapshot.tables, AnswersRow)
        if snapshot.tables.get(ERASED_TABLE, row.statement.hex) is not None and store.has(row.statement)
    ]  # fmt: skip


def forget_erased(workspace: Path, snapshot: Snapshot, store: ArtifactStore) -> int:
    """Remove the texts of erased statements from journals and store; returns how many statements.

    Raises:
        ArtifactError: a statement is damaged, or cannot be removed.
        StorageError: a journal cannot be read or written.
    """
    forgotten = 0
    for row in erased_and_there(snapshot, store):
        data = store.get_bytes(row.statement)
        try:
            require_as_recorded(snapshot.origin, data, encode_record(row))
            given = [given_in(fields, row.person) for fields in parse_statement(data)["answers"]]
        except RecordError:
            continue  # something else that lies under this digest, and is not ours to remove
        Journal(workspace / FOLDER / row.model).rewrite(partial(_without, row.model, given))
        with store.removing():
            store.discard(row.statement)
        forgotten += 1
    return forgotten


def _without(model: str, given: Sequence[Given], lines: Sequence[Line]) -> Iterator[Line]:
    """The lines of a journal without the answers of one statement, and without what became of them on the way."""
    read_book(lines, (), model)  # a damaged line is told of by its number, before anything is removed
    gone = {one.digest for one in given}
    last: dict[tuple[str, Digest], int] = {}
    for number, line in enumerate(lines):
        last |= {(one.person, one.question): number for one in _typed(line) if one.digest in gone}
    for number, line in enumerate(lines):
        if any(number <= last.get(about, -1) for about in _about(line)):
            continue
        if line["line"] == "used":
            # Whoever knows all but a short answer could find it by its digest.
            yield {**line, "answers": [name for name in line["answers"] if Digest.parse(name) not in gone]}
        else:
            yield line


def _typed(line: Line) -> list[Given]:
    """The answers whose texts stand in a line."""
    if line["line"] == "draft":
        return [given_in(line, line["person"])]
    return signed_before(line) if line["line"] == "signed" else []


def _about(line: Line) -> list[tuple[str, Digest]]:
    """Whose words to which questions a line keeps or takes back."""
    if line["line"] == "undone":
        return [(line["person"], Digest.parse(line["question"]))]
    return [(one.person, one.question) for one in _typed(line)]
