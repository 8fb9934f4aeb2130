"""Datasets of the Hugging Face hub: ``hub:OWNER/NAME``, from the local cache or downloaded.

Invariants:
- The network is asked only because somebody named the source, and only for files of the wanted kinds.
- What would be more than the limits, by the sizes that the hub states, is refused before any of it is downloaded.
- What comes is counted while it comes: more than the limit ends the download, whatever was stated before.
- What lies in the cache is taken only if every file that the hub listed for that commit is there, as long as it was said
  to be, and nothing else: a download that was ended in the middle is gone on with, never taken for the dataset.
- A listing that cannot be read, or that names no file to learn from, is never taken for that of a whole dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError

HUB = re.compile(
    r"hub:([A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})(?:@([A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
)
UNREADABLE = (AttributeError, TypeError, OverflowError, RecursionError)
"""What reading a listing of another form ends in, in ``huggingface_hub`` as here."""
REFUSALS = (OSError, ValueError, *UNREADABLE)
"""What ``snapshot_download`` ends in; its own errors of the network and of the cache are OSErrors."""
HINT = "download the part that you want and give its folder"


def from_hub(source: str, suffixes: Sequence[str], max_files: int, max_bytes: int) -> Path:
    """The folder of a dataset's files with these suffixes.

    Raises:
        ConfigError: no hub id; too many or too large files; or the hub does not give them.
    """
    found = HUB.fullmatch(source)
    if found is None:
        raise ConfigError(
            f"text source {source!r:.120} is no hub id", hint="hub:OWNER/NAME or hub:OWNER/NAME@REVISION"
        )
    name, revision = found.groups()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    asked: dict[str, Any] = {
        "repo_type": "dataset", "revision": revision, "allow_patterns": [f"*{suffix}" for suffix in suffixes],
        "ignore_patterns": ["README.md", "*/README.md"],
    }  # fmt: skip
    in_cache = ""
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **asked))
        in_cache = _unlike_listing(folder, suffixes)
        if not in_cache:
            return folder
    except REFUSALS as error:  # one that knows of a part says where it lies
        part = getattr(error, "snapshot_path", None)
        in_cache = _unlike_listing(Path(part), suffixes) if part else ""
    try:
        _require_room(source, snapshot_download(name, dry_run=True, **asked), max_files, max_bytes)
        folder = Path(snapshot_download(name, tqdm_class=_counting(source, max_bytes), **asked))
    except UNREADABLE as error:
        raise ConfigError(
            f"text source {source!r}: the listing of its files cannot be read: {error!s:.200}",
            hint=f"remove {cache} and download it again",
        ) from None
    except REFUSALS as error:
        raise ConfigError(
            f"text source {source!r}: {error!s:.200}{f'; in the cache: {in_cache}' if in_cache else ''}",
            hint="download it and give its folder",
        ) from None
    unlike = _unlike_listing(folder, suffixes)
    if unlike:
        raise ConfigError(
            f"text source {source!r}: downloaded, and not whole: {unlike}",
            hint=f"remove {cache} and download it again",
        )
    return folder


def _unlike_listing(folder: Path, suffixes: Sequence[str]) -> str:
    """In what a snapshot in the cache differs from what the hub listed; empty where it is whole, and nothing else.

    The listing is what ``huggingface_hub`` wrote before it downloaded (``trees/COMMIT.json``); without it nobody knows.
    """
    try:
        listing = json.loads((folder.parent.parent / "trees" / f"{folder.name}.json").read_text("utf-8"))
        sizes = {path: about["size"] for path, about in listing["files"].items()}
    except FileNotFoundError:
        return "the hub's listing of its files is not there"
    except (OSError, ValueError, KeyError, *UNREADABLE):
        return "the hub's listing of its files cannot be read"
    wanted = {path for path in sizes if Path(path).suffix in suffixes and Path(path).name != "README.md"}
    if not wanted:
        return f"the hub's listing names no file of {', '.join(suffixes)}"
    try:
        return next(_differences(folder, sizes, wanted), "")
    except OSError as error:
        return f"cannot be read: {error}"


def _differences(folder: Path, sizes: Mapping[str, Any], wanted: Set[str]) -> Iterator[str]:
    """Files of another length than listed or not there, and files that the listing does not name."""
    for path, size in sorted(sizes.items()):
        if type(size) is not int or size < 0:
            yield f"{path}: the hub says {size!r:.40} bytes, which is no size"
        file = folder / path
        found = file.stat().st_size if file.is_file() else None
        if found != size and (found is not None or path in wanted):
            yield f"{path}: {'not there' if found is None else f'{found} bytes'}, the hub says {size} bytes"
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if path not in sizes and (file.is_symlink() or not file.is_dir()):
            yield f"{path}: the hub's listing does not name it"


def _require_room(source: str, files: Iterable[Any], max_files: int, max_bytes: int) -> None:
    """Refuse by what the hub says of the files; of one whose size it does not say only the count is known."""
    sizes = [file.file_size or 0 for file in files]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise TypeError("a size in it is no number of bytes")
    if len(sizes) > max_files:
        raise ConfigError(f"text source {source!r}: {len(sizes)} files, more than {max_files}", hint=HINT)
    if sum(sizes) > max_bytes:
        raise ConfigError(f"text source {source!r}: {sum(sizes)} bytes, more than {max_bytes}", hint=HINT)


def _counting(source: str, max_bytes: int) -> type:
    """A progress bar for one download: it is told of every piece that arrives, and ends it beyond the limit."""
    from huggingface_hub.utils.tqdm import tqdm

    class Counting(tqdm):
        def __init__(self, *args: Any, **more: Any) -> None:
            self._counts = more.get("unit") == "B"
            self._bytes = 0.0
            super().__init__(*args, **more)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._bytes += n or 0
            if self._counts and self._bytes > max_bytes:
                raise ConfigError(
                    f"text source {source!r}: more than {max_bytes} bytes came; the download was ended",
                    hint=HINT,
                )
            shown: bool | None = super().update(n)
            return shown

    return Counting
