"""From an empty workspace to one that can work: the first person, the first policy, the base models.

Invariants: everything done here is a signed record like any other; the first person signs the first roster,
the activation of ``policies/default.yaml`` and the adoption of each base model. Interrupted, it can be
started again and does what is still missing. The set-up token is used once and lets nobody in afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from guardrails.canonical import Digest
from guardrails.decision_log.envelope import Signer, seal
from guardrails.decision_log.keys import KDF_ROUNDS, PersonKey, person_keyid
from guardrails.decisions import Intention
from guardrails.errors import DeniedError, UsageError
from guardrails.policy import load_policy
from guardrails.records import (
    Action,
    Key,
    ModelKind,
    Opening,
    Person,
    Predecessor,
    Role,
    Roster,
    Surface,
    open_text,
)
from guardrails.view import view_of
from sandbox.adoption import base_bundle
from sandbox.config import ModelConfig
from sandbox.runner import Runner
from sandbox.tasks import labels_of
from ui import pins
from ui.wiring import Workspace

DEFAULT_POLICY = Path(__file__).parent.parent / "policies" / "default.yaml"
MIN_PASSPHRASE_CHARS = 8
RECOVERY = "recovery key"
TOKEN_FILE = "setup.token"  # noqa: S105 - a file name

Report = Callable[[str, float], None]


def is_founded(workspace: Workspace) -> bool:
    """True once there is somebody who can decide."""
    with view_of(workspace.log) as view:
        return view.roster is not None


def is_ready(workspace: Workspace) -> bool:
    """True once there is a policy in force and every configured model has a champion."""
    with view_of(workspace.log) as view:
        adopted = {row.name for row in view.models()}
        return bool(view.policies()) and set(workspace.config.models) <= adopted


def found(
    workspace: Workspace, name: str, passphrase: str, *, recovery: Path | None = None,
    predecessor: Predecessor | None = None, rounds: int = KDF_ROUNDS,
) -> PersonKey:  # fmt: skip
    """Make the first person, root and operator, with a key behind a passphrase; returns the key.

    ``recovery``: also a second root, ``RECOVERY``, that can only change the roster. Its key is written to that
    file, behind the same passphrase, and is meant to leave this machine. Both keys sign the first roster, and
    both are pinned.

    Raises:
        DeniedError: somebody is set up already.
        UsageError: the name or the passphrase cannot be used.
    """
    if is_founded(workspace):
        raise DeniedError("this workspace has its first person already", hint="use `interlock operator add`")
    person, key, opening = new_person(workspace, name, passphrase, (Role.OPERATOR, Role.ROOT), rounds=rounds)
    people, names, keys = [person], [opening], [key]
    if recovery is not None:
        spare = PersonKey.generate()
        second, second_name = person_with(RECOVERY, (Role.ROOT,), spare.public)
        spare.save(recovery, passphrase, rounds=rounds)
        people, names, keys = [person, second], [opening, second_name], [key, spare]
    payload = workspace.gate.draft_roster(
        Roster(1, tuple(people), workspace.service_keys(), predecessor=predecessor)
    )
    workspace.gate.commit_roster(seal(payload, *keys), names)
    pins.pin(workspace.log, workspace.path)
    return key


def new_person(
    workspace: Workspace, name: str, passphrase: str, roles: tuple[Role, ...], *, rounds: int = KDF_ROUNDS
) -> tuple[Person, PersonKey, Opening]:
    """A person for the next roster, with a fresh key saved behind a passphrase."""
    key = PersonKey.generate()
    person, opening = person_with(name, roles, key.public)
    require_passphrase(passphrase)
    key.save(workspace.people_keys / person.id, passphrase, rounds=rounds)
    return person, key, opening


def person_with(name: str, roles: tuple[Role, ...], public: str) -> tuple[Person, Opening]:
    """A person for the next roster, whose key is somewhere else; raises UsageError for an unusable name."""
    name = " ".join(name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UsageError("a name of 1 to 80 printable characters is needed")
    opening = open_text(name)
    return Person(f"p-{secrets.token_hex(6)}", opening.commitment(), roles, (Key(public),)), opening


def require_passphrase(passphrase: str) -> None:
    """Raise UsageError for a passphrase that is too short."""
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise UsageError(f"the passphrase needs at least {MIN_PASSPHRASE_CHARS} characters")


def complete(workspace: Workspace, key: Signer, runner: Runner, surface: Surface, report: Report) -> None:
    """Activate the default policy and adopt every configured model, where that is still missing."""
    with view_of(workspace.log) as view:
        roots = [person for person, _ in view.people() if Role.ROOT in person.roles]
        person = next((p for p in roots if any(person_keyid(k.public) == key.keyid for k in p.keys)), None)
        has_policy, adopted = bool(view.policies()), {row.name for row in view.models()}
    if person is None:
        raise DeniedError("only a root can complete the set-up")
    if not has_policy:
        report("activating policies/default.yaml", 0.0)
        source = load_policy(DEFAULT_POLICY).source
        wish = Intention(
            Action.ACTIVATE, source.name, person.id, Role.OPERATOR, "set-up: the policy that Interlock ships",
            surface, policy=source,
        )  # fmt: skip
        workspace.gate.commit(workspace.gate.draft(wish), key)
    for model in workspace.config.models.values():
        if model.name not in adopted:
            adopt(workspace, model, person.id, key, runner, surface, report)


def adopt(
    workspace: Workspace, model: ModelConfig, person: str, key: Signer, runner: Runner, surface: Surface,
    report: Report,
) -> Digest:  # fmt: skip
    """Take a configured model's base as its first champion, signed by a root; returns its digest."""
    report(f"adopting the base of {model.name}", 0.0)
    digest = base_bundle(model, workspace.path, workspace.store, runner, report)
    wish = Intention(
        Action.ADOPT, model.name, person, Role.ROOT, f"base model {model.base}", surface,
        digest=digest, kind=ModelKind(model.kind), labels=labels_of(model),
    )  # fmt: skip
    workspace.gate.commit(workspace.gate.draft(wish), key)
    report(f"adopted {model.name}", 1.0)
    return digest


# --- the one-time token --------------------------------------------------------------------


def make_setup_token(workspace: Workspace) -> str:
    """A fresh token for the set-up page; only its hash is kept, readable by the owner alone."""
    token = secrets.token_urlsafe(12)
    path = workspace.path / "keys" / TOKEN_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(hashlib.sha256(token.encode()).hexdigest())
    return token


def check_setup_token(workspace: Workspace, token: str) -> None:
    """Raise DeniedError unless this is the token that was printed."""
    try:
        kept = (workspace.path / "keys" / TOKEN_FILE).read_text(encoding="ascii")
    except OSError:
        raise DeniedError("no set-up is open", hint="start `interlock up` in a new workspace") from None
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    if not hmac.compare_digest(kept, given):
        raise DeniedError(
            "that is not the token that the terminal printed",
            hint="it stands in the terminal after “Set-up token”; the newest one counts",
        )


def drop_setup_token(workspace: Workspace) -> None:
    """Make the token worthless; called once somebody is set up."""
    (workspace.path / "keys" / TOKEN_FILE).unlink(missing_ok=True)
