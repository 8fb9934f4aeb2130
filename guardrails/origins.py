"""Which files of a proposal's training data hold records that a model wrote, by their own mark.

Invariants: a file counts as soon as one of its records says ``"origin": "generated"``; lines that are no JSON
objects say nothing. Only what is marked can be seen: text that a model wrote without saying so passes for a
person's, and nothing here claims otherwise.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from guardrails.canonical import Digest
from guardrails.registry import ArtifactError, ArtifactStore

GENERATED = "generated"


def generated_files(store: ArtifactStore, bundle: Digest, data: Digest) -> tuple[Digest, ...]:
    """The digests of such files among a bundle's ``data/`` and the training data kept beside it, sorted.

    Raises:
        ArtifactError: the bundle, or a file of its data, cannot be read.
    """
    files = {
        Digest(entry.sha256) for entry in store.tree(bundle) if PurePosixPath(entry.path).parts[0] == "data"
    }
    if store.has(data):
        files.add(data)
    return tuple(sorted((file for file in files if _is_generated(store, file)), key=str))


def _is_generated(store: ArtifactStore, file: Digest) -> bool:
    try:
        text = store.get_bytes(file)
    except ArtifactError as error:
        raise ArtifactError(f"the training data cannot be examined: {error.message}") from None
    # Most files have no such word at all: nothing is parsed then.
    return GENERATED.encode() in text and any(_says_so(line) for line in text.splitlines())


def _says_so(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("origin") == GENERATED
