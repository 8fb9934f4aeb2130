"""The one place where things are put together: a workspace directory in, ready parts out.

interlock.toml      configuration                    keys/           service keys, 0600
log.db              the decision log                 keys/people/    people's keys, behind passphrases
                                                     keys/roots.pub  root keys that the log must begin with
artifacts/          models, evidence, by content     jobs/ cache/    scratch; may be deleted when idle
labels/             learners' questions, and what people answered
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from guardrails.codec import decode_record
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.store import Log
from guardrails.errors import InterlockError, InvalidInputError, StorageError, UsageError
from guardrails.gate import Gate
from guardrails.ledger import project
from guardrails.ledger.in_force import effective_everywhere
from guardrails.ledger.people import SERVICES
from guardrails.ledger.rows import RosterRow, read
from guardrails.records import Roster
from guardrails.registry import ArtifactStore
from sandbox.config import FILE_NAME, Config, load_config
from ui import pins

if TYPE_CHECKING:
    from sandbox.answers.desk import Desk
    from sandbox.rounds import Bench
    from sandbox.runner import Runner

DATABASE = "INTERLOCK_DATABASE_URL"
DEFAULT_CONFIG = Path(__file__).parent.parent / "sandbox" / "default.toml"


@dataclass(frozen=True)
class Workspace:
    """One workspace. Parts are made when they are first asked for, so that reading needs no keys."""

    path: Path

    @cached_property
    def config(self) -> Config:
        """The checked ``interlock.toml``."""
        return load_config(self.path)

    @cached_property
    def log(self) -> Log:
        """The decision log, for reading only; raises LogVerificationError if pinned roots did not found it."""
        log = Log.open(self.database_url)
        try:
            pins.require(log, self.path)
        except BaseException:
            log.close()
            raise
        return log

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        return ArtifactStore(self.path / "artifacts")

    @cached_property
    def secret(self) -> bytes:
        """Keys the split and the draw of private items."""
        return _read_secret(self.path / "keys" / "items.secret")

    @cached_property
    def gate(self) -> Gate:
        """The gate, with the services' keys. Only trusted processes ask for it."""
        services = self._service_keys_in_force()
        log = Log.open(self.database_url, services["log"], project)
        return Gate(log, self.store, services, self.secret)

    @property
    def database_url(self) -> str:
        """``INTERLOCK_DATABASE_URL``, or a SQLite file in the workspace."""
        return os.environ.get(DATABASE) or f"sqlite:///{self.path / 'log.db'}"

    def desk(self, model: str) -> Desk:
        """Where the questions about a model lie, with the roster and the hand-ins as the log has them."""
        from sandbox.answers.desk import Desk

        return Desk(self.path, model, self.store, self.log.read)

    def models_asked_about(self) -> list[str]:
        """The models about which a learner ever asked people, by name."""
        from sandbox.answers.desk import FOLDER

        folder = self.path / FOLDER
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def policy_folders(self) -> tuple[Path, ...]:
        """Where people look for policy files: in the workspace, beside it, and among the shipped ones."""
        shipped = Path(__file__).parent.parent / "policies"
        return (self.path / "policies", self.path.parent / "policies", shipped)

    @property
    def people_keys(self) -> Path:
        """Where private keys of people lie, one file a person id."""
        return self.path / "keys" / "people"

    def service_keys(self) -> dict[str, str]:
        """Service → public key, for the first roster."""
        return {name: ServiceKey.load(self.service_key(name)).public_base64 for name in SERVICES}

    def service_key(self, name: str, *, following: bool = False) -> Path:
        """Where the private key of a service lies; ``following``: the one that a rotation is about to bring."""
        return self.path / "keys" / (f"{name}.pem.next" if following else f"{name}.pem")

    def _service_keys_in_force(self) -> dict[str, ServiceKey]:
        """The services' keys by the roster; finishes a rotation that was committed and then interrupted."""
        listed = self._listed_service_keys()
        keys = {}
        for name in SERVICES:
            path, incoming = self.service_key(name), self.service_key(name, following=True)
            keys[name] = ServiceKey.load(path)
            named = listed.get(name, keys[name].public_base64)
            if keys[name].public_base64 != named and incoming.is_file():
                successor = ServiceKey.load(incoming)
                if successor.public_base64 == named:
                    incoming.replace(path)
                    keys[name] = successor
            if keys[name].public_base64 != named:
                raise InvalidInputError(
                    f"{path}: not the key that the roster names for the {name} service",
                    hint="restore it from a backup, or let the roots name another: interlock roster rotate-service",
                )
        return keys

    def _listed_service_keys(self) -> dict[str, str]:
        """Service → public key by the newest roster; by its record, where the table would not let us begin.

        The table decides nothing here: with other keys than the log's own nothing can be appended.
        """
        held = self.service_keys()
        with self.log.read() as snapshot:
            try:
                row = read(snapshot.tables, RosterRow)
                listed = dict(row.roster.services) if row else {}
            except InterlockError:
                listed = {}
            if listed == held or not snapshot.size:
                return listed
            for entry in snapshot.entries():
                if entry.statement.record == "roster":
                    listed = dict(decode_record(Roster, dict(entry.statement.body)).services)
        return listed


