"""Taking a result over from where an untrusted program wrote it: by allowlist, by copying.

Invariants:
- Names that a shape does not list are refused; what is listed is copied, never moved or linked.
- Descriptors follow no link: every folder and file is opened relative to its folder, and is a
  regular file with one name, no set-id bit and no hole.
- The bytes that were checked and hashed are the bytes that were written.
- Either the whole result is there, read-only, or the destination does not exist.

Call it only after every process that could write to the source is dead.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from guardrails.errors import BundleError
from sandbox.isolation import formats
from sandbox.isolation.manifest import parse_manifest
from sandbox.isolation.questions import parse_questions
from sandbox.isolation.spec import GIB, MIB
from sandbox.worker.questions import MAX_BYTES as MAX_QUESTION_BYTES

_BLOCK = 1 << 20
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


@dataclass(frozen=True)
class FileEntry:
    """One collected file: where it is in the result, how long, and its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Rule:
    """Files that a shape takes: a pattern of the whole path, what they hold, how long they may be.

    ``holds`` is ``json``, ``config`` (JSON that a model loader reads), ``lines``, ``text``,
    ``safetensors``, ``index``, ``template``, ``manifest``, ``questions``, or ``skip`` for files that are left behind
    without complaint.
    """

    pattern: str
    holds: str
    max_bytes: int

    def matches(self, path: str) -> bool:
        """Whether this rule is about a path."""
        return re.fullmatch(self.pattern, path) is not None


@dataclass(frozen=True)
class Shape:
    """What a result may consist of, and which patterns must have a file."""

    name: str
    folders: tuple[str, ...]
    rules: tuple[Rule, ...]
    required: tuple[str, ...]
    max_files: int = 256
    max_bytes: int = 16 * GIB


def _model_rules(folder: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{folder}(config|generation_config|adapter_config)\.json", "config", MIB),
        Rule(rf"{folder}(special_tokens_map|added_tokens|tokenizer_config)\.json", "config", 8 * MIB),
        Rule(rf"{folder}(tokenizer[a-z_]*|vocab)\.json", "json", 64 * MIB),
        Rule(rf"{folder}model\.safetensors\.index\.json", "index", 16 * MIB),
        Rule(rf"{folder}(merges\.txt|vocab\.txt)", "text", 64 * MIB),
        Rule(rf"{folder}chat_template\.jinja", "template", 256 << 10),
        Rule(rf"{folder}{_NAME}\.safetensors", "safetensors", 16 * GIB),
        Rule(rf"{folder}(README\.md|\.gitattributes|LICENSE)", "skip", MIB),
    )


BUNDLE = Shape(
    name="bundle",
    folders=("model", "adapter", "data"),
    rules=(
        Rule(r"proposal\.json", "manifest", MIB),
        *_model_rules("model/"),
        *_model_rules("adapter/"),
        Rule(rf"data/{_NAME}\.jsonl", "lines", 512 * MIB),
    ),
    required=(r"proposal\.json", r"model/(adapter_)?config\.json", rf"model/{_NAME}\.safetensors"),
)
# What a job may ask people: beside what it proposes, or instead of proposing. Nobody submits questions.
_QUESTIONS = Rule(r"questions\.jsonl", "questions", MAX_QUESTION_BYTES)
TRAINED = replace(BUNDLE, rules=(*BUNDLE.rules, _QUESTIONS))
ASKED = Shape(name="set of questions", folders=(), rules=(_QUESTIONS,), required=(_QUESTIONS.pattern,))
MODEL = Shape(
    name="model", folders=(), rules=_model_rules(""), required=(r"config\.json", rf"{_NAME}\.safetensors")
)
# A merge writes its model below the output folder, and nothing beside it.
MERGED = Shape(
    name="merged model",
    folders=("model",),
    rules=_model_rules("model/"),
    required=(r"model/config\.json", rf"model/{_NAME}\.safetensors"),
)
MEASUREMENT = Shape(
    name="measurement",
    folders=(),
    rules=(Rule(r"measurements\.json", "json", 256 * MIB), Rule(r"cache\.json", "json", 64 * MIB)),
    required=(r"measurements\.json",),
)


