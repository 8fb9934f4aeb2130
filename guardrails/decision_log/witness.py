"""A witness: cosigns what grows, and refuses everything else. Its own key, its own folder, no other state.

Invariants:
- Of one log a witness has cosigned one history only: each checkpoint that it signs is shown to extend the
  last one that it signed. Forks, rollbacks, unknown logs and unsigned checkpoints get no cosignature.
- A checkpoint is on disk, with the cosignature, before the cosignature is given to anybody; so whatever
  moment the process dies at, it never cosigns two histories. What was written and not given is asked again.
- Comparing with the last checkpoint and replacing it is one step for every process and thread that works
  in the folder (a file lock).
- State that is not to be read, or that this witness did not sign itself, is an error, never a fresh start.

The folder: ``key.pem``, ``witness.json`` (name, and the logs' verifier keys), ``logs/<sha256 of origin>.note``.
An older copy of the folder must never be put back: it would cosign again from where it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log.checkpoint import Checkpoint, is_name
from guardrails.decision_log.cosignature import LOG, Cosignature, VerifierKey, cosign, cosignatures
from guardrails.decision_log.keys import ServiceKey
from guardrails.decision_log.proof import ConsistencyProof, check_growth
from guardrails.errors import InterlockError, LogVerificationError, RecordError, StorageError, UsageError

MAX_REQUEST_BYTES = 65_536
_ACCEPTED, _BAD, _FORBIDDEN, _UNKNOWN, _CONFLICT, _UNPROVED, BROKEN = 200, 400, 403, 404, 409, 422, 500
_TEXT, _SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


@dataclass(frozen=True)
class Answer:
    """What a witness answers: an HTTP status as C2SP tlog-witness gives them, and a body."""

    status: int
    body: str
    kind: str = _TEXT

    @property
    def ok(self) -> bool:
        """Whether the body is a cosignature."""
        return self.status == _ACCEPTED


def _now() -> int:
    return int(time.time())


class Witness:
    """A witness in a folder. Any number of processes may serve from one folder."""

    def __init__(self, folder: Path, clock: Callable[[], int] = _now) -> None:
        self._folder = folder
        self._clock = clock
        settings = _read_settings(folder / "witness.json")
        self.name = settings.name
        self._key = ServiceKey.load(folder / "key.pem")
        self.logs = tuple(VerifierKey.parse(text) for text in settings.logs)

    @classmethod
    def create(cls, folder: Path, name: str) -> Witness:
        """A new witness; raises UsageError if there is one, or a note cannot carry the name."""
        if not is_name(name):
            raise UsageError(f"{name!r:.80} cannot name a witness: no white space and no '+'")
        if (folder / "witness.json").exists():
            raise UsageError(f"{folder} holds a witness already")
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {error.strerror}") from None
        if not (folder / "key.pem").exists():
            ServiceKey.generate().save(folder / "key.pem")
        _write(folder / "witness.json", _Settings(name, ()).encode())
        return cls(folder)

    @property
    def verifier_key(self) -> VerifierKey:
        """What verifiers are given: ``name+id+key``."""
        return VerifierKey.of(self.name, self._key)

    def trust(self, log: VerifierKey) -> None:
        """Begin to witness a log (or accept another key of it). The first checkpoint is taken as it comes."""
        if log.algorithm != LOG:
            raise UsageError(f"{log.name} is the key of a witness, not of a log")
        with self._locked():
            path = self._folder / "witness.json"
            logs = tuple(dict.fromkeys([*_read_settings(path).logs, str(log)]))
            _write(path, _Settings(self.name, logs).encode())
        self.logs = tuple(VerifierKey.parse(text) for text in logs)

    def latest(self, origin: str) -> str:
        """The last checkpoint of a log that was cosigned, cosignature and all; empty if there is none.

        Raises:
            StorageError: the state cannot be read, or is not what this witness wrote.
        """
        path = self._state(origin)
        try:
            note = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeError) as error:
            raise StorageError(f"{path} cannot be read: {error}") from None
        self._own(note, path, origin)
        return note

    def add_checkpoint(self, body: bytes) -> Answer:
        """Cosign a checkpoint that extends the last one, or say why not (C2SP ``add-checkpoint``)."""
        try:
            text = body.decode("utf-8") if len(body) <= MAX_REQUEST_BYTES else ""
            asked = ConsistencyProof.parse(text)
            head, _ = checkpoints.parse(asked.note)
        except (UnicodeError, RecordError) as error:
            return Answer(_BAD, f"{error}\n")
        return self.add(asked, head)

    def add(self, asked: ConsistencyProof, head: Checkpoint) -> Answer:
        """The same, parsed."""
        keys = [key for key in self.logs if key.name == head.origin]
        if not keys:
            return Answer(_UNKNOWN, "this log is not witnessed here\n")
        if not any(_is_signed(asked.note, key) for key in keys):
            return Answer(_FORBIDDEN, "the checkpoint is not signed by a known key of its log\n")
        if asked.old > head.size:
            return Answer(_BAD, f"old size {asked.old} is larger than the checkpoint's {head.size}\n")
        try:
            with self._locked():
                return self._compared(asked, head)
        except InterlockError as error:
            return Answer(BROKEN, f"{error.message}\n")

    def _compared(self, asked: ConsistencyProof, head: Checkpoint) -> Answer:
        note = self.latest(head.origin)
        last, seen = self._own(note, self._state(head.origin), head.origin) if note else (None, 0)
        size = last.size if last else 0
        if asked.old != size:
            return Answer(_CONFLICT, f"{size}\n", _SIZE)
        if last and head.size == size and head.root != last.root:
            return Answer(_CONFLICT, f"{size}\n", _SIZE)
        if asked.path and size in (0, head.size):
            return Answer(_UNPROVED, "the proof should be empty\n")
        if last and size and head.size > size:
            try:
                check_growth(last, head, asked.path)
            except LogVerificationError as error:
                return Answer(_UNPROVED, f"{error.reason}\n")
        now = self._clock()
        if now < seen:
            raise StorageError(f"the clock of this witness went back: {now} after {seen}")
        line = cosign(head, self.name, self._key, now)
        # The log's own lines are kept beside ours: whoever is shown this note can check both.
        own = "".join(
            f"{kept}\n" for kept in _lines_of(asked.note, [k for k in self.logs if k.name == head.origin])
        )
        _write(self._state(head.origin), f"{head.text}\n{own}{line}")
        return Answer(_ACCEPTED, line)

    def _own(self, note: str, path: Path, origin: str) -> tuple[Checkpoint, int]:
        """The tree head in a note that this witness wrote, and when it did."""
        try:
            found: list[Cosignature] = cosignatures(note, [self.verifier_key])
            head = checkpoints.parse(note)[0]
        except (RecordError, LogVerificationError) as error:
            raise StorageError(f"{path} is damaged: {error.message}") from None
        if not found or head.origin != origin:
            raise StorageError(
                f"{path} is not what this witness wrote; it signs nothing until that is settled"
            )
        return head, max(one.time for one in found)

    def _state(self, origin: str) -> Path:
        return self._folder / "logs" / f"{hashlib.sha256(origin.encode()).hexdigest()}.note"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("a", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _is_signed(note: str, key: VerifierKey) -> bool:
    try:
        checkpoints.verify(note, key.name, key.public_base64)
    except LogVerificationError:
        return False
    return True


def _lines_of(note: str, keys: list[VerifierKey]) -> list[str]:
    """The signature lines of a note that name one of these keys, as they stand in it."""
    known = {(key.name, key.key_id) for key in keys}
    lines = note.rpartition("\n\n")[2][:-1].split("\n")
    signatures = checkpoints.parse(note)[1]
    return [
        text for text, line in zip(lines, signatures, strict=True)
        if (line.name, line.key_id) in known
        and any(_is_signed(f"{note.rpartition(chr(10) * 2)[0]}\n\n{text}\n", key) for key in keys)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Settings:
    name: str
    logs: tuple[str, ...]

    def encode(self) -> str:
        return json.dumps({"name": self.name, "logs": list(self.logs)})


def _read_settings(path: Path) -> _Settings:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return _Settings(str(settings["name"]), tuple(map(str, settings["logs"])))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} holds no witness", hint="--name NAME makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None


def _write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all, and have it on disk when this returns."""
    incoming = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        incoming.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from None
