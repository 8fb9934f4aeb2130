"""Canonical bytes and content addresses.

Invariants:
- One value has one encoding: JSON with sorted ASCII keys, no white space, UTF-8, holding only
  objects, arrays, strings, booleans and integers of magnitude below 2**53. On this subset the
  output equals RFC 8785 (JCS). Measured numbers travel as decimal strings.
- ``parse`` accepts exactly the bytes that ``encode`` would write, and refuses everything else:
  two different byte strings never mean the same record.
- A digest names its algorithm.

>>> encode({"b": 1, "a": ["x", True]})
b'{"a":["x",true],"b":1}'
>>> str(digest(b""))[:14]
'sha256:e3b0c44'
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from guardrails.errors import RecordError

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 64
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Digest:
    """A content address: ``sha256`` and 64 lower-case hexadecimal digits."""

    hex: str
    algorithm: str = "sha256"

    def __post_init__(self) -> None:
        if self.algorithm != "sha256" or not _HEX.fullmatch(self.hex):
            raise RecordError(f"not a sha256 digest: {self.algorithm}:{self.hex[:80]}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<64 hex>``; raises RecordError on anything else."""
        return _parsed(text)

    @classmethod
    def known(cls, hex_: str) -> Digest:
        """The address of digits that are known to be right, made here or checked before: records name many."""
        made = object.__new__(cls)
        made.__dict__.update(hex=hex_, algorithm="sha256")
        return made

    @property
    def short(self) -> str:
        """Twelve digits, for people; never for comparing."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Digest:
    # The same bundles, champions and policies are named by record after record.
    algorithm, _, value = text.partition(":")
    return Digest(value, algorithm)


def digest(data: bytes) -> Digest:
    """SHA-256 of bytes."""
    return Digest.known(hashlib.sha256(data).hexdigest())


def digest_file(path: Path) -> Digest:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return Digest(hashlib.file_digest(stream, "sha256").hexdigest())


def decimal(value: float) -> str:
    """A measured number as text that reads back to the same float; NaN and infinities by name."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return repr(0.0 if number == 0 else number)


def parse_decimal(text: str) -> float:
    """The float that ``decimal`` wrote; raises RecordError on any other spelling."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        raise RecordError(f"not a decimal number: {text!r:.80}") from None
    if decimal(number) != text:
        raise RecordError(f"not a canonical decimal number: {text!r:.80}")
    return number


def encode(value: Any) -> bytes:
    """Canonical bytes of a value; raises RecordError if it holds what no record may hold."""
    _check(value, 0)
    return _written(value)


def parse(data: bytes, *, within: int = 0) -> Any:
    """The value of canonical bytes; raises RecordError if the bytes are not exactly canonical.

    ``within``: in so many objects and arrays the value stands, which count for its depth.
    """
    try:
        value = _decode(data.decode("utf-8"))
        if not _is_plain(data, within):
            _check(value, within)
        canonical = _written(value)
    except RecordError:
        raise
    except (UnicodeError, ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from None
    if canonical != data:
        raise RecordError("not canonical JSON: keys unsorted or repeated, spaces, or escapes")
    return value


def _decode(text: str) -> Any:
    """The value of JSON text without white space around it, which the decoder would look for."""
    try:
        value, end = _SCAN(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)


def _is_plain(data: bytes, within: int) -> bool:
    """Whether a look at the bytes shows that a decoded value holds only what a record may hold.

    Numbers that are no integers were refused as they were read, and too large ones are as they are written. What is
    left is text beyond ASCII, in a key or as half a character, and escapes of it; ``null``; and depth, which brackets
    bound. Anything doubtful is looked at value by value.
    """
    return (
        data.isascii()
        and b"\\u" not in data
        and b"null" not in data
        and data.count(b"{") + data.count(b"[") + within <= MAX_DEPTH
    )


def _refuse_number(text: str) -> Any:
    raise RecordError(f"number {text:.40} is not an integer; measured numbers are decimal strings")


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RecordError(f"nested deeper than {MAX_DEPTH} levels")
    # Integers that are too large, and halves of characters, the writer refuses.
    if isinstance(value, str | int):
        return
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str or not key.isascii():
                raise RecordError(f"key {key!r:.80} is not an ASCII string")
        _check_items(value.values(), depth + 1)
    elif isinstance(value, list | tuple):
        _check_items(value, depth + 1)
    else:
        raise RecordError(f"{type(value).__name__} cannot stand in a record")


def _check_items(items: Iterable[Any], depth: int) -> None:
    # Most of a record is plain text, and a call for each would take half the time of reading it.
    for item in items:
        if type(item) is not str or depth > MAX_DEPTH:
            _check(item, depth)


def _written(value: Any) -> bytes:
    """The bytes of a value that ``_check`` has passed; refuses integers beyond 53 bits and lone surrogates."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"it cannot stand in a record: {error}") from None


# Made once: a decoder made anew for each record costs as much as a small record itself.
_DECODER: Any = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)
_SCAN = _DECODER.scan_once
