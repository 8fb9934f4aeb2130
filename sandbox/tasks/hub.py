"""Datasets of the Hugging Face hub: ``hub:OWNER/NAME``, from the local cache or downloaded.

Invariants:
- The network is asked only because somebody named the source, and only for files of the wanted kinds.
- What would be more than the limits, by the sizes that the hub states, is refused before any of it is downloaded.
- What comes is counted while it comes: more than the limit ends the download, whatever was stated before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError

HUB = re.compile(
    r"hub:([A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})(?:@([A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
)
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    asked: dict[str, Any] = {
        "repo_type": "dataset", "revision": revision, "allow_patterns": [f"*{suffix}" for suffix in suffixes],
        "ignore_patterns": ["README.md", "*/README.md"],
    }  # fmt: skip
    try:
        return Path(snapshot_download(name, local_files_only=True, **asked))
    except LocalEntryNotFoundError:
        pass
    try:
        _require_room(source, snapshot_download(name, dry_run=True, **asked), max_files, max_bytes)
        return Path(snapshot_download(name, tqdm_class=_counting(source, max_bytes), **asked))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"text source {source!r}: {error!s:.200}", hint="download it and give its folder"
        ) from None


def _require_room(source: str, files: Iterable[Any], max_files: int, max_bytes: int) -> None:
    """Refuse by what the hub says of the files; of one whose size it does not say only the count is known."""
    sizes = [file.file_size or 0 for file in files]
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