def open_workspace(path: Path) -> Workspace:
    """A workspace that exists; raises UsageError otherwise."""
    if not (path / FILE_NAME).is_file():
        raise UsageError(
            f"{path} is not an Interlock workspace", hint="run `interlock init` or `interlock up`"
        )
    return Workspace(path.resolve())


def create_workspace(path: Path) -> Workspace:
    """A new workspace: configuration, service keys, an empty log. Nobody can decide in it yet.

    The configuration is written last: without it the directory is no workspace, so an interrupted
    creation can simply be started again.
    """
    if (path / FILE_NAME).exists():
        raise UsageError(f"{path} is a workspace already")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (path / "keys", path / "keys" / "people", path / "artifacts"):
            # Also where the workspace's own folder was there already, open to others.
            folder.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"cannot create {path}: {error.strerror}") from None
    for name in SERVICES:
        _place(path / "keys" / f"{name}.pem", ServiceKey.generate().save)
    _place(path / "keys" / "items.secret", lambda file: _write_secret(file, secrets.token_bytes(32)))
    workspace = Workspace(path.resolve())
    try:
        workspace.log.close()
    except StorageError:
        log_key = ServiceKey.load(path / "keys" / "log.pem")
        Log.create(workspace.database_url, f"interlock/{uuid.uuid4()}", log_key, project).close()
    workspace = Workspace(path.resolve())
    incoming = path / f"{FILE_NAME}.new"
    incoming.write_text(DEFAULT_CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    incoming.replace(path / FILE_NAME)
    return workspace


def ray_runner(workspace: Workspace, announce: Callable[[str], None] = lambda _: None) -> Runner:
    """Runs jobs under Ray, which starts with the first job."""
    from sandbox.ray_runner import RayRunner

    return RayRunner(cache=workspace.path / "cache", announce=announce)


def open_bench(workspace: Workspace, runner: Runner) -> Bench:
    """What rounds work with: the strictest level that holds here and that the policies in force take.

    Raises:
        IsolationUnavailableError: no such level holds; with each failed probe and its remedy.
    """
    from sandbox.isolation import levels
    from sandbox.rounds import Bench

    with workspace.gate.log.read_proven() as snapshot:
        minimum = effective_everywhere(snapshot.tables).isolation_minimum
    cache = workspace.path / "cache"
    cache.mkdir(exist_ok=True)
    level = levels.strictest(minimum, cache=cache)
    return Bench(workspace.gate, runner, workspace.path, workspace.secret, level)


def _place(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that is not there yet, whole or not at all: an interrupted creation leaves no half key."""
    if path.exists():
        return
    incoming = path.with_name(f"{path.name}.new")
    incoming.unlink(missing_ok=True)
    write(incoming)
    incoming.replace(path)


def _write_secret(path: Path, data: bytes) -> None:
    incoming = path.with_suffix(".new")
    incoming.unlink(missing_ok=True)
    descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    incoming.replace(path)


def _read_secret(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InterlockError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) != 32:
        raise InterlockError(f"{path} is damaged: 32 bytes are needed")
    return data
