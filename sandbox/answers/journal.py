"""One file of lines that only grows: a line that was acknowledged is on disk, and stays as it was unless it is erased.

Invariants:
- One writer at a time (a lock that dies with its process, and that nobody waits for without end); readers need none.
- A line is flushed to disk before anybody is told that it was written.
- A line that a crash cut off was never acknowledged; it is dropped, and nothing else is.
- Anything else that is no line of ours is an error that names it: nothing is skipped silently.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guardrails import canonical
from guardrails.errors import RecordError, StorageError

FILE, LOCK = "journal.jsonl", "lock"
MAX_BYTES = 1 << 30
PATIENCE_S = 30
_LOOK_S = 0.01

Line = Mapping[str, Any]


class Journal:
    """The lines about one model. ``folder`` is made with the first line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / FILE

    def lines(self) -> list[Line]:
        """All lines that were ever acknowledged, oldest first.

        Raises:
            StorageError: the file cannot be read, or a line of it is not one of ours.
        """
        try:
            if not self.file.exists():
                return []
            content = self.file.read_bytes()
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error.strerror}") from None
        # What stands after the last line end is being written, or was cut off.
        return [self._parsed(raw, number) for number, raw in enumerate(content.split(b"\n")[:-1], 1)]

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the lock: what is read inside is what is true when a line is written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {error.strerror}") from None
        try:
            self._wait(lock)
            yield Writer(self)
        finally:
            os.close(lock)

    def rewrite(self, change: Callable[[Sequence[Line]], Iterable[Line]]) -> None:
        """Put other lines in the place of all: for erasing alone. The file is replaced whole.

        Raises:
            StorageError: it cannot be read or written; it is as it was.
        """
        if not self.file.exists():
            return
        with self.writing():
            kept = list(change(self.lines()))
            incoming = self.file.with_name(f"{FILE}.new")
            try:
                incoming.unlink(missing_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with os.fdopen(os.open(incoming, flags, 0o600), "wb") as stream:
                    stream.writelines(canonical.encode(dict(line)) + b"\n" for line in kept)
                    stream.flush()
                    os.fsync(stream.fileno())
                incoming.replace(self.file)
                _flush_folder(self.folder)
            except OSError as error:
                raise StorageError(f"{self.file} cannot be rewritten: {error.strerror}") from None

    def _wait(self, lock: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._locked(lock):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"another process has kept {self.folder} for {PATIENCE_S} s; nothing was written",
                    hint="try again; if it stays so, end that process: its lock goes with it",
                )
            time.sleep(_LOOK_S)

    def _locked(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be locked: {error.strerror}") from None
        return True

    def _parsed(self, raw: bytes, number: int) -> Line:
        where = f"{self.file}:{number}"
        try:
            value = canonical.parse(raw)
        except RecordError as error:
            raise StorageError(
                f"{where}: not a line of this journal: {error.message}",
                hint="restore the file from a backup; lines are only ever added to it",
            ) from None
        if not isinstance(value, dict) or not isinstance(value.get("line"), str):
            raise StorageError(f"{where}: not a line of this journal", hint="restore the file from a backup")
        return value


class Writer:
    """Adds lines while the lock is held."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def append(self, line: Line) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
            StorageError: it could not be written; the file is as it was.
        """
        data = canonical.encode(dict(line)) + b"\n"
        file = self._journal.file
        fresh = not file.exists()
        try:
            descriptor = os.open(
                file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                size = _whole_lines(descriptor)
                if size + len(data) > MAX_BYTES:
                    raise StorageError(f"{file} would be larger than {MAX_BYTES} bytes")
                os.ftruncate(descriptor, size)
                _write(descriptor, data, size)
            finally:
                os.close(descriptor)
            if fresh:
                _flush_folder(self._journal.folder)
                _flush_folder(self._journal.folder.parent)
        except OSError as error:
            raise StorageError(f"{file} cannot be written: {error.strerror}; nothing was kept") from None


def _whole_lines(descriptor: int) -> int:
    """How many bytes there are up to the last line end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write(descriptor: int, data: bytes, size: int) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        # Half a line must not be taken for the beginning of the next one.
        os.ftruncate(descriptor, size)
        raise


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
