"""A log of leaves that grows, or forks, and a witness that trusts its key: for tests of proofs and witnesses."""

from __future__ import annotations

from pathlib import Path

from log_samples import KEY, ORIGIN

from guardrails.decision_log import checkpoint, merkle
from guardrails.decision_log.checkpoint import Checkpoint
from guardrails.decision_log.cosignature import LOG, VerifierKey
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import ConsistencyProof
from guardrails.decision_log.witness import Witness

LOG_KEY = VerifierKey.of(ORIGIN, KEY, LOG)
NAME = "witness.example/w1"


class History:
    """A log of leaves in memory, with notes and proofs at any size."""

    def __init__(self, *leaves: bytes) -> None:
        self.data = list(leaves)
        self.tree = merkle.Tree()
        for leaf in leaves:
            self.tree.append(merkle.leaf_hash(leaf))

    def note(self, size: int, key: ServiceKey = KEY, origin: str = ORIGIN) -> str:
        return checkpoint.sign(Checkpoint(origin, size, self.tree.root(size).hex()), key)

    def request(self, old: int, size: int, **note) -> bytes:
        path = tuple(merkle.consistency(self.tree.lookup, old, size)) if old <= size else ()
        return ConsistencyProof(old, path, self.note(size, **note)).encode().encode()


def history(size: int, fork_at: int = -1) -> History:
    """A log of so many leaves, which from ``fork_at`` on are others."""
    return History(*(b"%d%s" % (i, b"'" if 0 <= fork_at <= i else b"") for i in range(size)))


def trusting_witness(folder: Path) -> Witness:
    """A witness that cosigns for the log's key."""
    made = Witness.create(folder, NAME)
    made.trust(LOG_KEY)
    return made
