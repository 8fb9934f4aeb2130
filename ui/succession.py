"""A log that goes on from another one whose roots are lost: a new beginning that says what it follows.

Invariants:
- The former log is verified whole, artifacts too, before anything is made; its origin, length and root hash stand in
  the first roster of the new one, signed by the new root. Nothing is written to the former log.
- What is taken over is read in the very snapshot that was verified: no table is looked at again afterwards.
- Taken over are the policies in force (to the byte), the champions, and a halt. Everything else stays where it was:
  proposals, waivers, people, and the memory of what was rolled back, so the former log must be kept and read too.
- That the new root may do so is a claim of theirs, outside of both logs: whoever pinned the former roots must be
  told the new root key by other means.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from guardrails.decision_log.envelope import Signer
from guardrails.decision_log.keys import KDF_ROUNDS, PersonKey, person_keyid
from guardrails.decision_log.verify import verify_log
from guardrails.decisions import Intention
from guardrails.errors import DeniedError, LogVerificationError
from guardrails.ledger import project
from guardrails.ledger.requests import WORKSPACE
from guardrails.ledger.rows import ModelRow, PolicyRow
from guardrails.records import Action, ModelKind, Predecessor, Role, Surface
from guardrails.view import view_of
from ui.setup import Report, found, is_founded
from ui.wiring import Workspace

REASON = "taken over from the log before"


@dataclass(frozen=True)
class Inheritance:
    """What a former log says, verified; ``halted``: a halt is in force."""

    predecessor: Predecessor
    policies: tuple[PolicyRow, ...]
    models: tuple[ModelRow, ...]
    halted: bool


def inheritance_of(former: Workspace) -> Inheritance:
    """What a first roster says of a log that it follows, and what is taken over, after the whole was verified.

    Raises:
        LogVerificationError: it does not hold, so nothing can go on from it.
        DeniedError: nobody was ever set up in it.
    """
    with view_of(former.log) as view:
        snapshot = view.snapshot
        if snapshot.size == 0:
            raise DeniedError(f"{former.path}: nobody was set up in this log; there is nothing to go on from")
        found_ = verify_log(
            snapshot, project, artifacts=former.store.verify, statements=former.store.get_bytes
        )
        if not found_.ok:
            raise LogVerificationError(
                f"the former log does not hold: {found_.reason}",
                index=-1 if found_.index is None else found_.index,
                hint="restore it from a backup that verifies; nothing was made",
            )
        predecessor = Predecessor(snapshot.origin, snapshot.size, found_.root)
        return Inheritance(
            predecessor, tuple(view.policies()), tuple(view.models()), view.halted_by is not None
        )


def take_over(
    workspace: Workspace, former: Workspace, inherited: Inheritance, name: str, passphrase: str, report: Report,
    *, recovery: Path | None = None, rounds: int = KDF_ROUNDS,
) -> PersonKey:  # fmt: skip
    """Found a log that follows another, and take over its policies, champions and halt; returns the root's key.

    Raises:
        DeniedError: the new workspace has its first person already.
    """
    if is_founded(workspace):
        raise DeniedError("this workspace has its first person already; a successor begins empty")
    config = former.path / "interlock.toml"
    (workspace.path / "interlock.toml").write_bytes(config.read_bytes())
    key = found(
        workspace, name, passphrase, recovery=recovery, predecessor=inherited.predecessor, rounds=rounds
    )
    finish(workspace, former, inherited, key, report)
    return key


def finish(
    workspace: Workspace, former: Workspace, inherited: Inheritance, key: Signer, report: Report
) -> None:
    """Sign for what is taken over and still missing; goes on where an interrupted take-over ended."""
    with view_of(workspace.log) as view:
        person = next(p for p, _ in view.people() if any(person_keyid(k.public) == key.keyid for k in p.keys))
        there = {row.name for row in view.policies()} | {row.name for row in view.models()}
        is_halted = view.halted_by is not None

    def sign(wish: Intention) -> None:
        workspace.gate.commit(workspace.gate.draft(wish), key)

    for policy in inherited.policies:
        if policy.name not in there:
            report(f"activating {policy.name}", 0.0)
            sign(Intention(Action.ACTIVATE, policy.name, person.id, Role.OPERATOR, REASON, Surface.CLI,
                           policy=policy.source))  # fmt: skip
    for model in inherited.models:
        if model.name in there:
            continue
        report(f"taking over {model.name}", 0.0)
        with tempfile.TemporaryDirectory(prefix="interlock-successor-") as scratch:
            former.store.checkout(model.champion, Path(scratch) / "champion")
            copied = workspace.store.put_tree(Path(scratch) / "champion")
        if copied != model.champion:
            raise LogVerificationError(f"{model.name}: the copy of its champion is another one")
        sign(Intention(Action.ADOPT, model.name, person.id, Role.ROOT, REASON, Surface.CLI,
                       digest=model.champion, kind=ModelKind(model.kind), labels=model.labels))  # fmt: skip
    if inherited.halted and not is_halted:
        sign(Intention(Action.HALT, WORKSPACE, person.id, Role.OPERATOR, REASON, Surface.CLI))
