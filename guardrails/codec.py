"""Records to canonical JSON and back.

Invariants:
- ``encode_record`` and ``decode_record`` are inverse; unknown, missing or ill-typed fields are refused.
- Measured numbers are floats in records and decimal strings in bytes (``canonical.decimal``).
- A field added to a record later must have a default, so that what was written before still decodes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from guardrails import canonical
from guardrails.canonical import Digest
from guardrails.errors import RecordError

R = TypeVar("R")


def encode_record(record: Any, *, lean: bool = False) -> dict[str, Any]:
    """A record as a canonical-JSON object; absent optional fields are left out.

    ``lean`` leaves out every field that has its default, at every depth: rows of the projection are
    written so, because then a field that a later version adds does not change the rows of an earlier log.
    """
    encoded = {}
    for name, default in _fields(typing.cast("Any", type(record))):
        value = getattr(record, name)
        if value is None or (lean and value == default):
            continue
        # Most fields are plain text, which needs no look at its type.
        encoded[name] = value if type(value) is str else _encode(value, lean=lean)
    return encoded


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """The names of a record's fields, each with its default."""
    return tuple((item.name, _default(item)) for item in dataclasses.fields(cls))


def decode_record(cls: type[R], data: Any) -> R:
    """The record of class ``cls`` that ``encode_record`` wrote; raises RecordError otherwise."""
    if not isinstance(data, dict):
        raise RecordError(f"{cls.__name__}: an object is needed, not {type(data).__name__}")
    readers = _readers(typing.cast("Any", cls))
    values = {}
    for name, item in data.items():
        if name not in readers:
            raise RecordError(f"{cls.__name__}: unknown field {min(set(data) - set(readers))!r:.80}")
        plain, read, where = readers[name]
        # Most fields are plain text, which needs no function to be read.
        values[name] = item if type(item) is plain else read(item, where)
    if not hasattr(cls, "__post_init__") and _required(typing.cast("Any", cls)) <= values.keys():
        return _made(cls, values)
    try:
        return cls(**values)
    except TypeError as error:
        raise RecordError(f"{cls.__name__}: {error}") from None


def _made(cls: type[R], values: dict[str, Any]) -> R:
    """What the constructor of a plain record makes of these values, without its call for every field."""
    for name, default, factory in _optional(typing.cast("Any", cls)):
        if name not in values:
            values[name] = default if factory is None else factory()
    made = object.__new__(cls)
    made.__dict__.update(values)
    return made


@cache
def _required(cls: Any) -> frozenset[str]:
    return frozenset(item.name for item in dataclasses.fields(cls)) - {name for name, _, _ in _optional(cls)}


@cache
def _optional(cls: Any) -> tuple[tuple[str, Any, Callable[[], Any] | None], ...]:
    """The names of the fields that have a default, with it or with what makes it."""
    missing = dataclasses.MISSING
    return tuple(
        (item.name, item.default, None if item.default_factory is missing else item.default_factory)
        for item in dataclasses.fields(cls)
        if item.default is not missing or item.default_factory is not missing
    )


def _default(item: dataclasses.Field[Any]) -> Any:
    """A field's default; MISSING, which equals no value, where it has none."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _encode(value: Any, *, lean: bool) -> Any:
    if isinstance(value, Digest):
        return str(value)
    if dataclasses.is_dataclass(value):
        return encode_record(value, lean=lean)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return canonical.decimal(value)
    if isinstance(value, dict):
        return {key: _encode(item, lean=lean) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encode(item, lean=lean) for item in value]
    return value


# --- reading: for each type of field one function, made once ---------------------------------

Read = Callable[[Any, str], Any]
"""The value of a field from its JSON; the text says where it stands, for the error."""


_PLAIN = (str, int, bool)


@cache
def _readers(cls: Any) -> dict[str, tuple[type | None, Read, str]]:
    """For each field: the type that is itself in JSON (None: there is none), its function, and where it stands."""
    hints = typing.get_type_hints(cls)
    return {
        name: (hint if hint in _PLAIN else None, _reader(hint), f"{cls.__name__}.{name}")
        for name, hint in hints.items()
    }


@cache
def _reader(hint: Any) -> Read:
    origin = typing.get_origin(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _reader(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if origin is tuple:
        return _tuple_of(_reader(typing.get_args(hint)[0]))
    if origin is dict:
        return _dict_of(_reader(typing.get_args(hint)[1]))
    if hint is float:
        return lambda value, where: canonical.parse_decimal(value)
    if hint is Digest:
        return lambda value, where: Digest.parse(value) if type(value) is str else _refuse(hint, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value, where: decode_record(hint, value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word_of(hint)
    return lambda value, where: value if type(value) is hint else _refuse(hint, value, where)


def _tuple_of(read: Read) -> Read:
    def read_tuple(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise RecordError(f"{where}: an array is needed")
        return tuple([read(item, where) for item in value])

    return read_tuple


def _dict_of(read: Read) -> Read:
    def read_dict(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise RecordError(f"{where}: an object is needed")
        return {key: read(item, f"{where}.{key}") for key, item in value.items()}

    return read_dict


def _word_of(words: type[StrEnum]) -> Read:
    known = {word.value: word for word in words}

    def read_word(value: Any, where: str) -> Any:
        word = known.get(value) if type(value) is str else None
        return _refuse(words, value, where) if word is None else word

    return read_word


def _refuse(hint: Any, value: Any, where: str) -> Any:
    raise RecordError(f"{where}: {value!r:.80} is not {getattr(hint, '__name__', hint)}")