def collect(source: Path, dest: Path, shape: Shape) -> tuple[FileEntry, ...]:
    """Copy a result from ``source`` to ``dest``, checking and hashing it.

    Args:
        source: a job's output folder, or a folder that a person submits.
        dest: where to; must not exist yet.
        shape: what may be there: ``BUNDLE``, ``TRAINED``, ``ASKED``, ``MODEL``, ``MERGED`` or ``MEASUREMENT``.

    Returns:
        The files, sorted by path.

    Raises:
        BundleError: naming the file and what to do; then ``dest`` does not exist.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    try:
        dest.mkdir(mode=0o700)
    except FileExistsError:
        raise BundleError(f"{dest} exists already; a result is collected into a fresh folder") from None
    try:
        entries = _collect(source, dest, shape)
    except BaseException:
        shutil.rmtree(dest, ignore_errors=True)
        raise
    for folder in (*dest.iterdir(), dest):
        if folder.is_dir():
            folder.chmod(0o755)
    return entries


def _collect(source: Path, dest: Path, shape: Shape) -> tuple[FileEntry, ...]:
    entries: list[FileEntry] = []
    total = records = 0
    for path, folder, name in _names(source, shape):
        rule = next((rule for rule in shape.rules if rule.matches(path)), None)
        if rule is None:
            raise BundleError(f"{_shown(path)}: not a file of a {shape.name}", hint=_advice(path))
        if len(entries) >= shape.max_files:
            raise BundleError(f"{_shown(path)}: a {shape.name} holds at most {shape.max_files} files")
        descriptor = _open(folder, name, path)
        try:
            size = _checked_size(descriptor, path, rule)
            total += size
            if total > shape.max_bytes:
                raise BundleError(f"{_shown(path)}: a {shape.name} is at most {shape.max_bytes} bytes")
            if rule.holds == "lines":
                records += _count_lines(descriptor)
                if records > formats.MAX_RECORDS:
                    limit = formats.MAX_RECORDS
                    raise BundleError(f"{_shown(path)}: a {shape.name} holds at most {limit} records")
            if rule.holds != "skip":
                entries.append(_copy(descriptor, size, path, dest, rule))
        finally:
            os.close(descriptor)
    for pattern in shape.required:
        if not any(re.fullmatch(pattern, entry.path) for entry in entries):
            wanted = pattern.replace("\\", "").replace(_NAME, "*").replace("(adapter_)?", "")
            raise BundleError(f"{source}: {wanted} is missing", hint=f"a {shape.name} needs it")
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _names(source: Path, shape: Shape) -> Iterator[tuple[str, int, str]]:
    """Path in the result, open folder and name of everything that lies in a shape's folders."""
    root = _open_folder(str(source), None, str(source))
    try:
        found = _listed(root, shape, "")
        for name in found:
            if name not in shape.folders:
                yield name, root, name
        for name in shape.folders:
            if name in found:
                folder = _open_folder(name, root, name)
                try:
                    for below in _listed(folder, shape, name):
                        yield f"{name}/{below}", folder, below
                finally:
                    os.close(folder)
    finally:
        os.close(root)


