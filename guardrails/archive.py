"""A backup: one file that holds a workspace as it was at one moment.

A POSIX tar file without compression (weights do not compress), readable with ``tar``::

    log/<table>.jsonl     the log's tables                artifacts/<sha256>   models and evidence, by content
    workspace/<path>      configuration, pins, keys       backup.json          what should be there; comes last

Invariants:
- Taken while the workspace is in use, it holds one state of the log, and every artifact which that state needs:
  artifacts are complete before a record names them, and none is removed while they are read.
- A file that was cut short, altered, or has a name that leads elsewhere is refused as a whole: ``backup.json``
  stands at the end and names every other member with its digest, and an artifact's name is its digest.
- Private keys of people are in it only if asked for. The services' keys are: without them nobody could go on.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from guardrails import canonical
from guardrails.decision_log.dump import Extent, dump
from guardrails.errors import LogVerificationError, RecordError, UsageError
from guardrails.registry import ArtifactStore

FORMAT = "interlock-backup/v1"
CONTENTS = "backup.json"
_MAX_CONTENTS = 16 << 20
_BLOCK = 1 << 20
_TABLE = re.compile(r"log/[a-z]+\.jsonl")
_ARTIFACT = re.compile(r"artifacts/[0-9a-f]{64}")
_ELSEWHERE = ("artifacts", "jobs", "cache")


@dataclass
class Contents:
    """What a backup says of itself. ``members``: SHA-256 of each but the artifacts, which are named by theirs."""

    made_at: str
    extent: Extent
    members: dict[str, str] = field(default_factory=dict)
    artifacts: int | None = 0
    people_keys: bool = False

    def encode(self) -> bytes:
        """As canonical JSON."""
        extent = {"origin": self.extent.origin, "entries": self.extent.entries, "root": self.extent.root}
        artifacts = {} if self.artifacts is None else {"artifacts": self.artifacts}
        return canonical.encode({
            "format": FORMAT, "madeAt": self.made_at, "log": extent, "members": self.members,
            "peopleKeys": self.people_keys, **artifacts,
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Contents:
        """From canonical JSON; raises RecordError."""
        value = canonical.parse(data)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise RecordError("not the contents of a backup of this format")
        try:
            extent = Extent(value["log"]["origin"], value["log"]["entries"], value["log"]["root"])
            return cls(
                value["madeAt"], extent, dict(value["members"]), value.get("artifacts"), value["peopleKeys"]
            )
        except (KeyError, TypeError, ValueError):
            raise RecordError("the contents of the backup are incomplete") from None


def write_archive(
    to: Path, workspace: Path, url: str, store: ArtifactStore, now: str, *, artifacts: bool, people_keys: bool
) -> Contents:
    """Write a backup to a new file, which appears when it is complete.

    Raises:
        UsageError: the file exists, or cannot be written.
        StorageError: the log cannot be read.
    """
    if to.exists():
        raise UsageError(f"{to} exists already; nothing was written")
    partial = to.with_name(f".{to.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream, store.steady():
                contents = _fill(stream, to.parent, workspace, url, store, now, artifacts, people_keys)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(partial, to)  # unlike a rename, it never replaces what appeared meanwhile
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(to.parent)
    except FileExistsError:
        raise UsageError(f"{to} exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}", hint="nothing was kept") from None
    return contents


def _fill(
    stream: IO[bytes], scratch: Path, workspace: Path, url: str, store: ArtifactStore, now: str,
    artifacts: bool, people_keys: bool,
) -> Contents:  # fmt: skip
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".interlock-") as folder:
            contents = Contents(now, dump(url, Path(folder)), people_keys=people_keys)
            for path in sorted(Path(folder).iterdir()):
                contents.members[f"log/{path.name}"] = _add(archive, f"log/{path.name}", path)
        for relative in _files_of(workspace, people_keys=people_keys):
            name = f"workspace/{relative.as_posix()}"
            contents.members[name] = _add(archive, name, workspace / relative)
        # After the log: whatever the log named then has been stored before.
        contents.artifacts = _add_artifacts(archive, store) if artifacts else None
        _add_bytes(archive, CONTENTS, contents.encode())
    return contents


def _files_of(workspace: Path, *, people_keys: bool) -> Iterator[Path]:
    """Small files that make a workspace: all but the log, the artifacts, scratch and, unless asked, people's keys."""
    for path in sorted(workspace.rglob("*")):
        relative = path.relative_to(workspace)
        if relative.parts[0] in _ELSEWHERE or relative.name.startswith("log.db"):
            continue
        if relative.parts[:2] == ("keys", "people") and not people_keys:
            continue
        if path.is_file() and not path.is_symlink() and not relative.name.endswith((".new", ".partial")):
            yield relative


