"""A champion to use, or a refusal: what loads a model believes the signed log, and nothing that stands beside it.

Invariants:
- No path to a champion goes round ``open_champion``: the whole log is verified first, every signature of it, from
  a root key that the caller brings along; then the rows that say who is champion are those that the records lead to.
- The verdict by which the champion came to be is judged again from its evidence, where that can be done; where it
  cannot (evidence that is not here, an engine of another version), ``doubt`` says why, and ``strict`` refuses it.
- Every byte that is handed out has been compared with the digest that the log names.
- Refusals are ``LogVerificationError`` (exit status 7) where the log does not justify what the database says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """A champion that the log justifies. ``log_root`` is the root of the tree over the records that do.

    ``doubt`` says why its verdict was not judged again; empty where it was, or where there is none (a base model).
    """

    model: str
    digest: Digest
    proposal: str
    log_size: int
    log_root: str
    store: ArtifactStore
    doubt: str = ""

    def files(self) -> tuple[TreeEntry, ...]:
        """Its files, as paths below the model's folder."""
        return tuple(entry for entry in self.store.tree(self.digest) if entry.path.startswith(f"{MODEL}/"))

    def checkout(self, destination: Path) -> None:
        """Copy its files to a new directory, every byte checked; raises ArtifactError if one is not as it was."""
        self.store.checkout(self.digest, destination, below=MODEL)


def open_champion(
    database_url: str, store: ArtifactStore, model: str, root_key: str, *, known_checkpoint: str = "",
    strict: bool = False,
) -> Champion:  # fmt: skip
    """The champion of a model, verified.

    Args:
        database_url: Where the log is.
        store: Where the artifacts are.
        model: The model's name.
        root_key: An OpenSSH public key that must have signed the first roster. Keep it where whoever can write to
            the database cannot: it is what everything else is measured by.
        known_checkpoint: A checkpoint kept from before; the log must extend it.
        strict: Refuse a champion whose verdict cannot be judged again here.

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
        return champion_of(snapshot, store, model, (root_key,), (known_checkpoint,), strict=strict)


def champion_of(
    snapshot: Snapshot, store: ArtifactStore, model: str, root_pins: Sequence[str] = (),
    known_checkpoints: Sequence[str] = (), *, artifacts: Callable[[Digest], None] | None = None,
    strict: bool = False,
) -> Champion:  # fmt: skip
    """The champion of a model as of one state of the log, verified; see ``open_champion``.

    ``root_pins`` may be empty where nobody pinned a root: then the first roster is believed. ``artifacts`` raises
    unless an artifact is present and intact; None checks those of the champion alone.
    """
    again = _verdict_of(snapshot, store, model)
    found = verify_log(
        snapshot, project, root_pins=root_pins, known_checkpoints=known_checkpoints, artifacts=artifacts,
        recompute=again,
    )  # fmt: skip
    if not found.ok:
        raise LogVerificationError(
            found.reason, index=-1 if found.index is None else found.index,
            hint="nothing was loaded; the log does not justify this champion",
        )  # fmt: skip
    # Only now: every row has been compared with what the records lead to, in this very snapshot.
    row = require_model(snapshot.tables, model)
    if strict and again.doubt:
        raise LogVerificationError(
            f"the verdict on the champion of {model} cannot be judged again: {again.doubt}",
            hint="nothing was loaded; have the evidence in the store, and the version that made the verdict",
        )
    try:
        store.verify_tree(row.champion)
    except ArtifactError as error:
        raise ArtifactError(f"the champion of {model}, {row.champion.short}: {error.message}") from None
    proposal = row.history[-1].proposal
    return Champion(model, row.champion, proposal, found.entries, found.root, store, again.doubt)


class _verdict_of:  # noqa: N801 - used as a function
    """Judges again only the verdicts on the proposal that the champion is said to come from."""

    def __init__(self, snapshot: Snapshot, store: ArtifactStore, model: str) -> None:
        row = require_model(snapshot.tables, model)
        self._proposals = {reign.proposal for reign in row.history if reign.digest == row.champion}
        self._judge = recomputer(store)
        self.doubt = ""

    def __call__(self, tables: Reader, entry: Entry) -> str:
        if entry.statement.body.get("proposal") not in self._proposals:
            return ""
        # Of several verdicts on one proposal the last is the one that people decided on.
        self.doubt = self._judge(tables, entry)
        return self.doubt
