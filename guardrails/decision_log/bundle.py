"""One file that holds a whole log, for somebody who has nothing else: written here, checked anywhere.

    {"bundle": "interlock/log-bundle/v1", "origin": …, "size": N}
    {"envelope": base64, "leaf": hex, "seq": 0}            every record, in order
    {"opening": {"salt": …, "sha256": …, "text": …}}       names and free text, unless left out
    {"checkpoint": note}                                   every signed checkpoint, oldest first
    {"cosignature": {"line": …, "size": …, "witness": …}}  what witnesses said
    {"end": number of lines before this one}

Invariants:
- A line is canonical JSON. What is not exactly this form is refused with its line.
- Nothing in a bundle is believed: it is laid out as a log in a private folder, and verified like one. The
  tree is computed, tables are not carried at all.
- Memory does not grow with the log, neither writing nor reading.
- A bundle is its owner's only (mode 0600): with openings it holds personal data, and what was erased from the
  log later stays in a bundle that was written before.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, insert

from guardrails import canonical
from guardrails.decision_log import checkpoint as checkpoints
from guardrails.decision_log import cosigned, database, merkle
from guardrails.decision_log.envelope import open_envelope, parse_statement
from guardrails.decision_log.snapshot import Snapshot
from guardrails.decision_log.store import Log
from guardrails.errors import LogVerificationError, RecordError, StorageError, UsageError

FORMAT = "interlock/log-bundle/v1"
MAX_LINE_BYTES = 262_144
_BATCH = 1000


def write(snapshot: Snapshot, to: Path, *, texts: bool = True) -> int:
    """Write a bundle to a new file, whole or not at all; returns the number of lines.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{to} exists already; nothing was written") from None
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None
    count = 0
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for count, item in enumerate(_items(snapshot, texts=texts), 1):  # noqa: B007 - the last count is used
                stream.write(canonical.encode(item) + b"\n")
            stream.write(canonical.encode({"end": count}) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        to.unlink(missing_ok=True)
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    return count + 1


def _items(snapshot: Snapshot, *, texts: bool) -> Iterator[dict[str, Any]]:
    yield {"bundle": FORMAT, "origin": snapshot.origin, "size": snapshot.size}
    for entry in snapshot.entries():
        envelope = base64.b64encode(entry.envelope).decode("ascii")
        yield {"envelope": envelope, "leaf": entry.leaf, "seq": entry.seq}
    for opening in snapshot.openings() if texts else ():
        sha256 = opening.commitment().sha256
        yield {"opening": {"salt": opening.salt, "sha256": sha256, "text": opening.text}}
    for note in snapshot.checkpoints():
        yield {"checkpoint": note}
    for size, witness, line in snapshot.cosignatures():
        yield {"cosignature": {"line": line, "size": size, "witness": witness}}


@contextmanager
def opened(path: Path) -> Iterator[Log]:
    """The log in a bundle, laid out in a private folder until the block ends. Verify it before use.

    Raises:
        UsageError: the file cannot be read.
        LogVerificationError: it is no bundle, or not a whole one.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    with stream, tempfile.TemporaryDirectory(prefix="interlock-bundle-") as folder:
        url = f"sqlite:///{Path(folder).absolute() / 'log.db'}"
        engine = database.connect(url, writable=True, create=True)
        try:
            with database.transaction(engine, write=True) as connection:
                database.metadata.create_all(connection)
                _Reader(stream, connection).read()
        except StorageError as error:
            raise LogVerificationError(f"the bundle cannot be laid out as a log: {error.message}") from None
        finally:
            engine.dispose()
        with Log.open(url) as log:
            yield log


class _Reader:
    """Takes a bundle in, line by line, and lays it out."""

    def __init__(self, stream: IO[bytes], connection: Connection) -> None:
        self._stream = stream
        self._connection = connection
        self._line = 0
        self._size = 0
        self._frontier: dict[tuple[int, int], bytes] = {}
        self._rows: dict[Any, list[dict[str, Any]]] = {}

    def read(self) -> None:
        """The whole bundle; raises LogVerificationError with the line that is wrong."""
        head = self._next()
        if head is None or set(head) != {"bundle", "origin", "size"} or head["bundle"] != FORMAT:
            raise self._wrong(f"a bundle begins with its format, {FORMAT}")
        facts = {"origin": str(head["origin"]), "schema": database.SCHEMA_VERSION}
        for key, value in facts.items():
            self._put(database.meta, {"key": key, "value": value})
        while True:
            item = self._next()
            if item is None:
                raise self._wrong("the bundle was cut off: its last line is missing")
            if set(item) == {"end"}:
                break
            self._take(item)
        if item["end"] != self._line - 1 or self._next() is not None:
            raise self._wrong("the bundle does not end where it says")
        if head["size"] != self._size:
            raise self._wrong(f"the bundle should hold {head['size']} records, and holds {self._size}")
        self._flush()

    def _take(self, item: dict[str, Any]) -> None:
        kind = "record" if set(item) == {"envelope", "leaf", "seq"} else "".join(item)
        take = {
            "record": self._record, "opening": self._opening, "checkpoint": self._checkpoint,
            "cosignature": self._cosignature,
        }.get(kind)  # fmt: skip
        if take is None:
            raise self._wrong("not a line of a bundle")
        try:
            take(item)
        except (KeyError, TypeError, ValueError, RecordError) as error:
            raise self._wrong(f"not a {kind} as bundles have them: {error}") from None

    def _record(self, item: dict[str, Any]) -> None:
        if item["seq"] != self._size:
            raise LogVerificationError("it is missing", index=self._size)
        leaf = bytes.fromhex(canonical.Digest(item["leaf"]).hex)
        envelope = base64.b64decode(item["envelope"], validate=True)
        row = {"seq": self._size, "leaf": item["leaf"], "envelope": envelope, "time": _time_of(envelope)}
        self._put(database.entries, row)
        for node in merkle.completed(lambda *at: self._frontier[at], self._size, leaf):
            self._put(database.nodes, node._asdict())
            self._frontier[node.level, node.position] = node.hash
            # The two children of a complete subtree are never asked for again.
            for child in (2 * node.position, 2 * node.position + 1):
                self._frontier.pop((node.level - 1, child), None)
        self._size += 1

    def _opening(self, item: dict[str, Any]) -> None:
        self._put(database.openings, _texts(item["opening"], {"salt", "sha256", "text"}))

    def _checkpoint(self, item: dict[str, Any]) -> None:
        self._put(
            database.checkpoints,
            {"size": checkpoints.parse(item["checkpoint"])[0].size, "note": item["checkpoint"]},
        )

    def _cosignature(self, item: dict[str, Any]) -> None:
        fields = dict(item["cosignature"])
        size = fields.pop("size")
        if type(size) is not int:
            raise TypeError(f"size {size!r:.40}")
        _texts(fields, {"line", "witness"})
        # Who trusts no witness reads no line; but it is printed under the checkpoint, so it must be one of a note.
        checkpoints.require_signature_line(fields["line"], fields["witness"])
        self._flush()
        cosigned.keep(self._connection, size, fields["witness"], fields["line"])

    def _put(self, table: Any, row: dict[str, Any]) -> None:
        rows = self._rows.setdefault(table, [])
        rows.append(row)
        if len(rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        for table, rows in self._rows.items():
            if rows:
                with database.guarded(self._connection.engine):
                    self._connection.execute(insert(table), rows)
                rows.clear()

    def _next(self) -> dict[str, Any] | None:
        line = self._stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return None
        self._line += 1
        if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            raise self._wrong("the line is too long, or cut off")
        try:
            value = canonical.parse(line[:-1])
        except RecordError as error:
            raise self._wrong(error.message) from None
        if not isinstance(value, dict):
            raise self._wrong("not an object")
        return value

    def _wrong(self, what: str) -> LogVerificationError:
        return LogVerificationError(f"bundle, line {self._line}: {what}")


def _time_of(envelope: bytes) -> str:
    """The time that a record states; empty where it is none, which verification says better."""
    try:
        return parse_statement(open_envelope(envelope).payload).time
    except RecordError:
        return ""


def _texts(value: Any, names: set[str]) -> dict[str, str]:
    """An object of texts with exactly these names; raises TypeError."""
    if (
        not isinstance(value, dict)
        or set(value) != names
        or not all(isinstance(v, str) for v in value.values())
    ):
        raise TypeError(f"an object of texts is needed: {', '.join(sorted(names))}")
    return value
