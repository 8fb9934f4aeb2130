"""Artifacts by content: what a digest names is what is stored, measured, approved and served.

Invariants:
- A blob's address is the SHA-256 of its bytes; a tree's address is the SHA-256 of the canonical list
  of ``{path, sha256, size}`` of its files, sorted by path. File names are bound (unlike in formats that
  digest only concatenated contents).
- An artifact is complete and flushed to disk before its digest is returned, so a record never names
  what a crash could lose. Nothing is ever overwritten or changed in place.
- What was stored again counts as young from then on, and removing waits for storing (``retention``).
- Every read checks the digest; bytes that do not match are an error, never a result.
- Which tree is champion is not decided here: the ledger says so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from guardrails import canonical
from guardrails.canonical import Digest, digest, digest_file
from guardrails.errors import InterlockError, RecordError

MAX_MANIFEST_BYTES = 4 << 20

SCRATCH = "rehearsal-"
"""How the folders begin in which a way back is tried, beside the blobs."""


class ArtifactError(InterlockError):
    """An artifact is missing, damaged or cannot be stored."""


@dataclass(frozen=True, order=True)
class TreeEntry:
    """One file of a tree: POSIX path relative to its root, size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ArtifactStore:
    """Blobs and trees below one directory on a local disk."""

    root: Path

    # --- blobs ---------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> Digest:
        """Store bytes; returns their address. Storing the same bytes again heals a damaged blob."""
        address = digest(data)
        if not self._renew(address):
            with self._incoming() as path:
                path.write_bytes(data)
                self._publish(path, address)
        return address

    def put_file(self, source: Path) -> Digest:
        """Store a file's bytes; returns their address."""
        with self._incoming() as path:
            shutil.copyfile(source, path)
            address = digest_file(path)
            self._publish(path, address)
        return address

    def get_bytes(self, address: Digest, *, limit: int = 1 << 30) -> bytes:
        """The bytes at an address, checked; raises ArtifactError if missing, damaged or over ``limit``."""
        path = self._blob(address)
        try:
            if path.stat().st_size > limit:
                raise ArtifactError(f"artifact {address} is larger than {limit} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"artifact {address} cannot be read: {error.strerror}") from None
        if digest(data) != address:
            raise ArtifactError(f"artifact {address} is damaged: its bytes have another digest")
        return data

    def has(self, address: Digest) -> bool:
        """True if a blob of this address is present (its bytes are not checked)."""
        return self._blob(address).is_file()

    def size_of(self, address: Digest) -> int:
        """The size of a blob in bytes; raises ArtifactError if it is missing."""
        try:
            return self._blob(address).stat().st_size
        except OSError as error:
            raise ArtifactError(f"artifact {address} cannot be read: {error.strerror}") from None

    def path_of(self, address: Digest) -> Path:
        """Where a blob lies, or would lie; its bytes are not checked."""
        return self._blob(address)

    # --- trees ---------------------------------------------------------------------------

    def put_tree(self, directory: Path) -> Digest:
        """Store every regular file below a directory; returns the tree's address.

        Links and special files are refused: a tree holds files only.
        """
        entries = []
        for path in sorted(directory.rglob("*")):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise ArtifactError(f"{path} is not a regular file; an artifact holds regular files only")
            relative = path.relative_to(directory).as_posix()
            entries.append(TreeEntry(relative, path.stat().st_size, self.put_file(path).hex))
        if not entries:
            raise ArtifactError(f"{directory} holds no files; an empty tree is no artifact")
        return self.put_bytes(encode_manifest(entries))

    def tree(self, address: Digest) -> tuple[TreeEntry, ...]:
        """The files of a tree, sorted by path."""
        return decode_manifest(self.get_bytes(address, limit=MAX_MANIFEST_BYTES))

    def verify_tree(self, address: Digest) -> None:
        """Read every byte of a tree; raises ArtifactError at the first missing or damaged file."""
        for entry in self.tree(address):
            self._verified_blob(entry)

    def verify(self, address: Digest) -> None:
        """Read every byte of whatever stands at an address, a tree with its files or a blob."""
        data = self.get_bytes(address)
        try:
            entries = decode_manifest(data)
        except RecordError:
            return
        for entry in entries:
            self._verified_blob(entry)

    def checkout(self, address: Digest, destination: Path, *, below: str = "") -> None:
        """Copy a tree (or its part ``below`` a folder) to a new directory, checking every byte.

        The copies are independent of the store: whoever writes to them cannot damage an artifact.
        """
        prefix = f"{below}/" if below else ""
        entries = [entry for entry in self.tree(address) if entry.path.startswith(prefix)]
        if not entries:
            raise ArtifactError(f"artifact {address} has nothing below {below or 'its root'}")
        for entry in entries:
            target = destination / entry.path.removeprefix(prefix)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._blob(Digest(entry.sha256)), target)
                found = digest_file(target).hex
            except OSError as error:
                raise ArtifactError(f"cannot copy {entry.path} of {address}: {error.strerror}") from None
            if found != entry.sha256:
                raise ArtifactError(f"artifact {address} is damaged at {entry.path}")

    # --- removing ------------------------------------------------------------------------

    @contextmanager
    def removing(self) -> Iterator[None]:
        """Alone with the store: nothing is stored until the block ends."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Nothing is removed until the block ends; storing goes on. On a read-only disk nothing needs a lock."""
        with self._locked(fcntl.LOCK_SH) if os.access(self.root, os.W_OK) else nullcontext():
            yield

    def everything(self) -> Iterator[tuple[Digest, int, float]]:
        """Every blob: address, size in bytes, when it was last stored (seconds since 1970)."""
        for folder in sorted((self.root / "blobs").glob("[0-9a-f][0-9a-f]")):
            for path in sorted(folder.iterdir()):
                try:
                    found, address = path.stat(), Digest(path.name)
                except (FileNotFoundError, RecordError):
                    continue
                yield address, found.st_size, found.st_mtime

    def discard(self, address: Digest) -> None:
        """Remove one blob, inside ``removing``; whether nobody needs it is for the caller to know."""
        try:
            self._blob(address).unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"artifact {address} cannot be removed: {error.strerror}") from None

    def discard_incoming(self, older_than_s: float) -> None:
        """Remove what interrupted writes and rehearsals have left, if it is older than so many seconds."""
        for path in (*(self.root / "incoming").glob("*"), *self.root.glob(f"{SCRATCH}*")):
            with suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime < older_than_s:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    # --- inside --------------------------------------------------------------------------

    def _blob(self, address: Digest) -> Path:
        return self.root / "blobs" / address.hex[:2] / address.hex

    def _renew(self, address: Digest) -> bool:
        """True if a whole blob is there already; it counts as stored now, so that it is not removed soon."""
        with self._locked(fcntl.LOCK_SH):
            try:
                whole = digest_file(self._blob(address)) == address
                if whole:
                    os.utime(self._blob(address))
            except OSError:
                return False
            return whole

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ArtifactError(f"cannot write to {self.root}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _verified_blob(self, entry: TreeEntry) -> None:
        path = self._blob(Digest(entry.sha256))
        try:
            found = digest_file(path).hex
        except OSError as error:
            raise ArtifactError(f"{entry.path}: cannot be read: {error.strerror}") from None
        if found != entry.sha256:
            raise ArtifactError(f"{entry.path}: damaged: its bytes have another digest")

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        folder = self.root / "incoming"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder)
        except OSError as error:
            raise ArtifactError(f"cannot write to {folder}: {error.strerror}") from None
        os.close(descriptor)
        path = Path(name)
        try:
            yield path
        except OSError as error:
            raise ArtifactError(f"cannot store an artifact in {self.root}: {error.strerror}") from None
        finally:
            with suppress(OSError):  # what stays behind, retention removes
                path.unlink()

    def _publish(self, path: Path, address: Digest) -> None:
        """Flush, then move into place in one step; a crash leaves either nothing or the whole blob."""
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.chmod(0o444)
        target = self._blob(address)
        with self._locked(fcntl.LOCK_SH):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        for folder in (target.parent, target.parent.parent):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def encode_manifest(entries: list[TreeEntry]) -> bytes:
    """Canonical bytes of a tree's list of files."""
    return canonical.encode(
        [{"path": entry.path, "sha256": entry.sha256, "size": entry.size} for entry in sorted(entries)]
    )


def decode_manifest(data: bytes) -> tuple[TreeEntry, ...]:
    """The entries of a manifest; raises RecordError if it is not exactly what ``encode_manifest`` writes."""
    value = canonical.parse(data)
    if not isinstance(value, list) or not value:
        raise RecordError("a tree's manifest is a non-empty array")
    entries = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"path", "sha256", "size"}:
            raise RecordError("a manifest entry has exactly path, sha256 and size")
        path = PurePosixPath(str(item["path"]))
        odd = path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path)
        if odd or str(path) != item["path"]:
            raise RecordError(f"manifest path {item['path']!r:.80} leaves its tree")
        if type(item["size"]) is not int or item["size"] < 0:
            raise RecordError(f"{path}: size is not a count of bytes")
        entries.append(TreeEntry(str(path), item["size"], Digest(str(item["sha256"])).hex))
    if entries != sorted(entries) or len({entry.path for entry in entries}) != len(entries):
        raise RecordError("manifest entries are not sorted or not unique")
    names = {entry.path for entry in entries}
    for entry in entries:
        if any(str(parent) in names for parent in PurePosixPath(entry.path).parents):
            raise RecordError(f"{entry.path}: a folder of this name is also a file")
    return tuple(entries)
