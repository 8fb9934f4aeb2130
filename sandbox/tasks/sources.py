"""Text sources: ``shipped:NAME``, ``hub:OWNER/NAME``, or files and folders of the user's.

Invariants:
- A source is read whole or refused with file and line (or row); nothing in it is skipped silently but records that are
  too short to measure, and hidden files of a folder.
- Every record has ``id``, ``text`` and ``source``; all fields are text, and no id stands twice.
- Size is limited: files and bytes before anything is read, records and characters of text while they are. Nothing of a
  source is run, and no link leads out of a folder.
- The network is asked only where a source says ``hub:`` (``hub``), and only for data files.

Formats: ``.txt`` and ``.md`` (cut at blank lines), ``.jsonl`` and ``.parquet`` (``text``, optional ``id``), a folder of
these, a dataset that the library ``datasets`` saved on disk (``save_to_disk``). Of the fields of ``.jsonl`` and of tables
those in ``KEPT_FIELDS`` are kept where they are text, and ``source`` says the file's name where it does not say another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError
from sandbox import texts
from sandbox.tasks import Item
from sandbox.tasks.hub import from_hub
from sandbox.tasks.tables import read_parquet, read_saved_dataset

SHIPPED_TEXTS = Path(texts.__file__).parent
MIN_ITEM_CHARS = 40
MAX_FILES = 10_000
MAX_BYTES = 1 << 30
MAX_RECORDS = 1_000_000
KEPT_FIELDS = ("source", "license", "licence", "url", "origin", "label")
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
SAVED, SPLITS = "dataset_info.json", "dataset_dict.json"

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Where a record stands (``file:line``), and its fields."""


def read_source(source: str, workspace: Path) -> list[Item]:
    """The records of a source; those shorter than 40 characters are left out, for they carry too little to measure.

    Raises:
        ConfigError: what cannot be read, with file and line; or nothing in it is long enough.
    """
    if source.startswith("shipped:"):
        path = SHIPPED_TEXTS / f"{source.removeprefix('shipped:').replace('-', '_')}.jsonl"
    elif source.startswith("hub:"):
        path = from_hub(source, SUFFIXES, MAX_FILES, MAX_BYTES)
    else:
        path = workspace / Path(source).expanduser()
    if not source or not path.exists():
        raise ConfigError(f"text source {source!r} cannot be read: there is no {path}")
    records = _records(path, source)
    if source.startswith("shipped:"):
        licence = texts.sources()[path.stem]["licence"]
        records = [{**record, "licence": licence} for record in records]
    long_enough = [record for record in records if len(record["text"]) >= MIN_ITEM_CHARS]
    if not long_enough:
        raise ConfigError(f"text source {source!r} holds no record of {MIN_ITEM_CHARS} characters or more")
    return long_enough


def _records(path: Path, source: str) -> list[Item]:
    found: list[Item] = []
    seen: dict[str, str] = {}
    chars = 0
    for file, name in _files(path, source):
        for place, fields in _rows(file):
            number = place.rpartition(":")[2]
            own = {key: field for key in KEPT_FIELDS if isinstance(field := fields.get(key), str) and field}
            record = _record(str(fields.get("id", f"{name}-{number}")), fields["text"], name) | own
            if record["id"] in seen:
                raise ConfigError(
                    f"{place}: the id {record['id']!r:.60} stands in {seen[record['id']]} already"
                )
            seen[record["id"]] = place
            found.append(record)
            chars += sum(map(len, record.values()))
            if chars > MAX_BYTES:  # of a packed table the size of the file says nothing
                raise ConfigError(f"{place}: more than {MAX_BYTES} characters up to here", hint="split it")
            if len(found) > MAX_RECORDS:
                raise ConfigError(f"text source {source!r}: more than {MAX_RECORDS} records", hint="split it")
    return found


def _files(path: Path, source: str) -> list[tuple[Path, str]]:
    """The files of a source, and what their records are named after; raises ConfigError where they are too much."""
    if path.is_file() or (path / SAVED).is_file():
        files = [(path, path.stem if path.is_file() else path.name)]
    elif (path / SPLITS).is_file():
        splits = ", ".join(sorted(part.name for part in path.iterdir() if (part / SAVED).is_file()))
        raise ConfigError(
            f"text source {source!r} has several splits", hint=f"name one: {source}/… of {splits}"
        )
    else:
        files = [(file, file.relative_to(path).with_suffix("").as_posix()) for file in _inside(path)]
    if len(files) > MAX_FILES:
        raise ConfigError(f"text source {source!r}: more than {MAX_FILES} files", hint="split it")
    size = sum(_size(file) for file, _ in files)
    if size > MAX_BYTES:
        raise ConfigError(f"text source {source!r}: {size} bytes, more than {MAX_BYTES}", hint="split it")
    twice = {name for name, count in Counter(name for _, name in files).items() if count > 1}
    return [(file, f"{name}{file.suffix}" if name in twice else name) for file, name in files]


def _inside(folder: Path) -> Iterator[Path]:
    """Every file of a folder and the folders in it, but hidden ones; raises ConfigError for what is no source."""
    whole = [folder.resolve()]
    if folder.parent.name == "snapshots":  # of the hub's cache, which keeps the files themselves beside them
        whole.append(whole[0].parent.parent / "blobs")
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        if file.is_symlink() and not _is_inside(file, whole):
            raise ConfigError(
                f"{file}: a link that leads out of the folder",
                hint="put the file itself there, or name its folder",
            )
        if file.is_dir():
            continue
        if file.suffix not in SUFFIXES or not file.is_file():
            raise ConfigError(f"{file}: not a text source", hint=f"a folder holds only {', '.join(SUFFIXES)}")
        yield file


def _is_inside(link: Path, folders: list[Path]) -> bool:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return False
    return any(target.is_relative_to(folder) for folder in folders)


def _size(path: Path) -> int:
    try:
        inside = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in inside if file.is_file())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _rows(path: Path) -> Rows:
    if path.is_dir():
        return _with_text(read_saved_dataset(path))
    if path.suffix == ".parquet":
        return _with_text(read_parquet(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return _with_text(_parse_jsonl(text, path)) if path.suffix == ".jsonl" else _paragraphs(text, path)


def _with_text(rows: Rows) -> Rows:
    for place, fields in rows:
        if not isinstance(fields.get("text"), str):
            what = "there is no text" if "text" not in fields else "text is not a string"
            raise ConfigError(f"{place}: {what}", hint="each record needs a field `text`")
        yield place, fields


def _parse_jsonl(text: str, file: Path) -> Rows:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ConfigError(f"{file}:{number}: a JSON object with a text is needed")
        yield f"{file}:{number}", value


def _paragraphs(text: str, file: Path) -> Rows:
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    for number, block in enumerate(blocks, 1):
        if block:
            yield f"{file}:{number}", {"text": block}


def _record(name: str, text: str, source: str) -> Item:
    # Lone surrogates cannot be encoded, and no honest text has them.
    name, clean = (value.encode("utf-8", "replace").decode("utf-8") for value in (name, text))
    return {"id": name, "text": clean, "source": source}