def _listed(folder: int, shape: Shape, path: str) -> list[str]:
    """The names in an open folder; a folder of millions is refused without reading them all."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in itertools.islice(entries, 2 * shape.max_files)]
    if len(names) == 2 * shape.max_files:
        raise BundleError(f"{_shown(path) or '.'}: a {shape.name} holds at most {shape.max_files} files")
    return sorted(names)


def _open_folder(name: str, above: int | None, path: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise BundleError(f"{_shown(path)}: not a folder that can be read: {reason}") from None


def _open(folder: int, name: str, path: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        hint = "links, pipes, sockets and unreadable files are refused; copy plain files"
        raise BundleError(f"{_shown(path)}: cannot be opened as a file: {reason}", hint=hint) from None


def _checked_size(descriptor: int, path: str, rule: Rule) -> int:
    status = os.fstat(descriptor)
    shown = _shown(path)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{shown}: not a regular file")
    if status.st_nlink != 1:
        raise BundleError(f"{shown}: has {status.st_nlink} names (hard links)", hint="copy the file")
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise BundleError(f"{shown}: has a set-id bit", hint="remove it with chmod")
    if status.st_size > rule.max_bytes:
        raise BundleError(f"{shown}: {status.st_size} bytes are more than the {rule.max_bytes} allowed")
    if status.st_size and os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size:
        raise BundleError(f"{shown}: has holes (a sparse file)", hint="copy it with cp --sparse=never")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return status.st_size


def _count_lines(descriptor: int) -> int:
    """An upper bound on the records: looking into millions of tiny ones would take longer than making them."""
    lines = 1
    while block := os.read(descriptor, _BLOCK):
        lines += block.count(b"\n") + block.count(b"\r")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return lines


def _copy(descriptor: int, size: int, path: str, dest: Path, rule: Rule) -> FileEntry:
    target = dest / path
    target.parent.mkdir(mode=0o700, exist_ok=True)
    written, digest = 0, hashlib.sha256()
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(out, "wb") as stream:
        for block in _blocks(descriptor, size, path, rule):
            stream.write(block)
            digest.update(block)
            written += len(block)
        os.fchmod(stream.fileno(), 0o444)
    if written != size:
        raise BundleError(f"{_shown(path)}: its length changed while it was read")
    return FileEntry(path, size, digest.hexdigest())


def _blocks(descriptor: int, size: int, path: str, rule: Rule) -> Iterator[bytes]:
    """The file's bytes; what has a structure is checked before the first of them is handed on."""
    if rule.holds == "safetensors":
        size_field = _read(descriptor, 8)
        header = _read(descriptor, formats.header_length(size_field, size, path))
        formats.check_safetensors_header(size_field, header, size, path)
        yield size_field + header
        left = size - 8 - len(header)
        while left > 0:
            block = os.read(descriptor, min(_BLOCK, left))
            if not block:
                return
            left -= len(block)
            yield block
        return
    data = _read(descriptor, size)
    _check(data, path, rule.holds)
    yield data


def _check(data: bytes, path: str, holds: str) -> None:
    if holds in ("text", "template"):
        try:
            text = data.decode("utf-8")
        except UnicodeError:
            raise BundleError(f"{path}: not UTF-8 text") from None
        if holds == "template":
            formats.check_template(text, path)
    elif holds == "lines":
        formats.check_json_lines(data, path)
    elif holds == "manifest":
        parse_manifest(data)
    elif holds == "questions":
        parse_questions(data, path)
    else:
        value = formats.parse_json(data, path)
        if holds == "config":
            formats.refuse_code(value, path)
        elif holds == "index":
            formats.check_index(value, path)


def _read(descriptor: int, size: int) -> bytes:
    parts, left = [], size
    while left > 0:
        block = os.read(descriptor, min(left, _BLOCK * 16))
        if not block:
            break
        parts.append(block)
        left -= len(block)
    return b"".join(parts)


def _advice(path: str) -> str:
    if re.search(r"\.(bin|pt|pth|pkl|pickle|ckpt|h5|npz|npy)$", path):
        return "weights come as safetensors only: such a file can run code when it is loaded"
    if path.endswith(".py"):
        return "no code is taken over"
    return "remove it"


def _shown(path: str) -> str:
    """A path as printable text: a name may hold anything, a terminal should not obey it."""
    return ascii(path)[1:-1][:200]
