"""A champion to use, or a refusal: what loads a model believes the signed log, and nothing that stands beside it.

Invariants:
- No path to a champion goes round ``open_champion``: the whole log is verified first, every signature of it, from
  a root key that the caller brings along; then the rows that say who is champion are those that the records lead to.
- The verdict by which the champion came to be is judged again from its evidence, where the evidence is there.
- Every byte that is handed out has been compared with the digest that the log names.
- Refusals are ``LogVerificationError`` (exit status 7) where the log does not justify what the database says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guardrails.canonical import Digest
from guardrails.decision_log.snapshot import Entry, Snapshot
from guardrails.decision_log.store import Log
from guardrails.decision_log.tables import Reader
from guardrails.decision_log.verify import verify_log
from guardrails.errors import LogVerificationError, UsageError
from guardrails.ledger import project
from guardrails.ledger.judging import recomputer
from guardrails.ledger.rows import require_model
from guardrails.registry import ArtifactError, ArtifactStore, TreeEntry

MODEL = "model"
"""The folder of a bundle that is served."""


@dataclass(frozen=True)
class Champion:
    """A champion that the log justifies. ``log_root`` is the root of the tree over the records that do."""

    model: str
    digest: Digest
    proposal: str
    log_size: int
    log_root: str
    store: ArtifactStore

    def files(self) -> tuple[TreeEntry, ...]:
        """Its files, as paths below the model's folder."""
        return tuple(entry for entry in self.store.tree(self.digest) if entry.path.startswith(f"{MODEL}/"))

    def checkout(self, destination: Path) -> None:
        """Copy its files to a new directory, every byte checked; raises ArtifactError if one is not as it was."""
        self.store.checkout(self.digest, destination, below=MODEL)


def open_champion(
    database_url: str, store: ArtifactStore, model: str, root_key: str, *, known_checkpoint: str = ""
) -> Champion:
    """The champion of a model, verified.

    Args:
        database_url: Where the log is.
        store: Where the artifacts are.
        model: The model's name.
        root_key: An OpenSSH public key that must have signed the first roster. Keep it where whoever can write to
            the database cannot: it is what everything else is measured by.
        known_checkpoint: A checkpoint kept from before; the log must extend it.

    Raises:
        UsageError: no root key was given.
        LogVerificationError: the log does not hold, or does not justify this champion.
        ArtifactError: its bytes are missing or damaged.
    """
    if not root_key.strip():
        raise UsageError(
            "a root key is needed to load a champion", hint="`interlock roster show` prints the root keys"
        )
    with Log.open(database_url) as log, log.read() as snapshot:
        return champion_of(snapshot, store, model, root_key, known_checkpoint)


def champion_of(
    snapshot: Snapshot, store: ArtifactStore, model: str, root_key: str, known_checkpoint: str = ""
) -> Champion:
    """The champion of a model as of one state of the log, verified; see ``open_champion``."""
    found = verify_log(
        snapshot, project, root_key=root_key, known_checkpoint=known_checkpoint,
        recompute=_verdict_of(snapshot, store, model),
    )  # fmt: skip
    if not found.ok:
        raise LogVerificationError(
            found.reason, index=-1 if found.index is None else found.index,
            hint="nothing was loaded; the log does not justify this champion",
        )  # fmt: skip
    # Only now: every row has been compared with what the records lead to, in this very snapshot.
    row = require_model(snapshot.tables, model)
    try:
        store.verify_tree(row.champion)
    except ArtifactError as error:
        raise ArtifactError(f"the champion of {model}, {row.champion.short}: {error.message}") from None
    return Champion(model, row.champion, row.history[-1].proposal, found.entries, found.root, store)


class _verdict_of:  # noqa: N801 - used as a function
    """Judges again only the verdicts on the proposal that the champion is said to come from."""

    def __init__(self, snapshot: Snapshot, store: ArtifactStore, model: str) -> None:
        row = require_model(snapshot.tables, model)
        self._proposals = {reign.proposal for reign in row.history if reign.digest == row.champion}
        self._judge = recomputer(store)

    def __call__(self, tables: Reader, entry: Entry) -> str:
        if entry.statement.body.get("proposal") not in self._proposals:
            return ""
        return self._judge(tables, entry)