def _add_artifacts(archive: tarfile.TarFile, store: ArtifactStore) -> int:
    count = 0
    for address, _, _ in store.everything():
        if _add(archive, f"artifacts/{address.hex}", store.path_of(address)) != address.hex:
            raise LogVerificationError(f"artifact {address} is damaged", hint="nothing was kept")
        count += 1
    return count


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    """Add one file; the digest of the bytes that were added."""
    with path.open("rb") as stream:
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.fstat(stream.fileno()).st_size, 0o600
        hashing = _Hashing(stream)
        archive.addfile(info, hashing)
    return hashing.digest.hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    archive.addfile(info, io.BytesIO(data))


class _Hashing(io.RawIOBase):
    """What is read through it is hashed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def extract(source: Path, folder: Path) -> Contents:
    """Unpack a backup into a new folder: ``log/``, ``workspace/``, and the artifacts as a store has them.

    Raises:
        UsageError: the file cannot be read.
        LogVerificationError: it is no whole, unaltered backup.
    """
    found: dict[str, str] = {}
    last = b""
    try:
        with source.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if last or not member.isreg() or member.name in found:
                    raise LogVerificationError(
                        f"{source}: not a backup: {member.name!r:.80} does not belong there"
                    )
                content = archive.extractfile(member)
                assert content is not None  # noqa: S101 - a regular file has content
                if member.name == CONTENTS:
                    last = content.read(_MAX_CONTENTS)
                else:
                    found[member.name] = _place(content, folder / _target(source, member.name))
    except tarfile.TarError as error:
        raise LogVerificationError(f"{source} is damaged: {error}") from None
    except OSError as error:
        raise UsageError(f"{source} cannot be restored: {error.strerror or error}") from None
    return _checked(source, last, found)


def _checked(source: Path, last: bytes, found: dict[str, str]) -> Contents:
    if not last:
        raise LogVerificationError(f"{source} is cut short: it does not say what should be in it")
    try:
        contents = Contents.decode(last)
    except RecordError as error:
        raise LogVerificationError(f"{source}: {error.message}") from None
    artifacts = {name: hash_ for name, hash_ in found.items() if _ARTIFACT.fullmatch(name)}
    others = {name: hash_ for name, hash_ in found.items() if name not in artifacts}
    for name in sorted({*others, *contents.members}):
        if others.get(name) != contents.members.get(name):
            raise LogVerificationError(f"{source} is damaged: {name} is not what was saved")
    for name, hash_ in artifacts.items():
        if name != f"artifacts/{hash_}":
            raise LogVerificationError(f"{source} is damaged: {name} has other bytes")
    if len(artifacts) != (contents.artifacts or 0):
        raise LogVerificationError(
            f"{source} is damaged: {len(artifacts)} artifacts, {contents.artifacts} were saved"
        )
    return contents


def _target(source: Path, name: str) -> Path:
    """Where a member goes; refuses every name but those that ``write_archive`` gives."""
    path = PurePosixPath(name)
    if _TABLE.fullmatch(name):
        return Path(name)
    if _ARTIFACT.fullmatch(name):
        return Path("workspace", "artifacts", "blobs", path.name[:2], path.name)
    inside = path.parts[:1] == ("workspace",) and len(path.parts) > 1 and ".." not in path.parts
    if not inside or str(path) != name or path.parts[1] in _ELSEWHERE or "\0" in name:
        raise LogVerificationError(f"{source}: not a backup: {name!r:.80} does not belong there")
    return Path(name)


def _place(content: IO[bytes], target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = 0o444 if "blobs" in target.parts[-3:] else 0o600
    hashed = hashlib.sha256()
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        while block := content.read(_BLOCK):
            hashed.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return hashed.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
