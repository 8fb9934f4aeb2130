"""Tables as text sources: Parquet files, and datasets that the library ``datasets`` saved on disk.

Invariants:
- Read by ``pyarrow`` alone (extra ``data``), a batch of rows at a time; where it is absent that is said, with the remedy.
- What a dataset consists of is what its ``state.json`` lists, and only files beside it.
- Every row comes with its number, counting from 1, and with its file, or the folder of its dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guardrails.errors import ConfigError

BATCH_ROWS = 256
"""Few: a packed row may unfold to some thousand times its bytes, and what was read is counted between batches."""
STATE = "state.json"
HINT = 'it comes with the extra "data": pip install "interlock[data]"'

Rows = Iterator[tuple[str, Mapping[str, Any]]]


def read_parquet(file: Path) -> Rows:
    """The rows of a Parquet file; raises ConfigError."""
    pyarrow = _pyarrow(file)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            for number, row in enumerate(_rows(table.iter_batches(batch_size=BATCH_ROWS)), 1):
                yield f"{file}:{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{file} cannot be read: {error!s:.200}") from None


def read_saved_dataset(folder: Path) -> Rows:
    """The rows of a dataset saved with ``save_to_disk``; raises ConfigError."""
    pyarrow = _pyarrow(folder)
    state = folder / STATE
    try:
        described = json.loads(state.read_text("utf-8"))
        names = [entry["filename"] for entry in described["_data_files"]]
    except (OSError, UnicodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{state} cannot be read: {error!r:.120}") from None
    if described.get("_indices_files"):
        raise ConfigError(
            f"{state}: rows are chosen by an index", hint="flatten_indices() before save_to_disk()"
        )
    number = 0
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{state}: {name!r:.80} is not a file beside it")
        try:
            with pyarrow.memory_map(str(folder / name)) as stream, pyarrow.ipc.open_stream(stream) as reader:
                for row in _rows(reader):
                    number += 1
                    yield f"{folder}:{number}", row
        except (pyarrow.ArrowException, OSError) as error:
            raise ConfigError(f"{folder / name} cannot be read: {error!s:.200}") from None


def _rows(batches: Any) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: pyarrow is not installed", hint=HINT) from None
    return pyarrow
